"""Blocks that stay resident."""

from __future__ import annotations

import numpy as np
import pytest

from nysstream.arrays import get_device
from nysstream.features import Fourier
from nysstream.streaming import DesignMatrix
from nysstream.streaming import cache as caching
from nysstream.streaming.cache import BlockCache, block_cache, clear_cache
from tests.streaming.support import Stored

CPU = get_device("cpu")


@pytest.fixture(autouse=True)
def _cleared():
    clear_cache()
    yield
    clear_cache()


def test_the_first_blocks_stay_and_none_is_evicted(rng):
    cache = BlockCache(3 * 80)
    blocks = [rng.random(10) for _ in range(5)]
    for _ in range(2):
        for i, rows in enumerate(blocks):
            cache.offer((i, i + 1), rows)
    assert [cache.get((i, i + 1)) is not None for i in range(5)] == [True] * 3 + [False] * 2
    assert cache.used == 240


def test_a_smaller_block_may_fill_a_gap():
    cache = BlockCache(100)
    cache.offer((0, 1), np.zeros(10))
    cache.offer((1, 2), np.zeros(10))
    cache.offer((2, 3), np.zeros(2))
    assert cache.get((1, 2)) is None
    assert cache.get((2, 3)) is not None


def test_rows_are_copied():
    cache = BlockCache(100)
    rows = np.arange(4.0)
    cache.offer((0, 4), rows)
    rows[:] = -1
    assert cache.get((0, 4)).tolist() == [0, 1, 2, 3]


def test_designs_of_the_same_rows_share_blocks(rng):
    X = rng.random((20, 3))
    design = DesignMatrix(Stored(X), cache_bytes=1000)
    again = DesignMatrix(Stored(X), np.zeros(20), cache_bytes=1000, features=Fourier(5))
    assert block_cache(design, CPU) is block_cache(again, CPU)
    assert block_cache(design.with_precision("double"), CPU) is block_cache(design, CPU)


def test_a_process_holds_the_blocks_of_one_design(rng):
    first = DesignMatrix(Stored(rng.random((20, 3))), cache_bytes=1000)
    other = DesignMatrix(Stored(rng.random((20, 3))), cache_bytes=1000)
    block_cache(first, CPU).offer((0, 8), np.zeros(3))
    block_cache(other, CPU)
    assert block_cache(first, CPU).get((0, 8)) is None
    assert len(caching._stored) == 1


def test_a_range_of_rows_is_another_design(rng):
    design = DesignMatrix(Stored(rng.random((20, 3))), cache_bytes=1000)
    part = design.restrict(slice(4, 12))
    block_cache(design, CPU).offer((0, 8), np.zeros(3))
    assert block_cache(part, CPU).get((0, 8)) is None


def test_without_a_cache_the_rows_are_not_identified(rng):
    class Anonymous(Stored):
        @property
        def fingerprint(self):
            message = "sampling chunks costs reads"
            raise AssertionError(message)

    assert block_cache(DesignMatrix(Anonymous(rng.random((20, 3)))), CPU).capacity == 0
