"""Degenerate and badly scaled problems: the answer is right, or the user is told."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scipy.sparse
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression

from nysstream import Ridge
from nysstream.errors import AccuracyWarning, DataWarning, InputError
from tests.estimators.conftest import assert_same_model, dense_ridge, regression
from tests.streaming.support import Stored

SOLVERS = ("gram", "nystrom", "subsampled", "cg")
DTYPES = (np.float32, np.float64)


def least_norm(X, y):
    """Solve centred least squares by a singular value decomposition."""
    X, y = np.asarray(X, np.float64), np.asarray(y, np.float64)
    return np.linalg.lstsq(X - X.mean(axis=0), y - y.mean(), rcond=1e-10)[0]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", DTYPES)
class TestColumns:
    def fit(self, solver, X, y, alpha=1.0, **settings):
        return Ridge(alpha, solver=solver, tol=1e-9, **settings).fit(X, y)

    def test_a_constant_column_gets_nothing(self, problem, solver, dtype):
        X = problem.X.astype(dtype)
        X[:, 2] = 7.3
        model = self.fit(solver, X, problem.y)
        assert_same_model(model, dense_ridge(X, problem.y))
        assert model.coef_[2] == 0

    def test_only_constant_columns(self, problem, solver, dtype):
        X = np.full((300, 4), 3.3, dtype)
        model = self.fit(solver, X, problem.y)
        np.testing.assert_array_equal(model.coef_, 0)
        assert model.intercept_ == pytest.approx(problem.y.mean())
        assert model.result_.converged

    def test_duplicated_columns_share(self, problem, solver, dtype):
        X = problem.X.astype(dtype)
        X[:, 3] = X[:, 5]
        model = self.fit(solver, X, problem.y)
        assert_same_model(model, dense_ridge(X, problem.y))
        assert model.coef_[3] == pytest.approx(model.coef_[5], rel=1e-5)

    def test_means_far_beyond_the_spread(self, problem, solver, dtype):
        X = (problem.X + 1e6).astype(dtype)
        model = self.fit(solver, X, problem.y)
        assert_same_model(model, dense_ridge(X, problem.y))

    def test_scales_over_many_decades(self, solver, dtype):
        rng = np.random.default_rng(0)
        scales = np.geomspace(1e-6, 1e6, 6)
        X = (rng.standard_normal((300, 6)) * scales).astype(dtype)
        y = (X / scales).sum(axis=1) + rng.standard_normal(300)
        model = self.fit(solver, X, y, 0.0 if solver == "gram" else 1e-3, standardize=True)
        expected = LinearRegression().fit(X / scales, y)
        np.testing.assert_allclose(model.coef_ * scales, expected.coef_, rtol=1e-4)

    def test_more_columns_than_rows(self, solver, dtype):
        problem = regression(n=20, p=50)
        X = problem.X.astype(dtype)
        assert_same_model(self.fit(solver, X, problem.y), dense_ridge(X, problem.y))

    @pytest.mark.parametrize("fit_intercept", [True, False])
    def test_one_row(self, solver, dtype, fit_intercept):
        X, y = np.array([[1.0, 2.0, 3.0]], dtype), np.array([5.0])
        model = self.fit(solver, X, y, fit_intercept=fit_intercept)
        assert_same_model(model, dense_ridge(X, y, fit_intercept=fit_intercept))
        np.testing.assert_allclose(
            model.predict(X), dense_ridge(X, y, fit_intercept=fit_intercept).predict(X)
        )

    @pytest.mark.parametrize("y", [np.zeros(300), np.full(300, 0.1), np.full(300, -1e9)], ids=str)
    def test_constant_targets(self, problem, solver, dtype, y):
        model = self.fit(solver, problem.X.astype(dtype), y)
        np.testing.assert_array_equal(model.coef_, 0)
        assert model.intercept_ == pytest.approx(y[0], rel=1e-15)
        assert model.result_.converged

    def test_only_one_row_has_weight(self, problem, solver, dtype):
        weight = np.zeros(300)
        weight[123] = 2.0
        model = Ridge(solver=solver).fit(Stored(problem.X.astype(dtype)), problem.y, weight)
        np.testing.assert_array_equal(model.coef_, 0)
        assert model.intercept_ == pytest.approx(problem.y[123])

    def test_a_column_varies_only_where_there_is_no_weight(self, problem, solver, dtype):
        X, weight = problem.X.astype(dtype), np.ones(300)
        weight[::2] = 0
        X[1::2, 4] = 2.5
        model = Ridge(solver=solver, tol=1e-9).fit(X, problem.y, weight)
        assert_same_model(model, dense_ridge(X, problem.y, weight))
        assert model.coef_[4] == 0

    def test_an_entry_that_a_sample_may_miss(self, solver, dtype):
        problem = regression(n=3_000, p=6)
        X = problem.X.astype(dtype)
        X[:, 3] = 0
        X[1234, 3] = 10
        assert_same_model(self.fit(solver, X, problem.y, 1e-6), dense_ridge(X, problem.y, alpha=1e-6))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("dtype", DTYPES)
class TestWithoutPenalty:
    def test_regular(self, problem, solver, dtype):
        X = problem.X.astype(dtype)
        model = Ridge(0, solver=solver, tol=1e-10).fit(X, problem.Y)
        assert_same_model(model, LinearRegression().fit(X.astype(np.float64), problem.Y))

    def test_more_columns_than_rows(self, solver, dtype):
        rng = np.random.default_rng(0)
        X, y = rng.standard_normal((40, 100)).astype(dtype), rng.standard_normal(40)
        with pytest.warns(AccuracyWarning, match="least norm"):
            model = Ridge(0, solver=solver, tol=1e-8).fit(X, y)
        np.testing.assert_allclose(model.coef_, least_norm(X, y), atol=1e-6)
        np.testing.assert_allclose(model.predict(X), y, atol=1e-5)

    def test_dependent_columns(self, solver, dtype):
        problem = regression(p=5)
        X = np.column_stack([problem.X, problem.X[:, 1], problem.X[:, 2] - problem.X[:, 3]]).astype(dtype)
        X = np.round(X * 8) / 8  # so that the dependencies hold exactly
        X[:, 5], X[:, 6] = X[:, 1], X[:, 2] - X[:, 3]
        with warnings.catch_warnings():
            if solver in ("subsampled", "cg"):  # which do not see all columns together
                warnings.simplefilter("error")
                model = Ridge(0, solver=solver, tol=1e-9).fit(X, problem.y)
            else:
                with pytest.warns(AccuracyWarning, match="not unique"):
                    model = Ridge(0, solver=solver, tol=1e-9).fit(X, problem.y)
        np.testing.assert_allclose(model.coef_, least_norm(X, problem.y), rtol=1e-4, atol=1e-5)


class TestSparseRows:
    @pytest.mark.parametrize("solver", SOLVERS)
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_a_column_of_years(self, solver, dtype):
        rng = np.random.default_rng(0)
        X = np.where(rng.random((2_000, 6)) < 0.2, rng.standard_normal((2_000, 6)), 0).astype(dtype)
        X[:, 0] = 2013 + rng.integers(0, 3, 2_000)
        y = X @ np.arange(1, 7) + rng.standard_normal(2_000)
        with warnings.catch_warnings():
            if solver == "nystrom" and dtype is np.float32:
                warnings.simplefilter("ignore", AccuracyWarning)  # the sketch is lost, the answer is not
            model = Ridge(solver=solver, tol=1e-9).fit(scipy.sparse.csr_array(X), y)
        assert_same_model(model, dense_ridge(X, y))

    def test_a_sketch_lost_in_rounding_is_left_out(self):
        rng = np.random.default_rng(0)
        X = rng.standard_normal((500, 4)).astype(np.float32)
        X[:, 0] = 5_000 + rng.integers(0, 3, 500)
        y = rng.standard_normal(500)
        with pytest.warns(AccuracyWarning, match="rounding hides the sketch"):
            model = Ridge(solver="nystrom", tol=1e-9).fit(scipy.sparse.csr_array(X), y)
        assert model.result_.stats["rank"] == 0
        assert_same_model(model, dense_ridge(X, y), rtol=1e-4)

    def test_a_column_that_cannot_be_told_from_a_constant(self):
        rng = np.random.default_rng(0)
        X = rng.standard_normal((500, 4))
        X[:, 2] += 1e9
        with pytest.warns(DataWarning, match="columns 2 of sparse rows"):
            model = Ridge().fit(scipy.sparse.csr_array(X), X[:, 0])
        assert model.coef_[2] == 0

    def test_wide_rows_fit_a_small_limit(self):
        rng = np.random.default_rng(0)
        X = scipy.sparse.random_array((2_000, 100_000), density=1e-4, format="csr", rng=rng)
        y = X @ rng.standard_normal(100_000) + 1
        model = Ridge(rank=5, solver="nystrom", memory="2GiB", standardize=False).fit(X, y)
        stats = model.result_.stats
        per_pass = 12 * X.nnz + 4 * 2_000  # values, column numbers, pointers
        assert stats["bytes_read"] == pytest.approx(stats["passes"] * per_pass, rel=0.01)
        residual = y - model.predict(X)
        rhs = X.T @ (y - y.mean())
        gradient = X.T @ residual - residual.sum() * X.mean(axis=0) - model.coef_
        assert np.linalg.norm(gradient) < 2e-6 * np.linalg.norm(rhs)


class TestStandardize:
    def test_constant_columns_are_named(self, problem):
        X = problem.X.copy()
        X[:, [1, 4]] = 2.0
        with pytest.warns(DataWarning, match=r"2 of 7 columns are constant.*\(1, 4\)"):
            model = Ridge(standardize=True).fit(X, problem.y)
        np.testing.assert_array_equal(model.coef_[[1, 4]], 0)


class TestOverflow:
    def test_products_beyond_single_precision(self, problem):
        X = (problem.X * 1e25).astype(np.float32)
        with pytest.raises(InputError, match="precision='double'"):
            Ridge().fit(X, problem.y)
        model = Ridge(standardize=True, precision="double").fit(X, problem.y)
        assert model.result_.converged

    def test_products_below_single_precision_are_not_zero(self, problem):
        X = (problem.X * 1e-25).astype(np.float32)
        with pytest.raises(InputError, match="precision='double'"):
            Ridge(1e-50).fit(X, problem.y)
        model = Ridge(standardize=True, precision="double").fit(X, problem.y)
        assert np.abs(model.coef_).min() > 0


def test_what_cannot_be_solved_is_said(problem):
    X = (problem.X * np.geomspace(1e-2, 1e2, 7)).astype(np.float32)
    with pytest.warns(ConvergenceWarning, match="rounding|limit"):
        model = Ridge(1e-9, solver="cg", tol=0).fit(X, problem.y)
    assert not model.result_.converged
    assert np.isfinite(model.coef_).all()
