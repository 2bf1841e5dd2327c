"""Preconditioners made of sampled rows: what subsampled Hessians become in memory."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import scipy.linalg
import scipy.sparse

from nysstream.arrays import get_device
from nysstream.errors import InputError
from nysstream.sketching.factored import Factored, add_squares
from nysstream.sketching.metric import DenseMetric, DiagonalMetric, LowRankMetric, Metric
from nysstream.sketching.sketch import Sketch
from nysstream.sources import as_source
from nysstream.streaming.window import map_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from nysstream.streaming import DesignMatrix

    Block = NDArray[np.float64]
    Vector = NDArray[np.float64]

Kind = Literal["newton", "nystrom", "columns", "rows", "diagonal", "identity"]
KINDS = ("newton", "nystrom", "columns", "rows", "diagonal", "identity")
#: Entries in each column, or row, of a sparse map.
_SPARSITY = 8
#: Bytes of dense rows that are multiplied at once, and the fewest rows.
_CHUNK_BYTES, _CHUNK_ROWS = 32 << 20, 16
#: Damping is at least this part of the mean eigenvalue: below are the rounding errors.
_FLOOR = {4: 1e-6, 8: 1e-12}
#: Rank where it is left open, and damping in mean eigenvalues where the spectrum is not looked at.
_RANK, _DAMPING = 256, 1e-2


def chunk_needs(row_bytes: int) -> int:
    """Count the bytes of sampled rows while they are multiplied: as read, as mapped, and as weighted."""
    return 3 * max(_CHUNK_BYTES, _CHUNK_ROWS * row_bytes)


@dataclass(frozen=True, eq=False)
class SampledRows:
    r"""Sampled rows of a centred and scaled design, with a column of ones for the intercept.

    Parameters
    ----------
    design : DesignMatrix
        Of the rows, in memory; they are mapped as they are needed.
    intercept : bool
        Whether the column of ones is there: :math:`p' = p + 1`.
    """

    design: DesignMatrix
    intercept: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, and columns with that of ones."""
        m, p = self.design.shape
        return m, p + self.intercept

    @functools.cached_property
    def mapped(self) -> Any:
        """All rows after the feature map and less the shift; for few of them, that are multiplied often."""
        return self._map(self.design.source.read(slice(0, self.design.shape[0])))

    def part(self, rows: NDArray[np.intp]) -> SampledRows:
        """Give some of the rows."""
        d = self.design
        everything = slice(0, d.shape[0])
        sources: dict[str, Any] = {
            name: as_source(source.read(everything)[rows])
            for name in ("source", "target", "weight")
            if (source := getattr(d, name)) is not None
        }
        return SampledRows(replace(d, **sources), self.intercept)

    def _map(self, raw: Any) -> Any:
        centering = self.design.centering
        Z = map_rows(self.design, raw, get_device("cpu"))
        if centering is None or centering.shift is None:
            return Z
        return Z - centering.shift.astype(Z.dtype)

    def pieces(self) -> Iterator[tuple[slice, Any]]:
        """Give rows after the feature map and less the shift, a few at a time."""
        m, width = self.shape
        step = max(_CHUNK_ROWS, _CHUNK_BYTES // (self.design.dtype.itemsize * width))
        for a in range(0, m, step):
            rows = slice(a, min(a + step, m))
            yield rows, self._map(self.design.source.read(rows))

    def chunks(self, weight: Vector) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Give centred and scaled rows times the roots of their weights, dense and C-ordered."""
        width, p = self.shape[1], self.design.shape[1]
        centering, dtype = self.design.centering, self.design.dtype
        for rows, part in self.pieces():
            R = np.empty((part.shape[0], width), dtype)
            if hasattr(part, "tocsr"):
                # Of this width, so that they become dense in place.
                lines = part.tocsr().astype(dtype, copy=False)
                inputs = (lines.data, lines.indices, lines.indptr)
                scipy.sparse.csr_array(inputs, shape=R.shape).toarray(out=R)
            else:
                R[:, :p] = part
            R[:, p:] = 1
            if centering is not None:
                R[:, :p] -= centering.rest.astype(dtype)
                R[:, :p] /= centering.scale.astype(dtype)
            R *= np.sqrt(weight[rows])[:, None].astype(dtype)
            yield rows, R

    def multiply(self, V: Block, *, keep: bool = False) -> Block:
        """Multiply rows by a block ``(p', k)``; with ``keep`` they stay mapped."""
        p, centering = self.design.shape[1], self.design.centering
        U = V[:p] if centering is None else V[:p] / centering.scale[:, None]
        U = U.astype(self.design.dtype)
        T = np.empty((self.shape[0], V.shape[1]))
        for rows, Z in [(slice(0, self.shape[0]), self.mapped)] if keep else self.pieces():
            T[rows] = Z @ U
        if centering is not None:
            T -= centering.rest @ U
        return T + V[p] if self.intercept else T

    def multiply_back(self, T: Block) -> Block:
        """Multiply the transposed rows, which stay mapped, by a block ``(m, k)``."""
        centering, total = self.design.centering, T.sum(axis=0)
        product = np.asarray(self.mapped.T @ T.astype(self.design.dtype), dtype=np.float64)
        if centering is not None:
            product = (product - np.outer(centering.rest, total)) / centering.scale[:, None]
        return np.vstack([product, total]) if self.intercept else product


@dataclass(frozen=True)
class SubsampledHessian:
    r"""How a preconditioner is made of weighted rows R: it resembles :math:`R^\top R + \mathrm{diag}(d)`.

    Parameters
    ----------
    kind : {"newton", "nystrom", "columns", "rows", "diagonal", "identity"}
        ``"newton"`` is the matrix itself, by Cholesky's factor, or by Woodbury's identity where there are so
        few rows that this takes less memory. ``"nystrom"`` is a Nyström approximation of it. ``"columns"``
        and ``"rows"`` multiply R by a sparse random map, with few entries in each column or in each row.
        ``"diagonal"`` is the diagonal, ``"identity"`` does nothing.
    rank : int, optional
        Of the approximation, at most p'; or rows of the map, best a few times p'. 256 if None.

    References
    ----------
    .. [1] Frangella, Rathore, Zhao and Udell, "PROMISE: Preconditioned stochastic optimization methods by
       incorporating scalable curvature estimates", JMLR, 2024.
    """

    kind: Kind = "newton"
    rank: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            message = f"kind={self.kind!r} is not known: use one of {', '.join(KINDS)}"
            raise InputError(message)
        if self.rank is not None and self.rank < 1:
            message = f"rank={self.rank}: give a positive number, or None"
            raise InputError(message)

    def build(
        self, rows: SampledRows, weight: Vector, diagonal: Vector, rng: np.random.Generator
    ) -> Subsampled:
        """Gather what metrics of any damping are made of.

        Parameters
        ----------
        rows : SampledRows
            m of them, with p' columns.
        weight : ndarray, shape (m,)
            Curvatures, scaled so that the sum over the sample stands for that over all rows.
        diagonal : ndarray, shape (p',)
            Added to the diagonal, such as an l2 penalty; not negative.
        rng : numpy.random.Generator

        Notes
        -----
        Cost: no pass. ``m p'^2`` flops for Newton's; ``4 m p' rank`` for a Nyström approximation. Memory:
        ``4 p'^2`` bytes at most in single precision, or ``8 p' rank``; and chunks of rows.
        """
        kept = np.flatnonzero(weight > 0).size
        m, p = rows.shape
        if self.kind == "identity":
            return Subsampled(None, np.zeros(p), 0.0, 0.0)
        rank = min(self.rank or _RANK, p if self.kind == "nystrom" else m)
        squares = np.zeros(p)
        dtype = rows.design.dtype
        if self.kind == "newton" and _as_matrix(kept, p, dtype):
            gram = np.zeros((p, p), dtype, order="F")
            for _, R in rows.chunks(weight):
                add_squares(gram, R)
            squares = gram.diagonal().astype(np.float64)
            gram[np.diag_indices(p)] += diagonal.astype(dtype)
            floor = _floor(squares + diagonal, dtype)
            start = floor if kept >= p else max(floor, _DAMPING * float(np.mean(squares)))
            return Subsampled(Factored(gram, float(np.finfo(dtype).eps)), diagonal, start, floor)
        sketched = self.kind in ("columns", "rows")
        F = np.zeros((rank, p)) if sketched else np.empty((kept if self.kind == "newton" else 0, p), dtype)
        filled = 0
        test = np.linalg.qr(rng.standard_normal((p, rank)))[0] if self.kind == "nystrom" else None
        image = None if test is None else test.astype(dtype)
        product = np.zeros((p, rank))
        sparse = _sparse_map(self.kind, rank, m, rng) if sketched else None
        for which, R in rows.chunks(weight):
            squares += np.einsum("ij,ij->j", R, R, dtype=np.float64)
            if image is not None:
                product += R.T @ (R @ image)
            elif sparse is not None:
                F += sparse[:, which] @ R
            elif self.kind == "newton":
                curved = np.flatnonzero(weight[which] > 0)
                F[filled : filled + curved.size] = R[curved]
                filled += curved.size
        floor = _floor(squares + diagonal, dtype)
        if self.kind == "diagonal":
            return Subsampled(None, squares + diagonal, floor, floor)
        if test is not None:
            nystrom = Sketch(test, product, float(np.finfo(dtype).eps)).nystrom()
            F = np.sqrt(nystrom.values)[:, None] * nystrom.vectors.T
            tail = nystrom.preconditioner().tail if rank < p else 0.0
            return Subsampled(np.ascontiguousarray(F), diagonal, max(floor, tail), floor)
        start = _DAMPING * float(np.mean(squares))
        if 0 < len(F) <= _RANK:
            few = F.astype(np.float64, copy=False)
            start = float(scipy.linalg.eigvalsh(few @ few.T)[0])
        return Subsampled(F, diagonal, max(floor, start), floor)


@dataclass(frozen=True, eq=False)
class Subsampled:
    """Everything of a preconditioner but its damping.

    Attributes
    ----------
    matrix : Factored, ndarray of shape (s, p'), or None
        The matrix; or a factor F with :math:`F^T F` the matrix; or nothing.
    diagonal : ndarray, shape (p',)
    damping : float
        What to begin with.
    floor : float
        Least sensible damping.
    """

    matrix: Any
    diagonal: Vector
    damping: float
    floor: float

    def metric(self, damping: float) -> Metric:
        """Make the metric with a multiple of the identity added."""
        if isinstance(self.matrix, Factored):
            self.matrix._factors.clear()
            return DenseMetric(self.matrix, damping)
        if self.matrix is None:
            return DiagonalMetric(self.diagonal + damping if self.floor else np.ones(self.diagonal.size))
        return LowRankMetric(self.matrix, self.diagonal + damping)


def _floor(diagonal: Vector, dtype: Any) -> float:
    mean = float(np.mean(diagonal))
    return max(_FLOOR[np.dtype(dtype).itemsize] * mean, 1e-300) if mean > 0 else 1.0


def _as_matrix(kept: int, p: int, dtype: Any) -> bool:
    """Whether the matrix takes no more memory than its rows and what Woodbury's identity inverts."""
    size = np.dtype(dtype).itemsize
    return kept >= p or (kept > _RANK and size * p * p <= size * kept * p + 8 * kept * kept)


def _sparse_map(kind: str, rank: int, m: int, rng: np.random.Generator) -> Any:
    """Draw a map of m rows to ``rank``, with a few entries in each of its columns or rows.

    With entries in each column it is a sparse sign embedding; in each row, LESS with uniform sampling.
    """
    count, of = (m, rank) if kind == "columns" else (rank, m)
    size = min(_SPARSITY, of)
    places = np.concatenate([rng.choice(of, size, replace=False) for _ in range(count)])
    lines = np.repeat(np.arange(count), size)
    scale = 1.0 / math.sqrt(size) if kind == "columns" else math.sqrt(m / (rank * size))
    values = rng.choice([-scale, scale], places.size)
    entries = (places, lines) if kind == "columns" else (lines, places)
    return scipy.sparse.csr_array((values, entries), shape=(rank, m))
