"""Factors of a matrix in memory: beside it, for several shifts, and where rounding interferes."""

from __future__ import annotations

import numpy as np
import pytest

from nysstream.errors import SolverError
from nysstream.sketching.factored import MAX_FACTORS, Factored, SampledRows, add_squares, matrices_held

P = 300  # more than one strip


def squares(dtype, *, n=900):
    """Make rows, and their Gram matrix in float64."""
    rows = np.random.default_rng(0).standard_normal((n, P))
    rows = rows.astype(dtype)
    exact = rows.astype(np.float64).T @ rows
    return rows, exact


def lower(exact, dtype):
    """Keep the lower triangle in Fortran order, and rubbish in the other."""
    return np.asfortranarray(np.tril(exact) + np.triu(np.full_like(exact, 1e3), 1), dtype=dtype)


def solved(exact, B, shift):
    return np.linalg.solve(exact + shift * np.eye(len(exact)), B)


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 1e-4), (np.float64, 1e-11)])
def test_several_shifts_with_one_matrix(dtype, rtol):
    _, exact = squares(dtype)
    gram = lower(exact, dtype)
    factored = Factored(gram, float(np.finfo(dtype).eps), n_shifts=3)
    assert factored.gram is gram
    B = np.random.default_rng(1).standard_normal((P, 4)) * [1.0, 1e-30, 1e30, 0.0]
    shifts = np.array([5.0, 0.5, 500.0, 5.0])
    expected = np.column_stack([solved(exact, B[:, j], shifts[j]) for j in range(4)])
    for _ in range(2):
        found = factored.inverse(B, shifts)
        assert found.dtype == np.float64
        assert np.allclose(found, expected, rtol=rtol, atol=0)
    assert np.array_equal(np.tril(gram, -1), np.tril(exact.astype(dtype), -1))


def test_the_first_factor_takes_no_memory():
    _, exact = squares(np.float32)
    gram = lower(exact, np.float32)
    factored = Factored(gram)
    factored.inverse(np.ones((P, 1)), 1.0)
    (factor,) = factored._factors.values()
    assert factor is gram
    assert matrices_held(1, all_positive=True) == (1, 0)
    assert matrices_held(MAX_FACTORS, all_positive=True) == (MAX_FACTORS, 0)
    assert matrices_held(MAX_FACTORS + 1, all_positive=True) == matrices_held(1, all_positive=False) == (2, 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_effective_dimension_between_solves(dtype):
    _, exact = squares(dtype)
    factored = Factored(lower(exact, dtype), n_shifts=2)
    values = np.linalg.eigvalsh(exact)
    B = np.random.default_rng(1).standard_normal((P, 2))
    before = factored.inverse(B, 70.0)
    for shift in (70.0, 900.0, 70.0):
        assert factored.effective_dimension(shift) == pytest.approx(
            np.sum(values / (values + shift)), rel=1e-5
        )
    assert np.array_equal(factored.inverse(B, 70.0), before)
    assert factored.rank() == P
    assert factored.effective_dimension(70.0) == pytest.approx(np.sum(values / (values + 70.0)), rel=1e-5)
    assert np.allclose(factored.inverse(B, 70.0), before, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("n_shifts", [1, MAX_FACTORS + 1])
def test_single_precision_survives_shifts_below_its_rounding(n_shifts):
    # Eigenvalues from 1e3 to 1e-10: in float32 the matrix has negative ones.
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.standard_normal((P, P)))[0]
    exact = (Q * np.geomspace(1e3, 1e-10, P)) @ Q.T
    shift = 1e-9
    rounded = exact.astype(np.float32)
    assert np.linalg.eigvalsh(rounded.astype(np.float64))[0] < -shift
    factored = Factored(lower(exact, np.float32), float(np.finfo(np.float32).eps), n_shifts)
    inverse = factored.inverse(np.eye(P), shift)
    assert np.isfinite(inverse).all()
    # As good as the inverse on what is above the rounding.
    values, Q = np.linalg.eigh(exact)
    leading = Q[:, values > 1e-2 * values[-1]]
    assert leading.shape[1] > 10
    product = inverse @ (exact @ leading)
    assert np.linalg.norm(leading.T @ product - np.eye(leading.shape[1]), 2) < 0.5


def test_what_no_jitter_helps_is_refused():
    gram = np.asfortranarray(np.diag(np.where(np.arange(P) == 7, -1e9, 1.0)), dtype=np.float32)
    with pytest.raises(SolverError, match="precision='double'"):
        Factored(gram).inverse(np.ones((P, 1)), 1.0)


def test_c_order_is_understood():
    _, exact = squares(np.float64)
    B = np.ones((P, 1))
    found = Factored(np.ascontiguousarray(exact)).inverse(B, 3.0)
    assert np.allclose(found, solved(exact, B, 3.0), rtol=1e-10)


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_squares_are_added_in_place(dtype, rtol):
    rows, exact = squares(dtype)
    gram = np.zeros((P, P), dtype, order="F")
    address = gram.ctypes.data
    for start in range(0, len(rows), 250):
        add_squares(gram, rows[start : start + 250])
    assert gram.ctypes.data == address
    assert np.allclose(np.tril(gram), np.tril(exact), rtol=rtol, atol=rtol * exact.max())
    assert not np.triu(gram, 1).any()


@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 1e-4), (np.float64, 1e-11)])
def test_few_rows_by_their_own_matrix(dtype, rtol):
    rows, exact = squares(dtype, n=40)
    B = np.random.default_rng(1).standard_normal((P, 2))
    shifts = np.array([2.0, 30.0])
    found = SampledRows(rows, 2).inverse(B, shifts)
    expected = np.column_stack([solved(exact, B[:, j], shifts[j]) for j in range(2)])
    assert np.allclose(found, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


def test_what_a_new_array_holds_does_no_harm(monkeypatch):
    """Further factors go into arrays that may hold anything, signalling NaNs included."""
    X = np.random.default_rng(0).standard_normal((400, 300)).astype(np.float32)
    factored = Factored(np.asfortranarray(X.T @ X), n_shifts=2)
    empty_like = np.empty_like

    def poisoned(prototype, *arguments, **settings):
        array = empty_like(prototype, *arguments, **settings)
        if array.shape == (300, 300):
            array.T.reshape(-1).view(np.uint32)[:] = 0x7FA00000
        return array

    monkeypatch.setattr(np, "empty_like", poisoned)
    B = np.eye(300)[:, :2]
    found = factored.inverse(B, np.array([5.0, 50.0]))
    G = (X.T @ X).astype(np.float64)
    for j, shift in enumerate([5.0, 50.0]):
        expected = np.linalg.solve(G + shift * np.eye(300), B[:, j])
        np.testing.assert_allclose(found[:, j], expected, atol=1e-5 * np.abs(expected).max())
