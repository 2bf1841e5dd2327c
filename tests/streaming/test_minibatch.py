"""Epochs: every row once, every block read once, an order that depends on the seed alone."""

from __future__ import annotations

from dataclasses import replace

import dask.config
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from nysstream.errors import InputError
from nysstream.features import Fourier
from nysstream.sources.array import ArraySource
from nysstream.streaming import DesignMatrix, SetUp, centering_of, reduce
from nysstream.streaming.cache import clear_cache
from nysstream.streaming.minibatch import Batch, Minibatches, blocks_of_window, minibatch_needs
from nysstream.trace import Trace, tracing
from tests.streaming.support import Stored, small_blocks


def gathered(batch):
    """Rows of a batch after the feature map, with what belongs to them, in the order of their numbers."""

    def run(tiles):
        return [(batch.rows[places], tile.Z, tile.target, tile.weight) for places, tile in tiles]

    parts = [part for shard in batch.map(run) for part in shard]
    dense = [Z.toarray() if hasattr(Z, "toarray") else Z for _, Z, _, _ in parts]
    return (
        np.concatenate([part[0] for part in parts]),
        np.concatenate(dense),
        np.concatenate([part[2] for part in parts]),
        None if parts[0][3] is None else np.concatenate([part[3] for part in parts]),
    )


@given(
    n=st.integers(1, 60),
    chunk=st.integers(1, 20),
    start=st.integers(0, 19),
    rows=st.integers(1, 70),
    window=st.integers(1, 6),
    epoch=st.integers(0, 3),
    kind=st.sampled_from(["stored", "memory", "sparse"]),
)
def test_every_row_comes_once_with_its_target(n, chunk, start, rows, window, epoch, kind):
    X = np.arange(2.0 * n).reshape(n, 2)
    with pytest.MonkeyPatch.context() as patch:
        small_blocks(patch)
        source = {
            "stored": lambda: Stored(X, chunk_rows=chunk, chunk_start=min(start, chunk - 1)),
            "memory": lambda: ArraySource(X),
            "sparse": lambda: scipy.sparse.csr_array(X),
        }[kind]()
        design = DesignMatrix(source, X[:, 0] + 5, X[:, 1])
        seen = []
        for batch in Minibatches(design, rows, window_blocks=window).epoch(epoch):
            numbers, Z, target, weight = gathered(batch)
            assert len(batch) <= rows
            np.testing.assert_array_equal(Z, X[numbers])
            np.testing.assert_array_equal(target[:, 0], X[numbers, 0] + 5)
            np.testing.assert_array_equal(weight, X[numbers, 1])
            seen.extend(numbers.tolist())
    assert sorted(seen) == list(range(n))
    if kind == "stored":
        assert (source.reads == 1).all()


def test_batches_of_a_window_are_nearly_equal_and_counted():
    design = DesignMatrix(ArraySource(np.ones((103, 2))), np.ones(103))
    batches = Minibatches(design, 25)
    sizes = [len(batch) for batch in batches.epoch(0)]
    assert len(sizes) == batches.count(0) == 5
    assert max(sizes) - min(sizes) <= 1


def test_order_is_a_function_of_seed_and_epoch(rng):
    design = DesignMatrix(ArraySource(rng.standard_normal((200, 3))), np.ones(200))

    def order(seed, epoch):
        return [batch.rows.tolist() for batch in Minibatches(design, 30, seed).epoch(epoch)]

    assert order(1, 2) == order(1, 2)
    assert order(1, 2) != order(1, 3)
    assert order(1, 2) != order(2, 2)


