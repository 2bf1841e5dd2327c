"""Preconditioners that factor an approximation of the whole matrix, or of sampled rows of it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg

from nysstream.arrays import like, to_host
from nysstream.sketching.preconditioner import Preconditioner

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.sketching.preconditioner import Array, Shift

#: Shifts up to this many are factored one by one; more share one eigendecomposition.
_MAX_FACTORS = 3


@dataclass(frozen=True, eq=False)
class Factored(Preconditioner):
    r"""The inverse of :math:`G + \mu I` for a matrix G in memory that approximates the operator.

    Parameters
    ----------
    gram : ndarray, shape (p, p)
        Symmetric, positive semidefinite up to rounding. Not overwritten.
    n_shifts : int
        Different shifts to expect: a few are factored one by one, many share one
        eigendecomposition.

    Notes
    -----
    Cost: no pass. ``p^3 / 3`` flops for each new shift, or ``9 p^3`` once; ``8 p^2`` bytes more than
    the matrix.
    """

    gram: NDArray[np.float64]
    n_shifts: int = 1
    _factors: dict[float, Any] = field(default_factory=dict, repr=False)
    _eigen: list[Any] = field(default_factory=list, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def inverse(self, V: Array, shift: Shift) -> Array:
        """Apply the inverse to a block ``(p, k)``."""
        B = to_host(V)
        shifts = np.broadcast_to(np.asarray(shift, dtype=np.float64), (B.shape[1],))
        result = np.empty_like(B)
        for mu in np.unique(shifts):
            columns = np.flatnonzero(shifts == mu)
            result[:, columns] = self._solve(float(mu), B[:, columns])
        return like(V, result)

    def _solve(self, mu: float, B: NDArray[np.float64]) -> NDArray[np.float64]:
        with self._lock:
            if mu not in self._factors and not self._eigen:
                self._factor(mu)
        if mu in self._factors:
            return np.asarray(scipy.linalg.cho_solve(self._factors[mu], B, check_finite=False))
        values, Q = self._eigen
        raised = values + mu
        floor = values.size * np.finfo(np.float64).eps * values[-1]
        inverse = np.divide(1.0, raised, out=np.zeros_like(raised), where=raised > floor)
        return np.asarray(Q @ (inverse[:, None] * (Q.T @ B)))

    def _factor(self, mu: float) -> None:
        if self.n_shifts <= _MAX_FACTORS:
            shifted = self.gram.copy(order="F")
            shifted[np.diag_indices_from(shifted)] += mu
            try:
                self._factors[mu] = scipy.linalg.cho_factor(
                    shifted, lower=True, overwrite_a=True, check_finite=False
                )
            except np.linalg.LinAlgError:
                pass  # singular without a shift: the pseudo-inverse will do
            else:
                return
        values, Q = scipy.linalg.eigh(self.gram, check_finite=False)
        self._eigen[:] = [np.maximum(values, 0.0), Q]


@dataclass(frozen=True, eq=False)
class SampledRows(Preconditioner):
    r"""The inverse of :math:`R^\top R + \mu I` for few rows R, through the matrix of the rows.

    .. math:: (R^\top R + \mu I)^{-1} = \mu^{-1} (I - R^\top (R R^\top + \mu I)^{-1} R)

    Parameters
    ----------
    rows : ndarray, shape (m, p)
        With m below p.
    n_shifts : int

    Notes
    -----
    Cost: no pass. ``2 m^2 p`` flops once and ``m^3 / 3`` for each shift; ``4 m p k`` for k columns.
    """

    rows: NDArray[Any]
    n_shifts: int = 1
    _kernel: list[Factored] = field(default_factory=list, repr=False)

    def inverse(self, V: Array, shift: Shift) -> Array:
        """Apply the inverse to a block ``(p, k)``; every shift must be positive."""
        if not self._kernel:
            products = np.asarray(self.rows @ self.rows.T, dtype=np.float64)
            self._kernel.append(Factored(products, self.n_shifts))
        B = to_host(V)
        inner = self._kernel[0].inverse(self.rows @ B, shift)
        return like(V, (B - self.rows.T @ inner) / np.asarray(shift, dtype=np.float64))
