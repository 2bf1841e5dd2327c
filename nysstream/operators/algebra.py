"""Operators made from matrices at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import array_api_compat
import numpy as np
import scipy.sparse
from scipy.sparse.linalg import LinearOperator as ScipyLinearOperator

from nysstream.arrays import like, namespace, to_host
from nysstream.errors import InputError
from nysstream.operators.base import Array, LinearOperator, Precision

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Dense(LinearOperator):
    """A matrix held as an array of any namespace.

    Products are made in the dtype of the matrix and returned in float64.

    Parameters
    ----------
    matrix : array, shape (m, p)
        Real; integers and booleans are converted to float64.
    psd : bool
        Declare the matrix symmetric positive semidefinite. Not verified.

    Notes
    -----
    Cost: the matrix is not copied, but a product of ``precision="double"`` with a float32 matrix
    makes a temporary copy of ``8 * m * p`` bytes.
    """

    def __init__(self, matrix: Array, *, psd: bool = False) -> None:
        _check_matrix(matrix, psd=psd)
        xp = namespace(matrix)
        if not xp.isdtype(matrix.dtype, "real floating"):
            matrix = xp.astype(matrix, xp.float64)
        self.matrix = matrix
        self.shape = (matrix.shape[0], matrix.shape[1])
        self.dtype = np.dtype(np.float64)
        self.psd = psd
        self.eps = float(xp.finfo(matrix.dtype).eps)

    def matmat(self, V: Array, *, precision: Precision | None = None) -> Array:
        """Multiply a block of vectors ``(p, k)`` in the dtype of the matrix, or in float64."""
        _check_block(self, V)
        xp = namespace(self.matrix)
        dtype = xp.float64 if precision == "double" else self.matrix.dtype
        product = xp.matmul(xp.astype(self.matrix, dtype, copy=False), xp.astype(V, dtype, copy=False))
        self.passes += 1
        return xp.astype(product, xp.float64, copy=False)

    def place(self, host: NDArray[Any]) -> Array:
        """Move a host array beside the matrix."""
        return like(self.matrix, host)

    def trace(self) -> float | None:
        """Sum the diagonal in float64."""
        xp = namespace(self.matrix)
        return float(xp.sum(xp.linalg.diagonal(self.matrix), dtype=xp.float64))


class Sparse(LinearOperator):
    """A SciPy sparse matrix or array.

    Products are made in the dtype of the matrix and returned in float64.

    Parameters
    ----------
    matrix : sparse array, shape (m, p)
        Real; kept in compressed sparse rows.
    psd : bool
        Declare the matrix symmetric positive semidefinite. Not verified.
    """

    def __init__(self, matrix: Any, *, psd: bool = False) -> None:
        _check_matrix(matrix, psd=psd)
        matrix = scipy.sparse.csr_array(matrix)
        if not np.issubdtype(matrix.dtype, np.floating):
            matrix = matrix.astype(np.float64)
        self.matrix = matrix
        self.shape = (matrix.shape[0], matrix.shape[1])
        self.dtype = np.dtype(np.float64)
        self.psd = psd
        self.eps = float(np.finfo(matrix.dtype).eps)

    def matmat(self, V: Array, *, precision: Precision | None = None) -> Array:
        """Multiply a block of vectors ``(p, k)`` in the dtype of the matrix, or in float64."""
        _check_block(self, V)
        dtype = np.dtype(np.float64) if precision == "double" else self.matrix.dtype
        product = self.matrix.astype(dtype, copy=False) @ V.astype(dtype, copy=False)
        self.passes += 1
        return product.astype(np.float64, copy=False)

    def trace(self) -> float | None:
        """Sum the diagonal in float64."""
        return float(np.sum(self.matrix.diagonal(), dtype=np.float64))


class Foreign(LinearOperator):
    """A ``scipy.sparse.linalg.LinearOperator``; blocks go to its ``matmat`` whole.

    Parameters
    ----------
    operator : scipy.sparse.linalg.LinearOperator, shape (m, p)
    psd : bool
        Declare the operator symmetric positive semidefinite. Not verified.
    eps : float, optional
        Relative rounding error of a product. By default that of ``operator.dtype``, which SciPy
        takes from one product with a float64 vector: state it where the product works in less.

    Notes
    -----
    ``precision="double"`` cannot change how a foreign operator multiplies.
    """

    def __init__(
        self, operator: ScipyLinearOperator[Any], *, psd: bool = False, eps: float | None = None
    ) -> None:
        _check_matrix(operator, psd=psd)
        self.operator = operator
        self.shape = (operator.shape[0], operator.shape[1])
        self.dtype = np.dtype(np.float64)
        self.psd = psd
        floating = np.issubdtype(operator.dtype, np.floating)
        self.eps = eps or float(np.finfo(operator.dtype if floating else np.float64).eps)

    def matmat(self, V: Array, *, precision: Precision | None = None) -> Array:
        """Multiply a block of vectors ``(p, k)``."""
        _check_block(self, V)
        product = np.asarray(self.operator.matmat(to_host(V)), dtype=np.float64)
        self.passes += 1
        return product


def as_operator(A: Any, *, psd: bool = False) -> LinearOperator:
    """View a matrix as a linear operator.

    Parameters
    ----------
    A : array, sparse array, scipy.sparse.linalg.LinearOperator or LinearOperator, shape (m, p)
        An operator of ours is returned as it is.
    psd : bool
        Declare ``A`` symmetric positive semidefinite. This is a promise, not a request: nothing
        is verified here, though solvers stop when they meet the contrary. An operator of ours
        speaks for itself.

    Returns
    -------
    LinearOperator, shape (m, p)

    Raises
    ------
    InputError
        If ``A`` is not a real matrix, or is declared psd and not square.
    """
    if isinstance(A, LinearOperator):
        return A
    if scipy.sparse.issparse(A):
        return Sparse(A, psd=psd)
    if isinstance(A, ScipyLinearOperator):
        return Foreign(A, psd=psd)
    if isinstance(A, (list, tuple)):
        A = np.asarray(A)
    if array_api_compat.is_array_api_obj(A):
        return Dense(A, psd=psd)
    message = (
        f"A is a {type(A).__name__}, which cannot multiply blocks of vectors: pass a 2-D array, a SciPy "
        "sparse array, a scipy.sparse.linalg.LinearOperator or a nysstream LinearOperator"
    )
    raise InputError(message)


def _check_matrix(A: Any, *, psd: bool) -> None:
    if len(A.shape) != 2:
        message = f"A has shape {tuple(A.shape)}: an operator needs two dimensions"
        raise InputError(message)
    if psd and A.shape[0] != A.shape[1]:
        message = f"A has shape {tuple(A.shape)}, so it cannot be positive semidefinite: pass a square matrix"
        raise InputError(message)
    if "complex" in str(A.dtype):
        message = f"A has dtype {A.dtype}: only real matrices are supported"
        raise InputError(message)


def _check_block(operator: LinearOperator, V: Array) -> None:
    if V.ndim != 2 or V.shape[0] != operator.shape[1]:
        message = (
            f"V has shape {tuple(V.shape)}: an operator of shape {operator.shape} multiplies blocks of shape "
            f"({operator.shape[1]}, k)"
        )
        raise InputError(message)
