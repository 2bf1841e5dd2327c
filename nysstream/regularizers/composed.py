"""Regularizers of linear combinations of the coefficients."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.optimize
import scipy.sparse

from nysstream.errors import InputError
from nysstream.regularizers.base import Regularizer, Step
from nysstream.regularizers.nearest import Nearest
from nysstream.regularizers.separable import Separable
from nysstream.regularizers.settings import numbers, pick, refuse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.regularizers.base import Block, Vector

#: A step for which a proximal operator is a projection onto where the regularizer is finite.
_TINY = 1e-12
#: What dual points are shrunk by, so that rounding of their equations does not make conjugates infinite.
_MARGIN = 1e-10


@dataclass(frozen=True, eq=False)
class Composed(Regularizer):
    r"""The regularizer :math:`r(M w - c)`.

    Total variation, trend filtering, differences between coefficients, and several linear inequalities are
    of this kind.

    Parameters
    ----------
    regularizer : Regularizer
        r, of m numbers.
    matrix : array-like or sparse array, shape (m, p)
        M.
    offset : float or array-like, shape (m,), default 0
        c.
    multiplier : ndarray, shape (m, k), optional
        A guess at subgradients y of r where w is best, so that gradients there are :math:`-M^\top y`. The
        better it is, the closer are bounds and distances; solvers find it.

    Notes
    -----
    It has no proximal operator of its own. Solvers take that of r, at :math:`M w - c` (:meth:`reach`).

    Where the rows of M are independent, coefficients are moved so that :math:`M w - c` is a point that r's
    proximal operator gave: constraints hold, and zeros are zeros, up to rounding. Elsewhere they hold up to
    :meth:`violation`.

    Where the columns of M are independent, every gradient can be written as :math:`-M^\top y`, and
    conjugates are those of r at y: bounds from below of what they would be with the best y.
    """

    regularizer: Regularizer
    matrix: Any
    offset: Any = 0.0
    multiplier: NDArray[np.float64] | None = None
    _held: dict[str, Nearest] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        matrix: Any = self.matrix
        sparse = scipy.sparse.issparse(matrix)
        if sparse:
            matrix = scipy.sparse.csr_array(matrix, dtype=np.float64)
            entries = matrix.data
        else:
            try:
                entries = matrix = np.asarray(matrix, np.float64)
            except (TypeError, ValueError):
                message = f"matrix={self.matrix!r} does not hold numbers"
                raise InputError(message) from None
        if matrix.ndim != 2 or 0 in matrix.shape:
            message = f"matrix has shape {matrix.shape}; it must be (m, p), one row per combination"
            raise InputError(message)
        if not np.isfinite(entries).all() or not entries.any():
            message = "matrix holds NaN or infinity, or nothing but zeros: check its entries"
            raise InputError(message)
        offset, m = numbers("matrix", "offset", self.offset), matrix.shape[0]
        refuse("matrix", "offset", offset.ravel(), np.isinf, "finite")
        if offset.shape not in ((), (1, 1), (m,), (m, 1)):
            message = f"offset has shape {offset.shape} for the {m} rows of matrix: give one number for each"
            raise InputError(message)
        object.__setattr__(self, "matrix", matrix)
        object.__setattr__(self, "offset", offset.reshape(-1, 1))

    # Where r acts.

    @property
    def inner(self) -> Regularizer:
        """Give r."""
        return self.regularizer

    @property
    def stretch(self) -> float:
        r"""Give the mean eigenvalue of :math:`M^\top M`."""
        return float((self.matrix**2).sum() / self.matrix.shape[1])

    def reach(self, W: Block) -> Block:
        """Give ``M W - c``, shape (m, k)."""
        return np.asarray(self.matrix @ W - self.offset)

    def back(self, V: Block) -> Block:
        """Give the transpose's product, shape (p, k)."""
        return np.asarray(self.matrix.T @ V)

    def answer(self, W: Block, Z: Block) -> Block:
        """Give the points nearest to W with ``M W - c`` equal to Z, where there are; else W."""
        nearest = self._nearest("rows")
        return nearest(W, Z + self.offset) if nearest.exists else W

    def near(self, multiplier: Block | None) -> Composed:
        """Keep another guess at subgradients."""
        return replace(self, multiplier=multiplier)

    def subgradient(self, V: Block) -> Block:
        r"""Give the subgradients y that are nearest to the guess and have :math:`M^\top y` equal to V.

        The guess itself where there may be no such.
        """
        guess = np.zeros((self.matrix.shape[0], V.shape[1])) if self.multiplier is None else self.multiplier
        nearest = self._nearest("columns")
        if not nearest.exists:
            return guess
        # Of the guess so much as goes with V, which may be a multiple of a gradient.
        now = self.back(guess)
        size = np.sum(now * now, axis=0)
        share = np.divide(np.sum(now * V, axis=0), size, out=np.zeros_like(size), where=size > 0)
        return nearest(share * guess, V)

    # What it costs.

    def value(self, W: Block) -> Vector:
        """Evaluate r at ``M w - c``; or at the nearest point where r is finite, if that is another.

        The distance of that point then counts at twice the guess at subgradients, entry by entry: where these
        are right, no point that violates constraints is better than the best of those that do not.
        """
        Z = self.reach(W)
        value = self.inner.value(Z)
        if np.isfinite(value).all():
            return value
        near = self.inner.prox(Z, _TINY)
        price = 0.0 if self.multiplier is None else 2 * np.sum(np.abs(self.multiplier * (Z - near)), axis=0)
        return np.where(np.isfinite(value), value, self.inner.value(near) + price)

    def violation(self, W: Block) -> Vector:
        """Give how far ``M w - c`` is from where r is finite, relative to its size."""
        Z = self.reach(W)
        inside = np.isfinite(self.inner.value(Z))
        if inside.all():
            return np.zeros(W.shape[1])
        near = self.inner.prox(Z, _TINY)
        size = np.maximum(np.abs(Z).max(axis=0), np.abs(near).max(axis=0)) + np.abs(self.offset).max()
        apart = np.where(inside, 0.0, np.abs(Z - near).max(axis=0) / np.where(inside, 1.0, size))
        return np.where(apart > 1e-13 * np.sqrt(len(Z)), apart, 0.0)

    def prox(self, V: Block, step: Step) -> Block:
        """Refuse: only r has a proximal operator."""
        message = (
            f"{type(self.inner).__name__} of linear combinations has no proximal operator of its own: use a "
            "solver that splits them off, which is NysADMM"
        )
        raise InputError(message)

    def distance(self, W: Block, G: Block) -> Vector:
        r"""Measure :math:`g + M^\top y`, and how far y is from a subgradient at :math:`M w - c`.

        The latter by the proximal residual, relative to the size of :math:`M w - c`.
        """
        Y = self.subgradient(-G)
        pull = self.back(Y)
        Z = self.reach(W)
        dual = np.abs(G + pull).max(axis=0)
        long, wide = np.abs(Z).max(axis=0), np.abs(Y).max(axis=0)
        step = np.where((long > 0) & (wide > 0), long / np.where(wide > 0, wide, 1.0), 1.0)
        moved = np.abs(Z - self.inner.prox(Z + step * Y, step)).max(axis=0)
        size = np.where(long > 0, long, 1.0)
        return np.asarray(np.maximum(dual, moved / size * (np.abs(G).max(axis=0) + np.abs(pull).max(axis=0))))

    def conjugate(self, V: Block) -> Vector:
        """Bound the conjugate from above by that of r; infinite where the columns of M are dependent."""
        if not self._nearest("columns").exists:
            return np.where(np.abs(V).max(axis=0) > 0, np.inf, 0.0)
        Y = self.subgradient(V)
        return np.asarray(self.inner.conjugate(Y) + np.sum(self.offset * Y, axis=0))

    def dual_scale(self, V: Block) -> Vector:
        """Ask r at the subgradients that V stands for; zero where the columns of M are dependent."""
        if not self._nearest("columns").exists:
            return np.zeros(V.shape[1])
        return self.inner.dual_scale(self.subgradient(V)) * (1.0 - _MARGIN)

    def columns(self, index: Any) -> Composed:
        """Restrict r and the guess."""
        multiplier = None if self.multiplier is None else pick(self.multiplier, index)
        return replace(self, regularizer=self.inner.columns(index), multiplier=multiplier)

    def check(self, p: int, k: int) -> None:
        """Refuse a matrix for another number of coefficients, and bounds that contradict each other.

        Parameters
        ----------
        p, k : int
            Numbers of coefficients and of columns of them.

        Raises
        ------
        InputError
        """
        m = self.matrix.shape[0]
        if self.matrix.shape[1] != p:
            message = f"matrix has {self.matrix.shape[1]} columns, and there are {p} coefficients"
            raise InputError(message)
        try:
            shape = self.inner.prox(np.zeros((m, k)), 1.0).shape
        except ValueError:
            shape = None
        if shape != (m, k):
            message = (
                f"{type(self.inner).__name__} does not go with {m} combinations of coefficients in {k} "
                "columns: its settings need one entry for each row of matrix"
            )
            raise InputError(message)
        if isinstance(self.inner, Separable) and not self._nearest("rows").exists:
            lower, upper = (np.broadcast_to(side, (m, k)) for side in (self.inner.lower, self.inner.upper))
            for j in range(k):
                self._check_bounds(lower[:, j] + self.offset[:, 0], upper[:, j] + self.offset[:, 0])

    def _check_bounds(self, lower: Vector, upper: Vector) -> None:
        above, below = np.isfinite(upper), np.isfinite(lower)
        if not (above.any() or below.any()):
            return
        stack = scipy.sparse.vstack if scipy.sparse.issparse(self.matrix) else np.vstack
        found = scipy.optimize.linprog(
            np.zeros(self.matrix.shape[1]),
            stack([self.matrix[above], -self.matrix[below]]),
            np.concatenate([upper[above], -lower[below]]),
            bounds=(None, None),
        )
        if found.status == 2:
            message = "no coefficients obey all bounds on their combinations: loosen lower, upper or offset"
            raise InputError(message)

    def _nearest(self, which: str) -> Nearest:
        if which not in self._held:
            self._held[which] = Nearest(self.matrix if which == "rows" else self.matrix.T)
        return self._held[which]
