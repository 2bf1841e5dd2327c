"""Support vector machines on features: scikit-learn's problems, solved in passes and certified."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import scipy.sparse
from sklearn import svm
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import parametrize_with_checks

import nysstream as ny
from nysstream.errors import InputError, MemoryBudgetError
from nysstream.estimators import kinked
from nysstream.features import Fourier
from tests.streaming.support import Stored, small_blocks


@parametrize_with_checks(
    [
        ny.LinearSVC(loss="hinge", tol=1e-2),
        ny.SVC(features="none", tol=1e-2),
        ny.SVR(features="none", tol=1e-2),
    ]
)
def test_scikit_learn_conventions(estimator, check):
    check(estimator)


class Problem:
    """A random problem: columns of unequal scales far from zero, and weights some of which are zero."""

    def __init__(self, seed, n=150, d=4):
        rng = np.random.default_rng(seed)
        self.X = rng.standard_normal((n, d)) * rng.lognormal(0, 0.5, d) + 3 * rng.standard_normal(d)
        z = (self.X - self.X.mean(0)) @ rng.standard_normal(d)
        self.y = z + 0.5 * rng.standard_normal(n)
        self.two = np.where(self.y > 0.3, "yes", "no")
        self.three = np.digitize(self.y, [-1, 1])
        self.weight = rng.integers(0, 4, n).astype(float)
        self.C = float(10 ** rng.uniform(-2, 0.5))


def hinge(coef, intercept, X, sign, cost):
    """Evaluate the objective of classification in float64."""
    return 0.5 * coef @ coef + np.sum(cost * np.maximum(0, 1 - sign * (X @ coef + intercept)))


def insensitive(coef, intercept, X, y, cost, epsilon):
    """Evaluate the objective of regression in float64."""
    return 0.5 * coef @ coef + np.sum(cost * np.maximum(0, np.abs(y - X @ coef - intercept) - epsilon))


def assert_certified(model, reached, optimum):
    """Check that the objective is what it is said to be, and that the gap bounds its suboptimality."""
    stats = model.result_.stats
    assert stats["status"] == "converged"
    assert stats["objective"] == pytest.approx(reached, rel=1e-9)
    assert reached - optimum <= stats["duality_gap"] * reached + 1e-7 * optimum
    assert reached <= optimum * (1 + 1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_two_classes_beside_libsvm(seed):
    p = Problem(seed)
    exact = svm.SVC(kernel="linear", C=p.C, tol=1e-9).fit(p.X, p.two, p.weight)
    sign, cost = np.where(p.two == "yes", 1, -1), p.C * p.weight
    optimum = hinge(exact.coef_[0], exact.intercept_[0], p.X, sign, cost)
    for model in (ny.SVC(C=p.C, features="none", tol=1e-4), ny.LinearSVC(C=p.C, loss="hinge", tol=1e-4)):
        model.fit(p.X, p.two, p.weight)
        assert_certified(model, hinge(model.coef_.ravel(), *model.intercept_, p.X, sign, cost), optimum)
        assert np.mean(model.predict(p.X) == exact.predict(p.X)) > 0.97
    assert model.result_.stats["n_support"] > 0


def test_pairs_of_classes_share_their_passes():
    p = Problem(3)
    settings = {"C": 0.3, "class_weight": "balanced"}
    exact = svm.SVC(kernel="linear", tol=1e-9, **settings).fit(p.X, p.three, p.weight)
    model = ny.SVC(features="none", tol=1e-4, **settings).fit(p.X, p.three, p.weight)
    counts = np.bincount(p.three)
    factor = 0.3 * p.weight * (len(p.X) / (3 * counts))[p.three]
    totals = np.zeros(2)
    for k, (i, j) in enumerate([(0, 1), (0, 2), (1, 2)]):
        rows = np.isin(p.three, (i, j))
        sign = np.where(p.three[rows] == i, 1, -1)
        for which, found in enumerate((model, exact)):
            totals[which] += hinge(found.coef_[k], found.intercept_[k], p.X[rows], sign, factor[rows])
    assert model.result_.stats["objective"] == pytest.approx(totals[0], rel=1e-9)
    assert totals[0] <= totals[1] * (1 + 1e-4)
    assert model.result_.stats["passes"] == model.n_iter_ + 1
    np.testing.assert_allclose(model.decision_function(p.X), exact.decision_function(p.X), atol=0.1)


def test_one_class_against_the_rest():
    p = Problem(4)
    model = ny.LinearSVC(C=0.2, loss="hinge", tol=1e-4, fit_intercept=False, class_weight={0: 2.0})
    model.fit(p.X, p.three)
    cost = 0.2 * np.where(p.three == 0, 2.0, 1.0)
    for k, reached in enumerate(model.result_.stats["objective"]):
        sign = np.where(p.three == k, 1, -1)
        exact = svm.LinearSVC(C=0.2, loss="hinge", fit_intercept=False, tol=1e-9, max_iter=10**6)
        optimum = hinge(exact.fit(p.X, sign, cost / 0.2).coef_[0], 0.0, p.X, sign, cost)
        assert hinge(model.coef_[k], 0.0, p.X, sign, cost) == pytest.approx(reached, rel=1e-9)
        assert optimum * (1 - 1e-7) <= reached <= optimum * (1 + 1e-4)
    np.testing.assert_array_equal(model.intercept_, 0.0)


@pytest.mark.parametrize("seed", [0, 1])
def test_regression_beside_libsvm(seed):
    p = Problem(seed)
    exact = svm.SVR(kernel="linear", C=p.C, epsilon=0.2, tol=1e-9).fit(p.X, p.y, p.weight)
    model = ny.SVR(C=p.C, epsilon=0.2, features="none", tol=1e-4).fit(p.X, p.y, p.weight)
    cost = p.C * p.weight
    optimum = insensitive(exact.coef_[0], exact.intercept_[0], p.X, p.y, cost, 0.2)
    assert_certified(model, insensitive(model.coef_[0], *model.intercept_, p.X, p.y, cost, 0.2), optimum)


def test_random_features_in_single_precision():
    p = Problem(5)
    map_ = Fourier(60, length_scale=4.0, random_state=0)
    model = ny.SVC(C=5.0, features=map_, tol=1e-3).fit(p.X.astype(np.float32), p.two)
    Z = map_(p.X.astype(np.float32).astype(np.float64))
    sign = np.where(p.two == "yes", 1, -1)
    exact = svm.SVC(kernel="linear", C=5.0, tol=1e-9).fit(Z, p.two)
    reached, optimum = (hinge(m.coef_[0], *m.intercept_, Z, sign, 5.0) for m in (model, exact))
    assert reached <= optimum * (1 + 1e-3)
    assert model.result_.stats["objective"] == pytest.approx(reached, rel=1e-6)
    names = [record.name for record in model.result_.passes]
    assert names[0] == "set-up"
    assert set(names[1:]) == {"iterate", "certify"}
    assert names[-1] == "certify"


@pytest.mark.parametrize("C", [0.002, 0.2, 20.0])
def test_intercepts_move_until_a_row_is_free(C):
    rng = np.random.default_rng(3)
    X = (rng.standard_normal((12_000, 20)) * np.geomspace(1, 0.1, 20)).astype(np.float32)
    y = X @ rng.standard_normal(20) + 0.5 * rng.standard_normal(12_000) + 0.7 > 0
    result = ny.LinearSVC(C=C, loss="hinge", max_passes=60).fit(X, y).result_
    assert result.stats["duality_gap"] <= 1e-6


def test_weights_are_repeated_rows():
    p = Problem(6)
    repeated = np.repeat(np.arange(len(p.X)), p.weight.astype(int))
    one = ny.SVR(C=0.5, features="none").fit(p.X, p.y, p.weight)
    other = ny.SVR(C=0.5, features="none").fit(p.X[repeated], p.y[repeated])
    np.testing.assert_allclose(one.coef_, other.coef_, rtol=1e-6)


def test_bits_depend_on_neither_threads_nor_memory(monkeypatch, tmp_path):
    small_blocks(monkeypatch)
    p = Problem(7)
    fits = {}

    def fit(name):
        source = Stored(p.X.astype(np.float32), chunk_rows=16)
        fits[name] = ny.SVC(C=0.3, features="fourier:30", tol=1e-2).fit(source, Stored(p.three))

    for scheduler in ({"scheduler": "synchronous"}, {"scheduler": "threads", "num_workers": 2}):
        with dask.config.set(**scheduler):
            fit(scheduler["scheduler"])
    monkeypatch.setattr(kinked, "_ROWS_BYTES", 0)
    fit("scratch file")
    with ny.checkpointing(tmp_path / "c"):
        fit("journal")
    with ny.checkpointing(tmp_path / "c", resume=True):
        fit("resumed")
    for model in fits.values():
        np.testing.assert_array_equal(model.coef_, fits["synchronous"].coef_)
        np.testing.assert_array_equal(model.intercept_, fits["synchronous"].intercept_)
    stats = fits["resumed"].result_.stats
    assert stats["passes_recalled"] == stats["passes"]


@pytest.mark.parametrize("sparse", [False, True])
def test_a_sketch_stands_for_the_matrix(sparse):
    p = Problem(8, d=30)
    X = scipy.sparse.csr_array(p.X * (np.abs(p.X) > 1)) if sparse else p.X
    whole = ny.LinearSVC(C=0.01, loss="hinge", tol=1e-3).fit(X, p.two)
    sketched = ny.LinearSVC(C=0.01, loss="hinge", tol=1e-3, rank=20).fit(X, p.two)
    assert sketched.result_.stats["rank"] == 20
    assert sketched.result_.stats["objective"] == pytest.approx(whole.result_.stats["objective"], rel=2e-3)


def test_limits_keep_the_best_with_its_gap():
    p = Problem(9)
    with pytest.warns(ConvergenceWarning, match="pass limit.*gap"):
        model = ny.SVR(features="fourier:20", max_passes=5, tol=1e-6).fit(p.X, p.y)
    assert model.result_.stats["passes"] <= 5
    assert 1e-6 < model.result_.stats["duality_gap"] < 1
    assert model.result_.passes[-1].name == "certify"
    with pytest.warns(ConvergenceWarning, match="iteration limit|pass limit|Time|time"):
        ny.LinearSVC(loss="hinge", time_limit=1e-9).fit(p.X, p.two)


def test_models_are_saved_and_refitted(tmp_path):
    p = Problem(10)
    four = np.digitize(p.y, [-1, 0, 1])
    model = ny.SVC(features="fourier:20", tol=1e-1).fit(p.X, four)
    model.save(tmp_path / "m")
    found = ny.load(tmp_path / "m")
    np.testing.assert_array_equal(found.decision_function(p.X), model.decision_function(p.X))
    np.testing.assert_array_equal(found.predict(p.X), model.predict(p.X))
    exact = model.set_params(features=None).fit(p.X, four)
    assert not hasattr(exact, "coef_")
    np.testing.assert_array_equal(exact.predict(p.X), ny.SVC(tol=1e-1).fit(p.X, four).predict(p.X))


def test_what_cannot_be_is_refused():
    p = Problem(11)
    source = Stored(p.X)
    with pytest.raises(MemoryBudgetError):
        ny.SVC(features="fourier:4000", memory="20MiB").fit(source, p.three)
    assert source.reads.sum() == 0
    with pytest.raises(InputError, match="loss='hinge' goes with"):
        ny.LinearSVC(loss="hinge", solver="newton").fit(p.X, p.two)
    with pytest.raises(InputError, match="loss='log'"):
        ny.LinearSVC(loss="log").fit(p.X, p.two)
    with pytest.raises(InputError, match="max_passes=5: only fits with features"):
        ny.SVC(max_passes=5).fit(p.X, p.two)
    with pytest.raises(InputError, match="no row of positive weight"):
        ny.SVC(features="none", class_weight={0: 0.0}).fit(p.X, p.three)
