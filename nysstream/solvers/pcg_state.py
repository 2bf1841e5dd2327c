"""The state of block PCG."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.solvers.columns import put, take

if TYPE_CHECKING:
    from numpy.typing import NDArray

Array = Any  # any array of the Python array API standard

# Fate of a column, from best to worst.
ACTIVE, CONVERGED, STALLED, BREAKDOWN = range(4)


@dataclass(frozen=True, eq=False)
class PCGState:
    """Where a solve of k systems stands, a of them unfinished.

    Attributes
    ----------
    best : array, shape (p, k)
        The verified iterate of smallest true residual in each column; the start before any.
    best_norm, rhs_norm : ndarray, shape (k,)
        Norms of those residuals (infinite before any), and of the right-hand sides.
    fate : ndarray of int, shape (k,)
        Active, converged, stalled or broken down.
    iterations : ndarray of int, shape (k,)
    columns : ndarray of int, shape (a,)
        Positions of the unfinished columns among the k; the fields below hold only these.
    iterate, residual, direction : array, shape (p, a)
        The residual follows from the recursion.
    rho : ndarray, shape (a,)
        Inner products of residual and preconditioned residual.
    norm : ndarray, shape (a,)
        Norms of the residuals, the true ones where they are known.
    restart_norm : ndarray, shape (a,)
        Norms of the true residuals at the last restart, infinite before the first.
    parked : ndarray of bool, shape (a,)
        Columns that claim convergence, or lost their way, and rest until their true residuals
        are known.
    fresh : ndarray of bool, shape (a,)
        Columns whose true residual at ``iterate`` is known.
    since_check : int
        Steps since all true residuals were known.
    """

    best: Array
    best_norm: NDArray[np.float64]
    rhs_norm: NDArray[np.float64]
    fate: NDArray[np.int8]
    iterations: NDArray[np.int64]
    columns: NDArray[np.intp]
    iterate: Array
    residual: Array
    direction: Array
    rho: NDArray[np.float64]
    norm: NDArray[np.float64]
    restart_norm: NDArray[np.float64]
    parked: NDArray[np.bool_]
    fresh: NDArray[np.bool_]
    since_check: int

    def drop_finished(self) -> PCGState:
        """Compact the block to the columns still active, or failed at an unknown residual."""
        keep = np.flatnonzero((self.fate[self.columns] == ACTIVE) | ~self.fresh)
        if keep.size == self.columns.size:
            return self
        return replace(
            self,
            columns=self.columns[keep],
            iterate=take(self.iterate, keep),
            residual=take(self.residual, keep),
            direction=take(self.direction, keep),
            rho=self.rho[keep],
            norm=self.norm[keep],
            restart_norm=self.restart_norm[keep],
            parked=self.parked[keep],
            fresh=self.fresh[keep],
        )

    def assemble(self) -> Array:
        """Put the iterates of unfinished columns among the finished ones, shape (p, k)."""
        return put(self.best, self.columns, self.iterate)
