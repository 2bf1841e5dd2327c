"""Every smooth loss with every kind of regularizer, beside a generic solver."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize

import nysstream as ny
from nysstream import losses
from nysstream import regularizers as regs
from nysstream.errors import InputError
from tests.streaming.support import Stored

P = 6
NORMAL = np.array([1.0, -1.0, 2.0, 0.0, 1.0, 0.5])
LOSSES = {
    "squared": losses.Squared(),
    "huber": losses.Huber(0.7),
    "smoothed_pinball": losses.SmoothedPinball(0.3, 2.0),
    "logistic": losses.Logistic(),
    "squared_hinge": losses.SquaredHinge(),
    "poisson": losses.Poisson(),
    "gamma": losses.Gamma(),
}
GROUPS = np.array([0, 0, 1, 1, 1, 2])
REGULARIZERS = {
    "group_lasso": regs.GroupLasso(4.0, GROUPS),
    "l1_ball": regs.L1Ball(0.6),
    "l2_ball": regs.L2Ball(0.5),
    "simplex": regs.Simplex(0.8),
    "halfspace": regs.Halfspace(NORMAL, -0.3),
    "separable": regs.Separable(l1=2.0, l2=1.0, lower=-0.2),
}


class Problem:
    """Rows, and targets for every loss."""

    def __init__(self, seed, n=80):
        rng = np.random.default_rng(seed)
        self.X = rng.standard_normal((n, P)) + 0.5 * rng.standard_normal((n, 1)) + 0.3
        z = self.X @ (0.6 * rng.standard_normal(P))
        self.weight = rng.random(n) + 0.2
        two = (rng.random(n) < 1 / (1 + np.exp(-z))).astype(float)
        self.targets = {
            "logistic": two,
            "squared_hinge": two,
            "poisson": rng.poisson(np.exp(np.clip(z, -2, 2))).astype(float),
            "gamma": rng.gamma(2.0, np.exp(np.clip(z, -2, 2)) / 2) + 0.01,
        }
        self.y = z + rng.standard_normal(n)

    def target(self, name):
        return self.targets.get(name, self.y)

    def smooth(self, loss, y, w, b):
        """Evaluate the loss and its gradient in coefficients and intercept."""
        z = (self.X @ w + b)[:, None]
        value, slope, _ = loss.value_slope_curvature(z, y[:, None])
        hs = self.weight * slope[:, 0]
        return self.weight @ value[:, 0], self.X.T @ hs, hs.sum()


def reference(problem, loss, y, name, fit_intercept):
    """Minimise with SLSQP, in variables that make the regularizer smooth."""

    def f(v):
        w = v[:P] - v[P : 2 * P]
        value, g, slope = problem.smooth(loss, y, w, v[2 * P] * fit_intercept)
        return value, np.concatenate([g, -g, [slope * fit_intercept], np.zeros(v.size - 2 * P - 1)])

    r = REGULARIZERS[name]
    n_slack = 3 if name == "group_lasso" else 0
    bounds = [(0, None)] * (2 * P) + [(None, None)] + [(0, None)] * n_slack
    constraints, cost = [], np.zeros(2 * P + 1 + n_slack)
    quadratic = 0.0

    def w_of(v):
        return v[:P] - v[P : 2 * P]

    if name == "group_lasso":
        cost[2 * P + 1 :] = r.strength
        for g in range(3):

            def room(v, g=g):
                return v[2 * P + 1 + g] - np.sqrt(np.sum(w_of(v)[g == GROUPS] ** 2) + 1e-16)

            constraints.append({"type": "ineq", "fun": room})
    elif name == "l1_ball":
        constraints.append({"type": "ineq", "fun": lambda v: r.radius - v[: 2 * P].sum()})
    elif name == "l2_ball":
        constraints.append({"type": "ineq", "fun": lambda v: r.radius**2 - np.sum(w_of(v) ** 2)})
    elif name == "simplex":
        bounds[P : 2 * P] = [(0, 0)] * P
        constraints.append({"type": "eq", "fun": lambda v: v[:P].sum() - r.total})
    elif name == "halfspace":
        constraints.append({"type": "ineq", "fun": lambda v: r.bound - NORMAL @ w_of(v)})
    else:
        cost[: 2 * P], quadratic = 2.0, 1.0
        bounds[P : 2 * P] = [(0, 0.2)] * P

    def whole(v):
        value, g = f(v)
        w = w_of(v)
        pull = quadratic * np.concatenate([w, -w, np.zeros(v.size - 2 * P)])
        return value + cost @ v + 0.5 * quadratic * w @ w, g + cost + pull

    start = np.zeros(2 * P + 1 + n_slack)
    start[:P] = r.prox(np.full((P, 1), 0.05), 1.0)[:, 0].clip(0)
    start[P : 2 * P] = (-r.prox(np.full((P, 1), 0.05), 1.0)[:, 0]).clip(0)
    start[2 * P + 1 :] = 1.0
    options = {"maxiter": 300, "ftol": 1e-12}
    with np.errstate(all="ignore"):  # first steps may be far too long
        return scipy.optimize.minimize(
            whole, start, jac=True, bounds=bounds, constraints=constraints, method="SLSQP", options=options
        ).fun


@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("name", REGULARIZERS)
@pytest.mark.parametrize("kind", LOSSES)
def test_beside_a_generic_solver(kind, name, fit_intercept):
    problem, loss, r = Problem(len(kind) + 7 * len(name)), LOSSES[kind], REGULARIZERS[name]
    y = problem.target(kind)
    found = ny.minimize(
        loss, problem.X, y, r, sample_weight=problem.weight, fit_intercept=fit_intercept, tol=1e-7
    )
    value, gradient, slope = problem.smooth(loss, y, found.coef, found.intercept)
    W = found.coef[:, None]
    ours = value + r.value(W)[0]
    assert np.isfinite(ours), "constraints hold"
    best = reference(problem, loss, y, name, fit_intercept)
    assert found.objective == pytest.approx(ours, rel=1e-9)
    assert ours <= best + 1e-4 * abs(best)
    if found.duality_gap is not None:
        assert ours - best <= (found.duality_gap + 1e-5) * abs(ours), "the gap is a bound"
    size = np.abs(problem.smooth(loss, y, np.zeros(P), 0.0)[1]).max()
    assert r.distance(W, gradient[:, None])[0] <= 1e-3 * size
    assert not fit_intercept or abs(slope) <= 1e-3 * size


@pytest.mark.parametrize("solver", ["gram", "admm"])
def test_constraints_hold_exactly_on_stored_rows(solver):
    problem = Problem(3, n=500)
    X = Stored(problem.X, chunk_rows=64)
    y = np.column_stack([problem.y, -problem.y])
    found = ny.minimize(losses.Squared(), X, y, regs.Simplex(), solver=solver, fit_intercept=True)
    assert found.converged
    assert found.coef.shape == (2, P)
    assert (found.coef >= 0).all()
    np.testing.assert_allclose(found.coef.sum(axis=1), 1, rtol=1e-15)
    one = ny.minimize(losses.Squared(), problem.X, y[:, 1], regs.Simplex(), fit_intercept=True)
    np.testing.assert_allclose(found.coef[1], one.coef, atol=1e-3)


@pytest.mark.parametrize("solver", ["newton", "subsampled", "admm"])
def test_methods_agree(solver):
    problem = Problem(4, n=500)
    settings = {"fit_intercept": True, "tol": 1e-8}
    y = problem.target("logistic")
    found = ny.minimize(losses.Logistic(), problem.X, y, regs.L2Ball(0.5), solver=solver, **settings)
    other = ny.minimize(losses.Logistic(), problem.X, y, regs.L2Ball(0.5), **settings)
    assert found.objective == pytest.approx(other.objective, rel=1e-7)
    np.testing.assert_allclose(found.coef, other.coef, atol=1e-3)


def test_groups_vanish_together():
    problem = Problem(5)
    found = ny.minimize(losses.Squared(), problem.X, problem.y, regs.GroupLasso(60.0, GROUPS))
    zero = np.array([np.all(found.coef[g == GROUPS] == 0) for g in range(3)])
    assert zero.any()
    assert not zero.all()
    assert found.duality_gap <= 1e-6


def test_a_constant_column_counts_in_the_constraint():
    problem = Problem(6)
    problem.X[:, 2] = 5.0
    found = ny.minimize(losses.Squared(), problem.X, problem.y, regs.Simplex(), fit_intercept=True)
    assert found.coef.sum() == pytest.approx(1)
    r = problem.y - problem.X @ found.coef - found.intercept
    assert found.objective == pytest.approx(0.5 * r @ r, rel=1e-9)


#: Losses with kinks, and the lines of which they are the largest: slopes and offsets of predictors.
KINKED = {
    "hinge": (losses.Hinge(), lambda y: [(0 * y, 0 * y), (1 - 2 * y, 1 + 0 * y)]),
    "insensitive": (
        losses.EpsilonInsensitive(0.3),
        lambda y: [(0 * y, 0 * y), (1 + 0 * y, -y - 0.3), (0 * y - 1, y - 0.3)],
    ),
    "pinball": (losses.Pinball(0.8), lambda y: [(0.2 + 0 * y, -0.2 * y), (0 * y - 0.8, 0.8 * y)]),
}


def quadratic_program(problem, lines, strength, fit_intercept):
    """Minimise over coefficients, intercept, and a bound on each row's loss."""
    n = len(problem.X)
    Z = np.column_stack([problem.X, np.full(n, float(fit_intercept))])
    A = np.vstack([np.hstack([-slope[:, None] * Z, np.eye(n)]) for slope, _ in lines])
    least = np.concatenate([offset for _, offset in lines])
    linear = np.concatenate([np.zeros(P + 1), problem.weight])
    ridge = np.concatenate([np.full(P, strength), np.zeros(1 + n)])
    found = scipy.optimize.minimize(
        lambda v: (0.5 * ridge @ v**2 + linear @ v, ridge * v + linear),
        np.concatenate([np.zeros(P + 1), np.max([offset for _, offset in lines], axis=0)]),
        jac=True,
        constraints={"type": "ineq", "fun": lambda v: A @ v - least, "jac": lambda v: A},
        method="SLSQP",
        options={"maxiter": 300, "ftol": 1e-12},
    )
    assert found.success
    return found.fun


