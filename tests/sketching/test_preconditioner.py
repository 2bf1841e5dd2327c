from __future__ import annotations

import array_api_strict
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import cg

from nysstream.arrays import to_host
from nysstream.errors import InputError
from nysstream.sketching import Columns, Diagonal, Identity, Inverse, NystromPreconditioner, nystrom
from tests.helpers import SPECTRA, orthonormal, with_eigenvalues


def make(rng, p=30, r=8, tail=1e-3):
    return NystromPreconditioner(orthonormal(p, r, rng), np.geomspace(10, 2 * tail, r), tail)


def dense(P, shift):
    """Write the preconditioner out from its definition."""
    U, p = P.vectors, P.vectors.shape[0]
    return U @ np.diag((P.values + shift) / (P.tail + shift)) @ U.T + np.eye(p) - U @ U.T


@pytest.mark.parametrize("shift", [0.0, 1e-6, 3.0])
def test_matches_its_definition(rng, shift):
    P = make(rng)
    M = dense(P, shift)
    V = rng.standard_normal((30, 4))
    np.testing.assert_allclose(P.apply(V, shift), M @ V, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(P.inverse(V, shift), np.linalg.solve(M, V), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(P.sqrt(P.sqrt(V, shift), shift), M @ V, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(P.inverse_sqrt(P.sqrt(V, shift), shift), V, atol=1e-10)


@given(shifts=st.lists(st.floats(0, 10), min_size=1, max_size=6), seed=st.integers(0, 1000))
def test_each_column_has_its_own_shift(shifts, seed):
    rng = np.random.default_rng(seed)
    P = make(rng)
    V = rng.standard_normal((30, len(shifts)))
    together = P.inverse(V, np.array(shifts))
    for j, shift in enumerate(shifts):
        np.testing.assert_allclose(together[:, j], P.inverse(V[:, j : j + 1], shift)[:, 0], atol=1e-12)


def test_low_rank_without_shift_is_inverted_on_its_range(rng):
    A = with_eigenvalues(np.r_[np.geomspace(1, 1e-3, 10), np.zeros(20)], rng)
    P = nystrom(A, 20, random_state=0).preconditioner()
    V = A @ rng.standard_normal((30, 2))
    scaled = P.inverse(A @ P.inverse(V, 0.0), 0.0)
    np.testing.assert_allclose(scaled / 1e-3, P.inverse(V, 0.0), rtol=1e-6, atol=1e-9)


def test_diagonal_divides_and_identity_does_nothing(rng):
    V = rng.standard_normal((5, 2))
    d, shifts = np.arange(1.0, 6.0), np.array([0.5, 2.0])
    np.testing.assert_allclose(Diagonal(d).inverse(V, shifts), V / (d[:, None] + shifts))
    assert Identity().inverse(V, shifts) is V
    np.testing.assert_allclose(Inverse(2 * np.eye(5)).inverse(V, 0.0), 2 * V)


@given(counts=st.lists(st.integers(0, 3), min_size=2, max_size=4).filter(any), data=st.data())
def test_columns_keep_their_preconditioners_in_any_selection(counts, data):
    total = sum(counts)
    rng = np.random.default_rng(total)
    parts = [Diagonal(np.full(6, float(i + 1))) for i in range(len(counts))]
    owner = np.repeat(np.arange(len(counts)), counts)
    chosen = np.array(data.draw(st.lists(st.integers(0, total - 1), unique=True)), dtype=np.intp)
    chosen.sort()
    V, shifts = rng.standard_normal((6, total)), rng.uniform(0, 1, total)
    expected = V / (owner + 1.0 + shifts)
    P = Columns(parts, counts)
    np.testing.assert_allclose(P.inverse(V, shifts), expected)
    if chosen.size:
        part = P.take(chosen)
        np.testing.assert_allclose(part.inverse(V[:, chosen], shifts[chosen]), expected[:, chosen])
        np.testing.assert_allclose(
            part.take(np.array([0])).inverse(V[:, chosen[:1]], shifts[chosen[0]]), expected[:, chosen[:1]]
        )


def test_columns_that_do_not_add_up_are_refused():
    with pytest.raises(InputError, match="one count per part"):
        Columns([Identity()], [1, 2])
    with pytest.raises(InputError, match="serve 3"):
        Columns([Identity(), Identity()], [1, 2]).inverse(np.ones((4, 2)), 0.0)


def test_scipy_uses_it_as_m(rng):
    A = with_eigenvalues(SPECTRA["fast"](80), rng)
    shift, b = 1e-4, rng.standard_normal(80)
    P = nystrom(A, 50, random_state=0).preconditioner()
    counts = {}
    for name, M in {"plain": None, "nystrom": P.as_scipy(80, shift)}.items():
        iterates = []
        x, info = cg(A + shift * np.eye(80), b, M=M, rtol=1e-8, callback=iterates.append)
        assert info == 0
        counts[name] = len(iterates)
        np.testing.assert_allclose(A @ x + shift * x, b, atol=1e-6)
    assert counts["nystrom"] < counts["plain"] / 2


def test_works_on_another_device(rng):
    P = make(rng)
    V, shifts = rng.standard_normal((30, 3)), np.array([0.0, 0.1, 5.0])
    device = array_api_strict.Device("device1")

    def move(x):
        return array_api_strict.asarray(x, device=device)

    moved = NystromPreconditioner(move(P.vectors), move(P.values), P.tail)
    np.testing.assert_allclose(to_host(moved.inverse(move(V), shifts)), P.inverse(V, shifts), atol=1e-14)
    diagonal = np.arange(1.0, 31.0)
    side_by_side = Columns([moved, Diagonal(move(diagonal))], [2, 1]).inverse(move(V), shifts)
    expected = Columns([P, Diagonal(diagonal)], [2, 1]).inverse(V, shifts)
    np.testing.assert_allclose(to_host(side_by_side), expected, atol=1e-14)
