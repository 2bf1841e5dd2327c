"""One kind of machine, one result: the same bits on every scheduler, from every store, with any cache."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass

import dask
import numpy as np
import pytest
from scipy import sparse

from nysstream.features import Fourier, ReLU
from nysstream.sources import as_source
from nysstream.sources import open as open_source
from nysstream.streaming import DesignMatrix, GramProduct, SetUp, SquaredResidual, centering_of, reduce
from nysstream.streaming.cache import clear_cache

N_ROWS, N_COLUMNS, CHUNK_ROWS = 20_003, 40, 400


@dataclass(frozen=True)
class Recipe:
    """A recipe for a test matrix, the same in every process."""

    p: int

    def __call__(self):
        """Draw it."""
        return np.random.Generator(np.random.Philox(11)).standard_normal((self.p, 20))


@pytest.fixture(scope="module")
def data():
    """Rows, targets and weights, ragged in every chunking; large enough for sixteen partitions of blocks."""
    rng = np.random.default_rng(8)
    X = rng.standard_normal((N_ROWS, N_COLUMNS), dtype=np.float32) + 0.5
    return X, rng.standard_normal((N_ROWS, 2)), rng.random(N_ROWS)


@pytest.fixture(scope="module")
def stores(data, tmp_path_factory):
    """Write the same rows to every kind of store; those that have chunks have the same."""
    import h5py
    import zarr

    X, y, w = data
    folder = tmp_path_factory.mktemp("stores")
    group = zarr.open_group(folder / "a.zarr", mode="w")
    group.create_array("x", data=X, chunks=(CHUNK_ROWS, 40))
    # Targets in other chunks than the rows.
    group.create_array("y", data=y, chunks=(333, 1))
    group.create_array("w", data=w, chunks=(5000,))
    with h5py.File(folder / "a.h5", "w") as file:
        for name, values in (("x", X), ("y", y), ("w", w)):
            file.create_dataset(name, data=values, chunks=(CHUNK_ROWS, *values.shape[1:]), compression="gzip")
    for name, values in (("x", X), ("y", y), ("w", w)):
        np.save(folder / f"{name}.npy", values)
    return folder


def sources(stores, kind):
    """Open rows, targets and weights of one kind of store."""
    if kind == "npy":
        return [open_source(stores / f"{name}.npy") for name in "xyw"]
    return [open_source(stores / f"a.{kind}", name) for name in "xyw"]


def results(design):
    """Run what a fit runs, and give all the bits that it sees."""
    p = design.shape[1]
    (statistics,) = reduce(design, SetUp(Recipe(p), 20, gram=True))
    centering = centering_of(design, statistics, center=True, standardize=True)
    design = DesignMatrix(
        design.source,
        design.target,
        design.weight,
        features=design.features,
        centering=centering,
        cache_bytes=design.cache_bytes,
        max_tasks=design.max_tasks,
    )
    V = np.random.default_rng(1).standard_normal((p, 3))
    (product,) = reduce(design, GramProduct(V))
    (gradient, squares), again = reduce(
        design.with_precision("double"), SquaredResidual(V, np.array([0, 1, 1])), GramProduct(V)
    )
    names = ("mean", "squares", "cross", "target_squares", "sketch", "gram")
    arrays = [getattr(statistics, name) for name in names] + [product, gradient, squares, again]
    return [np.ascontiguousarray(array).tobytes() for array in arrays]


@contextmanager
def threads(count):
    """Run on Dask's threads."""
    with dask.config.set(scheduler="threads", num_workers=count):
        yield


@pytest.fixture(params=["zarr", "npy", "h5"])
def design(request, stores):
    """Rows, targets and weights in one kind of store."""
    design = DesignMatrix(*sources(stores, request.param))
    assert len(design.partitions) > 1 or request.param == "npy"
    return design


@pytest.fixture(autouse=True)
def _cut_small(monkeypatch):
    from tests.streaming.support import small_blocks

    small_blocks(monkeypatch, block_bytes=CHUNK_ROWS * N_COLUMNS * 4 * 2)
    clear_cache()
    yield
    clear_cache()


@pytest.mark.parametrize(
    "features", [None, Fourier(50, length_scale=5.0), ReLU(30)], ids=["plain", "fourier", "relu"]
)
def test_any_number_of_threads(design, features):
    if features is not None:
        design = DesignMatrix(design.source, design.target, design.weight, features=features)
    with dask.config.set(scheduler="synchronous"):
        expected = results(design)
    for count in (1, 2, 4):
        with threads(count):
            assert results(design) == expected


def test_any_cache_and_any_bound_on_tasks(stores):
    rows = sources(stores, "zarr")
    expected = results(DesignMatrix(*rows))
    nbytes = N_ROWS * N_COLUMNS * 4
    for options in ({"cache_bytes": nbytes // 3}, {"cache_bytes": nbytes}, {"max_tasks": 1}):
        with threads(3):
            assert results(DesignMatrix(*rows, **options)) == expected


def test_any_store_of_the_same_chunks(data, stores):
    expected = results(DesignMatrix(*sources(stores, "zarr")))
    assert results(DesignMatrix(*sources(stores, "h5"))) == expected


def test_sparse_rows_on_any_number_of_threads(data):
    X, y, w = data
    design = DesignMatrix(sparse.csr_array(np.where(X > 1.5, X, 0)), y, w)
    with dask.config.set(scheduler="synchronous"):
        expected = results(design)
    with threads(4):
        assert results(design) == expected


def test_a_range_of_rows_that_begins_within_a_chunk(data, stores):
    rows = slice(123, 17_001)
    design = DesignMatrix(*(source.restrict(rows) for source in sources(stores, "zarr")))
    assert design.source.chunk_start
    with dask.config.set(scheduler="synchronous"):
        expected = results(design)
    with threads(4):
        assert results(design) == expected
    X, _, w = data
    (statistics,) = reduce(design, SetUp())
    np.testing.assert_allclose(statistics.mean, np.average(X[rows], axis=0, weights=w[rows]), rtol=1e-5)


@pytest.fixture(scope="module")
def cluster():
    """Run a cluster of two processes on this machine."""
    distributed = pytest.importorskip("distributed")
    # Its event loop runs on a thread of its own: settings for it are global while the cluster lives.
    with (
        dask.config.set(
            {"distributed.worker.memory.target": False, "distributed.worker.memory.spill": False}
        ),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=2,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",  # any free port: None would try 8787 first
            silence_logs=logging.ERROR,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.wait_for_workers(2)
        yield client


def test_a_cluster_of_processes(cluster, data, stores):
    import os

    assert len(set(cluster.run(os.getpid).values()) - {os.getpid()}) == 2
    _, y, w = data
    rows = sources(stores, "zarr")
    designs = [
        DesignMatrix(*rows),
        DesignMatrix(*rows, features=Fourier(50, length_scale=5.0)),
        DesignMatrix(*rows, cache_bytes=10**6),
        DesignMatrix(rows[0], as_source(y), as_source(w)),
    ]
    # The block size is that of this process alone: partitions are planned here and sent along.
    there = [results(design) for design in designs]
    with dask.config.set(scheduler="synchronous"):
        here = [results(design) for design in designs]
    assert there == here


def test_a_cluster_is_recognised(cluster):
    from nysstream.streaming import scheduler

    assert scheduler() == ("distributed", 2)