@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("strength", [0.3, 10.0])
@pytest.mark.parametrize("kind", KINKED)
def test_kinks_beside_a_quadratic_program(kind, strength, fit_intercept):
    problem, (loss, lines) = Problem(len(kind), n=24), KINKED[kind]
    y = problem.targets["logistic"] if kind == "hinge" else problem.y
    best = quadratic_program(problem, lines(y), strength, fit_intercept)
    for settings in ({}, {"rank": P}):
        found = ny.minimize(
            loss,
            problem.X,
            y,
            regs.L2(strength),
            sample_weight=problem.weight,
            fit_intercept=fit_intercept,
            tol=1e-5,
            **settings,
        )
        z = problem.X @ found.coef + found.intercept
        ours = problem.weight @ np.max([slope * z + offset for slope, offset in lines(y)], axis=0)
        ours += 0.5 * strength * found.coef @ found.coef
        assert found.objective == pytest.approx(ours, rel=1e-9)
        assert found.duality_gap <= 1e-5
        assert best * (1 - 1e-6) <= ours <= best * (1 + 1e-6) + found.duality_gap * ours
        assert found.violation == 0


def test_targets_of_a_loss_with_a_kink_share_their_passes():
    problem = Problem(7, n=2000)
    y, strengths = np.column_stack([problem.y, 100 * problem.y + 3]), [1.0, 5.0]
    found = ny.minimize(losses.Pinball(0.9), problem.X, y, regs.L2(strengths), fit_intercept=True)
    assert found.converged
    assert found.result.stats["passes"] <= 40
    below = np.mean(y <= problem.X @ found.coef.T + found.intercept, axis=0)
    np.testing.assert_allclose(below, 0.9, atol=0.01)
    for k, strength in enumerate(strengths):
        alone = ny.minimize(losses.Pinball(0.9), problem.X, y[:, k], regs.L2(strength), fit_intercept=True)
        assert found.objective[k] == pytest.approx(alone.objective, rel=2e-6)
    with pytest.raises(InputError, match="3 strengths for 2 targets"):
        ny.minimize(losses.Pinball(), problem.X, y, regs.L2([1.0, 2.0, 3.0]))
    with pytest.raises(InputError, match="solver='newton'"):
        ny.minimize(losses.Pinball(), problem.X, y, regs.L2(), solver="newton")


