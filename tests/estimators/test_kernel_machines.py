"""Support vector machines and kernel ridge solve scikit-learn's problems, and certify it."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from sklearn import kernel_ridge, svm
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import parametrize_with_checks

import nysstream as ny
from nysstream.errors import AccuracyWarning, InputError, MemoryBudgetError
from nysstream.estimators.kinked import KinkedPlan
from nysstream.operators.pairwise import Kernel
from tests.streaming.support import Stored

KERNELS = ["rbf", "linear", "poly"]


# With gamma="scale" rows that are repeated change the kernel, as in scikit-learn.
@parametrize_with_checks([ny.SVC(gamma=0.5, tol=1e-10), ny.SVR(gamma=0.5, tol=1e-10), ny.KernelRidge()])
def test_scikit_learn_conventions(estimator, check):
    check(estimator)


class Problem:
    """A random problem, far from zero, some of whose rows are repeated."""

    def __init__(self, seed, n=90, d=4):
        rng = np.random.default_rng(seed)
        X = rng.standard_normal((n, d))
        X[-10:] = X[:10]
        z = np.sin(X[:, 0]) + 0.5 * X[:, 1] * X[:, 2]
        self.X = X + 3
        self.y = z + 0.3 * rng.standard_normal(n)
        self.two = np.where(self.y > 0.1, "yes", "no")
        self.four = np.digitize(self.y, [-0.7, 0, 0.7])
        self.weight = rng.random(n) + 0.01
        self.settings = {
            "kernel": KERNELS[seed % 3],
            "C": float(10 ** rng.uniform(-2, 1.5)),
            "degree": 2,
            "coef0": 1.0,
            "gamma": "scale",
        }

    def matrix(self, kernel):
        double = Kernel(kernel.name, kernel.gamma, kernel.degree, kernel.coef0, "double")
        return double(self.X, self.X)


def primal(K, beta, b, loss, C):
    """Evaluate an objective in float64."""
    f = K @ beta
    return 0.5 * beta @ f + np.sum(C * loss(f + b))


@pytest.mark.parametrize("seed", range(20))
def test_classification_beside_libsvm(seed):
    problem = Problem(seed)
    weight = problem.weight if seed % 2 else np.ones(len(problem.X))
    model = ny.SVC(**problem.settings, tol=1e-5).fit(problem.X, problem.two, weight)
    peer = svm.SVC(**problem.settings, tol=1e-8).fit(problem.X, problem.two, weight)
    K, s = problem.matrix(model.kernel_), np.where(problem.two == "yes", 1.0, -1.0)
    values = []
    for fitted in (model, peer):
        beta = np.zeros(len(K))
        beta[fitted.support_] = fitted.dual_coef_[0]
        assert np.all((s * beta >= 0) & (s * beta <= problem.settings["C"] * weight * (1 + 1e-12)))
        assert abs(beta.sum()) <= 1e-9 * np.abs(beta).sum()
        values.append(
            primal(K, beta, fitted.intercept_[0], lambda z: np.maximum(0, 1 - s * z), model.C * weight)
        )
        dual = beta @ s - 0.5 * beta @ K @ beta
        if fitted is model:
            stats = model.result_.stats
            assert stats["objective"] == pytest.approx(values[0], rel=1e-8)
            assert values[0] - dual <= stats["duality_gap"] * values[0] + 1e-9 * values[0], "the gap is true"
            assert stats["duality_gap"] <= 1e-5
    ours, best = values
    assert ours - best <= 1e-4 * best
    assert ours - best <= stats["duality_gap"] * ours + 1e-9 * ours, "the gap is a bound"
    z, peers = model.decision_function(problem.X), peer.decision_function(problem.X)
    assert np.sqrt(np.mean((z - peers) ** 2)) <= 0.02 * max(peers.std(), 0.1)
    assert np.mean(model.predict(problem.X) == peer.predict(problem.X)) >= 0.98


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shape", ["ovr", "ovo"])
def test_several_classes_beside_libsvm(seed, shape):
    problem = Problem(seed, n=120)
    settings = problem.settings | {"C": 3.0, "class_weight": ["balanced", {0: 2.0}, None][seed % 3]}
    model = ny.SVC(**settings, decision_function_shape=shape, tol=1e-7).fit(problem.X, problem.four)
    peer = svm.SVC(**settings, decision_function_shape=shape, tol=1e-7).fit(problem.X, problem.four)
    np.testing.assert_allclose(
        model.decision_function(problem.X), peer.decision_function(problem.X), rtol=2e-3, atol=2e-3
    )
    np.testing.assert_array_equal(model.predict(problem.X), peer.predict(problem.X))
    assert model.dual_coef_.shape[0] == 3
    assert model.n_support_.sum() == model.support_.size
    np.testing.assert_array_equal(model.support_vectors_, problem.X[model.support_])
    assert model.score(problem.X, problem.four) == peer.score(problem.X, problem.four)


@pytest.mark.parametrize("seed", range(20))
def test_regression_beside_libsvm(seed):
    problem = Problem(seed)
    weight = problem.weight if seed % 2 else np.ones(len(problem.X))
    settings = problem.settings | {"epsilon": [0.0, 0.1, 0.4][seed % 3]}
    model = ny.SVR(**settings, tol=1e-5).fit(problem.X, problem.y, weight)
    peer = svm.SVR(**settings, tol=1e-8).fit(problem.X, problem.y, weight)
    K = problem.matrix(model.kernel_)
    values = []
    for fitted in (model, peer):
        beta = np.zeros(len(K))
        beta[fitted.support_] = fitted.dual_coef_[0]
        values.append(
            primal(
                K,
                beta,
                fitted.intercept_[0],
                lambda z: np.maximum(0, np.abs(problem.y - z) - settings["epsilon"]),
                model.C * weight,
            )
        )
    ours, best = values
    stats = model.result_.stats
    assert stats["objective"] == pytest.approx(ours, rel=1e-8)
    assert ours - best <= 1e-4 * best
    assert ours - best <= stats["duality_gap"] * ours + 1e-9 * ours, "the gap is a bound"


def test_no_support_vectors_are_needed_within_epsilon():
    X = np.arange(6.0)[:, None]
    model = ny.SVR(epsilon=10.0).fit(X, X[:, 0])
    assert model.support_.size == 0
    np.testing.assert_allclose(model.predict(X), model.intercept_[0])
    assert np.all(np.abs(model.predict(X) - X[:, 0]) <= 10)


@pytest.mark.parametrize("solver", ["cholesky", "nystrom", "askotch"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sparse", [False, True])
def test_kernel_ridge_beside_scikit_learn(solver, seed, sparse):
    problem = Problem(seed)
    X = problem.X * (np.random.default_rng(seed).random(problem.X.shape) < 0.5) if sparse else problem.X
    Y = np.column_stack([problem.y, problem.y**2])
    settings = {"alpha": 0.5, "kernel": ["rbf", "laplacian", "poly"][seed], "degree": 2}
    model = ny.KernelRidge(**settings, solver=solver, rank=30, tol=1e-7, max_iterations=5000)
    model.fit(scipy.sparse.csr_array(X) if sparse else X, Y, problem.weight)
    peer = kernel_ridge.KernelRidge(**settings).fit(X, Y, problem.weight)
    np.testing.assert_allclose(model.predict(X), peer.predict(X), atol=1e-4)
    assert model.score(X, Y) == pytest.approx(peer.score(X, Y), rel=1e-4)
    assert model.result_.stats["relative_residual"] <= 1e-7
    scale = np.sqrt(problem.weight)
    K = scale[:, None] * np.asarray(model.kernel_(X, X), np.float64) * scale
    c = np.divide(model.dual_coef_, scale[:, None], out=np.zeros_like(Y), where=scale[:, None] > 0)
    b = scale[:, None] * Y
    residual = np.linalg.norm(b - K @ c - 0.5 * c, axis=0) / np.linalg.norm(b, axis=0)
    assert residual.max() <= 2e-7, "the residual is true"


def test_rows_of_no_weight_are_as_if_they_were_not_there():
    problem = Problem(0)
    weight = np.where(np.arange(90) % 3 == 0, 0.0, problem.weight)
    kept = weight > 0
    for kind, y in ((ny.SVC, problem.two), (ny.SVR, problem.y)):
        with_them = kind(gamma=0.3, tol=1e-9).fit(problem.X, y, weight)
        without = kind(gamma=0.3, tol=1e-9).fit(problem.X[kept], y[kept], weight[kept])
        np.testing.assert_array_equal(with_them.support_, np.flatnonzero(kept)[without.support_])
        np.testing.assert_allclose(with_them.dual_coef_, without.dual_coef_, atol=1e-6)


@pytest.mark.parametrize("solver", ["cholesky", "nystrom"])
def test_kernel_ridge_with_an_alpha_for_each_target(solver):
    problem = Problem(0)
    Y, alpha = np.column_stack([problem.y, problem.y]), np.array([0.1, 10.0])
    model = ny.KernelRidge(alpha=alpha, kernel="rbf", solver=solver).fit(problem.X, Y)
    peer = kernel_ridge.KernelRidge(alpha=alpha, kernel="rbf").fit(problem.X, Y)
    np.testing.assert_allclose(model.dual_coef_, peer.dual_coef_, atol=1e-4)


def test_kernel_ridge_of_repeated_rows_without_a_penalty_says_so():
    X = np.array([[0.0], [0.0], [1.0]])
    with pytest.warns(AccuracyWarning, match="singular"):
        model = ny.KernelRidge(alpha=0.0, kernel="rbf").fit(X, [1.0, 3.0, 5.0])
    np.testing.assert_allclose(model.predict(X), [2, 2, 5], atol=1e-6)


MACHINES = [ny.SVC(), ny.SVR(), ny.KernelRidge(kernel="matern32", gamma="scale", alpha=0.1)]


@pytest.mark.parametrize("model", MACHINES, ids=lambda m: type(m).__name__)
def test_stored_rows_give_what_rows_in_memory_give(model, tmp_path):
    problem = Problem(1)
    y = problem.four.astype(float) if isinstance(model, ny.SVC) else problem.y
    expected = model.fit(problem.X, y).predict(problem.X)
    X = Stored(problem.X, chunk_rows=17)
    again = type(model)(**model.get_params()).fit(X, y)
    np.testing.assert_allclose(again.predict(X), expected, rtol=1e-6)
    written = again.predict(X, out=tmp_path / "out.zarr")
    np.testing.assert_allclose(written.read(slice(0, len(y)))[:, 0], expected, rtol=1e-6)
    assert again.score(X, y) == pytest.approx(model.score(problem.X, y))


@pytest.mark.parametrize(
    ("model", "target"),
    [
        (ny.SVC(), "two"),
        (ny.SVC(decision_function_shape="ovo"), "four"),
        (ny.SVR(), "y"),
        (ny.SVR(epsilon=99.0), "y"),
        (ny.KernelRidge(kernel="rbf"), "y"),
    ],
)
def test_models_come_back_from_disk(model, target, tmp_path):
    problem = Problem(2)
    model.fit(problem.X, getattr(problem, target))
    model.save(tmp_path / "model.zarr")
    again = ny.load(tmp_path / "model.zarr")
    np.testing.assert_array_equal(again.predict(problem.X), model.predict(problem.X))
    assert again.result_.stats == model.result_.stats
    assert again.get_params()["kernel"] == model.kernel


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (ny.SVC(C=0.0), "C=0.0"),
        (ny.SVC(C=np.inf), "C=inf"),
        (ny.SVC(kernel="sigmoid"), "kernel='sigmoid'"),
        (ny.SVC(gamma="large"), "gamma='large'"),
        (ny.SVC(gamma=-1.0), "gamma=-1.0"),
        (ny.SVC(kernel="poly", coef0=-1.0), "coef0=-1.0"),
        (ny.SVC(kernel="poly", degree=1.5), "degree=1.5"),
        (ny.SVC(tol=0.0), "tol=0.0"),
        (ny.SVC(class_weight={"maybe": 2.0}), "maybe"),
        (ny.SVC(class_weight={"yes": -2.0}), "class_weight"),
        (ny.SVC(class_weight={"yes": 0.0}), "positive weight"),
        (ny.SVC(decision_function_shape="all"), "decision_function_shape"),
        (ny.SVC(precision="half"), "precision"),
        (ny.SVC(time_limit=0), "time_limit=0"),
        (ny.SVR(epsilon=-0.1), "epsilon=-0.1"),
        (ny.KernelRidge(alpha=-1.0), "alpha=-1.0"),
        (ny.KernelRidge(alpha=[1.0, 2.0]), "alpha has 2 values"),
        (ny.KernelRidge(solver="svd"), "solver='svd'"),
        (ny.KernelRidge(rank=0), "rank=0"),
        (ny.KernelRidge(alpha=0.0, solver="askotch"), "alpha=0.0"),
    ],
)
def test_what_cannot_be_used_is_named(model, message):
    problem = Problem(0)
    with pytest.raises(InputError, match=message):
        model.fit(problem.X, problem.two if isinstance(model, ny.SVC) else problem.y)


@pytest.mark.parametrize("model", MACHINES, ids=lambda m: type(m).__name__)
def test_targets_of_another_length_are_refused(model):
    problem = Problem(0)
    y = problem.four.astype(float)
    with pytest.raises(InputError, match="rows"):
        type(model)().fit(Stored(problem.X, chunk_rows=17), y[:-1])


@pytest.mark.parametrize("model", MACHINES, ids=lambda m: type(m).__name__)
def test_plans_are_what_fits_hold(model):
    problem = Problem(1)
    y = problem.four.astype(float) if isinstance(model, ny.SVC) else problem.y
    X = Stored(problem.X, chunk_rows=17)
    plan = model.plan(X, y)
    assert X.reads.sum() == 0
    assert plan.n_systems == (6 if isinstance(model, ny.SVC) else 1)
    assert (plan.cached_bytes, plan.design.shape, plan.dtype) == (problem.X.nbytes, X.shape, "float64")
    assert 0 < plan.kept_bytes <= plan.matrix_bytes == 90 * 90 * 8
    result = model.fit(X, y).result_
    assert result.stats["method"] == plan.method
    held = [{k: v for k, v in needs.items() if k != "process"} for needs in (plan.budget.needs, result.needs)]
    assert held[0] == held[1]


@pytest.mark.parametrize(
    ("rows", "solver", "method", "rank"),
    [
        (90, "auto", "cholesky", 0),
        (4000, "auto", "nystrom", 252),
        (4000, "askotch", "askotch", 100),
        (4000, "cholesky", "cholesky", 0),
    ],
)
def test_plans_of_kernel_ridge_choose_as_its_fits_do(rows, solver, method, rank):
    plan = ny.KernelRidge(solver=solver, kernel="rbf").plan(np.zeros((rows, 3)), np.zeros((rows, 2)))
    assert (plan.method, plan.rank, plan.n_systems) == (method, rank, 2)
    assert plan.dtype == ("float64" if method == "cholesky" else "float32")
    assert plan.kept_bytes == plan.matrix_bytes, "all of so small a matrix is kept"


def test_tiles_of_the_kernel_matrix_are_kept_as_the_operator_keeps_them():
    rows, y = np.random.default_rng(0).standard_normal((5000, 3)), np.zeros(5000)
    whole = ny.KernelRidge(kernel="rbf").plan(rows, y)
    edges = [min(1024, 5000 - start) for start in range(0, 5000, 1024)]
    tiles = [4 * edges[i] * edges[j] for i in range(5) for j in range(i, 5)]
    assert whole.matrix_bytes == pytest.approx(sum(tiles), rel=0.01)
    tight = ny.KernelRidge(kernel="rbf", memory=whole.budget.peak + (14 << 20)).plan(rows, y)
    assert tight.cached_bytes == rows.nbytes
    assert tight.kept_bytes in (2 << 22, 3 << 22, 4 << 22), "of what the process leaves"


def test_plans_with_features_are_those_of_the_streamed_problem():
    problem = Problem(1)
    for model, y, pairs in ((ny.SVC, problem.four, 6), (ny.SVR, problem.y, 1)):
        X = Stored(problem.X, chunk_rows=17)
        plan = model(features="fourier:50,length_scale=2").plan(X, y)
        assert X.reads.sum() == 0
        assert isinstance(plan, KinkedPlan)
        assert (plan.method, plan.design.shape, plan.n_systems) == ("newton", (90, 50), pairs)


@pytest.mark.parametrize("model", MACHINES, ids=lambda m: type(m).__name__)
def test_what_does_not_fit_is_refused_before_rows_are_read(model):
    problem = Problem(1)
    y = problem.four.astype(float) if isinstance(model, ny.SVC) else problem.y
    X = Stored(problem.X, chunk_rows=17)
    tight = type(model)(**(model.get_params() | {"memory": "80MiB"}))
    for method in (tight.plan, tight.fit):
        with pytest.raises(MemoryBudgetError, match=r"Give memory='\d+MiB' or more, or "):
            method(X, y)
    assert X.reads.sum() == 0


def test_a_limit_of_time_is_told_and_the_gap_kept():
    problem = Problem(0, n=2000)
    with pytest.warns(ConvergenceWarning, match="duality gap"):
        model = ny.SVC(time_limit=1e-6, tol=1e-9).fit(problem.X, problem.two)
    assert model.result_.status == "time_limit"
    assert model.result_.stats["duality_gap"] > 1e-9


def test_single_precision_of_many_rows_reaches_the_gap():
    problem = Problem(3, n=3000)
    model = ny.SVC(C=2.0, tol=1e-4).fit(problem.X, problem.two)
    assert model.kernel_.precision == "single"
    peer = svm.SVC(C=2.0, tol=1e-4).fit(problem.X, problem.two)
    assert np.mean(model.predict(problem.X) == peer.predict(problem.X)) >= 0.999
