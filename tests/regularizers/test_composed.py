"""Regularizers of linear combinations, by themselves."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse

from nysstream.errors import InputError
from nysstream.regularizers import L1, Box, Composed
from nysstream.regularizers.nearest import Nearest


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("shape", [(3, 5), (5, 5), (5, 3)])
def test_nearest_solutions(sparse, shape, rng):
    K = rng.standard_normal(shape)
    nearest = Nearest(scipy.sparse.csr_array(K) if sparse else K)
    assert nearest.exists == (shape[0] <= shape[1])
    if nearest.exists:
        X, rhs = rng.standard_normal((shape[1], 2)), rng.standard_normal((shape[0], 2))
        found = nearest(X, rhs)
        np.testing.assert_allclose(found, X + np.linalg.pinv(K) @ (rhs - K @ X), atol=1e-12)
    K[-1] = K[0]
    assert not Nearest(scipy.sparse.csr_array(K) if sparse else K).exists


def test_high_order_differences_are_reached_to_rounding(rng):
    p = 400
    D = scipy.sparse.csr_array(np.diff(np.eye(p), 3, axis=0))
    Z = rng.standard_normal((p - 3, 1))
    for K in (D, D.toarray()):
        W = Nearest(K)(np.zeros((p, 1)), Z)
        np.testing.assert_allclose(D @ W, Z, atol=1e-9 * np.abs(W).max())


@pytest.mark.parametrize("m", [4, 7])
def test_conjugate_and_distance_are_those_of_the_sum(m, rng):
    p = 4
    M, c = rng.standard_normal((m, p)), rng.standard_normal(m)
    r = Composed(L1(0.5), M, c)
    W = rng.standard_normal((p, 3))
    Y = 0.5 * np.sign(M @ W - c[:, None])
    np.testing.assert_allclose(r.value(W), 0.5 * np.abs(M @ W - c[:, None]).sum(axis=0))
    near = r.near(Y)
    V = M.T @ Y
    assert near.distance(W, -V) == pytest.approx(0, abs=1e-12)
    s = near.dual_scale(V)
    assert np.all(s >= 1 - 1e-9)
    # Fenchel and Young: equality at subgradients.
    np.testing.assert_allclose(near.conjugate(s * V), s * (np.sum(W * V, axis=0) - r.value(W)), rtol=1e-8)
    G = rng.standard_normal((p, 3))
    bound = near.conjugate(near.dual_scale(G) * G)
    assert np.all(bound >= np.sum(near.dual_scale(G) * G * W, axis=0) - r.value(W) - 1e-12)


def test_violations_are_relative_and_values_those_of_points_nearby():
    r = Composed(Box(0.0, 1.0), np.array([[1.0, 1.0], [1.0, 1.0]]))
    W = np.array([[0.75, 0.25], [0.75, 0.25]])
    np.testing.assert_allclose(r.violation(W), [1 / 3, 0])
    np.testing.assert_array_equal(r.value(W), [0, 0])
    np.testing.assert_array_equal(r.answer(W, r.reach(W)), W)  # dependent rows: nothing can be moved


def test_there_is_no_proximal_operator():
    with pytest.raises(InputError, match="L1 of linear combinations has no proximal"):
        Composed(L1(), np.eye(2)).prox(np.zeros((2, 1)), 1.0)
