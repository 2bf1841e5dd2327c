"""Starting from a previous fit: the same answer, fewer passes, and none for the start itself."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from nysstream import Ridge, features
from nysstream.errors import InputError
from nysstream.estimators.starting import Start
from nysstream.streaming import DesignMatrix
from tests.estimators.conftest import dense_ridge
from tests.streaming.support import Stored


def slow_problem(n=700, p=60, dtype=np.float32):
    """Make a problem on which conjugate gradients need many iterations, its columns far from zero."""
    rng = np.random.default_rng(1)
    U = rng.standard_normal((n, p))
    X = (U @ np.linalg.qr(rng.standard_normal((p, p)))[0]) * np.geomspace(1, 0.03, p) + 2.0
    return X.astype(dtype), U @ rng.standard_normal(p) + rng.standard_normal(n)


def passes(model):
    return model.result_.stats["passes"]


@pytest.mark.parametrize("solver", ["nystrom", "subsampled", "cg"])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_neighbouring_penalty_takes_fewer_passes(solver, standardize, dtype):
    X, y = slow_problem(dtype=dtype)
    rank = 5 if solver == "nystrom" else "auto"
    options = {"solver": solver, "rank": rank, "standardize": standardize, "memory": "1GiB"}
    model = Ridge(1.0, warm_start=True, **options).fit(Stored(X), y)
    cold = Ridge(0.9, **options).fit(Stored(X), y)
    model.set_params(alpha=0.9).fit(Stored(X), y)
    assert passes(model) < passes(cold)
    # One to set up, one for each iteration, and to verify: the start has none of its own.
    names = Counter(record.name for record in model.result_.passes)
    assert names.keys() == {"set-up", "product", "residual"}
    assert (names["set-up"], names["product"]) == (1, model.result_.stats["iterations"])
    assert names["residual"] <= 1 + Counter(record.name for record in cold.result_.passes)["residual"]
    if not standardize:
        exact = dense_ridge(X, y, alpha=0.9)
        assert np.allclose(model.coef_, exact.coef_, rtol=1e-3, atol=1e-4 * np.abs(exact.coef_).max())
        assert model.intercept_ == pytest.approx(exact.intercept_, rel=1e-3, abs=1e-2)


@pytest.mark.parametrize("solver", ["nystrom", "subsampled", "cg"])
def test_the_same_problem_again_is_only_verified(solver):
    X, y = slow_problem()
    model = Ridge(1.0, solver=solver, rank=5 if solver == "nystrom" else "auto", warm_start=True)
    first = model.fit(X, y).coef_
    model.fit(X, y)
    assert [record.name for record in model.result_.passes if record.name != "sample"] == [
        "set-up",
        "residual",
    ]
    assert np.array_equal(model.coef_, first)


def test_work_that_a_limit_ended_is_gone_on_with():
    X, y = slow_problem()
    model = Ridge(1.0, solver="cg", max_passes=8, warm_start=True)
    residuals = []
    for _ in range(4):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(X, y)
        residuals.append(model.result_.stats["relative_residual"])
    assert residuals[0] > 1e-4
    assert residuals[-1] < 0.5 * residuals[0]


def test_the_gram_matrix_needs_no_start():
    X, y = slow_problem()
    model = Ridge(1.0, solver="gram", warm_start=True).fit(X, y)
    first = model.coef_
    model.coef_ = np.zeros_like(first)
    assert np.array_equal(model.fit(X, y).coef_, first)


@pytest.mark.parametrize("worse", [-3.0, 1e6, 0.0])
def test_a_bad_start_does_no_harm(worse):
    X, y = slow_problem()
    cold = Ridge(1.0, solver="subsampled").fit(X, y)
    warm = Ridge(1.0, solver="subsampled", warm_start=True)
    warm.coef_ = worse * np.random.default_rng(0).standard_normal(X.shape[1])
    warm.fit(X, y)
    assert warm.result_.converged
    assert passes(warm) <= passes(cold) + 2
    assert np.allclose(warm.coef_, cold.coef_, rtol=1e-3, atol=1e-4 * np.abs(cold.coef_).max())


def test_several_models_from_one_or_each_from_its_own():
    X, y = slow_problem()
    Y = np.column_stack([y, np.roll(y, 1), np.full(len(y), 3.0)])
    model = Ridge([1.0, 2.0, 3.0], solver="cg", warm_start=True).fit(X, Y)
    model.set_params(alpha=[1.0001, 2.0001, 3.0001])
    cold = passes(model)
    model.fit(X, Y)
    assert passes(model) < cold
    assert np.array_equal(model.coef_[2], np.zeros(X.shape[1]))  # a constant target
    one = Ridge(1.0, solver="cg", warm_start=True).fit(X, y)
    one.set_params(alpha=[1.0, 1.001]).fit(X, y)
    coef = dense_ridge(X, y, alpha=1.001).coef_
    assert np.allclose(one.coef_[1], coef, rtol=1e-3, atol=1e-4 * np.abs(coef).max())


def test_constant_columns_take_no_part():
    X, y = slow_problem()
    X[:, 3] = 5.0
    model = Ridge(1.0, solver="cg", warm_start=True).fit(X, y)
    model.coef_ = model.coef_ + np.where(np.arange(X.shape[1]) == 3, 7.0, 0.0)
    model.fit(X, y)
    assert model.coef_[3] == 0
    assert model.result_.converged


def test_another_shape_is_refused():
    X, y = slow_problem()
    model = Ridge(solver="cg", warm_start=True).fit(X, y)
    with pytest.raises(InputError, match=r"the previous fit has 60 coefficients .* this one 40 for"):
        model.set_params(features=features.Fourier(40, length_scale=1.0)).fit(X, y)
    model = Ridge(solver="cg", warm_start=True).fit(X, np.column_stack([y, y]))
    with pytest.raises(InputError, match="for each of 2 models, and this one 60 for each of 1"):
        model.fit(X, y)
    assert (
        Ridge(solver="cg", warm_start=False)
        .fit(X, y)
        .set_params(features="fourier:40,length_scale=1")
        .fit(X, y)
    )


def test_a_start_is_scaled_to_the_least_energy():
    rng = np.random.default_rng(0)
    Z = rng.standard_normal((30, 6))
    A, rhs, shifts = Z.T @ Z, rng.standard_normal((6, 2)), np.array([1.0, 2.0])
    W = rng.standard_normal((6, 2))
    start = Start.of(DesignMatrix(Z), W, A @ W).scaled(rhs, shifts)
    residual = rhs - A @ start.value - shifts * start.value
    assert np.allclose(np.sum(W * residual, axis=0), 0, atol=1e-12)
    assert np.allclose(start.residual(rhs, shifts, 1e-6), residual)
    solution = np.column_stack(
        [np.linalg.solve(A + mu * np.eye(6), rhs[:, j]) for j, mu in enumerate(shifts)]
    )
    assert Start.of(DesignMatrix(Z), solution, A @ solution).residual(rhs, shifts, 1e-6) is None
