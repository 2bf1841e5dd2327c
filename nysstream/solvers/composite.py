"""Smooth losses plus a regularizer, seen as what one pass can tell about them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np

from nysstream.errors import InputError
from nysstream.solvers.quadratic import Certified, certify
from nysstream.streaming.loss_kernels import SHRUNK

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from nysstream.operators import LinearOperator
    from nysstream.regularizers import Regularizer
    from nysstream.sketching.preconditioner import Preconditioner
    from nysstream.solvers.quadratic import Block, Vector

#: Coefficients of each column that are to move; None for all.
Movable: TypeAlias = "tuple[NDArray[np.intp], ...] | None"


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What one pass tells about the loss at given coefficients.

    Attributes
    ----------
    loss : ndarray, shape (k,)
        Weighted sums over the rows.
    gradient : ndarray, shape (p, k)
    slope : ndarray, shape (k,)
        Derivatives with respect to the intercepts; zeros where there are none.
    curvature : ndarray, shape (k,)
        Second derivatives with respect to the intercepts.
    cross : ndarray, shape (p, k)
        Mixed second derivatives of coefficients and intercepts.
    move : ndarray, shape (k,)
        Sums of what each slope may move by within the domain of the conjugate.
    toward : ndarray, shape (p, k)
        Products of the moves with the rows.
    conjugate : ndarray, shape (1 + 3 m, k)
        Sums of the losses' conjugates at multiples of the slopes, as in
        :class:`nysstream.streaming.LossValues`; infinite where there are none. For least
        squares: sums of squares of the residuals, and their inner products with the targets.
    model : callable
        Makes the curvature in the coefficients, the intercepts eliminated: one for all columns, or one for
        each. Given are the coefficients of each column that are to move, or None for all; what it gives
        may be for more.
    precise : bool
        Whether it was computed in double precision from the rows.
    """

    loss: Vector
    gradient: Block
    slope: Vector
    curvature: Vector
    cross: Block
    move: Vector
    toward: Block
    conjugate: NDArray[np.float64]
    model: Callable[[Movable], tuple[Curvature, ...]]
    precise: bool = True

    def eliminate(self) -> Block:
        """Give the gradient of the loss minimised over the intercepts, to second order."""
        share = np.divide(self.slope, self.curvature, out=np.zeros_like(self.slope), where=self.curvature > 0)
        return self.gradient - self.cross * share


@dataclass(frozen=True, eq=False)
class Curvature:
    """A quadratic model's matrix, and how to invert it with a shift.

    Attributes
    ----------
    operator : LinearOperator, shape (p, p)
    preconditioner : Preconditioner, optional
    exact : bool
        Whether the preconditioner is the inverse.
    stacked : bool
        Whether the operator is on all columns stacked, each with its intercept as one more coordinate.
    diagonal : float, optional
        About the mean of the operator's diagonal: the size of a penalty parameter.
    there : ndarray, shape (p, 1), optional
        Product of the operator with the coefficients at which it was made, where the same pass gave it.
    movable : ndarray of int, optional
        Coefficients that the operator is of; the others stay. None for all.
    """

    operator: LinearOperator
    preconditioner: Preconditioner | None = None
    exact: bool = False
    stacked: bool = False
    diagonal: float | None = None
    there: Block | None = None
    movable: NDArray[np.intp] | None = None


class Smooth(Protocol):
    """A loss over the rows as a function of coefficients (p, k) and intercepts (k,)."""

    shape: tuple[int, int]
    intercept: bool
    least_squares: bool
    coupled: bool
    in_memory: bool

    def n_movable(self, support: int) -> int | None:
        """Count the coefficients that a model should move, given how many are not zero; None for all."""
        return None

    @property
    def passes(self) -> int:
        """Reads of the data made so far."""

    def evaluate(self, W: Block, intercept: Vector, *, precise: bool = True) -> Evaluation:
        """Evaluate loss, gradient and model in one pass; in double precision if asked to be precise."""


