"""Regularizers of linear combinations of the coefficients, beside a generic solver."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
from sklearn.exceptions import ConvergenceWarning

import nysstream as ny
from nysstream import losses
from nysstream import regularizers as regs
from nysstream.errors import InputError
from tests.streaming.support import Stored

P = 6
DIFFERENCES = np.diff(np.eye(P), axis=0)
MATRICES = {
    "differences": DIFFERENCES,
    "both": np.vstack([np.eye(P), DIFFERENCES]),
    "rotation": np.linalg.qr(np.random.default_rng(0).standard_normal((P, P)))[0],
}
REGULARIZERS = {
    "l1": lambda m: regs.L1(6.0),
    "bounds": lambda m: regs.Box(-0.08, np.linspace(0.0, 0.3, m)),
    "ball": lambda m: regs.L2Ball(0.4),
}
LOSSES = {"squared": losses.Squared(), "logistic": losses.Logistic(), "poisson": losses.Poisson()}


class Problem:
    """Rows, weights, and targets for every loss."""

    def __init__(self, seed, n=80):
        rng = np.random.default_rng(seed)
        self.X = rng.standard_normal((n, P)) + 0.5 * rng.standard_normal((n, 1))
        z = self.X @ np.array([0.5, 0.5, 0.4, -0.4, -0.4, 0.1])
        self.weight = rng.random(n) + 0.2
        self.y = {
            "squared": z + rng.standard_normal(n),
            "logistic": (rng.random(n) < 1 / (1 + np.exp(-z))).astype(float),
            "poisson": rng.poisson(np.exp(np.clip(z, -2, 2))).astype(float),
        }

    def loss(self, kind, w, b):
        """Evaluate the loss and its gradient in float64."""
        z = (self.X @ w + b)[:, None]
        value, slope, _ = LOSSES[kind].value_slope_curvature(z, self.y[kind][:, None])
        hs = self.weight * slope[:, 0]
        return self.weight @ value[:, 0], np.append(self.X.T @ hs, hs.sum())

    def best(self, kind, name, M, c, fit_intercept):
        """Minimise with SLSQP: bounds and the ball as constraints, absolute values as further variables."""
        m, r = len(M), REGULARIZERS[name](len(M))
        extra = m if name == "l1" else 0

        def whole(v):
            value, g = self.loss(kind, v[:P], v[P] * fit_intercept)
            g[P] *= fit_intercept
            return value + 6.0 * v[P + 1 :].sum(), np.append(g, np.full(extra, 6.0))

        wide = np.hstack([M, np.zeros((m, 1 + extra))])
        ones = np.hstack([np.zeros((m, P + 1)), np.eye(m)])

        def linear(A, b):
            return {"type": "ineq", "fun": lambda v: b + A @ v, "jac": lambda v: A}

        constraints = {
            "l1": lambda: [linear(ones - wide, c), linear(ones + wide, -c)],
            "bounds": lambda: [
                linear(wide, -c - np.ravel(r.lower)), linear(-wide, c + np.ravel(r.upper))
            ],
            "ball": lambda: [
                {
                    "type": "ineq",
                    "fun": lambda v: 0.16 - np.sum((M @ v[:P] - c) ** 2),
                    "jac": lambda v: np.append(-2 * M.T @ (M @ v[:P] - c), 0.0),
                }
            ],
        }[name]()  # fmt: skip
        start = np.append(np.zeros(P + 1), np.full(extra, 1.0))
        options = {"maxiter": 500, "ftol": 1e-14}
        found = scipy.optimize.minimize(
            whole, start, jac=True, constraints=constraints, method="SLSQP", options=options
        )
        return found.fun


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("name", REGULARIZERS)
@pytest.mark.parametrize(
    ("which", "solver"), [*((which, "auto") for which in MATRICES), ("differences", "admm"), ("both", "admm")]
)
def test_beside_a_generic_solver(kind, name, which, solver):
    seed = len(kind) + 7 * len(name) + 3 * len(which)
    problem, M, r = Problem(seed), MATRICES[which], REGULARIZERS[name](len(MATRICES[which]))
    c = 0.02 * np.cos(np.arange(len(M)))
    fit_intercept = bool(seed % 2)
    found = ny.minimize(
        LOSSES[kind],
        problem.X,
        problem.y[kind],
        r,
        matrix=scipy.sparse.csr_array(M) if seed % 3 else M,
        offset=c,
        sample_weight=problem.weight,
        fit_intercept=fit_intercept,
        solver=solver,
        tol=1e-7,
    )
    best = problem.best(kind, name, M, c, fit_intercept)
    Z = M @ found.coef - c
    near = Z if name == "l1" else r.prox(Z[:, None], 1.0)[:, 0]
    assert np.abs(Z - near).max() <= (1e-12 if len(M) <= P else 1e-6), "constraints hold"
    ours = problem.loss(kind, found.coef, found.intercept)[0] + r.value(near[:, None])[0]
    assert found.converged
    assert found.objective == pytest.approx(ours, rel=1e-9 if found.violation == 0 else 1e-6)
    assert abs(ours - best) <= 2e-6 * abs(best)
    assert found.violation <= 1e-6
    assert found.violation == 0 or len(M) > P
    if found.duality_gap is not None:
        assert ours - best <= found.duality_gap * abs(ours) + 1e-8 * abs(best), "the gap is a bound"
    if which != "differences" and found.violation == 0:
        assert found.duality_gap <= 1e-7


def test_total_variation_finds_steps_and_they_are_flat():
    rng = np.random.default_rng(0)
    p = 60
    w = np.repeat([0.0, 1.0, -0.5], 20)
    X = rng.standard_normal((400, p))
    y = X @ w + 0.3 * rng.standard_normal(400)
    D = scipy.sparse.diags_array([-1.0, 1.0], offsets=[0, 1], shape=(p - 1, p))
    found = ny.minimize(losses.Squared(), Stored(X, chunk_rows=64), y, regs.L1(60.0), matrix=D)
    steps = np.abs(np.diff(found.coef))
    assert np.flatnonzero(steps > 1e-12).tolist() == [19, 39]
    other = ny.minimize(losses.Squared(), X, y, regs.L1(60.0), matrix=D.toarray(), solver="admm", tol=1e-5)
    np.testing.assert_allclose(other.coef, found.coef, atol=1e-3)


def test_several_targets_and_inequalities():
    problem = Problem(5)
    y = np.column_stack([problem.y["squared"], -problem.y["squared"]])
    A = np.array([[1.0, 1.0, 0, 0, 0, 0], [0, 0, 1.0, 1.0, 1.0, 1.0]])
    found = ny.minimize(losses.Squared(), problem.X, y, regs.Box(-np.inf, [0.3, -0.2]), matrix=A)
    assert np.all(found.coef @ A.T <= np.array([0.3, -0.2]) + 1e-13)
    one = ny.minimize(losses.Squared(), problem.X, y[:, 1], regs.Box(-np.inf, [0.3, -0.2]), matrix=A)
    np.testing.assert_allclose(found.coef[1], one.coef, atol=1e-5)


def test_the_identity_changes_nothing():
    problem = Problem(6)
    y = problem.y["logistic"]
    plain = ny.minimize(losses.Logistic(), problem.X, y, regs.L1(3.0), tol=1e-9)
    found = ny.minimize(losses.Logistic(), problem.X, y, regs.L1(3.0), matrix=np.eye(P), tol=1e-9)
    np.testing.assert_allclose(found.coef, plain.coef, atol=1e-6)
    assert found.objective == pytest.approx(plain.objective, rel=1e-9)


def test_a_limit_gives_a_certified_point():
    problem = Problem(7)
    with pytest.warns(ConvergenceWarning, match="Distance from optimality"):
        found = ny.minimize(
            losses.Squared(), problem.X, problem.y["squared"], regs.NonNegative(), matrix=DIFFERENCES,
            solver="admm", max_passes=4, tol=1e-12,
        )  # fmt: skip
    assert (DIFFERENCES @ found.coef >= -1e-14).all()
    assert np.isfinite(found.objective)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"matrix": np.ones((2, 5))}, "matrix has 5 columns, and there are 6"),
        ({"matrix": np.ones(6)}, r"shape \(6,\); it must be \(m, p\)"),
        ({"matrix": np.full((2, 6), np.nan)}, "matrix holds NaN"),
        ({"matrix": np.zeros((2, 6))}, "nothing but zeros"),
        ({"matrix": "D"}, "does not hold numbers"),
        ({"matrix": DIFFERENCES, "offset": np.zeros(3)}, "for the 5 rows of matrix"),
        ({"matrix": DIFFERENCES, "offset": np.inf}, "offset is inf"),
        ({"offset": 1.0}, "there is no matrix"),
        (
            {"matrix": DIFFERENCES, "regularizer": regs.Box(np.zeros(3), 1.0)},
            "Box does not go with 5",
        ),
        ({"matrix": DIFFERENCES, "regularizer": regs.GroupLasso(1.0, [0, 0, 1])}, "GroupLasso does not go"),
        ({"matrix": DIFFERENCES, "solver": "saga"}, "cannot split off a matrix"),
        (
            {
                "matrix": scipy.sparse.csr_array(np.vstack([np.eye(P), np.ones((1, P))])),
                "regularizer": regs.Box([0.0] * P + [-np.inf], [np.inf] * P + [-1.0]),
            },
            "no coefficients obey",
        ),
    ],
)
def test_what_cannot_be_used(settings, message):
    problem = Problem(0)
    regularizer = settings.pop("regularizer", regs.L1())
    with pytest.raises(InputError, match=message):
        ny.minimize(losses.Squared(), problem.X, problem.y["squared"], regularizer, **settings)
