"""Predictions that are written over several runs of a job: the same bits, and no window read twice."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import zarr

import nysstream as ns
from nysstream.errors import CheckpointError, OutputExistsError
from nysstream.estimators import kernel_machine
from nysstream.sources import continuing, layout
from nysstream.sources.writing import RowWriter
from nysstream.streaming import partition
from tests.kills import Crash, is_killed

N_ROWS = 1500
NOTES = "nysstream.sources.continuing:Continued."


def small_pieces():
    """Chunks of 128 predictions, blocks of 50 rows."""
    continuing._SECONDS = 0.0
    layout.CHUNK_BYTES = 128 * 8
    partition.BLOCK_BYTES = 1000
    kernel_machine.TILE_ROWS = 100


@pytest.fixture(autouse=True)
def in_small_pieces(monkeypatch):
    for module, name in (
        (continuing, "_SECONDS"),
        (layout, "CHUNK_BYTES"),
        (partition, "BLOCK_BYTES"),
        (kernel_machine, "TILE_ROWS"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))
    small_pieces()


def rows(kind="dense"):
    x = np.random.default_rng(0).standard_normal((N_ROWS, 5))
    return scipy.sparse.csr_array(np.where(x > 0, x, 0.0)) if kind == "sparse" else x


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Write rows, dense and sparse ones."""
    folder = tmp_path_factory.mktemp("rows")
    for kind in ("dense", "sparse"):
        ns.convert(rows(kind), folder / kind, chunk_rows=50)
    return folder


CASES = {
    "ridge": (lambda: ns.Ridge(features="fourier:40,length_scale=2"), "predict", "dense"),
    "sparse": (ns.Ridge, "predict", "sparse"),
    "labels": (ns.LogisticRegression, "predict", "dense"),
    "decisions": (ns.LogisticRegression, "decision_function", "dense"),
    "probabilities": (ns.LogisticRegression, "predict_proba", "sparse"),
    "sketchy": (lambda: ns.SketchySGDClassifier(max_passes=3), "predict", "dense"),
    "poisson": (lambda: ns.PoissonRegressor(), "predict", "dense"),
    "kernel-ridge": (ns.KernelRidge, "predict", "dense"),
    "svc": (ns.SVC, "decision_function", "sparse"),
    "svc-features": (lambda: ns.SVC(features="fourier:20,length_scale=2"), "predict", "dense"),
    "svr": (ns.SVR, "predict", "dense"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_predictions_in_pieces_have_the_bits_of_whole_ones(tmp_path, store, case, monkeypatch):
    make, method, kind = CASES[case]
    x = rows(kind)[:200]
    target = np.asarray(x.sum(axis=1)).ravel()
    model = make().fit(x, np.digitize(target, np.quantile(target, [0.3, 0.6])))
    model.save(tmp_path / "model")
    X = ns.open(str(store / kind), "x")
    whole = getattr(model, method)(X)
    real, after = RowWriter.append, []

    def crash(self, block):
        if self.name.endswith("out") and self.rows_appended >= after[0]:
            raise Crash
        real(self, block)

    monkeypatch.setattr(RowWriter, "append", crash)
    for after[:] in ([400], [900]):
        with pytest.raises(Crash), ns.checkpointing(tmp_path / "c", resume=True):
            getattr(ns.load(tmp_path / "model"), method)(X, out=tmp_path / "out")
    first = []

    def watch(self, block):
        first.append(self.rows_appended)
        real(self, block)

    monkeypatch.setattr(RowWriter, "append", watch)
    with ns.checkpointing(tmp_path / "c", resume=True) as checkpoint:
        found = getattr(ns.load(tmp_path / "model"), method)(X, out=tmp_path / "out")
    assert first[0] >= 600  # much was there
    assert checkpoint.n_recalled == 2  # of the output alone: no passes are kept
    np.testing.assert_array_equal(found.read(slice(0, N_ROWS)).reshape(whole.shape), whole)
    first.clear()
    with ns.checkpointing(tmp_path / "c", resume=True):
        getattr(ns.load(tmp_path / "model"), method)(X, out=tmp_path / "out")
    assert not first


def predict(folder, rows):
    """Write predictions, as one run of the job."""
    small_pieces()
    with ns.checkpointing(folder / "c", resume=True):
        ns.load(folder / "model").predict(ns.open(rows, "x"), out=folder / "out")


def test_kills(tmp_path, store):
    model = ns.Ridge().fit(rows()[:200], rows()[:200, 0])
    model.save(tmp_path / "model")
    for moment in (("begin", 1), ("note", 2), ("note", 2), ("complete", 1)):
        assert is_killed((f"{NOTES}{moment[0]}", moment[1], "after"), predict, tmp_path, str(store / "dense"))
        assert not (tmp_path / "out").exists()
    predict(tmp_path, str(store / "dense"))
    whole = model.predict(ns.open(str(store / "dense"), "x"))
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "out", mode="r")[:], whole)
    assert not list(tmp_path.glob(".*"))


def test_other_predictions_are_refused(tmp_path, store):
    X = ns.open(str(store / "dense"), "x")
    labels = (rows()[:200, 0] > 0).astype(int)
    model = ns.LogisticRegression().fit(rows()[:200], labels)
    with ns.checkpointing(tmp_path / "c"):
        model.predict_proba(X, out=tmp_path / "out")
    other = ns.LogisticRegression(C=0.1).fit(rows()[:200], labels)
    changed = ns.LogisticRegression().fit(rows()[:200], labels)
    changed.coef_ = changed.coef_ + 1e-9
    for predictor, data, out, said in (
        (model.decision_function, X, "out", "predictions was probabilities, now decisions"),
        (other.predict_proba, X, "out", "C was 1.0, now 0.1"),
        (changed.predict_proba, X, "out", "model was"),
        (model.predict_proba, X.restrict(slice(0, 99)), "out", "X was"),
        (model.predict_proba, X, "elsewhere", "output was"),
    ):
        with pytest.raises(CheckpointError, match=said), ns.checkpointing(tmp_path / "c", resume=True):
            predictor(data, out=tmp_path / out)
    with pytest.raises(OutputExistsError), ns.checkpointing(tmp_path / "d"):
        model.predict(X, out=tmp_path / "out")


def test_a_model_that_was_fitted_in_the_same_job(tmp_path, store):
    X = ns.open(str(store / "dense"), "x")
    found = []
    for _ in range(2):  # the second time, the fit is recalled
        with ns.checkpointing(tmp_path / "c", resume=True):
            model = ns.Ridge().fit(X, rows()[:, 0])
            found.append(model.predict(X, out=tmp_path / "out").read(slice(0, N_ROWS)))
    np.testing.assert_array_equal(*found)
