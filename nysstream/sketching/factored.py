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
MAX_FACTORS = 3


@dataclass(frozen=True, eq=False)
class Factored(Preconditioner):
    r"""The inverse of :math:`G + \mu I` for a matrix G in memory that approximates the operator.

    Parameters
    ----------
    gram : ndarray, shape (p, p)
        Symmetric, positive semidefinite up to rounding. Not overwritten.
    eps : float
        Relative rounding error of its entries.
    n_shifts : int
        Different shifts to expect: a few are factored one by one, many share one
        eigendecomposition.

    Notes
    -----
    Cost: no pass. ``p^3 / 3`` flops for each new shift, or ``9 p^3`` once; ``8 p^2`` bytes more than
    the matrix.
    """

    gram: NDArray[np.float64]
    eps: float = float(np.finfo(np.float64).eps)
    n_shifts: int = 1
    _factors: dict[float, Any] = field(default_factory=dict, repr=False)
    _eigen: list[Any] = field(default_factory=list, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def inverse(self, V: Array, shift: Shift) -> Array:
        """Apply the inverse to a block ``(p, k)``; the pseudo-inverse where a shift is zero."""
        B = to_host(V)
        shifts = np.broadcast_to(np.asarray(shift, dtype=np.float64), (B.shape[1],))
        result = np.empty_like(B)
        for mu in np.unique(shifts):
            columns = np.flatnonzero(shifts == mu)
            result[:, columns] = self._solve(float(mu), B[:, columns])
        return like(V, result)

    def rank(self) -> int:
        """Count the eigenvalues that rounding cannot explain; costs an eigendecomposition."""
        values, _ = self._spectrum()
        return int(np.count_nonzero(values > self._floor(values)))

    def effective_dimension(self, shift: float) -> float:
        """Compute ``tr G (G + shift I)^-1``, for ``p^3`` flops at most."""
        p = self.gram.shape[0]
        if self._eigen:
            values = self._eigen[0]
            return float(np.sum(values / (values + shift)))
        # tr G (G + mu)^-1 = p - mu tr (G + mu)^-1, and with G + mu = L L' the trace is |L^-1|_F^2.
        with self._lock:
            factor = self._factors.get(shift) or self._cholesky(shift)
        if factor is None:
            values = self._spectrum()[0]
            return float(np.sum(values / (values + shift)))
        inverse, _ = scipy.linalg.lapack.dtrtri(factor[0], lower=True)
        return float(p - shift * np.sum(np.tril(inverse) ** 2))

    def _solve(self, mu: float, B: NDArray[np.float64]) -> NDArray[np.float64]:
        with self._lock:
            if mu > 0 and mu not in self._factors and not self._eigen and self.n_shifts <= MAX_FACTORS:
                factor = self._cholesky(mu)
                if factor is not None:
                    self._factors[mu] = factor
        if mu in self._factors:
            return np.asarray(scipy.linalg.cho_solve(self._factors[mu], B, check_finite=False))
        values, Q = self._spectrum()
        if mu > 0:
            inverse = 1.0 / (values + mu)
        else:
            # In double precision, what lies below the floor is zero, and so is its share of the
            # least-norm answer. In single precision it may just be small: it must stay reachable.
            floor = self._floor(values)
            below = 0.0 if self.eps < 1e-12 or floor == 0 else 1.0 / floor
            inverse = np.divide(1.0, values, out=np.full_like(values, below), where=values > floor)
        return np.asarray(Q @ (inverse[:, None] * (Q.T @ B)))

    def _floor(self, values: NDArray[np.float64]) -> float:
        return float(values.size * self.eps * values[-1])

    def _cholesky(self, mu: float) -> Any:
        """Factor ``G + mu I``; None where rounding has made it indefinite."""
        shifted = self.gram.copy(order="F")
        shifted[np.diag_indices_from(shifted)] += mu
        try:
            return scipy.linalg.cho_factor(shifted, lower=True, overwrite_a=True, check_finite=False)
        except np.linalg.LinAlgError:
            return None

    def _spectrum(self) -> list[Any]:
        with self._lock:
            if not self._eigen:
                values, Q = scipy.linalg.eigh(self.gram, check_finite=False)
                self._eigen[:] = [np.maximum(values, 0.0), Q]
        return self._eigen


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
            self._kernel.append(Factored(products, n_shifts=self.n_shifts))
        B = to_host(V)
        inner = self._kernel[0].inverse(self.rows @ B, shift)
        return like(V, (B - self.rows.T @ inner) / np.asarray(shift, dtype=np.float64))
