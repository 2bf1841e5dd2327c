"""Duals of support vector machines: small quadratics, beside a generic solver, whatever the working sets."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nysstream.solvers import Status
from nysstream.solvers.svm_dual import BoxDual, solve_dual
from nysstream.solvers.svm_face import Face, project


def problem(seed, n, rank, epsilon, C):
    """Make a random dual, with a kernel matrix of low rank or of full."""
    rng = np.random.default_rng(seed)
    Z = rng.standard_normal((n, rank))
    K = Z @ Z.T / rank
    box = C * (rng.random(n) + 0.05)
    if epsilon:
        target, lower, upper = rng.standard_normal(n), -box, box
    else:
        target = np.where(rng.random(n) < 0.5, 1.0, -1.0)
        target[:2] = 1, -1
        lower, upper = np.minimum(box * target, 0), np.maximum(box * target, 0)
    return K, BoxDual(target, lower, upper, epsilon, lambda rows: K[rows])


def value(K, dual, beta):
    return 0.5 * beta @ K @ beta - dual.target @ beta + dual.epsilon * np.abs(beta).sum()


@given(
    seed=st.integers(0, 2**16),
    n=st.integers(4, 60),
    rank=st.sampled_from([1, 3, 100]),
    epsilon=st.sampled_from([0.0, 0.1, 0.5]),
    C=st.sampled_from([0.01, 1.0, 100.0]),
    share=st.sampled_from([0.3, 1.0]),
)
@example(seed=1, n=4, rank=100, epsilon=0.5, C=0.01, share=1.0)  # the first working set wants nothing
@settings(deadline=None, max_examples=60)
def test_certificates_hold_and_are_small(seed, n, rank, epsilon, C, share):
    K, dual = problem(seed, n, rank, epsilon, C)
    result = solve_dual(dual, tol=1e-6, capacity=max(int(share * n), 4), max_iterations=3000)
    beta = result.beta
    slack = 1e-9 * C
    assert np.all(beta >= dual.lower - slack)
    assert np.all(beta <= dual.upper + slack)
    assert abs(beta.sum()) <= 1e-9 * max(np.abs(beta).sum(), 1)
    np.testing.assert_allclose(result.f, K @ beta, atol=1e-8 * max(1, np.abs(beta).sum()))
    z = dual.target - result.f - result.intercept
    sides = [u * z - epsilon * np.abs(u) for u in (dual.lower, dual.upper)]
    losses = np.maximum(np.maximum(*sides), 0).sum()
    primal = 0.5 * beta @ K @ beta + losses
    assert result.objective == pytest.approx(primal, rel=1e-6, abs=1e-9)
    assert result.gap == pytest.approx(primal + value(K, dual, beta), abs=1e-7 * max(primal, 1e-3))
    if share == 1 and rank == 100:  # singular matrices have a test of their own
        assert result.status is Status.CONVERGED


@pytest.mark.parametrize(
    ("rank", "epsilon"), [(0, 0.0), (1, 0.0), (2, 0.0), (4, 0.0), (1, 0.1), (2, 0.1), (4, 0.1)]
)
def test_singular_matrices_stall_nowhere(rank, epsilon):
    for seed in range(60):
        K, dual = problem(seed, 70, max(rank, 1), epsilon, 3.0)
        if rank == 0:
            K[:] = 0.0
        result = solve_dual(dual, tol=1e-6, capacity=70)
        assert result.status is Status.CONVERGED, seed
        assert result.relative_gap <= 1e-6


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("epsilon", [0.0, 0.2])
def test_duals_beside_a_generic_solver(seed, epsilon):
    K, dual = problem(seed, 25, 10, epsilon, 1.0)
    ours = value(K, dual, solve_dual(dual, tol=1e-8, capacity=25).beta)
    n = 25  # positive and negative parts make the kink smooth
    found = scipy.optimize.minimize(
        lambda v: (
            value(K, dual, v[:n] - v[n:]) + epsilon * (v.sum() - np.abs(v[:n] - v[n:]).sum()),
            np.concatenate([K @ (v[:n] - v[n:]) - dual.target, dual.target - K @ (v[:n] - v[n:])]) + epsilon,
        ),
        np.zeros(2 * n),
        jac=True,
        method="SLSQP",
        bounds=[*((0, u) for u in dual.upper), *((0, -u) for u in dual.lower)],
        constraints={"type": "eq", "fun": lambda v: v[:n].sum() - v[n:].sum()},
        options={"ftol": 1e-14, "maxiter": 2000},
    )
    assert ours <= found.fun + 1e-6 * abs(found.fun)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("epsilon", [0.0, 0.1])
def test_descent_ends_where_exchanges_end(seed, epsilon):
    K, dual = problem(seed, 40, 50, epsilon, 0.3)
    zero = np.zeros(40)
    values = []
    for method in ("solve", "_descend"):
        face = Face(dual, K, zero, zero)
        getattr(face, method)(1e-8)
        values.append(value(K, dual, face.beta))
        np.testing.assert_allclose(face.f, K @ face.beta, atol=1e-9)
    assert values[1] == pytest.approx(values[0], rel=1e-8)


@given(seed=st.integers(0, 2**16), n=st.integers(1, 30))
@settings(deadline=None, max_examples=50)
def test_projections_keep_the_sum_and_are_nearest(seed, n):
    rng = np.random.default_rng(seed)
    lower, upper = -rng.random(n), rng.random(n)
    inside = lower + rng.random(n) * (upper - lower)
    aim = inside + 3 * rng.standard_normal(n)
    x = project(aim, lower, upper, inside.sum())
    assert x.sum() == pytest.approx(inside.sum(), abs=1e-9)
    assert np.all((x >= lower) & (x <= upper))
    assert (aim - x) @ (inside - x) <= 1e-8, "the angle to any feasible point is obtuse"
