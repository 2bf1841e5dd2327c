"""One pass: what is read, when, and what becomes of it."""

from __future__ import annotations

import gc
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import dask
import numpy as np
import pytest

from nysstream.errors import InputError
from nysstream.features import Fourier
from nysstream.sources import as_source
from nysstream.streaming import (
    DesignMatrix,
    GramProduct,
    Predict,
    PredictionError,
    SetUp,
    SquaredResidual,
    pass_needs,
    reduce,
    scheduler,
)
from nysstream.streaming.reduction import Reduction
from tests.helpers import assert_close
from tests.streaming.support import RowSum, Stored, Truth, live_readers, small_blocks


@pytest.fixture
def problem(rng, monkeypatch):
    """Rows, targets and weights in sources that count, cut into several ragged partitions."""
    small_blocks(monkeypatch)
    X, y = rng.standard_normal((203, 5)), rng.standard_normal((203, 2))
    return X, y, rng.random(203)


def design_of(problem, **options):
    X, y, w = problem
    return DesignMatrix(Stored(X, chunk_rows=7), Stored(y), Stored(w), **options)


def all_reductions(p, q=2, k=3):
    V = np.random.default_rng(5).standard_normal((p, k))
    return (
        SetUp(),
        GramProduct(V),
        SquaredResidual(V, np.zeros(k, np.intp)),
        Predict(V, np.zeros(k)),
        PredictionError(V[:, :q], np.zeros(q), np.zeros(q)),
    )


def test_every_row_is_read_once_whatever_is_asked(problem):
    design = design_of(problem)
    reduce(design, *all_reductions(5))
    for source in (design.source, design.target, design.weight):
        assert (source.reads == 1).all()
    assert len(design.partitions) == 16


def test_targets_are_left_alone_where_nobody_reads_them(problem):
    design = design_of(problem)
    reduce(design, GramProduct(np.ones((5, 1))))
    assert not design.target.runs
    assert (design.weight.reads == 1).all()


def test_results_are_those_of_dense_algebra(problem):
    X, y, w = problem
    V = all_reductions(5)[1].vectors
    setup, product, (gradient, squares), predicted, (errors, deviations, weight) = reduce(
        design_of(problem), *all_reductions(5)
    )
    truth = Truth(X, y, w)
    assert_close(setup.mean, truth.mean, terms=203)
    assert_close(product, X.T @ (w[:, None] * (X @ V)), terms=203)
    R = y[:, :1] - X @ V
    assert_close(gradient, X.T @ (w[:, None] * R), terms=203)
    assert_close(squares, (w[:, None] * R**2).sum(axis=0), terms=203)
    assert_close(predicted, X @ V, terms=5)
    assert_close(errors, (w[:, None] * (y - X @ V[:, :2]) ** 2).sum(axis=0), terms=203)
    assert_close(deviations, (w[:, None] * truth.targets**2).sum(axis=0), terms=203)
    assert weight == pytest.approx(w.sum())


def test_together_and_apart_give_the_same_bits(problem):
    # Tiles are cut for the widest product, so all are made equally narrow here.
    together = reduce(design_of(problem), *all_reductions(5))
    for reduction, value in zip(all_reductions(5), together, strict=True):
        (alone,) = reduce(design_of(problem), reduction)
        np.testing.assert_equal(np.asarray(vars_of(alone), object), np.asarray(vars_of(value), object))


def vars_of(result):
    """Turn a result into nested lists, for comparison bit by bit."""
    if hasattr(result, "__dataclass_fields__"):
        return [vars_of(getattr(result, name)) for name in result.__dataclass_fields__]
    if isinstance(result, tuple):
        return [vars_of(value) for value in result]
    return np.asarray(result).tolist()


def test_lazy_until_computed(problem):
    design = design_of(problem)
    lazy = reduce(design, *all_reductions(5), compute=False)
    assert not design.source.runs
    assert not design.target.runs
    computed = lazy.compute()
    assert (design.source.reads == 1).all()
    eager = reduce(design_of(problem), *all_reductions(5))
    assert vars_of(computed) == vars_of(eager)


def test_no_reduction_is_refused(problem):
    with pytest.raises(InputError, match="at least one reduction"):
        reduce(design_of(problem))


def test_missing_targets_are_refused_before_any_read(problem):
    source = Stored(problem[0])
    with pytest.raises(InputError, match="has none: give target="):
        reduce(DesignMatrix(source), SquaredResidual(np.ones((5, 1)), np.zeros(1, np.intp)))
    assert not source.runs


