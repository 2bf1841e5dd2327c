"""What every registered regularizer must do."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from nysstream.regularizers import (
    L1,
    L2,
    REGULARIZERS,
    Box,
    ElasticNet,
    GroupLasso,
    Halfspace,
    L1Ball,
    L2Ball,
    LinfBall,
    Separable,
    Simplex,
)

P, K = 5, 3
GROUPS = [4, 1, 4, 7, 1]
NORMAL = [1.0, -2.0, 0.0, 0.5, 1.0]
PER_COLUMN = np.array([0.3, 1.0, 2.0])

#: Settings other than the defaults, for P coefficients in K columns.
CASES = [kind() for name, kind in REGULARIZERS.items() if name not in {"group_lasso", "halfspace"}] + [
    L1(PER_COLUMN, weights=[0.0, 1.0, 2.0, 1.0, 0.5]),
    L2(PER_COLUMN, weights=[0.0, 1.0, 2.0, 1.0, 0.5]),
    ElasticNet(PER_COLUMN, 0.5),
    ElasticNet(0.0, 0.5),
    Box([-1.0, 0.0, -np.inf, 0.5, -0.2], [1.0, np.inf, 0.0, 0.5, -0.1]),
    Separable(PER_COLUMN[None, :], 0.0, 0.0),
    Separable(0.4, 0.3, -0.5, np.array([[0.7, 1.0, np.inf]])),
    Separable(0.4, 0.0, 0.2, 1.0),
    Separable(0.4, np.array([[0.0], [1.0], [0.0], [2.0], [0.1]]), -np.inf, 0.5),
    Separable(np.linspace(0, 1, P * K).reshape(P, K), 0.1, -1.0, 1.0),
    GroupLasso(1.0, GROUPS),
    GroupLasso(PER_COLUMN, GROUPS, weights=[1.0, 0.5, 0.0]),
    L1Ball(PER_COLUMN),
    L2Ball(PER_COLUMN),
    LinfBall(PER_COLUMN),
    Simplex(PER_COLUMN),
    Halfspace(NORMAL),
    Halfspace(NORMAL, [-1.0, 0.0, 2.0]),
]


def label(regularizer):
    settings = (f"{k}{np.shape(v) or f'={v}'}" for k, v in vars(regularizer).items() if not k.startswith("_"))
    return f"{type(regularizer).__name__}-{'-'.join(settings)}"


every_regularizer = pytest.mark.parametrize("regularizer", CASES, ids=map(label, CASES))
seeds = given(seed=st.integers(0, 2**32 - 1))


def draw(seed, spread=2.0):
    rng = np.random.default_rng(seed)
    return rng, spread * rng.standard_normal((P, K))


def members(regularizer, rng, n):
    """Draw points where the regularizer is finite, on and off its kinks."""
    return [regularizer.prox(s * rng.standard_normal((P, K)), 0.5) for s in rng.uniform(0.1, 4.0, n)]


def dual_members(regularizer, rng, n):
    """Draw points where the conjugate is finite."""
    found = []
    for W in members(regularizer, rng, n):
        # What a proximal step has taken off is a subgradient at the place it leads to.
        V = W + rng.standard_normal((P, K))
        U = (V - regularizer.prox(V, 0.5)) / 0.5
        found.append(U * regularizer.dual_scale(U))
    return found


def test_every_regularizer_is_tested():
    assert {type(case) for case in CASES} == set(REGULARIZERS.values())


@every_regularizer
@seeds
def test_prox_is_nowhere_beaten(regularizer, seed):
    rng, V = draw(seed)
    step = rng.uniform(0.1, 3.0)
    W = regularizer.prox(V, step)

    def objective(W):
        return regularizer.value(W) + ((W - V) ** 2).sum(axis=0) / (2 * step)

    least = objective(W)
    assert np.isfinite(least).all()
    for other in members(regularizer, rng, 10):
        for t in (1e-4, 1e-2, 1.0):  # the segment towards another member
            there = objective((1 - t) * W + t * other)
            assert (there >= least - 1e-12 * (1 + np.abs(least))).all()
    for distance in (1e-6, 1e-3, 0.1):
        there = objective(W + distance * rng.standard_normal((P, K)))
        assert (there >= least - 1e-12 * (1 + np.abs(least))).all()


@every_regularizer
def test_prox_is_not_improved_by_a_general_optimiser(regularizer):
    """Let a search without derivatives try to do better, from the answer and from beside it."""
    rng, V = draw(11)
    step = np.array([0.5, 1.0, 1.5])
    W = regularizer.prox(V, step)
    for j in range(K):
        one = regularizer.columns([j])

        def objective(w, one=one, j=j):
            cost = one.value(w[:, None])[0] + ((w - V[:, j]) ** 2).sum() / (2 * step[j])
            return float(np.minimum(cost, 1e30))  # the simplices of the search cannot subtract infinities

        best = objective(W[:, j])
        for start in (W[:, j] + 0.05 * rng.standard_normal(P), W[:, j]):
            found = minimize(objective, start, method="Nelder-Mead", options={"maxiter": 400})
            assert not found.fun < best - 1e-9


@every_regularizer
@seeds
def test_prox_does_not_expand_and_returns_members(regularizer, seed):
    rng, V = draw(seed)
    other = V + rng.standard_normal((P, K)) * rng.choice([1e-8, 1.0])
    W, moved = regularizer.prox(V, 0.7), regularizer.prox(other, 0.7)
    apart = np.linalg.norm(V - other, axis=0)
    assert (np.linalg.norm(W - moved, axis=0) <= apart * (1 + 1e-12) + 1e-15).all()
    assert np.isfinite(regularizer.value(W)).all()


@every_regularizer
@pytest.mark.parametrize("spread", [0.0, 1e-12, 1.0, 1e12])
def test_members_of_any_size(regularizer, spread):
    for seed in range(20):
        _, V = draw(seed, spread)
        W = regularizer.prox(V, 1.3)
        assert W.shape == V.shape
        assert np.isfinite(W).all()
        assert np.isfinite(regularizer.value(W)).all()
        # Columns in another order in memory are still members.
        assert np.isfinite(regularizer.value(np.asfortranarray(W))).all()


@every_regularizer
@seeds
def test_fenchel_young_is_an_inequality(regularizer, seed):
    rng, _ = draw(seed)
    for W, V in zip(members(regularizer, rng, 5), dual_members(regularizer, rng, 5), strict=True):
        total = regularizer.value(W) + regularizer.conjugate(V)
        assert np.isfinite(total).all()
        product = (W * V).sum(axis=0)
        assert (total - product >= -1e-12 * (1 + np.abs(product))).all()


@every_regularizer
@seeds
def test_moreau(regularizer, seed):
    r"""At the subgradient that a proximal step takes off, Fenchel and Young's inequality is an equality."""
    _, V = draw(seed)
    W = regularizer.prox(V, 1.0)
    U = V - W
    if type(regularizer) is Halfspace:  # along the normal but for the rounding of V, which a small U shows
        along = np.outer(NORMAL, NORMAL @ U) / np.dot(NORMAL, NORMAL)
        np.testing.assert_allclose(U, along, atol=1e-14 * (1 + np.abs(V).max()))
        U = along
    scale = regularizer.dual_scale(U)
    assert (scale >= 1 - 1e-12).all()
    U = U * scale
    product = (W * U).sum(axis=0)
    gap = regularizer.value(W) + regularizer.conjugate(U) - product
    np.testing.assert_allclose(gap, 0, atol=1e-11 * (1 + np.abs(V).max() ** 2))


