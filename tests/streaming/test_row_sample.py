"""Rows kept from a pass that is made anyway."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from nysstream.features import Fourier
from nysstream.streaming import DesignMatrix, RowSample, SetUp, reduce, uniform_rows
from tests.streaming.support import Stored, small_blocks


@given(n_rows=st.integers(1, 60), chunk_rows=st.integers(1, 20), data=st.data())
def test_the_rows_asked_for_in_their_order(n_rows, chunk_rows, data):
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, n_rows - 1), min_size=1))))
    X, w = np.arange(2.0 * n_rows).reshape(n_rows, 2), np.arange(1.0, n_rows + 1)
    with pytest.MonkeyPatch.context() as patch:
        small_blocks(patch, partitions=4)
        source = Stored(X, chunk_rows=chunk_rows)
        _, (kept, weight) = reduce(DesignMatrix(source, None, w), SetUp(), RowSample(rows))
    np.testing.assert_array_equal(kept, X[rows])
    np.testing.assert_array_equal(weight, w[rows])
    assert (source.reads == 1).all()


def test_rows_are_kept_as_stored_and_outlive_their_buffers(rng, monkeypatch):
    small_blocks(monkeypatch)
    X = rng.standard_normal((90, 3)).astype(np.float32)
    design = DesignMatrix(Stored(X), features=Fourier(5))
    rows = np.array([0, 41, 89])
    (first,), (again,) = (reduce(design, RowSample(rows)) for _ in range(2))
    for kept, weight in (first, again):
        np.testing.assert_array_equal(kept, X[rows])
        assert weight.tolist() == [1, 1, 1]


def test_sparse_rows(rng):
    X = sparse.random_array((50, 6), density=0.3, format="csr", rng=rng)
    ((kept, _),) = reduce(DesignMatrix(X), RowSample(np.array([3, 30])))
    assert kept.format == "csr"
    np.testing.assert_array_equal(kept.toarray(), X.toarray()[[3, 30]])


@pytest.mark.parametrize(("n_rows", "n_sample"), [(10, 3), (10, 10), (10, 99), (10**9, 50)])
def test_positions_are_distinct_ascending_and_repeatable(n_rows, n_sample):
    rows = uniform_rows(n_rows, n_sample, 7)
    assert len(rows) == min(n_rows, n_sample)
    assert (np.diff(rows) > 0).all()
    assert rows[0] >= 0
    assert rows[-1] < n_rows
    assert (rows == uniform_rows(n_rows, n_sample, 7)).all()
    if n_sample < n_rows:
        assert (rows != uniform_rows(n_rows, n_sample, 8)).any()


def test_every_position_is_as_likely():
    counts = np.bincount(np.concatenate([uniform_rows(8, 2, seed) for seed in range(2000)]), minlength=8)
    np.testing.assert_allclose(counts, 500, atol=5 * np.sqrt(500))


def test_kept_rows_are_counted_in_the_bytes_they_take(rng):
    design = DesignMatrix(Stored(rng.integers(0, 9, (50, 6)).astype(np.int8)))  # buffered as float32
    sample = RowSample(np.arange(20))
    ((kept, weight),) = reduce(design, sample)
    assert sample.part_bytes(design) >= kept.nbytes + weight.nbytes
