"""Least squares with a spectrum, a solution and an effective dimension that are known. Needs NumPy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]


@dataclass(frozen=True)
class Controlled:
    r"""Data :math:`X = U \Sigma V'`, :math:`\sigma_i = i^{-d/2}`, and :math:`y = U g / \|g\|`.

    The Gram matrix has the eigenvalues :math:`i^{-d}`, and its largest is 1: ``alpha`` is relative
    to it, and :math:`1 / \alpha` is about the condition number.

    Attributes
    ----------
    X : ndarray, shape (n, p)
    y : ndarray, shape (n,)
    values : ndarray, shape (p,)
        :math:`\sigma_i`.
    vectors : ndarray, shape (p, p)
        V.
    weights : ndarray, shape (p,)
        :math:`g / \|g\|`.
    """

    X: Array
    y: Array
    values: Array
    vectors: Array
    weights: Array

    def solution(self, alpha: float) -> Array:
        """Give the minimiser of the ridge regression."""
        return np.asarray(self.vectors @ (self.values / (self.values**2 + alpha) * self.weights))

    def effective_dimension(self, alpha: float) -> float:
        """Give the trace of the hat matrix."""
        return float(np.sum(self.values**2 / (self.values**2 + alpha)))


def controlled(n_rows: int, n_columns: int, decay: float, *, seed: int = 0) -> Controlled:
    """Make data whose Gram matrix has eigenvalues ``i ** -decay``.

    Notes
    -----
    Cost: orthonormal factors of two Gaussian matrices, ``4 n p^2`` flops; three times the data in memory.
    """
    rng = np.random.default_rng(seed)
    U = np.linalg.qr(rng.standard_normal((n_rows, n_columns)))[0]
    V = np.linalg.qr(rng.standard_normal((n_columns, n_columns)))[0]
    values = np.arange(1, n_columns + 1) ** (-decay / 2)
    g = rng.standard_normal(n_columns)
    g /= np.linalg.norm(g)
    y = U @ g
    U *= values
    return Controlled(U @ V.T, y, values, V, g)
