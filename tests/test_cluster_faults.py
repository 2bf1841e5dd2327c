"""Fits on a cluster of processes that fail: the bits of threads, whatever happens to the workers."""

from __future__ import annotations

import threading

import dask
import distributed
import numpy as np
import pytest
import zarr
from distributed.core import Status

import nysstream
from nysstream import (
    SVR,
    ElasticNet,
    HuberRegressor,
    KernelRidge,
    Lasso,
    LinearSVC,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    RidgeCV,
)
from nysstream.features import Fourier
from nysstream.memory import parse_memory
from nysstream.streaming import DesignMatrix, GramProduct, placement, reduce
from nysstream.streaming.cache import clear_cache
from nysstream.streaming.placement import assigned
from nysstream.trace import Trace, tracing
from tests.clusters import Cluster
from tests.streaming.support import small_blocks

N_ROWS, N_COLUMNS, CHUNK_ROWS = 12_000, 20, 500


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Write rows in 24 chunks, and targets of each kind."""
    path = tmp_path_factory.mktemp("rows") / "rows.zarr"
    rng = np.random.default_rng(3)
    X = (rng.standard_normal((N_ROWS, N_COLUMNS)) * np.geomspace(1, 0.1, N_COLUMNS)).astype(np.float32)
    z = X @ rng.standard_normal(N_COLUMNS)
    group = zarr.open_group(path, mode="w")
    group.create_array("x", data=X, chunks=(CHUNK_ROWS, N_COLUMNS))
    targets = {
        "y": z + 0.3 * rng.standard_normal(N_ROWS),
        "label": (z + rng.logistic(size=N_ROWS) > 0).astype(np.float64),
        "count": rng.poisson(np.exp(0.3 * z)).astype(np.float64),
    }
    for name, values in targets.items():
        group.create_array(name, data=values, chunks=(N_ROWS,))
    return path


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Start a scheduler and three workers."""
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        for _ in range(3):
            cluster.add_worker()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def client(cluster, monkeypatch):
    """Connect to the cluster, when it has three workers."""
    small_blocks(monkeypatch, block_bytes=CHUNK_ROWS * N_COLUMNS * 4)
    clear_cache()
    while len(cluster.processes) < 4:
        cluster.add_worker()
    with distributed.Client(scheduler_file=str(cluster.file)) as client:
        client.wait_for_workers(3, timeout=60)
        yield client
    clear_cache()


FITS = {
    "ridge": (Ridge(1.0, solver="nystrom", rank=8, tol=1e-8), "y"),
    "ridge-cv": (RidgeCV([0.1, 1.0], cv=3), "y"),
    "lasso": (Lasso(0.02), "y"),
    "elastic-net": (ElasticNet(0.02), "y"),
    "logistic": (LogisticRegression(C=0.1, rank=8), "label"),
    "svc": (LinearSVC(C=0.01), "label"),
    "hinge": (LinearSVC(C=0.01, loss="hinge"), "label"),
    "svr": (SVR(C=0.01, features=Fourier(16, length_scale=4.0, random_state=0)), "y"),
    "poisson": (PoissonRegressor(alpha=0.1), "count"),
    "huber": (HuberRegressor(), "y"),
    "kernel-ridge": (KernelRidge(1.0, kernel="rbf"), "y"),
}


def fit(store, name):
    model, target = FITS[name]
    rows = slice(0, 1500) if name == "kernel-ridge" else None
    X, y = (nysstream.open(store, part, rows=rows) for part in ("x", target))
    model = type(model)(**{**model.get_params(), "memory": "2GiB"})
    return model.fit(X, y)


def coefficients(model):
    return model.dual_coef_ if hasattr(model, "dual_coef_") else model.coef_


@pytest.mark.parametrize("name", FITS)
def test_every_fit_gives_the_bits_of_threads(name, store, client):
    on_cluster = fit(store, name)
    with dask.config.set(scheduler="threads", num_workers=2):
        expected = fit(store, name)
    np.testing.assert_array_equal(coefficients(on_cluster), coefficients(expected))


def product(store, client, n_passes, during=None):
    """Make passes over cached rows, and say what came from the cache; something may happen meanwhile."""
    design = DesignMatrix(nysstream.open(store, "x"), cache_bytes=64 << 20)
    assert len(design.partitions) == 16
    V = np.random.default_rng(1).standard_normal((N_COLUMNS, 3))
    results, shares = [], []
    with tracing(Trace()) as trace:
        for number in range(n_passes):
            if number == n_passes // 2 and during is not None:
                during()
            results.append(reduce(design, GramProduct(V), name="product")[0])
            shares.append(trace.passes[-1].cost.bytes_from_cache / (4 * N_ROWS * N_COLUMNS))
    with dask.config.set(scheduler="synchronous"):
        expected = reduce(design, GramProduct(V))[0]
    for result in results:
        np.testing.assert_array_equal(result, expected)
    return shares