@dataclass(frozen=True, eq=False)
class Composite:
    r"""Minimise :math:`f_j(w_j, b_j) + r_j(w_j)` for every column j, the intercepts unpenalised.

    Attributes
    ----------
    smooth : Smooth
    regularizer : Regularizer
    scale : ndarray, shape (k,)
        What distances from optimality are divided by: the gradient at zero coefficients.
    """

    smooth: Smooth
    regularizer: Regularizer
    scale: Vector = field(default_factory=lambda: np.ones(1))

    @property
    def passes(self) -> int:
        """Reads of the data made so far."""
        return self.smooth.passes

    def validate(self, needs: frozenset[str]) -> None:
        """Refuse a start that nothing can be measured from."""
        if np.any(self.scale <= 0) or not np.isfinite(self.scale).all():
            message = f"scale={self.scale}: the scales of optimality must be positive and finite"
            raise InputError(message)

    def objective(self, W: Block, loss: Vector) -> Vector:
        """Add the regularizer to losses at the same coefficients."""
        return loss + self._over_columns(self.regularizer.value(W), np.sum)

    def floor(self, at: Evaluation) -> Vector:
        """Give what no objective is below: every row's least loss, and the regularizer's least value."""
        least = self.regularizer.conjugate(np.zeros_like(at.gradient))
        return np.asarray(-at.conjugate[0] - self._over_columns(least, np.sum))

    def certify(self, W: Block, at: Evaluation) -> Certified:
        """Measure how good coefficients are, by what a pass told about them."""
        if self.smooth.least_squares:
            # The conjugates hold half the squares and the products of targets and residuals.
            squares, inner = at.conjugate[:2]
            return certify(self.regularizer, W, at.loss, at.gradient, squares, inner, self.scale)
        objective = self.objective(W, at.loss)
        optimality = np.maximum(self.regularizer.distance(W, at.gradient), np.abs(at.slope)) / self.scale
        violation = self.regularizer.violation(W)
        optimality = np.maximum(self._over_columns(optimality, np.max), violation)
        return Certified(objective, self._dual(at), optimality, violation)

    def _over_columns(self, values: Vector, function: Callable[..., float]) -> Vector:
        """Reduce over the columns where the loss couples them, and give each the result."""
        return np.full_like(values, function(values)) if self.smooth.coupled else values

    def _dual(self, at: Evaluation) -> Vector:
        r"""Give the dual objective at the slopes, made feasible, from below.

        Slopes :math:`\theta` change by a multiple :math:`\delta` of their moves, so that they sum to zero
        as the intercept demands, and shrink by s until the regularizer's conjugate is finite. Conjugates
        are convex, so that their sums at the point reached lie below the chords of those that the pass took.
        """
        delta = np.zeros_like(at.slope)
        if self.smooth.intercept:
            delta = np.divide(at.slope, at.move, out=np.full_like(at.slope, np.inf), where=at.move > 0)
            delta = np.where(at.slope == 0, 0.0, delta)
        usable = np.abs(delta) <= 1
        share = np.where(usable, delta, 0.0)
        with np.errstate(invalid="ignore"):
            gradient = at.gradient - at.toward * share
            s = self._over_columns(self.regularizer.dual_scale(-gradient), np.min)
            # Along the chords of the moves at every multiple that was summed, then of the multiples.
            here, less, more = np.moveaxis(at.conjugate[1:].reshape(len(SHRUNK), 3, -1), 1, 0)
            beyond = np.where(share > 0, less, more)
            moved = np.where(share == 0, here, (1 - np.abs(share)) * here + np.abs(share) * beyond)
            sums = np.vstack([at.conjugate[:1], moved])
            shrunk = np.array([np.interp(x, (0.0, *SHRUNK), y) for x, y in zip(s, sums.T, strict=True)])
            dual = -shrunk - self._over_columns(self.regularizer.conjugate(-s * gradient), np.sum)
            dual = np.where(usable & np.isfinite(dual) & (s > 0), dual, -np.inf)
        return self._over_columns(dual, np.min)