@pytest.mark.parametrize(
    ("reduction", "message"),
    [
        (GramProduct(np.ones(5)), r"shape \(5,\).*\(5, k\)"),
        (GramProduct(np.ones((4, 2))), r"shape \(4, 2\).*\(5, k\)"),
        (SquaredResidual(np.ones((6, 1)), np.zeros(1, np.intp)), r"shape \(6, 1\).*\(5, k\)"),
        (SquaredResidual(np.ones((5, 2)), np.zeros(1, np.intp)), "1 target numbers for 2 vectors"),
        (SquaredResidual(np.ones((5, 1)), np.array([2])), "target number 2.*2 targets"),
        (Predict(np.ones((4, 2)), np.zeros(2)), r"shape \(4, 2\).*\(5, k\)"),
        (PredictionError(np.ones((5, 3)), np.zeros(3), np.zeros(3)), "3 columns.*2 targets"),
        (SetUp(lambda: np.ones((4, 2)), 2), None),
    ],
)
def test_shapes_that_do_not_belong_together_are_refused_before_any_read(problem, reduction, message):
    design = design_of(problem)
    if message is None:  # a recipe cannot be checked without running it; NumPy refuses the product
        with pytest.raises(ValueError, match="matmul"):
            reduce(design, reduction)
        return
    with pytest.raises(InputError, match=message):
        reduce(design, reduction)
    assert not design.source.runs


@dataclass(frozen=True)
class Failing(Reduction):
    """Fails at a row."""

    row: int

    def n_columns(self, design):
        """One."""
        return 1

    def start(self, design, device):
        """Begin empty."""
        return {}

    def add(self, part, tile, prepared):
        """Fail in the tile that holds the row."""
        if tile.start <= self.row < tile.start + len(tile.Z):
            message = f"row {self.row}"
            raise ZeroDivisionError(message)
        return part


@pytest.mark.parametrize("name", ["synchronous", "threads"])
def test_a_failing_reduction_leaves_no_reader_behind(rng, monkeypatch, name):
    small_blocks(monkeypatch, partitions=2)
    source = Stored(rng.standard_normal((300, 3)), chunk_rows=10)
    gc.disable()  # readers must end because they are closed, not because they are collected
    try:
        with dask.config.set(scheduler=name), pytest.raises(ZeroDivisionError) as caught:
            reduce(DesignMatrix(source), Failing(25))
        assert live_readers(5.0) == []
    finally:
        gc.enable()
    assert caught.value.__traceback__ is not None
    assert source.reads.max() == 1


@dataclass(frozen=True)
class Frozen(Reduction):
    """Lets another reduction work, and refuses that host parts be written to once a task returned them."""

    inner: Reduction
    reads_target = True

    def n_columns(self, design):
        """As the other."""
        return self.inner.n_columns(design)

    def prepare(self, design, device):
        """As the other."""
        return self.inner.prepare(design, device)

    def start(self, design, device):
        """As the other."""
        return self.inner.start(design, device)

    def add(self, part, tile, prepared):
        """As the other, on rows that cannot be written."""
        for array in (tile.raw, tile.Z, tile.target, tile.weight):
            array.flags.writeable = False
        return self.inner.add(part, tile, prepared)

    def combine(self, a, b):
        """Add twice, as a scheduler that runs a task again would."""
        for part in (a, b):
            for value in part.values():
                if isinstance(value, np.ndarray):
                    value.flags.writeable = False
        first, again = self.inner.combine(a, b), self.inner.combine(a, b)
        assert {k: np.asarray(v).tolist() for k, v in first.items()} == {
            k: np.asarray(v).tolist() for k, v in again.items()
        }
        return again

    def finish(self, design, part):
        """As the other."""
        return self.inner.finish(design, part)


@pytest.mark.parametrize("center", [True, False])
def test_additions_leave_their_inputs_alone(problem, center):
    V = np.random.default_rng(0).standard_normal((5, 4))
    reductions = (SetUp(lambda: V, 4, center=center), *all_reductions(5)[1:])
    plain = reduce(design_of(problem), *reductions)
    frozen = reduce(design_of(problem), *(Frozen(r) for r in reductions))
    assert vars_of(frozen) == vars_of(plain)


def test_a_reduction_of_ones_own(problem):
    (total,) = reduce(design_of(problem), RowSum())
    assert_close(total, problem[0].sum(axis=0), terms=203)


# --- schedulers ------------------------------------------------------------------------------------


def test_schedulers_are_recognised():
    with dask.config.set(scheduler="synchronous"):
        assert scheduler() == ("synchronous", 1)
    with dask.config.set(scheduler="threads", num_workers=3):
        assert scheduler() == ("threads", 3)
    with ThreadPoolExecutor(5) as pool:
        with dask.config.set(pool=pool, num_workers=2):  # Dask gives a pool precedence
            assert scheduler() == ("threads", 5)
        with dask.config.set(scheduler=pool):
            assert scheduler()[1] == 5


