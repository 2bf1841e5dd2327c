"""Preconditioners that factor an approximation of the whole matrix, or of sampled rows of it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg

from nysstream.arrays import like, to_host
from nysstream.errors import SolverError
from nysstream.sketching.preconditioner import Preconditioner

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.sketching.preconditioner import Array, Shift

#: Shifts up to this many are factored one by one; more share one eigendecomposition.
MAX_FACTORS = 3
#: Factors by which a jitter grows until a matrix in single precision is positive definite.
_GROWTH, _ATTEMPTS = 8.0, 8
#: Columns of a triangle that are moved at once: their rows stay in the cache meanwhile.
_STRIP = 256


@dataclass(frozen=True, eq=False)
class Factored(Preconditioner):
    r"""The inverse of :math:`G + \mu I` for a matrix G in memory that approximates the operator.

    The matrix and its Cholesky factor for one shift share the array, a triangle each.

    Parameters
    ----------
    gram : ndarray, shape (p, p)
        Symmetric, positive semidefinite up to rounding; float32 or float64, in Fortran order. Only
        its lower triangle is read. Diagonal and upper triangle are overwritten.
    eps : float
        Relative rounding error of its entries.
    n_shifts : int
        Different shifts to expect: a few are factored one by one, many share one
        eigendecomposition.

    Notes
    -----
    Cost: no pass. ``p^3 / 3`` flops for each new shift and no memory for the first, or ``9 p^3`` once
    and twice the memory of the matrix. Where rounding has made the shifted matrix indefinite, one
    in float64 is decomposed likewise, and one in float32 gets a jitter, beginning with ``eps`` times
    its mean eigenvalue.
    """

    gram: NDArray[Any]
    eps: float = float(np.finfo(np.float64).eps)
    n_shifts: int = 1
    _diagonal: list[NDArray[Any]] = field(default_factory=list, repr=False)
    _factors: dict[float, NDArray[Any]] = field(default_factory=dict, repr=False)
    _eigen: list[Any] = field(default_factory=list, repr=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def __post_init__(self) -> None:
        if not self.gram.flags.f_contiguous:
            object.__setattr__(self, "gram", np.asfortranarray(self.gram))
        self._diagonal.append(self.gram.diagonal().copy())

    def inverse(self, V: Array, shift: Shift) -> Array:
        """Apply the inverse to a block ``(p, k)``; the pseudo-inverse where a shift is zero."""
        B = to_host(V)
        shifts = np.broadcast_to(np.asarray(shift, dtype=np.float64), (B.shape[1],))
        result = np.empty_like(B)
        for mu in np.unique(shifts):
            columns = np.flatnonzero(shifts == mu)
            result[:, columns] = self._solve(float(mu), B[:, columns])
        return like(V, result)

    def apply(self, V: NDArray[np.float64], shift: float) -> NDArray[np.float64]:
        """Multiply a block ``(p, k)`` by ``G + shift I``, with G as it was given."""
        with self._lock:
            symm = _routine(scipy.linalg.blas, "symm", self.gram)
            B = np.asfortranarray(V, dtype=self.gram.dtype)
            rest = self._diagonal[0].astype(np.float64) - self.gram.diagonal() + shift
            return np.asarray(symm(1.0, self.gram, B, lower=True) + rest[:, None] * V)

    def diagonal(self) -> NDArray[np.float64]:
        """Give the diagonal of G."""
        return self._diagonal[0].astype(np.float64)

    def block(self, index: NDArray[np.intp], shift: float) -> NDArray[np.float64]:
        """Copy rows and columns of ``G + shift I``, in float64."""
        with self._lock:
            lower = np.sort(index)
            part = np.tril(self.gram[np.ix_(lower, lower)], -1).astype(np.float64)
            part += part.T
            part[np.diag_indices_from(part)] = self.diagonal()[lower] + shift
        back = np.searchsorted(lower, index)
        return part[np.ix_(back, back)] if np.any(back[1:] < back[:-1]) else part

    def rank(self) -> int:
        """Count the eigenvalues that rounding cannot explain; costs an eigendecomposition."""
        values, _ = self._spectrum()
        return int(np.count_nonzero(values > self._floor(values)))

    def effective_dimension(self, shift: float) -> float:
        """Compute ``tr G (G + shift I)^-1``, for ``p^3`` flops at most and no memory."""
        p = self.gram.shape[0]
        with self._lock:
            own = None if self._eigen else self._factor(shift)
            if own is None:
                values = self._spectrum()[0]
                return float(np.sum(values / (values + shift)))
            # tr G (G + mu)^-1 = p - mu tr (G + mu)^-1; with G + mu = U' U the trace is |U^-1|_F^2. The
            # inverse takes the place of the factor, which the other triangle can give again.
            trtri = _routine(scipy.linalg.lapack, "trtri", own)
            del self._factors[shift]
            trtri(own, lower=False, overwrite_c=True)
            total = 0.0
            for a in range(0, p, _STRIP):
                b = min(a + _STRIP, p)
                strip = own[:b, a:b]
                total += float(np.sum(np.square(np.triu(strip, -a), dtype=np.float64)))
        return float(p - shift * total)

    def _solve(self, mu: float, B: NDArray[np.float64]) -> NDArray[np.float64]:
        factor = None
        with self._lock:
            if mu > 0 and (mu in self._factors or (not self._eigen and self.n_shifts <= MAX_FACTORS)):
                factor = self._factor(mu)
        if factor is not None:
            # In the factor's precision, which is a preconditioner's business; sizes stay in range.
            size = np.max(np.abs(B), axis=0, initial=0.0)
            size[size == 0] = 1.0
            right = np.asfortranarray(B / size, dtype=factor.dtype)
            solution = scipy.linalg.cho_solve((factor, False), right, overwrite_b=True, check_finite=False)
            return np.asarray(solution * size, dtype=B.dtype)
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

    def _unit(self) -> float:
        """Give the rounding error of a mean eigenvalue."""
        eps = max(self.eps, float(np.finfo(self.gram.dtype).eps))
        return eps * float(np.mean(self._diagonal[0], dtype=np.float64))

    def _factor(self, mu: float) -> NDArray[Any] | None:
        """Return the upper factor of ``G + mu I``; None where it has none in double precision."""
        if mu in self._factors:
            return self._factors[mu]
        single = self.gram.dtype == np.float32
        diagonal = self._diagonal[0]
        unit = max(self.eps, float(np.finfo(self.gram.dtype).eps)) * float(
            np.mean(diagonal, dtype=np.float64)
        )
        potrf = _routine(scipy.linalg.lapack, "potrf", self.gram)
        # The first factor lies beside the matrix, further ones in arrays of their own.
        target = np.empty_like(self.gram, order="F") if self._factors else self.gram
        jitter = 0.0
        for _ in range(_ATTEMPTS if single else 1):
            _lift(self.gram, target)
            target[np.diag_indices_from(target)] = diagonal.astype(np.float64) + (mu + jitter)
            _, info = potrf(target, lower=False, clean=False, overwrite_a=True)
            if info == 0 and np.isfinite(target.diagonal()).all():
                self._factors[mu] = target
                return target
            jitter = unit if jitter == 0 else _GROWTH * jitter
        if single:
            message = (
                "the sum of the sampled rows' products cannot be factored in single precision: use "
                "precision='double' or another solver"
            )
            raise SolverError(message)
        return None

    def _spectrum(self) -> list[Any]:
        with self._lock:
            if not self._eigen:
                self._factors.clear()
                self.gram[np.diag_indices_from(self.gram)] = self._diagonal[0]
                values, Q = scipy.linalg.eigh(self.gram, lower=True, check_finite=False)
                least = self._unit() if self.gram.dtype == np.float32 else 0.0
                self._eigen[:] = [np.maximum(values.astype(np.float64), least), Q]
        return self._eigen


def matrices_held(n_shifts: int, *, all_positive: bool) -> tuple[int, int]:
    """Count matrices of a :class:`Factored`: those that it keeps, and more while it decomposes."""
    if all_positive and n_shifts <= MAX_FACTORS:
        return max(1, n_shifts), 0  # the first factor lies beside the matrix
    return 2, 1  # the matrix, its eigenvectors; and what the decomposition overwrites


def _lift(source: NDArray[Any], target: NDArray[Any]) -> None:
    """Copy the lower triangle of ``source`` into the upper one of ``target``, without the diagonal."""
    p = source.shape[0]
    for a in range(0, p, _STRIP):
        b = min(a + _STRIP, p)
        target[:a, a:b] = source[a:b, :a].T
        block = target[a:b, a:b]
        # No arithmetic: what lies below the diagonal of a new array may be anything.
        upper = np.tri(b - a, k=-1, dtype=np.bool_).T
        block[...] = np.where(upper, source[a:b, a:b].T, block)


@dataclass(frozen=True, eq=False)
class SampledRows(Preconditioner):
    r"""The inverse of :math:`R^\top R + \mu I` for few rows R, through the matrix of the rows.

    .. math:: (R^\top R + \mu I)^{-1} = \mu^{-1} (I - R^\top (R R^\top + \mu I)^{-1} R)

    Parameters
    ----------
    rows : ndarray, shape (m, p)
        With m below p; C-ordered.
    n_shifts : int

    Notes
    -----
    Cost: no pass. ``m^2 p`` flops once and ``m^3 / 3`` for each shift; ``4 m p k`` for k columns. Memory:
    ``m^2`` numbers beside the rows, in their dtype.
    """

    rows: NDArray[Any]
    n_shifts: int = 1
    _kernel: list[Factored] = field(default_factory=list, repr=False)

    def inverse(self, V: Array, shift: Shift) -> Array:
        """Apply the inverse to a block ``(p, k)``; every shift must be positive."""
        if not self._kernel:
            # R' is in Fortran order, and need not be copied.
            syrk = _routine(scipy.linalg.blas, "syrk", self.rows)
            products = syrk(1.0, self.rows.T, trans=True, lower=True)
            self._kernel.append(Factored(products, float(np.finfo(products.dtype).eps), self.n_shifts))
        B = to_host(V)
        inner = self._kernel[0].inverse(self.rows @ B.astype(self.rows.dtype), shift)
        return like(V, (B - self.rows.T @ inner) / np.asarray(shift, dtype=np.float64))


def add_squares(gram: NDArray[Any], rows: NDArray[Any]) -> None:
    """Add ``rows' rows`` to the lower triangle of ``gram``, in place and on all cores.

    Parameters
    ----------
    gram : ndarray, shape (p, p)
        In Fortran order.
    rows : ndarray, shape (m, p)
        Of the same dtype, C-ordered.
    """
    syrk = _routine(scipy.linalg.blas, "syrk", gram)
    syrk(1.0, rows.T, beta=1.0, c=gram, lower=True, overwrite_c=True)


def _routine(library: Any, name: str, array: NDArray[Any]) -> Any:
    """Choose the routine of a library for the precision of an array."""
    return getattr(library, ("s" if array.dtype == np.float32 else "d") + name)
