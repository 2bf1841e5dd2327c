"""Losses with kinks and an l2 penalty: the problem, and what certifies answers to it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from nysstream.errors import InputError
from nysstream.solvers.base import Solver, Status
from nysstream.solvers.columns import dots, norms
from nysstream.solvers.dual_bundle import DualBundle
from nysstream.streaming import reduce
from nysstream.streaming.rowstate import RowState

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.sketching.preconditioner import Preconditioner
    from nysstream.streaming import DesignMatrix
    from nysstream.streaming.row_steps import Costs, Multipliers, RowStep

    Vector = NDArray[np.float64]
    Block = NDArray[np.float64]

#: Passes are in double precision from this many tolerances on, or from this gap.
_NEAR, _PRECISE = 10.0, 1e-4


@dataclass(eq=False)
class KinkedProblem:
    r"""Minimise :math:`\tfrac12 \|w\|^2 + \sum_i h_i c_i \ell(\tilde x_i^\top w + b, y_i)` for every column.

    Attributes
    ----------
    design : DesignMatrix
        Centred where intercepts are wanted, which are not penalised.
    costs : Costs
    weight : float
        Sum of the rows' weights h.
    start : ndarray, shape (k,)
        First intercepts.
    unit : ndarray, shape (k,)
        Size of errors that matter, in units of the targets.
    fit_intercept : bool
    matrix : Preconditioner, optional
        Inverse of the design's Gram matrix plus a multiple of the identity, or of something larger.
    in_memory : bool
        Whether the rows' numbers are kept there, or in a scratch file.
    returned : bool
        Whether the rows' numbers come back with the sums of a pass: a journal keeps them, or other processes
        compute them.
    passes : int
        Reads made so far.
    """

    design: DesignMatrix
    costs: Costs
    weight: float
    start: Vector
    unit: Vector
    fit_intercept: bool = True
    matrix: Preconditioner | None = None
    in_memory: bool = True
    returned: bool = False
    passes: int = field(default=0)

    @property
    def sigma(self) -> Vector:
        """Give the columns' penalty parameters that go with errors of the size of the unit, (k,).

        Factors may differ by orders of magnitude, and what is too small soon grows: so their geometric mean.
        """
        factors = self.costs.factors
        logarithms = np.log(factors, out=np.zeros_like(factors), where=factors > 0)
        count = np.maximum(np.sum(factors > 0, axis=0), 1)
        return np.asarray(np.exp(logarithms.sum(axis=0) / count) / self.unit)

    def validate(self, needs: frozenset[str]) -> None:
        """Refuse a problem without a weight, or without a matrix that is needed."""
        if not (np.all(self.unit > 0) and self.weight > 0):
            message = f"unit={self.unit}, weight={self.weight}: both must be positive"
            raise InputError(message)
        if "matrix" in needs and self.matrix is None:
            message = "operator splitting needs the inverse of a Gram matrix: give matrix="
            raise InputError(message)

    def run(self, step: RowStep, *, precise: bool) -> Any:
        """Make a pass, in double precision if it is to be precise."""
        if not self.returned:
            rows = RowState((self.design.shape[0], step.n_numbers), self.in_memory)
            step = replace(step, after=rows)  # type: ignore[type-var]
        design = self.design.with_precision("double") if precise else self.design
        (sums,) = reduce(design, step, name="certify" if precise else "iterate")
        self.passes += 1
        return sums


@dataclass(frozen=True, eq=False)
class Certificate:
    """The best coefficients so far, and the best dual point.

    Attributes
    ----------
    best : ndarray, shape (p, k)
    intercept : ndarray, shape (k,)
        Of the centred design.
    objective : ndarray, shape (k,)
        Of the best.
    bundle : DualBundle
        Feasible multipliers of the last passes, as coefficients and sums of conjugates.
    precise : bool
        Whether passes, and what they certify, are in double precision.
    distance : float
        Of the last coefficients from those that belong to the multipliers, relative to their size.
    n_support : int
    """

    best: Block
    intercept: Vector
    objective: Vector
    bundle: DualBundle
    precise: bool
    distance: float = 1.0
    n_support: int = 0

    @classmethod
    def of(cls, problem: KinkedProblem) -> Certificate:
        """Begin with zeros."""
        shape = (problem.design.shape[1], problem.costs.n_columns)
        double = problem.design.dtype == np.float64
        nothing = np.full(shape[1], np.inf)
        return cls(
            np.zeros(shape), np.array(problem.start, np.float64), nothing, DualBundle.empty(*shape), double
        )

    @property
    def gap(self) -> Vector:
        """Duality gaps of the columns, (k,)."""
        return np.asarray(np.maximum(self.objective - self.bundle.value, 0.0))

    @property
    def relative_gap(self) -> Vector:
        """The gaps as shares of the objectives, (k,)."""
        known = np.isfinite(self.objective)
        # Without an error both are zero.
        start = np.where(known, 0.0, np.inf)
        return np.divide(self.gap, self.objective, out=start, where=known & (self.gap > 0))

    def add(
        self,
        W: Block,
        intercept: Vector,
        loss: Vector,
        multipliers: Multipliers,
        n_support: int,
        *,
        zero_sum: bool,
    ) -> Certificate:
        """Take in what a pass has told about coefficients and multipliers."""
        objective = 0.5 * dots(W, W) + loss
        better = objective < self.objective
        product = multipliers.product
        apart = norms(W + product) / np.maximum(np.maximum(norms(W), norms(product)), 1e-300)
        return Certificate(
            np.where(better, W, self.best),
            np.where(better, intercept, self.intercept),
            np.where(better, objective, self.objective),
            self.bundle.add(*multipliers.feasible(zero_sum=zero_sum)),
            self.precise,
            float(apart.max()),
            n_support,
        )

    def forget(self) -> Certificate:
        """Forget what was certified in single precision."""
        nothing = DualBundle.empty(*self.best.shape)
        return replace(self, objective=np.full_like(self.objective, np.inf), bundle=nothing, precise=True)


class KinkedState:
    """What the states of both methods have."""

    certificate: Certificate
    iterations: int


S = TypeVar("S", bound=KinkedState)


class KinkedSolver(Solver[KinkedProblem, S], Generic[S]):
    """What both methods do alike: when they stop, and how they certify."""

    tol: float
    max_iterations: int

    def check(self, problem: KinkedProblem, state: S) -> Status | None:
        """Stop when every column is certified in double precision, or at the iteration limit."""
        if state.certificate.precise and np.all(state.certificate.relative_gap <= self.tol):
            return Status.CONVERGED
        return Status.MAX_ITERATIONS if state.iterations >= self.max_iterations else None

    def value(self, problem: KinkedProblem, state: S) -> tuple[Block, Vector]:
        """Return the best coefficients, and intercepts of the centred design."""
        return state.certificate.best, state.certificate.intercept

    def report(self, problem: KinkedProblem, state: S) -> dict[str, Any]:
        """Measure the certificate of the worst column."""
        certificate = state.certificate
        return {
            "iterations": state.iterations,
            "objective": certificate.objective,
            "duality_gap": float(certificate.relative_gap.max()),
            "optimality": certificate.distance,
            "n_support": certificate.n_support,
        }

    def passes_ahead(self, problem: KinkedProblem, state: S) -> int:
        """Count one pass, and one more that certifies in double precision."""
        return 1 + self.passes_to_finish(problem, state)

    def passes_to_finish(self, problem: KinkedProblem, state: S) -> int:
        """Count the pass that certifies in double precision, where the last one was not."""
        return 0 if state.certificate.precise and state.iterations else 1

    def must_be_precise(self, certificate: Certificate) -> bool:
        """Whether it is time for passes in double precision."""
        return not certificate.precise and certificate.relative_gap.max() <= max(_NEAR * self.tol, _PRECISE)
