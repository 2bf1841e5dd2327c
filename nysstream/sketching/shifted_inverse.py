"""The exact inverse of a matrix in memory, for one shift at a time."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg
import scipy.sparse

from nysstream.arrays import like, to_host
from nysstream.errors import SolverError
from nysstream.sketching.preconditioner import Preconditioner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nysstream.sketching.preconditioner import Array, Shift


@dataclass(frozen=True, eq=False)
class ShiftedInverse(Preconditioner):
    r"""The inverse of :math:`G + \rho I`, formed once for each new :math:`\rho` and kept until the next.

    Meant for methods that apply one inverse hundreds of times: a product with it costs half of two
    triangular solves, and runs on all cores.

    Parameters
    ----------
    matrix : ndarray, shape (p, p)
        Symmetric, positive semidefinite up to rounding. Not overwritten.
    link : ndarray or scipy.sparse.csr_array, shape (m, p), optional
        M, where :math:`M^\top M` takes the place of the identity.

    Notes
    -----
    Cost: no pass. ``p^3`` flops for each new shift, ``m p^2`` more with a dense link, ``2 p^2 k`` for k
    columns; ``8 p^2`` bytes more than the matrix.
    """

    matrix: NDArray[np.float64]
    link: Any = None
    _held: dict[str, Any] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def inverse(self, V: Array, shift: Shift) -> Array:
        """Apply the inverse to a block ``(p, k)``; one shift, positive, for all columns.

        Raises
        ------
        SolverError
            If the shifted matrix is not positive definite.
        """
        shifts = np.unique(np.asarray(shift, dtype=np.float64))
        if shifts.size != 1:
            message = f"{shifts.size} different shifts: one inverse is held at a time; give one shift"
            raise SolverError(message)
        with self._lock:
            if self._held.get("shift") != shifts[0]:
                self._held.clear()  # freed before the next is made
                self._held.update(shift=shifts[0], inverse=self._invert(float(shifts[0])))
            inverse = self._held["inverse"]
        return like(V, inverse @ to_host(V))

    def against(self, link: Any) -> ShiftedInverse:
        r"""Shift by multiples of :math:`M^\top M` instead."""
        return replace(self, link=link, _held={}, _lock=threading.Lock())

    def _invert(self, shift: float) -> NDArray[np.float64]:
        mean = float(np.mean(np.diagonal(self.matrix))) if self.matrix.size else 0.0
        for jitter in (0.0, 1e-9 * mean, 1e-6 * mean):  # rounding of float32 sums may outweigh the shift
            work = np.array(self.matrix, dtype=np.float64, order="F")
            work[np.diag_indices_from(work)] += jitter if self.link is not None else shift + jitter
            if self.link is not None:
                work = _with_squares(work, self.link, shift)
            factor, info = scipy.linalg.lapack.dpotrf(work, lower=True, overwrite_a=True)
            if info == 0:
                inverse, _ = scipy.linalg.lapack.dpotri(factor, lower=True, overwrite_c=True)
                return _symmetric(inverse)
        message = (
            f"the matrix is not positive definite even with a shift of {shift:.1e}: check that it is a sum "
            "of squares"
        )
        raise SolverError(message)


@dataclass(frozen=True, eq=False)
class BlockDiagonal(Preconditioner):
    """Preconditioners of consecutive coordinates, side by side.

    Parameters
    ----------
    parts : sequence of Preconditioner
    sizes : sequence of int
        Coordinates of each.
    """

    parts: Sequence[Preconditioner]
    sizes: Sequence[int]

    def inverse(self, V: Array, shift: Shift) -> Array:
        """Apply each part to its rows of a block."""
        B = to_host(V)
        result, first = np.empty_like(B), 0
        for part, size in zip(self.parts, self.sizes, strict=True):
            rows = slice(first, first + size)
            result[rows] = part.inverse(B[rows], shift)
            first += size
        return like(V, result)


def _with_squares(work: NDArray[np.float64], link: Any, shift: float) -> NDArray[np.float64]:
    """Add multiples of the products of a matrix's columns to the lower triangle of another, in place."""
    if isinstance(link, scipy.sparse.csr_array):
        products = (link.T @ link).tocoo()
        work[products.row, products.col] += shift * products.data
        return work
    added: Any = scipy.linalg.blas.dsyrk(shift, link, beta=1.0, c=work, trans=1, lower=1, overwrite_c=1)
    return np.asarray(added)


def _symmetric(lower: NDArray[np.float64]) -> NDArray[np.float64]:
    """Copy the lower triangle over the upper one, in place, a few columns at a time."""
    p = lower.shape[0]
    for a in range(0, p, 512):
        b = min(a + 512, p)
        lower[a:b, b:] = lower[b:, a:b].T
        block = lower[a:b, a:b]
        block[...] = np.tril(block) + np.tril(block, -1).T
    return lower
