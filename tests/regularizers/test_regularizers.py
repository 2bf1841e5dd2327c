"""Regularizers against general optimisers and known answers; the rest is in the conformance tests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from nysstream.errors import InputError
from nysstream.regularizers import (
    L1,
    L2,
    Box,
    ElasticNet,
    GroupLasso,
    Halfspace,
    L1Ball,
    L2Ball,
    LinfBall,
    Separable,
    Simplex,
    Zero,
)


def test_soft_thresholding():
    V = np.array([[3.0], [-3.0], [0.5]])
    np.testing.assert_array_equal(L1(2.0).prox(V, 0.5), [[2.0], [-2.0], [0.0]])
    np.testing.assert_array_equal(ElasticNet(2.0, 2.0).prox(V, 0.5), [[1.0], [-1.0], [0.0]])
    np.testing.assert_array_equal(L2(2.0).prox(V, 0.5), V / 2)


@given(
    l1=st.sampled_from([0.0, 0.5, 2.0]),
    l2=st.sampled_from([0.0, 0.7]),
    lower=st.sampled_from([-np.inf, -1.0, 0.0, 0.4]),
    width=st.sampled_from([0.0, 1.0, np.inf]),
    seed=st.integers(0, 2**32 - 1),
)
def test_prox_and_conjugate_in_one_dimension_by_search(l1, l2, lower, width, seed):
    upper = 0.5 if np.isinf(lower) and width < np.inf else lower + width if np.isfinite(lower) else np.inf
    v = float(3 * np.random.default_rng(seed).standard_normal())
    regularizer = Separable(l1, l2, lower, upper)
    grid = np.linspace(max(lower, -20), min(upper, 20), 40001)
    grid = np.append(grid, 0.0) if lower <= 0 <= upper else grid
    r = l1 * np.abs(grid) + l2 * grid**2 / 2
    V = np.array([[v]])
    best = grid[np.argmin(r + (grid - v) ** 2 / 2)]
    assert regularizer.prox(V, 1.0)[0, 0] == pytest.approx(best, abs=2e-3)
    conjugate = regularizer.conjugate(V)[0]
    if np.isfinite(conjugate):
        assert conjugate == pytest.approx(np.max(v * grid - r), abs=1e-5)
    else:
        ends = np.max(v * grid - r)
        assert ends == pytest.approx((v * grid - r)[[0, 40000]].max(), abs=1e-12)
        assert ends > 0


@pytest.mark.parametrize("p", [1, 2, 7])
def test_projection_onto_the_simplex_by_a_general_optimiser(p, rng):
    for _ in range(5):
        v = 2 * rng.standard_normal(p)
        found = minimize(
            lambda w, v=v: ((w - v) ** 2).sum(),
            np.full(p, 1.5 / p),
            method="SLSQP",
            bounds=[(0, None)] * p,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1.5},
            options={"ftol": 1e-14},
        )
        np.testing.assert_allclose(Simplex(1.5).prox(v[:, None], 1.0)[:, 0], found.x, atol=1e-6)


def test_projections_by_known_answers():
    V = np.array([[3.0], [-4.0], [0.0]])
    np.testing.assert_allclose(L2Ball(1.0).prox(V, 1.0), V / 5)
    np.testing.assert_allclose(L1Ball(3.0).prox(V, 1.0), [[1.0], [-2.0], [0.0]])
    np.testing.assert_allclose(LinfBall(1.0).prox(V, 1.0), [[1.0], [-1.0], [0.0]])
    np.testing.assert_allclose(Halfspace([0.0, 0.0, 1.0], -2.0).prox(V, 1.0), [[3.0], [-4.0], [-2.0]])


def test_points_inside_are_not_moved_by_a_bit(rng):
    V = rng.standard_normal((6, 2)) * 0.01
    for regularizer in (L1Ball(1.0), L2Ball(1.0), LinfBall(1.0), Halfspace(np.ones(6), 1.0), Zero()):
        np.testing.assert_array_equal(regularizer.prox(V, 1.0), V)


def test_a_point_far_from_the_simplex_loses_no_digits():
    V = np.array([[1e12], [1e12 - 0.25], [0.0]])
    np.testing.assert_allclose(Simplex().prox(V, 1.0), [[0.625], [0.375], [0.0]], atol=1e-15)
    assert np.isfinite(Simplex().value(Simplex().prox(1e17 * V, 1.0)))


def test_groups_of_one_are_the_lasso(rng):
    V = rng.standard_normal((6, 3))
    group, single = GroupLasso(0.7, range(6)), L1(0.7)
    np.testing.assert_allclose(group.prox(V, 0.5), single.prox(V, 0.5), atol=1e-15)
    np.testing.assert_allclose(group.value(V), single.value(V))
    np.testing.assert_allclose(group.dual_scale(V), single.dual_scale(V), rtol=1e-12)


def test_groups_vanish_together():
    V = np.array([[3.0], [0.1], [4.0], [0.1]])
    W = GroupLasso(1.0, [5, 2, 5, 2]).prox(V, 1.0)
    np.testing.assert_allclose(W, [[2.4], [0.0], [3.2], [0.0]])


def test_distance_of_the_lasso_by_hand():
    W, G = np.array([[1.0], [0.0], [-1.0], [0.0]]), np.array([[-0.7], [0.9], [1.5], [-1.25]])
    # Off by 0.3 from -1, inside [-1, 1], by 0.5 from 1, by 0.25 from the interval.
    assert L1(1.0).distance(W, G) == pytest.approx(0.5)
    np.testing.assert_allclose(L1(1.0).distance(W[[0, 1, 3]], G[[0, 1, 3]]), 0.3)


def test_distance_at_a_bound_counts_one_side_only():
    W = np.array([[0.0], [1.0]])
    assert Box(0.0, 1.0).distance(W, np.array([[5.0], [-5.0]])) == 0
    assert Box(0.0, 1.0).distance(W, np.array([[-5.0], [2.0]])) == 5
    assert np.isinf(Box(0.0, 1.0).distance(W + 0.5, np.zeros((2, 1))))


def test_weights_multiply_strengths():
    regularizer = L1([1.0, 2.0], weights=[1.0, 0.0, 3.0])
    np.testing.assert_array_equal(regularizer.l1, [[1.0, 2.0], [0.0, 0.0], [3.0, 6.0]])
    np.testing.assert_array_equal(regularizer.value(np.ones((3, 2))), [4.0, 8.0])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: L1(-1.0), "strength is -1"),
        (lambda: L1([1.0, -2.0]), "strength is -2 at 1"),
        (lambda: L1(1.0, weights=[1.0, np.inf]), "weights is inf at 1"),
        (lambda: L2(np.nan), "strength is nan"),
        (lambda: ElasticNet(1.0, -0.5), "l2 is -0.5"),
        (lambda: Box(2.0, 1.0), r"lower > upper \(2 > 1\)"),
        (lambda: Box([0.0, 2.0], 1.0), r"lower > upper at \(1, 0\) \(2 > 1\)"),
        (lambda: Box(np.inf, np.inf), "lower is inf"),
        (lambda: Separable([1.0, 2.0]), "shape"),
        (lambda: Separable(np.ones((1, 3)), np.ones((2, 2))), "do not go together"),
        (lambda: Separable("a"), "does not hold numbers"),
        (lambda: L1Ball(0.0), "radius is 0"),
        (lambda: L2Ball([1.0, -1.0]), "radius is -1 at 1"),
        (lambda: LinfBall(np.inf), "radius is inf"),
        (lambda: Simplex(np.nan), "total is nan"),
        (lambda: Halfspace([0.0, 0.0]), "normal"),
        (lambda: Halfspace([1.0, np.inf]), "normal is inf at 1"),
        (lambda: Halfspace([1.0], np.inf), "bound is inf"),
        (lambda: GroupLasso(1.0, [0.5, 1.0]), "groups"),
        (lambda: GroupLasso(-1.0, [0, 1]), "strength is -1"),
        (lambda: GroupLasso(1.0, [0, 0], weights=[1.0, 1.0]), "there are 1 groups"),
        (lambda: GroupLasso(1.0, [0, 0]).value(np.ones((3, 1))), "names 2 coefficients"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_settings_are_the_regularizer_s_own():
    bounds = np.array([1.0, 2.0])
    box = Box(0.0, bounds)
    bounds[:] = -1.0
    np.testing.assert_array_equal(box.upper, [[1.0], [2.0]])
