"""Quadratic functions plus a regularizer: the problem that every composite solver reduces to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.errors import InputError
from nysstream.operators import LinearOperator
from nysstream.sketching.preconditioner import Preconditioner
from nysstream.solvers.columns import dots

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.regularizers import Regularizer

    Vector = NDArray[np.float64]  # shape (k,): one number per column
    Block = NDArray[np.float64]  # shape (p, k)

#: Objectives that differ by less than this fraction are the same, up to rounding.
_NOISE = 1e-13


@dataclass(frozen=True, eq=False)
class CompositeQuadratic:
    r"""Minimise :math:`\tfrac12 w_j^\top A w_j - b_j^\top w_j + c_j + r_j(w_j)` for every column j.

    Attributes
    ----------
    operator : LinearOperator, shape (p, p)
        A, declared psd.
    rhs : ndarray, shape (p, k)
    constant : ndarray, shape (k,)
        :math:`c_j`. For least squares half the sum of squares of the targets: then the columns have a
        duality gap.
    regularizer : Regularizer
        r; its strengths are one for all columns, or one per column.
    preconditioner : Preconditioner, optional
        Of ``A + shift I`` for any shift.
    exact : bool
        Whether the preconditioner is the inverse itself, so that no product with A is needed.
    least_squares : bool
        Whether the quadratic is :math:`\tfrac12\|X w - y\|^2`, so that it has a dual.
    scale : ndarray, shape (k,), optional
        What distances from optimality are divided by; by default the largest entries of ``rhs``, the
        gradient at zero.
    diagonal : float, optional
        About the mean of A's diagonal.
    origin, there : ndarray, shape (p, k), optional
        A point and its product. Points are multiplied by way of their distance from it, so that what
        rounding does to products vanishes as they come near.
    """

    operator: LinearOperator
    rhs: Block
    constant: Vector
    regularizer: Regularizer
    preconditioner: Preconditioner | None = None
    exact: bool = False
    least_squares: bool = True
    scale: Vector | None = None
    diagonal: float | None = None
    origin: Block | None = None
    there: Block | None = None

    @property
    def passes(self) -> int:
        """Reads of the data made so far by the operator."""
        return self.operator.passes

    def validate(self, needs: frozenset[str]) -> None:
        """Check shapes and values, and that the operator is declared psd."""
        p = self.operator.shape[0]
        if self.operator.shape != (p, p) or not self.operator.psd:
            message = (
                f"the operator has shape {self.operator.shape} and psd={self.operator.psd}: a convex "
                "quadratic needs a square one that declares psd, as in as_operator(A, psd=True)"
            )
            raise InputError(message)
        if self.rhs.ndim != 2 or self.rhs.shape[0] != p or self.rhs.shape[1] == 0:
            message = f"rhs has shape {self.rhs.shape}: it needs ({p}, k), one column per problem"
            raise InputError(message)
        if self.constant.shape != (self.rhs.shape[1],):
            message = f"constant has shape {self.constant.shape}: it needs one number per column of rhs"
            raise InputError(message)
        if not (np.isfinite(self.rhs).all() and np.isfinite(self.constant).all()):
            message = "rhs or constant holds NaN or infinity: clean the data first"
            raise InputError(message)
        if self.exact and self.preconditioner is None:
            message = "exact=True says that the preconditioner is the inverse, and there is none: give one"
            raise InputError(message)

    def multiply(self, points: list[Block], directions: list[Block] | None = None) -> list[Block]:
        """Multiply directions, and points, with A; the products come in that order, for one pass."""
        away = points if self.origin is None else [point - self.origin for point in points]
        if not directions and self.there is not None and not any(point.any() for point in away):
            return [self.there for _ in points]
        blocks = [*(directions or []), *away]
        product = self.operator.matmat(np.hstack(blocks))
        found = np.split(product, np.cumsum([block.shape[1] for block in blocks])[:-1], axis=1)
        first = len(blocks) - len(points)
        return found[:first] + [part if self.there is None else part + self.there for part in found[first:]]

    def certify(self, W: Block, product: Block) -> Certified:
        """Measure how good iterates are, given their products ``A W``; no pass."""
        loss = 0.5 * dots(W, product) - dots(self.rhs, W) + self.constant
        gradient = product - self.rhs
        squares = np.maximum(2 * loss, 0.0) if self.least_squares else None
        inner = dots(self.rhs, W) - 2 * self.constant
        scale = np.abs(self.rhs).max(axis=0) if self.scale is None else self.scale
        scale = np.where(scale > 0, scale, 1.0)
        return certify(self.regularizer, W, loss, gradient, squares, inner, scale)


@dataclass(frozen=True, eq=False)
class Certified:
    """How good iterates are.

    Attributes
    ----------
    objective : ndarray, shape (k,)
    bound : ndarray, shape (k,)
        Lower bounds on the minima; minus infinity where there is none.
    optimality : ndarray, shape (k,)
        Distance of the negative gradient from the subdifferential, relative to the gradient at zero; or the
        violation of constraints, if that is larger.
    violation : ndarray, shape (k,)
        Of constraints on linear combinations, relative to their size. Where there is one, objectives are
        those of points nearby, and cannot be compared.
    """

    objective: Vector
    bound: Vector
    optimality: Vector
    violation: Vector = field(default_factory=lambda: np.zeros(1))

    @property
    def relative_gap(self) -> Vector:
        """How far the objectives are from their bounds, relative to the objectives, shape (k,)."""
        gap = np.maximum(self.objective - np.where(self.violation > 0, -np.inf, self.bound), 0.0)
        size = np.abs(self.objective)
        return np.divide(gap, size, out=np.where(gap > 0, np.inf, 0.0), where=size > 0)

    @property
    def measure(self) -> Vector:
        """What tolerances are about, shape (k,): relative gaps, or distances from optimality without one."""
        known = np.isfinite(self.bound) & (self.violation == 0)
        return np.where(known, self.relative_gap, self.optimality)

    def record(self) -> dict[str, Any]:
        """Describe the worst column, for histories; no gap where some column has none."""
        gap = self.relative_gap
        return {
            "objective": self.objective,
            "duality_gap": float(gap.max()) if np.isfinite(gap).all() else None,
            "optimality": float(self.optimality.max()),
        }

    def merge(self, found: Certified) -> tuple[NDArray[np.bool_], Certified]:
        """Choose the better iterate for each column, and the higher bound, whose ever it was.

        Returns
        -------
        better : ndarray of bool, shape (k,)
            Where ``found`` has the lower objective; or one that rounding cannot tell apart, or that cannot
            be compared, and is nearer to optimality.
        merged : Certified
        """
        noise = _NOISE * np.abs(self.objective)
        with np.errstate(invalid="ignore"):
            lower = found.objective < self.objective - noise
            same = np.abs(found.objective - self.objective) <= noise
        nearer = found.optimality < self.optimality
        obeyed = (self.violation == 0) & (found.violation == 0)
        better = np.where(obeyed, lower | (same & nearer), nearer)
        return better, Certified(
            np.where(better, found.objective, self.objective),
            np.where(np.isfinite(found.bound), np.fmax(found.bound, self.bound), found.bound),
            np.where(better, found.optimality, self.optimality),
            np.where(better, found.violation, self.violation),
        )

    def improves_on(self, old: Certified) -> bool:
        """Whether some column has come closer, by more than rounding, to a certificate."""
        return bool(
            np.any(
                (self.measure < 0.9 * old.measure)
                | (self.objective < old.objective - 1e-9 * np.abs(old.objective))
            )
        )


def certify(
    regularizer: Regularizer,
    W: Block,
    loss: Vector,
    gradient: Block,
    squares: Vector | None,
    inner: Vector,
    scale: Vector,
) -> Certified:
    r"""Bound the suboptimality of least squares iterates by Fenchel's duality.

    Parameters
    ----------
    regularizer : Regularizer
    W : ndarray, shape (p, k)
    loss : ndarray, shape (k,)
        Half the sums of squared residuals :math:`r_j = X w_j - y_j`.
    gradient : ndarray, shape (p, k)
        :math:`X^\top r_j`.
    squares : ndarray, shape (k,), or None
        :math:`\|r_j\|^2`; None for a quadratic that has no dual of this kind.
    inner : ndarray, shape (k,)
        :math:`y_j^\top r_j`.
    scale : ndarray, shape (k,)
        What distances from optimality are divided by.

    Notes
    -----
    Dual points are multiples :math:`s r_j`, with the best s for which the regularizer's conjugate is
    finite: :math:`D(s) = -\tfrac12 s^2 \|r\|^2 - s\, y^\top r - r^*(-s X^\top r)`.
    """
    objective = loss + regularizer.value(W)
    violation = regularizer.violation(W)
    optimality = np.maximum(regularizer.distance(W, gradient) / scale, violation)
    if squares is None:
        return Certified(objective, np.full(loss.shape, -np.inf), optimality, violation)
    most = regularizer.dual_scale(-gradient)
    with np.errstate(invalid="ignore"):
        best = np.divide(-inner, squares, out=np.zeros_like(inner), where=squares > 0)
    bound = np.full(loss.shape, -np.inf)
    for s in (most, np.clip(best, 0.0, most)):
        dual = -0.5 * s**2 * squares - s * inner - regularizer.conjugate(-s * gradient)
        bound = np.fmax(bound, dual)
    # No multiple of the residual helps: the trivial bound is no certificate.
    bound = np.where((most <= 0) & (np.abs(gradient).max(axis=0) > 0), -np.inf, bound)
    return Certified(objective, bound, optimality, violation)