def test_partitions_return_to_the_worker_that_holds_them(store, client):
    shares = product(store, client, 10)
    assert shares[0] < 0.5
    assert min(shares[-3:]) > 0.9
    prefixes = client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.task_prefixes))
    assert {"pass 7: product", "pass 7: product-sum"} <= set(prefixes)


@pytest.mark.parametrize("delay", [0.1, 0.6])
def test_a_worker_is_killed(delay, store, client, cluster):
    victim = sorted(set(cluster.processes) - {"scheduler"})[0]
    with dask.config.set(scheduler="synchronous"):
        expected = fit(store, "ridge")
    killer = threading.Timer(delay, cluster.kill, [victim])
    killer.start()
    model = fit(store, "ridge")
    more = fit(store, "ridge")
    killer.join()
    assert victim not in cluster.processes
    np.testing.assert_array_equal(model.coef_, expected.coef_)
    np.testing.assert_array_equal(more.coef_, expected.coef_)


def test_lost_blocks_are_read_again(store, client, cluster):
    victim = sorted(set(cluster.processes) - {"scheduler"})[0]
    shares = product(store, client, 12, lambda: cluster.kill(victim))
    assert min(shares[6:8]) < 0.99  # a third was lost
    assert shares[-1] > 0.9


def test_a_worker_joins(store, client, cluster):
    def join():
        cluster.add_worker()
        client.wait_for_workers(4, timeout=60)

    shares = product(store, client, 12, join)
    assert len(client.nthreads()) == 4
    assert shares[-1] > 0.9
    cluster.kill(sorted(cluster.processes)[-1])


def test_a_worker_is_paused(store, client, monkeypatch):
    monkeypatch.setattr(placement, "PATIENCE", 0.2)
    address = next(iter(client.nthreads()))

    def turn(status):
        def change(dask_worker):
            dask_worker.status = Status[status]

        client.run(change, workers=[address])

    try:
        product(store, client, 4, lambda: turn("paused"))
    finally:
        turn("running")


def test_budgets_keep_to_the_limit_of_a_worker(client):
    most = int(0.6 * (4 << 30))
    assert parse_memory("8GiB") == most
    assert parse_memory(None) <= most
    assert parse_memory("100MiB") == 100 << 20


def test_tasks_are_tried_again(store, client, tmp_path):
    class FailsOnce(GramProduct):
        def start(self, design, device):
            try:
                (tmp_path / "failed").mkdir()
            except FileExistsError:
                return super().start(design, device)
            raise ConnectionError

    FailsOnce.__module__ = "__main__"  # sent by value
    design = DesignMatrix(nysstream.open(store, "x"))
    V = np.eye(N_COLUMNS)
    (result,) = reduce(design, FailsOnce(V))
    assert (tmp_path / "failed").exists()
    with dask.config.set(scheduler="synchronous"):
        np.testing.assert_array_equal(result, reduce(design, GramProduct(V))[0])


def test_homes_move_as_little_as_they_must():
    two = assigned([None] * 8, {"a": 1, "b": 1})
    assert two == ("a",) * 4 + ("b",) * 4
    assert assigned(two, {"a": 1, "b": 1}) == two
    three = assigned(two, {"a": 1, "b": 1, "c": 2})
    assert sorted(three) == ["a"] * 2 + ["b"] * 2 + ["c"] * 4
    assert sum(x != y for x, y in zip(two, three, strict=True)) == 4
    lost = assigned(three, {"a": 1, "c": 2})
    assert sum(x != y for x, y in zip(three, lost, strict=True)) <= 3
    assert set(lost) == {"a", "c"}
    assert assigned(two, {}) == (None,) * 8


def test_from_the_command_line(store, cluster, client, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from nysstream.cli.main import app

    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert done.exit_code == 0, done.output
        return nysstream.load(arguments[arguments.index("--out") + 1]).coef_

    common = ("fit", "ridge", store, "--data", "x", "--alpha", 1, "--memory", "2GiB")
    here = run(*common, "--scheduler", "synchronous", "--out", "a.zarr")
    there = run(*common, "--scheduler-file", cluster.file, "--out", "b.zarr")
    np.testing.assert_array_equal(here, there)
    for wrong, message in (
        (["--scheduler-file", "nothing.json"], "does not answer"),
        (["--scheduler-file", cluster.file, "--local-cluster", 2], "give one of them"),
        (["--scheduler-file", cluster.file, "--threads", 2], "threads of their own"),
    ):
        done = CliRunner().invoke(app, [str(argument) for argument in (*common, *wrong)])
        assert done.exit_code == 2
        assert message in done.output


def test_a_cluster_of_its_own(store, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from nysstream.cli.main import app

    monkeypatch.chdir(tmp_path)
    common = ["fit", "ridge", str(store), "--data", "x", "--alpha", "1"]
    for out, where in (("a.zarr", ["--threads", "2"]), ("b.zarr", ["--local-cluster", "2"])):
        done = CliRunner().invoke(app, [*common, *where, "--out", out])
        assert done.exit_code == 0, done.output
    np.testing.assert_array_equal(nysstream.load("a.zarr").coef_, nysstream.load("b.zarr").coef_)
