"""Preconditioners: approximate inverses of A + shift I, for any shift, without a pass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse.linalg import LinearOperator as ScipyLinearOperator

from nysstream.arrays import like, namespace
from nysstream.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Array = Any  # any array of the Python array API standard
Shift = Any  # a number, or one number per column as an ndarray (k,)


class Preconditioner(ABC):
    """A symmetric positive definite map that resembles the inverse of ``A + shift I``.

    The shift is an argument of each application: one preconditioner serves every regularisation
    strength, and a block may hold columns of different strengths.
    """

    @abstractmethod
    def inverse(self, V: Array, shift: Shift) -> Array:
        """Apply the approximate inverse to a block.

        Parameters
        ----------
        V : array, shape (p, k)
        shift : float or ndarray, shape (k,)
            Shift of each column.

        Returns
        -------
        array, shape (p, k)
        """

    def take(self, columns: NDArray[np.intp]) -> Preconditioner:
        """Return what preconditions a block made of these columns of the original block."""
        return self

    def as_scipy(self, n: int, shift: float) -> ScipyLinearOperator[Any]:
        """View the approximate inverse on vectors of length ``n`` as SciPy's ``M`` argument."""

        def matmat(V: NDArray[Any]) -> NDArray[Any]:
            return np.asarray(self.inverse(V.reshape(n, -1), shift)).reshape(V.shape)

        return ScipyLinearOperator((n, n), matvec=matmat, rmatvec=matmat, matmat=matmat, dtype=np.float64)


@dataclass(frozen=True)
class Identity(Preconditioner):
    """No preconditioning: conjugate gradients as they are."""

    def inverse(self, V: Array, shift: Shift) -> Array:
        """Return ``V`` itself."""
        return V


@dataclass(frozen=True, eq=False)
class Diagonal(Preconditioner):
    """Jacobi's preconditioner.

    Parameters
    ----------
    diagonal : array, shape (p,)
        Diagonal of A, without the shift.
    """

    diagonal: Array

    def inverse(self, V: Array, shift: Shift) -> Array:
        """Divide each row of ``V`` by its diagonal entry plus the shift."""
        return V / (self.diagonal[:, None] + _row(self.diagonal, shift))


@dataclass(frozen=True, eq=False)
class Inverse(Preconditioner):
    """An approximate inverse supplied by the caller, as SciPy's ``M``; it does not see the shift.

    Parameters
    ----------
    matrix : LinearOperator, scipy.sparse.linalg.LinearOperator or array, shape (p, p)
        Anything that multiplies blocks by ``@``.
    """

    matrix: Any

    def inverse(self, V: Array, shift: Shift) -> Array:
        """Multiply by the supplied matrix."""
        return self.matrix @ V


@dataclass(frozen=True, eq=False)
class Columns(Preconditioner):
    """Different preconditioners for different columns of one block.

    Methods run side by side then share every pass.

    Parameters
    ----------
    parts : sequence of Preconditioner
    counts : sequence of int
        How many consecutive columns each part serves.
    """

    parts: Sequence[Preconditioner]
    counts: Sequence[int]

    def __post_init__(self) -> None:
        if len(self.parts) != len(self.counts):
            message = f"{len(self.parts)} parts but {len(self.counts)} counts: give one count per part"
            raise InputError(message)

    def inverse(self, V: Array, shift: Shift) -> Array:
        """Apply each part to its own columns."""
        if V.shape[1] != sum(self.counts):
            message = f"V has {V.shape[1]} columns, the parts serve {sum(self.counts)}: make the counts agree"
            raise InputError(message)
        shifts = np.broadcast_to(np.asarray(shift, dtype=np.float64), (V.shape[1],))
        ends = np.cumsum(self.counts).tolist()
        pieces = [
            part.inverse(V[:, end - count : end], shifts[end - count : end])
            for part, count, end in zip(self.parts, self.counts, ends, strict=True)
            if count
        ]
        return namespace(V).concat(pieces, axis=1)

    def take(self, columns: NDArray[np.intp]) -> Preconditioner:
        """Keep the parts in order, each with those of its columns that are asked for (ascending)."""
        ends = np.cumsum(self.counts)
        starts = ends - np.asarray(self.counts)
        inside = [(columns >= start) & (columns < end) for start, end in zip(starts, ends, strict=True)]
        parts = [
            part.take(columns[mask] - start)
            for part, mask, start in zip(self.parts, inside, starts, strict=True)
        ]
        return Columns(parts, [int(np.count_nonzero(mask)) for mask in inside])


@dataclass(frozen=True, eq=False)
class NystromPreconditioner(Preconditioner):
    r"""The Nyström preconditioner :math:`P` of :math:`A + \mu I`.

    .. math:: P^{-1} = (\tau + \mu)\, U (\Lambda + \mu I)^{-1} U^\top + (I - U U^\top)

    Parameters
    ----------
    vectors : array, shape (p, r)
        Orthonormal columns :math:`U`, float64.
    values : array, shape (r,)
        :math:`\Lambda`, positive and descending.
    tail : float
        The level :math:`\tau` to which the captured eigenvalues are brought down, at most the
        smallest value: the next eigenvalue of the approximation.
    floor : float
        Noise floor of the values; a tail that does not rise above it is no better than zero.

    Notes
    -----
    Cost: no pass; ``4 * p * r * k`` flops for k columns, whatever their shifts.

    References
    ----------
    .. [1] Frangella, Tropp and Udell, "Randomized Nyström Preconditioning", SIAM J. Matrix Anal.
       Appl., 2023.
    """

    vectors: Array
    values: Array
    tail: float
    floor: float = 0.0

    def inverse(self, V: Array, shift: Shift) -> Array:
        """Apply the inverse of P to a block ``(p, k)``."""
        return self._scale(V, shift, -1.0)

    def inverse_sqrt(self, V: Array, shift: Shift) -> Array:
        """Apply the symmetric inverse square root of P to a block ``(p, k)``."""
        return self._scale(V, shift, -0.5)

    def sqrt(self, V: Array, shift: Shift) -> Array:
        """Apply the symmetric square root of P to a block ``(p, k)``."""
        return self._scale(V, shift, 0.5)

    def apply(self, V: Array, shift: Shift) -> Array:
        """Apply P itself to a block ``(p, k)``."""
        return self._scale(V, shift, 1.0)

    def _scale(self, V: Array, shift: Shift, power: float) -> Array:
        """Multiply by P to a power: its eigenvalues on U are (Lambda + shift) / (tail + shift)."""
        xp = namespace(V)
        if self.values.shape[0] == 0:
            return V
        row = _row(self.values, shift)
        level = self.tail + row
        if self.tail <= self.floor:
            # Without a shift a matrix of low rank has level zero, where P is singular and amplifies
            # rounding outside the range of A. Any level is right there: take the smallest value.
            level = xp.where(row > 0, level, self.values[-1])
        weights = ((self.values[:, None] + row) / level) ** power
        coordinates = xp.matmul(self.vectors.T, V)
        return V + xp.matmul(self.vectors, (weights - 1.0) * coordinates)


def _row(x: Array, shift: Shift) -> Array:
    """Shape shifts for broadcasting over the columns of a block beside ``x``."""
    return like(x, np.asarray(shift, dtype=np.float64).reshape(1, -1))