@every_regularizer
@seeds
def test_the_conjugate_is_attained(regularizer, seed):
    r"""Long proximal steps lead to the maximiser of :math:`v^\top w - r(w)`."""
    rng, _ = draw(seed)
    for V in dual_members(regularizer, rng, 3):
        V = 0.9 * V  # off the border of the domain, where a maximiser need not exist
        if type(regularizer) is Halfspace:
            continue  # maximisers are a plane: see below
        conjugate = regularizer.conjugate(V)
        W = np.zeros((P, K))
        for _ in range(60):
            W = regularizer.prox(W + 1e6 * V, 1e6)  # entries of V may be small
        attained = (V * W).sum(axis=0) - regularizer.value(W)
        np.testing.assert_allclose(attained, conjugate, rtol=1e-6, atol=1e-6)


@every_regularizer
@seeds
def test_dual_scale_is_the_largest(regularizer, seed):
    rng, V = draw(seed)
    V *= rng.uniform(0, 3.0, K)
    scale = regularizer.dual_scale(V)
    assert ((scale >= 0) & (scale <= 1)).all()
    assert np.isfinite(regularizer.conjugate(scale * V)).all()
    less = np.isinf(regularizer.conjugate(V))
    np.testing.assert_array_equal(scale < 1, less)
    beyond = np.isinf(regularizer.conjugate(np.maximum(scale * (1 + 1e-10), 1e-6) * V))
    assert beyond[less].all()


@every_regularizer
@seeds
def test_distance_is_zero_at_optima_only(regularizer, seed):
    rng, V = draw(seed)
    step = rng.uniform(0.5, 2.0)
    W = regularizer.prox(V, step)
    gradient = (W - V) / step
    size = 1 + np.abs(V).max()
    assert (regularizer.distance(W, gradient) <= 1e-13 * size / step).all()
    for other in members(regularizer, rng, 3):
        distance = regularizer.distance(other, (other - V) / step)
        # The objective is strongly convex: who is far from the minimiser is far from optimal.
        apart = np.linalg.norm(other - W, axis=0)
        assert (distance * np.sqrt(P) * (1 + step) >= 0.3 * apart / (1 + step) - 1e-12 * size).all()
    outside = W + 10.0
    far = np.isinf(regularizer.value(outside))
    assert (regularizer.distance(outside, gradient)[far] > 0).all()