@dataclass(frozen=True)
class Concurrency(RowSum):
    """Counts how many tiles are worked on at once."""

    def add(self, part, tile, prepared):
        """Note how many tasks are inside."""
        with counter:
            return super().add(part, tile, prepared)


class _Counter:
    def __init__(self):
        self.lock, self.now, self.most = threading.Lock(), 0, 0

    def __enter__(self):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.002)

    def __exit__(self, *_):
        with self.lock:
            self.now -= 1


counter = _Counter()


@pytest.mark.parametrize("way", ["config", "pool", "executor"])
def test_max_tasks_bounds_the_tasks_of_threaded_schedulers(problem, way):
    def most(design):
        counter.most = 0
        with ThreadPoolExecutor(4) as pool:
            settings = {
                "config": {"scheduler": "threads", "num_workers": 4},
                "pool": {"scheduler": "threads", "pool": pool},
                "executor": {"scheduler": pool},
            }
            with dask.config.set(settings[way]):
                reduce(design, Concurrency())
        return counter.most

    assert most(design_of(problem)) > 1
    assert most(design_of(problem, max_tasks=1)) == 1


# --- what a pass needs -----------------------------------------------------------------------------


def needs(design, *reductions, threads=2):
    with dask.config.set(scheduler="threads", num_workers=threads):
        return pass_needs(design, *(reductions or (GramProduct(np.ones((design.shape[1], 1))),)))


def test_needs_grow_with_tasks_not_with_rows(rng, monkeypatch):
    small_blocks(monkeypatch, block_bytes=4096)
    X = rng.standard_normal((4096, 8))
    small, large = (DesignMatrix(Stored(X[:n], chunk_rows=16)) for n in (2048, 4096))
    assert sum(needs(small).values()) == sum(needs(large).values())
    one, four = needs(small, threads=1), needs(small, threads=4)
    assert four["block buffers"] == 4 * one["block buffers"]
    assert four["tiles"] == 4 * one["tiles"]
    assert four["partial sums"] == one["partial sums"] + 3 * 8 * 8
    assert needs(DesignMatrix(Stored(X, chunk_rows=16), max_tasks=1), threads=4) == needs(
        DesignMatrix(Stored(X, chunk_rows=16)), threads=1
    )


def test_needs_count_decoding_of_targets(rng):
    class Chunky(Stored):
        decode_bytes = 10**8

    X, y = Stored(rng.random((50, 2))), Chunky(rng.random(50))
    assert needs(DesignMatrix(X, y))["block buffers"] >= 10**8


def test_arrays_in_memory_need_no_block_buffers(rng):
    X = rng.random((1 << 18, 4))
    resident, stored = needs(DesignMatrix(X)), needs(DesignMatrix(Stored(X, chunk_rows=1 << 12)))
    assert resident["block buffers"] < stored["block buffers"] / 2


def test_sparse_rows_are_not_counted_as_dense(rng):
    scipy_sparse = pytest.importorskip("scipy.sparse")
    X = scipy_sparse.random_array((20_000, 50_000), density=1e-4, format="csr", rng=rng, dtype=np.float32)
    rows = as_source(X)
    stored_bytes = 20_000 * rows.row_bytes
    assert needs(DesignMatrix(rows))["block buffers"] < 16 * stored_bytes
    Z = needs(DesignMatrix(rows, features=Fourier(100)))
    assert Z["tiles"] < 64 << 20


def test_feature_weights_are_counted_once(rng):
    design = DesignMatrix(Stored(rng.random((64, 10))), features=Fourier(500))
    assert needs(design, threads=1)["feature weights"] == needs(design, threads=4)["feature weights"] > 0


def test_arrays_arrive_aligned_at_workers():
    rng = np.random.default_rng(0)
    X, V = rng.standard_normal((50, 6)).astype(np.float32), rng.standard_normal((6, 2))
    lazy = reduce(DesignMatrix(X), GramProduct(V), compute=False)
    (job,) = (node.value for node in lazy.dask.values() if hasattr(node, "value"))
    frames = []
    pickled = pickle.dumps(job, protocol=5, buffer_callback=frames.append)
    moved = []
    for frame in frames:  # a message cuts them out of its own memory, wherever they begin
        memory = np.empty(len(frame.raw()) + 1, np.uint8)
        memory[1:] = np.frombuffer(frame.raw(), np.uint8)
        moved.append(memory[1:])
    there = pickle.loads(pickled, buffers=moved)
    rows = there.design.source.read(slice(0, 50))
    np.testing.assert_array_equal(rows, X)
    np.testing.assert_array_equal(there.reductions[0].vectors, V)
    assert rows.flags.aligned
    assert there.reductions[0].vectors.flags.aligned
