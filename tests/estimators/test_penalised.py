"""Estimators with penalties solve scikit-learn's problems, and certify it."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from sklearn import linear_model, svm
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import parametrize_with_checks

import nysstream as ny
from nysstream.errors import InputError
from nysstream.estimators.sampled_hessians import SampledHessians
from nysstream.memory import resident_bytes
from tests.streaming.support import Stored

ESTIMATORS = [
    ny.Lasso(),
    ny.ElasticNet(),
    ny.BoundedRegression(alpha=0.01),
    ny.LogisticRegression(),
    ny.LinearSVC(),
    ny.PoissonRegressor(),
    ny.GammaRegressor(),
    ny.TweedieRegressor(),
]


@parametrize_with_checks(ESTIMATORS)
def test_scikit_learn_conventions(estimator, check):
    check(estimator)


class Problem:
    """A random problem: badly scaled columns far from zero, weights, and targets of every kind."""

    def __init__(self, seed, *, n=120, p=8, sparse=False):
        rng = np.random.default_rng(seed)
        X = rng.standard_normal((n, p)) * rng.lognormal(0, 1, p)
        X[:, 1] += 0.9 * X[:, 0]
        if sparse:
            X *= rng.random((n, p)) < 0.4
        else:
            X += rng.standard_normal(p)
        w = rng.standard_normal(p) * (rng.random(p) < 0.6) / X.std(axis=0)
        z = (X - X.mean(axis=0)) @ w
        self.dense, self.X = X, scipy.sparse.csr_array(X) if sparse else X
        self.weight = rng.random(n) + 0.1
        self.y = z + 0.5 * rng.standard_normal(n) + 1
        self.two = np.where(rng.random(n) < 1 / (1 + np.exp(-z)), "yes", "no")
        self.three = np.digitize(z + rng.logistic(size=n), [-1, 1])
        self.count = rng.poisson(np.exp(np.clip(0.3 * z, -3, 3))).astype(float)
        self.positive = rng.gamma(2.0, np.exp(np.clip(0.3 * z, -3, 3)) / 2)
        self.alpha = 0.05 * np.abs((X - X.mean(0)).T @ (self.y - self.y.mean())).max() / n


def elastic(problem, coef, intercept, l1, l2):
    """Evaluate the objective of the elastic net in float64."""
    r = problem.y - problem.dense @ coef - intercept
    loss = 0.5 * np.average(r**2, weights=problem.weight)
    return loss + l1 * np.abs(coef).sum() + 0.5 * l2 * np.sum(coef**2)


def logistic(problem, coef, intercept, C, rho):
    """Evaluate the objective of two-class logistic regression in float64."""
    z = problem.dense @ coef + intercept
    loss = np.sum(problem.weight * (np.logaddexp(0, z) - (problem.two == "yes") * z))
    return C * loss + rho * np.abs(coef).sum() + 0.5 * (1 - rho) * np.sum(coef**2)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("solver", ["gram", "admm"])
def test_elastic_net_beside_coordinate_descent(seed, sparse, solver):
    problem = Problem(seed, sparse=sparse)
    rho = [1.0, 0.5][seed % 2]
    settings = {"alpha": problem.alpha, "l1_ratio": rho, "tol": 1e-6}
    model = ny.ElasticNet(**settings, solver=solver).fit(problem.X, problem.y, problem.weight)
    dense = linear_model.ElasticNet(**settings | {"tol": 1e-12}, max_iter=10**5)
    dense.fit(problem.dense, problem.y, problem.weight)
    l1, l2 = problem.alpha * rho, problem.alpha * (1 - rho)
    ours = elastic(problem, model.coef_, model.intercept_, l1, l2)
    best = elastic(problem, dense.coef_, dense.intercept_, l1, l2)
    stats = model.result_.stats
    assert ours - best <= 1e-6 * best
    assert stats["objective"] == pytest.approx(ours, rel=1e-9)
    assert ours - best <= stats["duality_gap"] * stats["objective"] + 1e-12 * best, "the gap is a bound"
    np.testing.assert_array_equal(model.coef_ == 0, np.abs(dense.coef_) < 1e-9 * np.abs(dense.coef_).max())
    assert stats["n_nonzero"] == np.count_nonzero(model.coef_)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("solver", ["newton", "subsampled", "admm"])
@pytest.mark.parametrize("rho", [0.0, 0.5, 1.0])
def test_logistic_regression_beside_a_generic_solver(seed, sparse, solver, rho):
    problem = Problem(seed, sparse=sparse)
    model = ny.LogisticRegression(C=0.5, l1_ratio=rho, solver=solver, tol=1e-6)
    model.fit(problem.X, problem.two, problem.weight)
    p = problem.dense.shape[1]

    def split(v):  # positive and negative parts make the l1 penalty smooth
        w, b = v[:p] - v[p : 2 * p], v[-1]
        z = problem.dense @ w + b
        slope = problem.weight * (1 / (1 + np.exp(-z)) - (problem.two == "yes"))
        g = 0.5 * problem.dense.T @ slope + (1 - rho) * w
        value = 0.5 * np.sum(problem.weight * (np.logaddexp(0, z) - (problem.two == "yes") * z))
        value += rho * v[:-1].sum() + 0.5 * (1 - rho) * np.sum(w**2)
        return value, np.concatenate([g + rho, rho - g, [0.5 * slope.sum()]])

    bounds = [(0, None)] * (2 * p) + [(None, None)]
    options = {"maxiter": 10**5, "maxfun": 10**6, "ftol": 1e-15, "gtol": 1e-10}
    found = scipy.optimize.minimize(split, np.zeros(2 * p + 1), jac=True, bounds=bounds, options=options)
    ours = logistic(problem, model.coef_[0], model.intercept_[0], 0.5, rho)
    stats = model.result_.stats
    assert ours - found.fun <= 1e-6 * found.fun
    assert stats["objective"] == pytest.approx(ours, rel=1e-9)
    assert ours - found.fun <= stats["duality_gap"] * ours + 1e-9 * ours, "the gap is a bound"


@pytest.mark.parametrize("solver", ["newton", "subsampled"])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_several_classes(solver, fit_intercept, seed):
    problem = Problem(seed)
    model = ny.LogisticRegression(C=0.5, solver=solver, fit_intercept=fit_intercept, tol=1e-7)
    model.fit(problem.X, problem.three, problem.weight)
    dense = linear_model.LogisticRegression(C=0.5, fit_intercept=fit_intercept, tol=1e-12, max_iter=10**4)
    dense.fit(problem.dense, problem.three, problem.weight)
    np.testing.assert_allclose(model.predict_proba(problem.X), dense.predict_proba(problem.dense), atol=1e-4)
    assert model.score(problem.X, problem.three) == dense.score(problem.dense, problem.three)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("solver", ["newton", "subsampled", "admm"])
@pytest.mark.parametrize("kind", ["poisson", "gamma", "normal"])
def test_generalised_linear_models(seed, solver, kind):
    problem = Problem(seed)
    ours, theirs, y = {
        "poisson": (ny.PoissonRegressor, linear_model.PoissonRegressor, problem.count),
        "gamma": (ny.GammaRegressor, linear_model.GammaRegressor, problem.positive),
        "normal": (ny.TweedieRegressor, linear_model.TweedieRegressor, problem.y),
    }[kind]
    model = ours(alpha=0.1, solver=solver, tol=1e-8).fit(problem.X, y, problem.weight)
    dense = theirs(alpha=0.1, tol=1e-10, max_iter=10**5).fit(problem.dense, y, problem.weight)
    np.testing.assert_allclose(model.predict(problem.X), dense.predict(problem.dense), rtol=2e-3)
    score = dense.score(problem.dense, y, problem.weight)
    assert model.score(problem.X, y, problem.weight) == pytest.approx(score, abs=1e-5)


@pytest.mark.parametrize("solver", ["newton", "subsampled", "admm"])
@pytest.mark.parametrize("kind", ["poisson", "gamma"])
def test_steps_that_are_far_too_long_are_cut(solver, kind):
    # At zero coefficients the curvature is a millionth of what it is at the minimum.
    rng = np.random.default_rng(0)
    X = np.column_stack([1 + 0.1 * rng.random(200), rng.standard_normal(200)])
    mean = np.exp(0.3 * X[:, 1])
    sign, model, y = {
        "poisson": (1.0, ny.PoissonRegressor(), rng.poisson(1e6 * mean).astype(float)),
        "gamma": (-1.0, ny.GammaRegressor(), 1e-6 * rng.gamma(2.0, mean)),
    }[kind]
    model.set_params(alpha=1e-3, fit_intercept=False, solver=solver, tol=1e-8).fit(
        X, y
    )  # warnings are errors
    w = np.array([np.log(y.mean()), 0.0])
    for _ in range(30):  # Newton's method from nearby
        steep = np.exp(X @ w) if kind == "poisson" else y * np.exp(-X @ w)
        gradient = X.T @ (sign * (steep - (y if kind == "poisson" else 1.0))) / len(y) + 1e-3 * w
        w -= np.linalg.solve((X.T * steep) @ X / len(y) + 1e-3 * np.eye(2), gradient)
    np.testing.assert_allclose(model.coef_, w, rtol=1e-3, atol=1e-3)


def test_linear_svc_without_intercept_is_liblinear_s():
    problem = Problem(3)
    model = ny.LinearSVC(C=0.1, fit_intercept=False, tol=1e-9).fit(problem.X, problem.two, problem.weight)
    dense = svm.LinearSVC(C=0.1, fit_intercept=False, tol=1e-10, max_iter=10**6)
    dense.fit(problem.dense, problem.two, problem.weight)
    np.testing.assert_allclose(model.coef_, dense.coef_, rtol=1e-4, atol=1e-6)
    assert model.result_.stats["duality_gap"] <= 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_bounds_hold_exactly_and_the_answer_is_optimal(seed):
    problem = Problem(seed)
    rng = np.random.default_rng(seed)
    lower, upper = -rng.random(8) * 0.2, rng.random(8) * 0.2
    model = ny.BoundedRegression(lower, upper, tol=1e-9).fit(problem.X, problem.y, problem.weight)
    assert np.all((lower <= model.coef_) & (model.coef_ <= upper))
    root = np.sqrt(problem.weight)
    centre = np.average(problem.dense, axis=0, weights=problem.weight)
    A = root[:, None] * (problem.dense - centre)
    b = root * (problem.y - np.average(problem.y, weights=problem.weight))
    dense = scipy.optimize.lsq_linear(A, b, (lower, upper), tol=1e-14)
    np.testing.assert_allclose(model.coef_, dense.x, atol=1e-6)
    assert model.result_.stats["duality_gap"] <= 1e-9


@given(
    seed=st.integers(0, 999),
    chunk_rows=st.integers(1, 60),
    dtype=st.sampled_from([np.float32, np.float64]),
    integers=st.booleans(),
)
def test_chunks_and_repeated_rows_change_nothing(seed, chunk_rows, dtype, integers):
    problem = Problem(seed, n=50, p=4)
    X = problem.dense.astype(dtype)
    weight = np.random.default_rng(seed).integers(1, 3, 50)
    with dask.config.set(scheduler="synchronous"):
        model = ny.Lasso(problem.alpha, tol=1e-8).fit(Stored(X, chunk_rows=chunk_rows), problem.y, weight)
        repeated = ny.Lasso(problem.alpha, tol=1e-8).fit(
            np.repeat(X, weight, 0), np.repeat(problem.y, weight)
        )
    # A gap of 1e-8 leaves coefficients an error of its root.
    np.testing.assert_allclose(model.coef_, repeated.coef_, rtol=0, atol=1e-3 * np.abs(repeated.coef_).max())


def test_stored_labels_are_found_before_the_first_pass():
    problem = Problem(0)
    labels = np.where(problem.two == "yes", 7.0, 3.0)
    stored = ny.LogisticRegression().fit(
        Stored(problem.X, chunk_rows=11), Stored(labels[:, None], chunk_rows=9)
    )
    memory = ny.LogisticRegression().fit(problem.X, labels)
    np.testing.assert_array_equal(stored.classes_, [3, 7])
    np.testing.assert_allclose(stored.coef_, memory.coef_, rtol=1e-6)
    assert stored.score(problem.X, labels) == memory.score(problem.X, labels)


@pytest.mark.parametrize("model", [ny.Lasso(0.1), ny.LogisticRegression(C=0.3), ny.PoissonRegressor()])
def test_models_are_saved_and_loaded(model, tmp_path):
    problem = Problem(1)
    y = problem.two if isinstance(model, ny.LogisticRegression) else problem.count
    model.fit(problem.X, y)
    model.save(tmp_path / "model.zarr")
    loaded = ny.load(tmp_path / "model.zarr")
    np.testing.assert_array_equal(loaded.predict(problem.X), model.predict(problem.X))
    assert loaded.result_.stats == model.result_.stats


@pytest.mark.parametrize("weights", [{"yes": 2.0, "no": 1.0}, {0: 1, 2: 2.5}, {1: 0.5}])
def test_weights_of_classes_are_saved_with_the_model(weights, tmp_path):
    problem = Problem(1)
    y = problem.two if "yes" in weights else problem.three
    model = ny.LogisticRegression(class_weight=weights).fit(problem.X, y)
    model.save(tmp_path / "model.zarr")
    assert ny.load(tmp_path / "model.zarr").class_weight == weights


def test_a_limit_gives_the_best_point_and_its_gap():
    problem = Problem(2)
    with pytest.warns(ConvergenceWarning, match=r"pass limit.*Relative duality gap"):
        model = ny.Lasso(problem.alpha, solver="admm", tol=1e-12, max_passes=6).fit(problem.X, problem.y)
    assert model.result_.stats["passes"] <= 6
    dense = linear_model.Lasso(problem.alpha, tol=1e-12, max_iter=10**5).fit(problem.dense, problem.y)
    problem.weight = np.ones(len(problem.y))
    ours = elastic(problem, model.coef_, model.intercept_, problem.alpha, 0)
    best = elastic(problem, dense.coef_, dense.intercept_, problem.alpha, 0)
    assert 0 <= ours - best <= model.result_.stats["duality_gap"] * ours


@pytest.mark.parametrize(
    ("model", "y", "match"),
    [
        (ny.LogisticRegression(), np.zeros(120), "only one class"),
        (ny.LogisticRegression(C=0), None, "C=0 is out of range"),
        (ny.Lasso(alpha=-1), None, "alpha=-1 is out of range"),
        (ny.ElasticNet(l1_ratio=2), None, "l1_ratio=2 is out of range"),
        (ny.PoissonRegressor(), -np.ones(120), "targets >= 0.*row 0 holds -1"),
        (ny.GammaRegressor(), np.zeros(120), "row 0 holds 0"),
        (ny.TweedieRegressor(power=0.5), None, "power=0.5 is out of range"),
        (ny.BoundedRegression(1, 0), None, "lower > upper at feature 0"),
        (ny.BoundedRegression(np.zeros(3)), None, "lower has 3 entries for 8 features"),
        (ny.LogisticRegression(class_weight={"maybe": 2.0}), "two", "maybe"),
        (ny.Lasso(solver="newton"), None, "solver='newton' is not known"),
    ],
)
def test_bad_input_is_named(model, y, match):
    problem = Problem(0)
    if y is None:
        y = "two" if isinstance(model, ny.LogisticRegression) else "y"
    targets = getattr(problem, y) if isinstance(y, str) else y
    with pytest.raises(InputError, match=match):
        model.fit(problem.X, targets)


@pytest.mark.parametrize("solver", ["newton", "subsampled"])
@pytest.mark.parametrize("kind", ["gamma", "three"])
def test_single_precision_rows_reach_the_default_tolerance(solver, kind):
    problem = Problem(5, n=600)
    X = problem.dense.astype(np.float32)
    model = ny.GammaRegressor(solver=solver) if kind == "gamma" else ny.LogisticRegression(solver=solver)
    model.fit(X, problem.positive if kind == "gamma" else problem.three)  # warnings are errors here
    assert model.result_.status == "converged"


def test_continuous_targets_on_disk_are_no_classes():
    problem = Problem(0)
    with pytest.raises(InputError, match="Unknown label type: continuous"):
        ny.LogisticRegression().fit(problem.X, Stored(problem.y[:, None], chunk_rows=50))


def test_sampled_hessians_are_kept_where_curvatures_hardly_change(monkeypatch):
    rng = np.random.default_rng(4)
    X = rng.standard_normal((20_000, 20))
    labels = rng.random(len(X)) < 1 / (1 + np.exp(-X @ rng.standard_normal(20)))
    made = []
    hessian = SampledHessians._hessian

    def counting(self, h, index):
        made.append(index)
        return hessian(self, h, index)

    monkeypatch.setattr(SampledHessians, "_hessian", counting)

    def fit():
        made.clear()
        model = ny.LogisticRegression(C=1.0, solver="subsampled", tol=1e-8).fit(X, labels)
        assert model.result_.converged
        return model, len(made)

    kept, fewer = fit()
    monkeypatch.setattr("nysstream.estimators.sampled_hessians._STALE", 0.0)
    renewed, all_of_them = fit()
    assert 2 <= fewer < all_of_them
    assert kept.result_.stats["passes"] <= renewed.result_.stats["passes"]
    np.testing.assert_allclose(kept.coef_, renewed.coef_, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_movable", [None, 120, 24])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_models_of_few_coefficients_have_the_minimum_of_all(monkeypatch, n_movable, fit_intercept):
    """Also where more coefficients are not zero than a model may move."""
    rng = np.random.default_rng(7)
    n, p = 1200, 300
    X = rng.standard_normal((n, p)) + 0.5 * rng.standard_normal((n, 1)) + 1.0
    y = rng.random(n) < 1 / (1 + np.exp(1 - X[:, :12] @ rng.standard_normal(12)))
    weight = rng.integers(0, 3, n).astype(float)
    if n_movable is not None:
        monkeypatch.setattr(SampledHessians, "n_movable", lambda self, support: n_movable)
    orders = []
    hessian = SampledHessians._hessian
    monkeypatch.setattr(
        SampledHessians,
        "_hessian",
        lambda self, h, index: orders.append(p if index is None else index.size) or hessian(self, h, index),
    )
    settings = {"l1_ratio": 0.9, "C": 0.02, "fit_intercept": fit_intercept, "tol": 1e-7}
    few = ny.LogisticRegression(solver="subsampled", **settings).fit(X, y, weight)
    whole = ny.LogisticRegression(solver="newton", **settings).fit(X, y, weight)
    assert few.result_.converged
    assert few.result_.stats["duality_gap"] <= 1e-7
    assert 8 < np.count_nonzero(few.coef_) < p // 4
    assert max(orders) <= (n_movable or p)
    np.testing.assert_allclose(few.result_.stats["objective"], whole.result_.stats["objective"], rtol=3e-7)
    np.testing.assert_array_equal(few.coef_ != 0, whole.coef_ != 0)


def test_bounds_and_poisson_counts_with_few_movable_coefficients(monkeypatch):
    rng = np.random.default_rng(8)
    X = rng.standard_normal((1500, 60))
    counts = rng.poisson(np.exp(X[:, :5] @ [0.3, -0.3, 0.2, 0.4, -0.2]))
    monkeypatch.setattr(SampledHessians, "n_movable", lambda self, support: 20)
    regularizer = ny.regularizers.Separable(l1=15.0, lower=0.0, upper=0.25)
    few, whole = (
        ny.minimize(ny.losses.Poisson(), X, counts, regularizer, solver=solver, tol=1e-8)
        for solver in ("subsampled", "newton")
    )
    np.testing.assert_allclose(few.objective, whole.objective, rtol=1e-7)
    assert few.coef.min() == 0.0
    assert few.coef.max() == 0.25


def test_sparse_rows_wider_than_a_hessian_in_memory():
    rng = np.random.default_rng(9)
    n, p = 1000, 9000
    X = scipy.sparse.random_array(
        (n, p), density=0.004, rng=rng, format="csr", data_sampler=rng.standard_normal
    )
    y = np.where(rng.random(n) < 1 / (1 + np.exp(-3 * (X[:, :200] @ rng.standard_normal(200)))), 1, 0)
    settings = {"l1_ratio": 1.0, "C": 1.0, "fit_intercept": False}
    model = ny.LogisticRegression(memory=resident_bytes() + (1 << 30), tol=1e-5, **settings)
    plan = model.plan(X, y)
    assert plan.method == "subsampled"
    assert 0 < plan.most_movable < p
    model.fit(X, y)
    assert model.result_.stats["duality_gap"] <= 1e-5
    assert 0 < np.count_nonzero(model.coef_) < n
    peer = linear_model.LogisticRegression(solver="liblinear", tol=1e-7, **settings).fit(X, y)
    ours, theirs = (
        np.logaddexp(0, -(2 * y - 1) * (X @ m.coef_[0])).sum() + np.abs(m.coef_).sum() for m in (model, peer)
    )
    assert ours <= theirs * (1 + 1e-5)
