"""Nearest solutions of linear equations, for a matrix that is factored once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg
import scipy.sparse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Block = NDArray[np.float64]

#: Rows whose factor has pivots smaller than this, relative to the largest, count as dependent.
_DEPENDENT = 1e-10


class Nearest:
    """The nearest points x to given ones for which K x is what it should be.

    Parameters
    ----------
    matrix : ndarray or scipy.sparse.csr_array, shape (r, s)
        K.

    Attributes
    ----------
    exists : bool
        Whether the rows of K are independent, so that there are such points for every right-hand side.

    Notes
    -----
    Cost: a QR factorisation of a dense K, or a sparse LU factorisation of the optimality conditions.
    """

    def __init__(self, matrix: Any) -> None:
        self.matrix = matrix
        self.sparse = scipy.sparse.issparse(matrix)
        self.exists = 0 < matrix.shape[0] <= matrix.shape[1] and self._factored()

    def __call__(self, X: Block, rhs: Block) -> Block:
        """Move X, shape (s, k), as little as possible until ``K x`` is rhs, shape (r, k)."""
        for _ in range(2):  # the second round takes off what rounding has left
            X = X + self._least(rhs - self.matrix @ X)
        return X

    def _factored(self) -> bool:
        K = self.matrix
        if not self.sparse:
            self._q, self._r = scipy.linalg.qr(K.T, mode="economic", check_finite=False)
            pivots = np.abs(np.diagonal(self._r))
            return bool(pivots.min() > _DEPENDENT * pivots.max())
        eye = scipy.sparse.eye_array(K.shape[1])
        system = scipy.sparse.block_array([[eye, K.T], [K, None]], format="csc")
        try:
            self._lu = scipy.sparse.linalg.splu(system)
        except RuntimeError:  # exactly singular
            return False
        trial = np.cos(np.arange(1.0, K.shape[0] + 1.0))[:, None]
        found = self._least(trial)
        return bool(np.isfinite(found).all() and np.abs(K @ found - trial).max() < 1e-6)

    def _least(self, rhs: Block) -> Block:
        """Give the least solutions, shape (s, k)."""
        if not self.sparse:
            solved: Any = scipy.linalg.solve_triangular(self._r, rhs, trans="T", check_finite=False)
            return np.asarray(self._q @ solved)
        s = self.matrix.shape[1]
        return np.asarray(self._lu.solve(np.vstack([np.zeros((s, rhs.shape[1])), rhs]))[:s])
