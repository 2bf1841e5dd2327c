"""A cluster of processes gives the bits that one thread gives."""

from __future__ import annotations

import os
import time

import dask
import distributed
import numpy as np
import pytest
import zarr

import nysstream
from nysstream import Ridge
from nysstream.errors import InputError
from nysstream.memory import resident_bytes
from nysstream.streaming import DesignMatrix, Reduction, reduce


class WhereItRan(Reduction):
    """The numbers of the processes that saw rows."""

    def start(self, design, device):
        return {"processes": np.zeros(0, np.int64)}

    def add(self, part, tile, prepared):
        time.sleep(0.1)  # long enough for the scheduler to want the other process too
        return {"processes": np.array([os.getpid()])}

    def combine(self, a, b):
        return {"processes": np.union1d(a["processes"], b["processes"])}

    def n_columns(self, design):
        return 0


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Rows in several partitions, with targets and weights."""
    path = tmp_path_factory.mktemp("cluster") / "rows.zarr"
    rng = np.random.default_rng(3)
    n, p = 34_000, 100
    X = (rng.standard_normal((n, p)) * np.geomspace(1, 0.05, p) + 0.5).astype(np.float32)
    group = zarr.open_group(path, mode="w")
    group.create_array("X", data=X, chunks=(11_000, p), compressors=None)
    Y = X @ rng.standard_normal((p, 2)) + rng.standard_normal((n, 2))
    group.create_array("Y", data=Y, chunks=(n, 2), compressors=None)
    group.create_array("weight", data=rng.random(n), chunks=(n,), compressors=None)
    return path


@pytest.fixture(scope="module")
def client():
    """Two worker processes."""
    with (
        dask.config.set({"distributed.worker.daemon": True}),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            memory_limit=None,
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def fit(store, **settings):
    X, Y, weight = (nysstream.open(store, name) for name in ("X", "Y", "weight"))
    return Ridge(100.0, memory="4GiB", **settings).fit(X, Y, weight)


SETTINGS = {
    "plain": {"rank": 40, "tol": 1e-2},
    "standardized": {"rank": 40, "standardize": True, "tol": 1e-2},
    "gram": {"solver": "gram"},
    "features": {"features": nysstream.features.Fourier(150, length_scale=10.0), "rank": 40, "tol": 1e-2},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_schedulers_agree_to_the_last_bit(store, client, settings):
    assert len(DesignMatrix(nysstream.open(store, "X")).partitions) == 4
    with dask.config.set(scheduler="synchronous"):
        expected = fit(store, **settings)
    assert expected.result_.stats["passes"] > 1
    models = []
    for n_threads in (1, 2, 4) if settings is SETTINGS["plain"] else (4,):
        with dask.config.set(scheduler="threads", num_workers=n_threads):
            models.append(fit(store, **settings))
    models.append(fit(store, **settings))  # the client is the default
    for model in models:
        np.testing.assert_array_equal(model.coef_, expected.coef_)
        np.testing.assert_array_equal(model.intercept_, expected.intercept_)
        assert model.result_.stats["objective"] == expected.result_.stats["objective"]


def test_workers_read_the_rows(store, client):
    X = nysstream.open(store, "X")
    workers, seen = set(client.run(os.getpid).values()), set()
    for _ in range(20):  # a scheduler may leave a few short tasks to one of them
        (part,) = reduce(DesignMatrix(X), WhereItRan())
        seen.update(part["processes"].tolist())
        if seen == workers:
            break
    assert seen == workers
    assert len(workers) == 2
    assert os.getpid() not in workers


def test_predictions_and_scores_on_a_cluster(store, client):
    X, Y = nysstream.open(store, "X"), nysstream.open(store, "Y")
    model = fit(store, solver="gram")
    on_cluster, score = model.predict(X), model.score(X, Y)
    with dask.config.set(scheduler="synchronous"):
        np.testing.assert_array_equal(model.predict(X), on_cluster)
        assert model.score(X, Y) == score


def test_errors_of_workers_reach_the_caller(store, client):
    X = zarr.open_array(store / "X")[:]
    X[30_123, 17] = np.nan
    with pytest.raises(InputError, match="row 30123, column 17"):
        Ridge().fit(nysstream.open(_rewritten(store, X)), nysstream.open(store, "Y"))


def _rewritten(store, X):
    path = store.parent / "spoiled.zarr"
    zarr.open_group(path, mode="w").create_array("X", data=X, chunks=(4_000, X.shape[1]))
    return path


def test_a_plan_counts_the_memory_of_the_workers(store, client):
    X, Y = nysstream.open(store, "X"), nysstream.open(store, "Y")
    held = np.ones(50_000_000)  # in this process, which reads nothing
    counted = Ridge(memory="4GiB").plan(X, Y).budget.needs["process"]
    workers = client.run(resident_bytes).values()
    assert 0 < counted <= max(workers) + (64 << 20)
    assert counted < resident_bytes() - held.nbytes / 2
    with dask.config.set(scheduler="synchronous"):
        assert Ridge(memory="4GiB").plan(X, Y).budget.needs["process"] > held.nbytes