@every_regularizer
@seeds
def test_strong_convexity(regularizer, seed):
    rng, _ = draw(seed)
    modulus = np.broadcast_to(regularizer.strong_convexity, (P, K))
    one, other = members(regularizer, rng, 2)
    chord = 0.5 * (regularizer.value(one) + regularizer.value(other))
    bonus = 0.125 * (modulus * (one - other) ** 2).sum(axis=0)
    middle = regularizer.value(0.5 * (one + other))
    assert (middle <= chord - bonus + 1e-12 * (1 + np.abs(chord))).all()


@every_regularizer
@pytest.mark.parametrize(
    "index", [[1], [2, 0], np.array([True, False, True]), slice(1, 3)], ids=["one", "two", "mask", "slice"]
)
def test_columns_are_those_of_the_whole(regularizer, index, rng):
    V = 2 * rng.standard_normal((P, K))
    part = regularizer.columns(index)
    W, G = regularizer.prox(V, 0.8), rng.standard_normal((P, K))
    np.testing.assert_array_equal(part.prox(V[:, index], 0.8), W[:, index])
    np.testing.assert_array_equal(part.value(W[:, index]), regularizer.value(W)[index])
    np.testing.assert_allclose(part.distance(W[:, index], G[:, index]), regularizer.distance(W, G)[index])
    np.testing.assert_allclose(part.conjugate(V[:, index]), regularizer.conjugate(V)[index], rtol=1e-14)
    np.testing.assert_allclose(part.dual_scale(V[:, index]), regularizer.dual_scale(V)[index], rtol=1e-14)


@every_regularizer
def test_rows_of_a_separable_one_add_up(regularizer, rng):
    if not isinstance(regularizer, Separable):
        pytest.skip("not a sum over coefficients")
    V, chosen = 2 * rng.standard_normal((P, K)), np.arange(P) % 3 == 0
    W, G = regularizer.prox(V, 0.8), rng.standard_normal((P, K))
    parts = [(regularizer.rows(index), W[index], V[index], G[index]) for index in (chosen, ~chosen)]
    np.testing.assert_allclose(sum(r.value(w) for r, w, _, _ in parts), regularizer.value(W), rtol=1e-13)
    for r, w, v, _ in parts:
        np.testing.assert_array_equal(r.prox(v, 0.8), w)
    excess = np.vstack([r.excess(w, g) for r, w, _, g in parts])
    np.testing.assert_array_equal(np.maximum(excess, 0).max(axis=0), regularizer.distance(W, G))


@every_regularizer
def test_steps_per_column_and_per_entry(regularizer, rng):
    V = 2 * rng.standard_normal((P, K))
    steps = np.array([0.2, 1.0, 3.0])
    expected = [regularizer.columns([j]).prox(V[:, [j]], steps[j])[:, 0] for j in range(K)]
    np.testing.assert_allclose(regularizer.prox(V, steps), np.stack(expected, axis=1), rtol=1e-15)
    if regularizer.separable:
        each = rng.uniform(0.1, 2.0, (P, K))
        W = regularizer.prox(V, each)
        assert (regularizer.distance(W, (W - V) / each) <= 1e-13 * (1 + np.abs(V) / each).max()).all()


@every_regularizer
@seeds
def test_a_face_describes_the_regularizer_around_a_point(regularizer, seed):
    rng, V = draw(seed)
    W = regularizer.prox(V, 0.5)
    face = regularizer.face(W)
    if face is None:
        assert not regularizer.separable
        return
    assert (face.lower <= W).all()
    assert (face.upper >= W).all()
    assert (face.lower[~face.free] == face.upper[~face.free]).all()
    target = np.clip(W + rng.standard_normal((P, K)), face.lower, face.upper)
    assert (target == W)[~face.free].all()

    def quadratic(W):
        return (face.slope * W + 0.5 * face.curvature * W**2).sum(axis=0)

    change = regularizer.value(target) - regularizer.value(W)
    np.testing.assert_allclose(change, quadratic(target) - quadratic(W), atol=1e-12)


@every_regularizer
def test_arguments_are_left_alone(regularizer, rng):
    V = rng.standard_normal((P, K))
    before = V.copy()
    for method in (regularizer.value, regularizer.conjugate, regularizer.dual_scale, regularizer.face):
        method(V)
    regularizer.prox(V, 0.5)
    regularizer.distance(V, V)
    np.testing.assert_array_equal(V, before)


@every_regularizer
def test_copies_do_the_same(regularizer, rng):
    V = rng.standard_normal((P, K))
    copy = pickle.loads(pickle.dumps(regularizer))
    np.testing.assert_array_equal(copy.prox(V, 0.5), regularizer.prox(V, 0.5))
    np.testing.assert_array_equal(copy.conjugate(V), regularizer.conjugate(V))
