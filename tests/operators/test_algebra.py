from __future__ import annotations

import array_api_strict
import numpy as np
import pytest
from scipy.sparse import coo_array, csr_array
from scipy.sparse.linalg import LinearOperator as ScipyLinearOperator
from scipy.sparse.linalg import aslinearoperator

from nysstream.errors import InputError
from nysstream.operators import Dense, Foreign, Sparse, as_operator


def test_every_kind_of_matrix_finds_its_operator(rng):
    A = rng.standard_normal((4, 4))
    assert isinstance(as_operator(A), Dense)
    assert isinstance(as_operator(A.tolist()), Dense)
    assert isinstance(as_operator(array_api_strict.asarray(A)), Dense)
    assert isinstance(as_operator(coo_array(A)), Sparse)
    assert isinstance(as_operator(aslinearoperator(A)), Foreign)
    ours = as_operator(A)
    assert as_operator(ours) is ours


def test_psd_is_declared_by_the_caller_and_ours_speak_for_themselves():
    assert not as_operator(np.eye(2)).psd
    declared = as_operator(np.eye(2), psd=True)
    assert declared.psd
    assert as_operator(declared).psd
    assert not as_operator(as_operator(np.eye(2)), psd=True).psd


@pytest.mark.parametrize("make", [np.asarray, csr_array], ids=["dense", "sparse"])
def test_integers_become_floats(make):
    operator = as_operator(make(np.array([[2, 0], [1, 3]])))
    np.testing.assert_array_equal(operator @ np.array([0.5, 1.0]), [1.0, 3.5])
    assert operator.eps == np.finfo(np.float64).eps
    assert operator.trace() == 5.0


@pytest.mark.parametrize("make", [np.asarray, csr_array], ids=["dense", "sparse"])
def test_trace_is_summed_in_double(make):
    diagonal = np.full(1000, 0.1, np.float32)
    operator = as_operator(make(np.diag(diagonal)))
    assert operator.trace() == pytest.approx(np.sum(diagonal, dtype=np.float64), rel=1e-12)


def test_foreign_operators_know_no_trace_and_may_state_their_rounding():
    A = np.eye(3)
    assert as_operator(aslinearoperator(A)).trace() is None
    assert Foreign(aslinearoperator(A), eps=1e-7).eps == 1e-7
    assert as_operator(aslinearoperator(A.astype(np.float32))).eps == np.finfo(np.float32).eps


def test_foreign_blocks_stay_whole():
    calls = []

    def matmat(V):
        calls.append(V.shape)
        return 2 * V

    operator = as_operator(ScipyLinearOperator((3, 3), matvec=matmat, matmat=matmat, dtype=np.float64))
    operator.matmat(np.ones((3, 5)))
    assert calls == [(3, 5)]


def test_rectangular_operators_multiply(rng):
    A = rng.standard_normal((5, 3))
    v = rng.standard_normal(3)
    np.testing.assert_allclose(as_operator(A) @ v, A @ v)
    np.testing.assert_allclose(as_operator(csr_array(A)) @ v, A @ v)


@pytest.mark.parametrize(
    ("matrix", "psd", "message"),
    [
        (np.ones(3), False, "two dimensions"),
        (np.ones((2, 3)), True, "square"),
        (np.ones((2, 2), complex), False, "complex"),
        (csr_array(np.ones((2, 2), complex)), False, "complex"),
        ("X", False, "str"),
    ],
)
def test_unusable_matrices_are_named(matrix, psd, message):
    with pytest.raises(InputError, match=message):
        as_operator(matrix, psd=psd)
