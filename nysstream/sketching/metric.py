"""Metrics: positive definite matrices that resemble a Hessian, to be applied and inverted in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg

from nysstream.errors import InputError
from nysstream.sketching.factored import Factored

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Block = NDArray[np.float64]
    Vector = NDArray[np.float64]

#: Bytes of a factor in single precision that are multiplied in double precision at once.
_STRIP_BYTES = 8 << 20


class Metric(ABC):
    """A symmetric positive definite matrix P, in which the length of a step is measured."""

    @abstractmethod
    def inverse(self, V: Block) -> Block:
        """Apply the inverse of P to a block ``(p, k)``."""

    @abstractmethod
    def apply(self, V: Block) -> Block:
        """Apply P to a block ``(p, k)``."""

    @abstractmethod
    def main_diagonal(self) -> Vector:
        """Give the diagonal of P, (p,)."""

    @abstractmethod
    def block(self, index: NDArray[np.intp]) -> Block:
        """Give rows and columns of P at some coordinates, (a, a); ours to overwrite."""


@dataclass(frozen=True, eq=False)
class DiagonalMetric(Metric):
    """A diagonal matrix.

    Parameters
    ----------
    diagonal : ndarray, shape (p,)
        Positive.
    """

    diagonal: Vector

    def inverse(self, V: Block) -> Block:
        """Divide each row."""
        return np.asarray(V / self.diagonal[:, None])

    def apply(self, V: Block) -> Block:
        """Multiply each row."""
        return np.asarray(V * self.diagonal[:, None])

    def main_diagonal(self) -> Vector:
        """Give the diagonal."""
        return self.diagonal

    def block(self, index: NDArray[np.intp]) -> Block:
        """Give a smaller diagonal matrix."""
        return np.diag(self.diagonal[index])


@dataclass(frozen=True, eq=False)
class LowRankMetric(Metric):
    r"""The matrix :math:`F^\top F + \mathrm{diag}(d)`, inverted by way of s x s matrices (Woodbury).

    Parameters
    ----------
    factor : ndarray, shape (s, p)
        Of either precision; products are in double precision.
    diagonal : ndarray, shape (p,)
        Positive.

    Notes
    -----
    Cost: no pass. ``p s^2 + s^3 / 3`` flops once, ``4 p s k`` for k columns.
    """

    factor: Block
    diagonal: Vector
    _core: list[Any] = field(default_factory=list, repr=False)

    def inverse(self, V: Block) -> Block:
        """Apply Woodbury's identity."""
        d = self.diagonal
        if not self._core:
            core = np.eye(len(self.factor))
            for at, F in self._strips():
                core += (F / d[at]) @ F.T
            self._core.append(scipy.linalg.cho_factor(core, lower=True, overwrite_a=True, check_finite=False))
        scaled = V / d[:, None]
        inside = scipy.linalg.cho_solve(self._core[0], self._multiply(scaled), check_finite=False)
        for at, F in self._strips():
            scaled[at] -= (F.T @ inside) / d[at, None]
        return scaled

    def apply(self, V: Block) -> Block:
        """Multiply by the factor and back, and by the diagonal."""
        image, product = self._multiply(V), self.diagonal[:, None] * V
        for at, F in self._strips():
            product[at] += F.T @ image
        return np.asarray(product)

    def main_diagonal(self) -> Vector:
        """Add the squares of the factor's columns."""
        squares = np.einsum("ij,ij->j", self.factor, self.factor, dtype=np.float64)
        return np.asarray(squares + self.diagonal)

    def block(self, index: NDArray[np.intp]) -> Block:
        """Multiply columns of the factor."""
        F = self.factor[:, index].astype(np.float64)
        return np.asarray(F.T @ F + np.diag(self.diagonal[index]))

    def _multiply(self, V: Block) -> Block:
        image = np.zeros((len(self.factor), V.shape[1]))
        for at, F in self._strips():
            image += F @ V[at]
        return image

    def _strips(self) -> Iterator[tuple[slice, Block]]:
        """Give the factor in double precision: at once if it is, else a few columns at a time."""
        s, p = self.factor.shape
        width = max(1, p if self.factor.dtype == np.float64 else _STRIP_BYTES // (8 * max(1, s)))
        for a in range(0, p, width):
            at = slice(a, min(a + width, p))
            yield at, self.factor[:, at].astype(np.float64, copy=False)


@dataclass(frozen=True, eq=False)
class DenseMetric(Metric):
    """A matrix in memory plus a multiple of the identity, with its Cholesky factor beside it.

    Parameters
    ----------
    matrix : Factored
    shift : float
        Positive.
    """

    matrix: Factored
    shift: float

    def inverse(self, V: Block) -> Block:
        """Solve with the factor, in its precision."""
        return np.asarray(self.matrix.inverse(V, self.shift))

    def apply(self, V: Block) -> Block:
        """Multiply by the matrix and the shift."""
        return self.matrix.apply(V, self.shift)

    def main_diagonal(self) -> Vector:
        """Give the matrix's and the shift."""
        return self.matrix.diagonal() + self.shift

    def block(self, index: NDArray[np.intp]) -> Block:
        """Copy from the matrix."""
        return self.matrix.block(index, self.shift)


@dataclass(frozen=True, eq=False)
class ColumnMetrics(Metric):
    """Metrics of the columns of a block.

    Parameters
    ----------
    parts : sequence of Metric
    of : ndarray of int, shape (k,)
        Number of the part of each column.
    """

    parts: Sequence[Metric]
    of: NDArray[np.intp]

    def inverse(self, V: Block) -> Block:
        """Apply to each column the inverse of its part."""
        return self._each("inverse", V)

    def apply(self, V: Block) -> Block:
        """Apply to each column its part."""
        return self._each("apply", V)

    def main_diagonal(self) -> Vector:
        """Give that of the one metric; refuse where there are several.

        Raises
        ------
        InputError
        """
        return self._one().main_diagonal()

    def block(self, index: NDArray[np.intp]) -> Block:
        """Refuse likewise."""
        return self._one().block(index)

    def _one(self) -> Metric:
        if len(self.parts) > 1:
            message = "the columns have metrics of their own: ask one of the parts"
            raise InputError(message)
        return self.parts[0]

    def _each(self, name: str, V: Block) -> Block:
        out = np.empty(V.shape)
        for number, part in enumerate(self.parts):
            columns = np.flatnonzero(self.of == number)
            out[:, columns] = getattr(part, name)(V[:, columns])
        return out