@pytest.mark.parametrize("loss", [losses.Hinge(), losses.Pinball(), losses.EpsilonInsensitive()])
@pytest.mark.parametrize(
    "regularizer",
    [regs.L1(), regs.Zero(), regs.ElasticNet(), regs.Simplex(), regs.L2(1.0, [1.0, 2.0]), regs.Box(0.0, 1.0)],
    ids=lambda r: type(r).__name__,
)
def test_what_does_not_go_with_kinks_is_named(loss, regularizer):
    name = type(regularizer).__name__
    with pytest.raises(
        InputError, match=rf"{type(loss).__name__}.* L2.* {name}.*SmoothedPinball.*SquaredHinge"
    ):
        ny.minimize(loss, np.zeros((4, 2)), np.zeros(4), regularizer)
    with pytest.raises(InputError, match="Composed"):
        ny.minimize(loss, np.zeros((4, 2)), np.zeros(4), regs.L2(), matrix=np.eye(2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((losses.Multinomial(), regs.L1()), "LogisticRegression"),
        (("squared", regs.L1()), "nysstream.losses"),
        ((losses.Squared(), 1.0), "nysstream.regularizers"),
        ((losses.Logistic(), regs.L1()), "0 or 1"),
    ],
)
def test_what_cannot_be_used(arguments, message):
    loss, regularizer = arguments
    with pytest.raises(InputError, match=message):
        ny.minimize(loss, np.zeros((4, 2)), np.array([0.0, 1.0, 2.0, 5.0]), regularizer)