def test_rows_are_mixed_inside_a_window(monkeypatch):
    small_blocks(monkeypatch)
    design = DesignMatrix(Stored(np.ones((80, 1)), chunk_rows=10), np.ones(80))
    first = next(Minibatches(design, 20, window_blocks=4).epoch(0))
    blocks = set((first.rows // 10).tolist())
    assert len(blocks) >= 3


def test_blocks_in_the_cache_are_not_read_again(monkeypatch, rng):
    small_blocks(monkeypatch)
    X = rng.standard_normal((64, 3))
    source = Stored(X, chunk_rows=8)
    clear_cache()
    design = DesignMatrix(source, np.ones(64), cache_bytes=1 << 20)
    try:
        reduce(design, SetUp())
        for epoch in range(2):
            rows = [gathered(batch) for batch in Minibatches(design, 10).epoch(epoch)]
            np.testing.assert_array_equal(
                np.concatenate([r[1] for r in rows]), X[np.concatenate([r[0] for r in rows])]
            )
        assert (source.reads == 1).all()
    finally:
        clear_cache()


def test_an_epoch_fills_the_cache_for_passes(monkeypatch, rng):
    small_blocks(monkeypatch)
    source = Stored(rng.standard_normal((64, 3)), chunk_rows=8)
    clear_cache()
    design = DesignMatrix(source, np.ones(64), cache_bytes=1 << 20)
    try:
        for _ in Minibatches(design, 10).epoch(0):
            pass
        reduce(design, SetUp())
        assert (source.reads == 1).all()
    finally:
        clear_cache()


@pytest.mark.parametrize("cache", [0, 1 << 20])
def test_features_are_those_of_a_pass(monkeypatch, rng, cache):
    small_blocks(monkeypatch)
    X = rng.standard_normal((60, 3)).astype(np.float32)
    features = Fourier(7)
    clear_cache()
    design = DesignMatrix(Stored(X, chunk_rows=8), np.ones(60), features=features, cache_bytes=cache)
    try:
        for epoch in range(2):
            for batch in Minibatches(design, 13).epoch(epoch):
                numbers, Z, _, _ = gathered(batch)
                np.testing.assert_allclose(Z, features(X[numbers]), atol=1e-6)
    finally:
        clear_cache()


def test_far_means_are_shifted_as_in_passes(rng):
    X = rng.standard_normal((50, 3)).astype(np.float32) + 1000
    design = DesignMatrix(ArraySource(X), np.ones(50))
    (statistics,) = reduce(design, SetUp())
    centering = centering_of(design, statistics, center=True, standardize=False)
    assert centering.shift is not None

    batch = Batch.of(replace(design, centering=centering))
    _, Z, _, _ = gathered(batch)
    np.testing.assert_allclose(Z, X - centering.shift.astype(np.float32))


def test_an_epoch_is_recorded_as_one_pass_with_progress(monkeypatch, rng):
    small_blocks(monkeypatch)
    heard = []
    design = DesignMatrix(Stored(rng.standard_normal((64, 3)), chunk_rows=8), np.ones(64))
    with tracing(Trace(listener=heard.append)) as trace:
        for _ in Minibatches(design, 10, window_blocks=2).epoch(0):
            pass
    (record,) = trace.passes
    assert record.name == "epoch"
    assert record.cost.rows == 64
    assert record.cost.bytes_read == 64 * 3 * 8
    assert [item.rows_done for item in heard] == [16, 32, 48, 64]


def test_an_epoch_that_is_left_early_is_no_pass(rng):
    design = DesignMatrix(ArraySource(rng.standard_normal((64, 3))), np.ones(64))
    with tracing(Trace()) as trace:
        epoch = Minibatches(design, 10).epoch(0)
        next(epoch)
        epoch.close()
    assert trace.passes == []


def test_sums_do_not_depend_on_threads(rng):
    X = rng.standard_normal((700, 5)).astype(np.float32)
    design = DesignMatrix(ArraySource(X), np.ones(700))

    def sums(threads):
        with dask.config.set(scheduler="threads", num_workers=threads):
            return [
                sum(batch.map(lambda tiles: sum(tile.Z.sum(axis=0, dtype=np.float64) for _, tile in tiles)))
                for batch in Minibatches(design, 300).epoch(0)
            ]

    np.testing.assert_array_equal(sums(1), sums(2))


def test_errors_of_reading_reach_the_caller(monkeypatch):
    small_blocks(monkeypatch)

    class Broken(Stored):
        def before_read(self, rows):
            if rows.start >= 16:
                message = "no such chunk"
                raise OSError(message)

    design = DesignMatrix(Broken(np.ones((40, 2)), chunk_rows=8), np.ones(40))
    with pytest.raises(OSError, match="no such chunk"):
        list(Minibatches(design, 8, window_blocks=1).epoch(0))


def test_counts_must_be_positive(rng):
    design = DesignMatrix(ArraySource(rng.standard_normal((4, 2))))
    with pytest.raises(InputError, match="batch_rows=0"):
        Minibatches(design, 0)


def test_needs_count_two_windows(monkeypatch):
    small_blocks(monkeypatch)
    design = DesignMatrix(Stored(np.ones((1000, 4)), chunk_rows=10), np.ones(1000), precision="double")
    needs = minibatch_needs(design, window_blocks=3)
    assert needs["windows"] >= 2 * 3 * 10 * 4 * 8
    assert sum(needs.values()) < 8 * 1000 * 5


def test_windows_of_large_blocks_have_fewer():
    small, large, huge = (
        DesignMatrix(Stored(np.broadcast_to(np.float32(1), (n * 40, 1 << 10)), chunk_rows=n))
        for n in (1 << 11, 1 << 14, 1 << 17)
    )
    assert [blocks_of_window(design) for design in (small, large, huge)] == [8, 4, 2]
    assert Minibatches(large, 100).blocks_at_once == 4
    assert Minibatches(large, 100, window_blocks=7).blocks_at_once == 7
