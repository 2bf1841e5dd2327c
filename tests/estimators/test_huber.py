"""Huber's regression reaches scikit-learn's minimum, and certifies it."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import linear_model
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import parametrize_with_checks

import nysstream as ny
from nysstream.errors import InputError, MemoryBudgetError
from tests.streaming.support import Stored


# Otherwise the plane through most of the 15 rows of 10 columns in some checks is not unique.
@parametrize_with_checks([ny.HuberRegressor(epsilon=3.0, alpha=10.0, tol=1e-10)])
def test_scikit_learn_conventions(estimator, check):
    check(estimator)


class Problem:
    """Badly scaled columns far from zero, and outliers of a given size; weights."""

    def __init__(self, seed, *, n=200, p=5, outlier=50.0, share=0.1, shift=3.0):
        rng = np.random.default_rng(seed)
        self.X = rng.standard_normal((n, p)) * rng.lognormal(0, 1, p) + shift * rng.standard_normal(p)
        self.y = self.X @ rng.standard_normal(p) + rng.standard_normal(n) + 7
        self.outliers = rng.random(n) < share
        self.y[self.outliers] += outlier * rng.choice([1.0, 2.0], self.outliers.sum())
        self.weight = rng.random(n) + 0.1

    def objective(self, model, weight):
        """Evaluate the objective in float64."""
        sigma = model.scale_
        t = np.abs(self.X @ model.coef_ + model.intercept_ - self.y) / sigma
        huber = np.where(t <= model.epsilon, t**2, 2 * model.epsilon * t - model.epsilon**2)
        return np.sum(weight * sigma * (1 + huber)) + model.alpha * model.coef_ @ model.coef_


def dense_huber(problem, weight, **kwargs):
    return linear_model.HuberRegressor(**kwargs, tol=1e-9, max_iter=10**4).fit(problem.X, problem.y, weight)


@settings(max_examples=15)
@given(
    st.integers(0, 10**6),
    st.sampled_from([0.0, 10.0, 1e3, 1e7]),
    st.sampled_from([1.1, 1.35, 2.0]),
    st.sampled_from([0.0, 1e-4, 10.0]),
    st.booleans(),
)
def test_no_worse_than_scikit_learn(seed, outlier, epsilon, alpha, fit_intercept):
    problem = Problem(seed, outlier=outlier)
    kwargs = {"epsilon": epsilon, "alpha": alpha, "fit_intercept": fit_intercept}
    model = ny.HuberRegressor(**kwargs).fit(problem.X, problem.y, problem.weight)
    dense = dense_huber(problem, problem.weight, **kwargs)
    ours, theirs = (problem.objective(m, problem.weight) for m in (model, dense))
    stats = model.result_.stats
    assert ours <= theirs * (1 + 1e-6)
    assert stats["objective"] == pytest.approx(ours, rel=1e-9)
    if alpha:
        assert ours - theirs <= stats["duality_gap"] * ours + 1e-12 * ours, "the gap is a bound"
        assert stats["duality_gap"] <= 1e-6
    else:
        assert stats["duality_gap"] is None
        assert stats["optimality"] <= 1e-6


@pytest.mark.parametrize("weighted", [False, True])
def test_the_same_model_as_scikit_learn(weighted):
    problem = Problem(0, n=400)
    weight = problem.weight if weighted else None
    model = ny.HuberRegressor(tol=1e-12).fit(problem.X, problem.y, weight)
    dense = dense_huber(problem, weight)
    np.testing.assert_allclose(model.coef_, dense.coef_, rtol=0, atol=2e-3)
    assert model.scale_ == pytest.approx(dense.scale_, rel=1e-3)
    assert model.intercept_ == pytest.approx(dense.intercept_, abs=2e-2)
    assert np.mean(model.outliers_ != dense.outliers_) < 0.01
    assert model.outliers_[problem.outliers].all()
    assert model.result_.stats["n_outliers"] == model.outliers_.sum()


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_derivatives_vanish(fit_intercept):
    """All three kinds of variables are optimal, by finite differences of the objective."""
    problem = Problem(1)
    model = ny.HuberRegressor(alpha=1.0, tol=1e-13, fit_intercept=fit_intercept).fit(problem.X, problem.y)
    ones = np.ones(200)
    best = problem.objective(model, ones)
    rng = np.random.default_rng(0)
    for size in (1e-3, 1e-5):
        for _ in range(20):
            coef, intercept, scale = model.coef_, model.intercept_, model.scale_
            model.coef_ = coef + size * rng.standard_normal(5)
            model.intercept_ = intercept + size * rng.standard_normal() * fit_intercept
            model.scale_ = scale + size * rng.standard_normal()
            assert problem.objective(model, ones) >= best * (1 - 1e-14)
            model.coef_, model.intercept_, model.scale_ = coef, intercept, scale


def test_integer_weights_are_repeated_rows():
    problem = Problem(2)
    weight = np.random.default_rng(0).integers(0, 4, 200)
    weighted = ny.HuberRegressor(tol=1e-12).fit(problem.X, problem.y, weight)
    rows = np.repeat(np.arange(200), weight)
    repeated = ny.HuberRegressor(tol=1e-12).fit(problem.X[rows], problem.y[rows])
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, rtol=1e-5)
    assert weighted.scale_ == pytest.approx(repeated.scale_, rel=1e-6)


@pytest.mark.parametrize("outlier", [20.0, 1e6])
def test_few_passes_over_stored_rows(outlier):
    """The start comes from sampled rows, so that outliers of any size cost no pass."""
    problem = Problem(3, n=20000, outlier=outlier)
    X = Stored(problem.X, chunk_rows=1000)
    model = ny.HuberRegressor().fit(X, problem.y)
    ones = np.ones(20000)
    dense = dense_huber(problem, None)
    assert problem.objective(model, ones) <= problem.objective(dense, ones) * (1 + 1e-6)
    assert model.result_.stats["passes"] <= 6
    assert not hasattr(model, "outliers_")


def test_without_memory_for_a_sample(monkeypatch):
    monkeypatch.setattr(ny.HuberRegressor, "_start_rows", lambda *_: None)
    problem = Problem(4, outlier=1e6)
    model = ny.HuberRegressor().fit(problem.X, problem.y)
    ones = np.ones(200)
    assert problem.objective(model, ones) <= problem.objective(dense_huber(problem, None), ones) * (1 + 1e-6)


def test_sparse_and_single_precision():
    problem = Problem(5, n=500, shift=0.0)
    problem.X = np.where(np.abs(problem.X) < 1, 0, problem.X).astype(np.float32)
    expected = ny.HuberRegressor(tol=1e-10).fit(problem.X.astype(np.float64), problem.y)
    for X in (problem.X, scipy.sparse.csr_array(problem.X)):
        model = ny.HuberRegressor(tol=1e-10).fit(X, problem.y)
        np.testing.assert_allclose(model.coef_, expected.coef_, rtol=0, atol=1e-4)
        assert model.result_.stats["duality_gap"] <= 1e-10, "verified in double precision"


def test_rows_that_lie_on_a_plane():
    """The scale goes to its least value, and outliers do not move the plane."""
    problem = Problem(6, outlier=0.0)
    w = np.array([1.0, -2.0, 0.0, 3.0, 0.5])
    y = problem.X @ w + 4
    y[:10] += 100
    model = ny.HuberRegressor().fit(problem.X, y)
    np.testing.assert_allclose(model.coef_, w, atol=1e-5)
    assert model.scale_ < 1e-6
    assert np.flatnonzero(model.outliers_).tolist() == list(range(10))


def test_standardized_penalty():
    problem = Problem(7)
    scale = problem.X.std(axis=0)
    model = ny.HuberRegressor(alpha=50.0, standardize=True, tol=1e-11).fit(problem.X, problem.y)
    scaled = ny.HuberRegressor(alpha=50.0, tol=1e-11).fit(problem.X / scale, problem.y)
    np.testing.assert_allclose(model.coef_, scaled.coef_ / scale, rtol=1e-4)


def test_saved_and_loaded(tmp_path):
    problem = Problem(8)
    model = ny.HuberRegressor(epsilon=1.5).fit(problem.X, problem.y)
    model.save(tmp_path / "model.zarr")
    loaded = ny.load(tmp_path / "model.zarr")
    assert loaded.scale_ == model.scale_
    assert loaded.epsilon == 1.5
    np.testing.assert_array_equal(loaded.predict(problem.X), model.predict(problem.X))


def test_limits_leave_a_warning():
    problem = Problem(9, n=20000)
    with pytest.warns(ConvergenceWarning, match="Relative duality gap") as caught:
        ny.HuberRegressor(tol=1e-14, max_passes=3).fit(Stored(problem.X, chunk_rows=999), problem.y)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"epsilon": 1.0}, "epsilon=1.0"),
        ({"alpha": -1.0}, "alpha=-1.0"),
        ({"solver": "admm"}, "solver='admm'"),
    ],
)
def test_settings_that_make_no_sense(kwargs, message):
    with pytest.raises(InputError, match=message):
        ny.HuberRegressor(**kwargs).fit(np.zeros((10, 2)), np.arange(10.0))


def test_memory_is_checked_first():
    with pytest.raises(MemoryBudgetError, match="Hessians"):
        ny.HuberRegressor(memory="1GiB").fit(Stored(np.zeros((10, 20000))), np.arange(10.0))
