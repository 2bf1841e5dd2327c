"""Paths by active sets reach the minimum, whatever the matrix."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nysstream.regularizers import Separable
from nysstream.solvers.active_set import solve_path


def quadratic(seed, n, p, correlation):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) + correlation * rng.standard_normal((n, 1))
    return X.T @ X, X.T @ (X[:, 0] - X[:, -1] + rng.standard_normal(n))


def distance(matrix, rhs, W, regularizer):
    """Measure how far from optimal each column is, relative to the gradient at zero."""
    return regularizer.distance(W, matrix @ W - rhs[:, None]) / np.abs(rhs).max()


@given(
    st.integers(0, 10**6),
    st.integers(2, 40),
    st.integers(1, 25),
    st.sampled_from([0.0, 1.0, 10.0]),
    st.sampled_from([1.0, 0.5]),
    st.booleans(),
)
def test_every_strength_is_optimal(seed, n, p, correlation, share, positive):
    matrix, rhs = quadratic(seed, n, p, correlation)
    strengths = np.geomspace(1, 1e-3, 20)[None, :] * np.abs(rhs).max()
    l1, l2 = share * strengths, (1 - share) * strengths
    W = solve_path(matrix, rhs, l1, l2, positive=positive)
    regularizer = Separable(l1, l2, 0.0 if positive else -np.inf)
    assert distance(matrix, rhs, W, regularizer).max() < 1e-8
    assert not W[:, 0].any() or share < 1


def test_strengths_that_differ_between_coefficients():
    matrix, rhs = quadratic(1, 60, 12, 0.5)
    rng = np.random.default_rng(0)
    l1 = rng.random((12, 5)) * np.abs(rhs).max()
    l1[3] = 0
    W = solve_path(matrix, rhs, l1, np.zeros((1, 1)))
    assert distance(matrix, rhs, W, Separable(l1)).max() < 1e-9
    assert np.all(W[3] != 0), "what is not penalised is not zero"


def test_no_l1_penalty_is_ridge():
    matrix, rhs = quadratic(2, 60, 12, 0.5)
    W = solve_path(matrix, rhs, np.zeros((1, 1)), np.full((1, 1), 7.0))
    np.testing.assert_allclose(W[:, 0], np.linalg.solve(matrix + 7 * np.eye(12), rhs), rtol=1e-9)


@pytest.mark.parametrize("copies", [2, 5])
def test_equal_columns(copies):
    """The minimiser is not unique: any will do, and none makes the search fail."""
    matrix, rhs = quadratic(3, 30, 6, 0.0)
    matrix, rhs = np.kron(np.ones((copies, copies)), matrix), np.tile(rhs, copies)
    l1 = np.geomspace(1, 1e-3, 30)[None, :] * np.abs(rhs).max()
    W = solve_path(matrix, rhs, l1, np.zeros((1, 1)))
    assert distance(matrix, rhs, W, Separable(l1)).max() < 1e-6


def test_cautious_steps_descend(monkeypatch):
    """Cutting every step at the first change of sign leads to the same minimisers."""
    matrix, rhs = quadratic(4, 40, 20, 2.0)
    l1 = np.geomspace(1, 1e-3, 10)[None, :] * np.abs(rhs).max()
    bold = solve_path(matrix, rhs, l1, np.zeros((1, 1)))
    monkeypatch.setattr("nysstream.solvers.active_set._BOLD", 0)
    np.testing.assert_allclose(
        solve_path(matrix, rhs, l1, np.zeros((1, 1))), bold, rtol=0, atol=1e-8 * abs(bold).max()
    )


def test_nothing_to_fit():
    assert not solve_path(np.zeros((3, 3)), np.zeros(3), np.ones((1, 2)), np.zeros((1, 1))).any()
