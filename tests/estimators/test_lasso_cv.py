"""Strengths chosen by cross-validation are those that scikit-learn chooses."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from sklearn import linear_model
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import KFold
from sklearn.utils.estimator_checks import parametrize_with_checks

import nysstream as ny
from nysstream.errors import DataWarning, InputError, MemoryBudgetError
from tests.streaming.support import Stored

EXACT = {"tol": 1e-12, "max_iter": 10**6}


@parametrize_with_checks([ny.LassoCV(alphas=10), ny.ElasticNetCV(alphas=10)])
def test_scikit_learn_conventions(estimator, check):
    check(estimator)


class Problem:
    """Badly scaled columns far from zero, some of which matter; weights."""

    def __init__(self, seed, *, n=150, p=10):
        rng = np.random.default_rng(seed)
        X = rng.standard_normal((n, p)) * rng.lognormal(0, 1, p)
        X[:, 1] += 0.9 * X[:, 0]
        w = rng.standard_normal(p) * (rng.random(p) < 0.4) / X.std(axis=0)
        self.y = X @ w + rng.standard_normal(n) + 5
        self.X = X + rng.standard_normal(p)
        self.weight = rng.random(n) + 0.1


def assert_same_choice(model, dense):
    np.testing.assert_allclose(model.alphas_, dense.alphas_, rtol=1e-9)
    np.testing.assert_allclose(model.mse_path_, dense.mse_path_, rtol=1e-6)
    assert model.alpha_ == pytest.approx(dense.alpha_, rel=1e-9)
    np.testing.assert_allclose(model.coef_, dense.coef_, rtol=0, atol=1e-5 * np.abs(dense.coef_).max())
    assert model.intercept_ == pytest.approx(dense.intercept_, abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_lasso_beside_scikit_learn(seed, positive, weighted, fit_intercept):
    problem = Problem(seed)
    weight = problem.weight if weighted else None
    settings = {"alphas": 30, "positive": positive, "fit_intercept": fit_intercept, "cv": 4}
    model = ny.LassoCV(**settings).fit(problem.X, problem.y, weight)
    dense = linear_model.LassoCV(**settings, **EXACT).fit(problem.X, problem.y, sample_weight=weight)
    assert_same_choice(model, dense)
    assert model.mse_path_.shape == (30, 4)
    assert model.result_.stats["duality_gap"] <= 1e-6
    assert model.result_.stats["passes"] == 2


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("alphas", [20, [0.01, 1.0, 0.1, 0.1]])
def test_elastic_net_beside_scikit_learn(weighted, alphas):
    problem = Problem(7)
    weight = problem.weight if weighted else None
    settings = {"alphas": alphas, "l1_ratio": [0.1, 0.5, 0.9], "cv": 3}
    model = ny.ElasticNetCV(**settings).fit(problem.X, problem.y, weight)
    dense = linear_model.ElasticNetCV(**settings, **EXACT).fit(problem.X, problem.y, sample_weight=weight)
    assert_same_choice(model, dense)
    assert model.l1_ratio_ == dense.l1_ratio_
    assert model.mse_path_.shape == (3, np.shape(model.alphas_)[-1], 3)


def test_ridge_is_among_the_ratios():
    problem = Problem(8)
    settings = {"alphas": [0.01, 0.1], "l1_ratio": [0.0, 0.5]}
    model = ny.ElasticNetCV(**settings).fit(problem.X, problem.y)
    for i, ratio in enumerate(settings["l1_ratio"]):
        for j, alpha in enumerate(model.alphas_):
            part = linear_model.ElasticNet(alpha=alpha, l1_ratio=ratio, **EXACT)
            for f, (train, test) in enumerate(KFold(5).split(problem.X)):
                if ratio == 0:  # coordinate descent wants an l1 penalty
                    part = linear_model.Ridge(alpha * train.size)
                part.fit(problem.X[train], problem.y[train])
                error = np.mean((part.predict(problem.X[test]) - problem.y[test]) ** 2)
                assert model.mse_path_[i, j, f] == pytest.approx(error, rel=1e-8)


def test_the_refit_is_lasso():
    problem = Problem(9)
    model = ny.LassoCV(tol=1e-10, standardize=True).fit(problem.X, problem.y, problem.weight)
    refit = ny.Lasso(model.alpha_, tol=1e-10, standardize=True).fit(problem.X, problem.y, problem.weight)
    np.testing.assert_allclose(model.coef_, refit.coef_, rtol=0, atol=1e-8 * np.abs(refit.coef_).max())


@pytest.mark.parametrize("cv", [4, KFold(4, shuffle=True, random_state=0), ny.HashedFolds(4)])
def test_stored_rows_in_any_folds(cv):
    problem = Problem(10, n=203)
    X = Stored(problem.X, chunk_rows=17)
    model = ny.LassoCV(alphas=15, cv=cv).fit(X, problem.y, problem.weight)
    folds = cv
    if isinstance(cv, ny.HashedFolds):
        of = cv.of_rows(slice(0, 203), 203)
        folds = [(np.flatnonzero(of != f), np.flatnonzero(of == f)) for f in range(4)]
    dense = linear_model.LassoCV(alphas=15, cv=folds, **EXACT)
    assert_same_choice(model, dense.fit(problem.X, problem.y, sample_weight=problem.weight))


def test_sparse_and_single_precision():
    problem = Problem(11)
    X = np.where(np.abs(problem.X) < 1, 0, problem.X).astype(np.float32)
    dense = linear_model.LassoCV(alphas=15, cv=5, **EXACT).fit(X.astype(np.float64), problem.y)
    assert_same_choice(
        ny.LassoCV(alphas=15).fit(scipy.sparse.csr_array(X.astype(np.float64)), problem.y), dense
    )
    single = ny.LassoCV(alphas=15).fit(X, problem.y)
    np.testing.assert_allclose(single.mse_path_, dense.mse_path_, rtol=1e-4)
    assert single.result_.stats["duality_gap"] <= 1e-6, "verified in double precision"


def test_more_columns_than_rows_and_a_constant_one():
    problem = Problem(12, n=40, p=60)
    problem.X[:, 5] = 3.0
    with pytest.warns(DataWarning, match="constant"):
        model = ny.LassoCV(alphas=30).fit(problem.X, problem.y)
    assert model.coef_[5] == 0
    dense = linear_model.LassoCV(alphas=30, cv=5, **EXACT).fit(problem.X, problem.y)
    np.testing.assert_allclose(model.mse_path_, dense.mse_path_, rtol=1e-4)
    assert model.alpha_ == pytest.approx(dense.alpha_)


def test_random_features():
    problem = Problem(13)
    model = ny.LassoCV(alphas=15, features="fourier:20", precision="double").fit(problem.X, problem.y)
    Z = model.features_(problem.X)
    assert_same_choice(model, linear_model.LassoCV(alphas=15, cv=5, **EXACT).fit(Z, problem.y))


def test_targets_that_nothing_explains():
    problem = Problem(14)
    model = ny.LassoCV(alphas=5).fit(problem.X, np.full(150, 2.0))
    assert not model.coef_.any()
    assert model.intercept_ == 2.0


def test_repair_where_active_sets_fail(monkeypatch):
    problem = Problem(15)
    expected = ny.LassoCV(alphas=10, tol=1e-10).fit(problem.X, problem.y)
    monkeypatch.setattr("nysstream.solvers.active_set._MOST_ROUNDS", 1)
    model = ny.LassoCV(alphas=10, tol=1e-10).fit(problem.X, problem.y)
    np.testing.assert_allclose(model.mse_path_, expected.mse_path_, rtol=1e-4)


def test_saved_and_loaded(tmp_path):
    problem = Problem(16)
    model = ny.ElasticNetCV(alphas=[0.1, 0.01], l1_ratio=[0.5, 1.0]).fit(problem.X, problem.y)
    model.save(tmp_path / "model.zarr")
    loaded = ny.load(tmp_path / "model.zarr")
    for name in ("coef_", "alpha_", "l1_ratio_", "alphas_", "mse_path_"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(model, name))
    assert loaded.get_params()["l1_ratio"] == [0.5, 1.0]
    np.testing.assert_array_equal(loaded.predict(problem.X), model.predict(problem.X))


def test_plan_reads_nothing_and_states_what_would_do():
    rows = Stored(np.zeros((5000, 800)), chunk_rows=500)
    plan = ny.LassoCV(memory="2GiB").plan(rows, np.zeros(5000))
    assert plan.method == "gram"
    assert plan.budget.peak > 5 * 4 * 800**2
    tight = ny.LassoCV(memory=plan.budget.peak - (60 << 20))
    with pytest.raises(MemoryBudgetError, match=r"fewer folds .* solver='admm' needs no Gram matrix"):
        tight.fit(rows, np.zeros(5000))


def test_limits_leave_a_warning():
    problem = Problem(17)
    model = ny.LassoCV(alphas=10, tol=0.0, max_passes=2)
    with pytest.warns(ConvergenceWarning, match="Relative duality gap") as caught:
        model.fit(problem.X, problem.y)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alphas": 0}, "alphas=0"),
        ({"alphas": [-1.0]}, "alphas"),
        ({"eps": 0}, "eps=0"),
        ({"eps": 2.0}, "eps=2.0"),
        ({"l1_ratio": 0.0}, "alphas must be given"),
        ({"l1_ratio": [0.5, 1.5]}, "l1_ratio=1.5"),
        ({"l1_ratio": []}, "l1_ratio"),
        ({"solver": "admm"}, "solver='admm'"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(InputError, match=message):
        ny.ElasticNetCV(**settings).fit(np.zeros((10, 2)), np.zeros(10))
