"""Losses over a design as composite solvers see them: one pass for everything at given coefficients."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from nysstream.estimators.composite_plan import pass_flops
from nysstream.estimators.sampled_hessians import Sample, SampledHessians, in_memory
from nysstream.journal import unrecorded
from nysstream.operators import LinearOperator
from nysstream.operators.hessian import CoupledHessian, HessianOperator
from nysstream.sketching.nystrom import Sketch
from nysstream.sketching.shifted_inverse import BlockDiagonal, ShiftedInverse
from nysstream.solvers.composite import Curvature, Evaluation, Smooth
from nysstream.streaming import HessianProduct, LossSums, SquaredResidual, reduce

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from nysstream.estimators.least_squares import LeastSquares
    from nysstream.operators.base import Array, Precision
    from nysstream.solvers.composite import Movable
    from nysstream.streaming import DesignMatrix, LossValues, Outcome, Reduction

    Vector = NDArray[np.float64]
    Block = NDArray[np.float64]


class Untraced(LinearOperator):
    """An operator over rows in memory, whose products are no passes over the data."""

    psd = True

    def __init__(self, operator: LinearOperator) -> None:
        self.operator = operator
        self.shape, self.dtype, self.eps = operator.shape, operator.dtype, operator.eps

    def matmat(self, V: Array, *, precision: Precision | None = None) -> Array:
        """Multiply outside the current trace."""
        with unrecorded():
            return self.operator.matmat(V, precision=precision)

    def trace(self) -> float | None:
        """Return the trace of the operator."""
        return self.operator.trace()


class LeastSquaresLoss(Smooth):
    r"""Half the weighted sum of squared residuals of every column, after a set-up pass.

    Intercepts are eliminated by centring. The model is the loss itself: the Gram matrix in memory, or the
    design as an operator with a preconditioner.

    Parameters
    ----------
    problem : LeastSquares
    targets : ndarray of int, shape (k,)
        Target of each column.
    """

    intercept = False
    least_squares = True
    coupled = False

    def __init__(self, problem: LeastSquares, targets: NDArray[np.intp]) -> None:
        self.problem = problem
        self.targets = targets
        self.shape = (problem.design.shape[1], targets.size)
        gram = getattr(problem.preconditioner, "gram", None) if problem.method == "gram" else None
        if gram is not None:
            model = in_memory(gram)
        else:
            scale = 1.0 if problem.design.centering is None else problem.design.centering.scale
            diagonal = float(np.mean(problem.statistics.squares / scale**2))
            model = Curvature(problem.operator, problem.preconditioner, diagonal=diagonal)
        self.model = (model,)
        self.in_memory = model.exact
        self._squares = problem.statistics.target_squares[targets]
        self._evaluations = 0

    @property
    def passes(self) -> int:
        """Reads since the set-up."""
        return self._evaluations + self.problem.operator.passes

    def known(self) -> Evaluation:
        """Give loss and gradient at zero, from the set-up."""
        return self._evaluation(
            -self.problem.cross[:, self.targets], self._squares, -self._squares, precise=False
        )

    def evaluate(self, W: Block, intercept: Vector, *, precise: bool = True) -> Evaluation:
        """Evaluate loss and gradient from the rows in double precision; one pass, none at zero."""
        cross = self.problem.cross[:, self.targets]
        if not precise and not W.any():
            return self._evaluation(-cross, self._squares, -self._squares, precise=False)
        double = self.problem.design.with_precision("double")
        reduction = SquaredResidual(np.ascontiguousarray(W), self.targets)
        ((gradient, squares),) = reduce(double, reduction, name="certify")
        self._evaluations += 1
        # From what this pass saw: sums of the set-up may be rounded to single precision.
        inner = -np.einsum("ij,ij->j", gradient, W) - squares
        return self._evaluation(-gradient, squares, inner, precise=True)

    def _evaluation(self, gradient: Block, squares: Vector, inner: Vector, *, precise: bool) -> Evaluation:
        zeros = np.zeros_like(squares)
        conjugate = np.stack([squares, inner, zeros, zeros])
        cross = np.broadcast_to(np.float64(0), gradient.shape)
        return Evaluation(
            0.5 * squares,
            gradient,
            zeros,
            zeros,
            cross,
            zeros,
            cross,
            conjugate,
            lambda _: self.model,
            precise,
        )


class GeneralLoss(Smooth):
    r"""The weighted sum of a loss over the rows, :math:`\sum_i h_i \phi(\tilde x_i^\top w_j + b_j, y_{ij})`.

    Parameters
    ----------
    design : DesignMatrix
        Centred and scaled.
    outcome : Outcome
    n_columns : int
        Predictors solved for in the same passes; where the loss couples them, classes.
    method : str
        What the models' curvature is made of. ``"newton"``: all rows, in the passes that are made anyway;
        ``"admm"``: products with all rows, for one more pass each; any other: sampled rows in memory.
    fit_intercept : bool
    sample : Sample, optional
        For ``"subsampled"``, and where classes are coupled.
    rank : int
        Columns of the sketch of each Hessian, for ``"admm"``.
    most_movable : int
        Coefficients at most that a Hessian of sampled rows is to be of; 0 for no limit.
    rng : numpy.random.Generator
        Of the sketches.
    """

    least_squares = False

    def __init__(
        self,
        design: DesignMatrix,
        outcome: Outcome,
        n_columns: int,
        *,
        method: str,
        fit_intercept: bool,
        sample: Sample | None = None,
        rank: int = 0,
        most_movable: int = 0,
        rng: np.random.Generator | None = None,
    ) -> None:
        self.design = design
        self.outcome = outcome
        self.intercept = fit_intercept
        self.coupled = outcome.loss.coupled
        self.shape = (design.shape[1], n_columns)
        self.method = method
        self.in_memory = method != "admm" and not (method == "newton" and self.coupled)
        self.sample = sample
        self.rank = rank
        self._sampled = None
        if sample is not None and not self.coupled:
            self._sampled = SampledHessians(sample, outcome, pass_flops(design), most_movable, fit_intercept)
        self.operators: list[HessianOperator | CoupledHessian] = []
        self._evaluations = 0
        self._last: tuple[Block, Vector, Evaluation] | None = None
        self._hessians: tuple[Curvature, ...] = ()
        self._test: Block | None = None
        if method == "admm" and not self.coupled:
            rng = np.random.default_rng(0) if rng is None else rng
            self._test = np.linalg.qr(rng.standard_normal((design.shape[1], rank)))[0]

    @property
    def passes(self) -> int:
        """Reads since the set-up."""
        return self._evaluations + sum(operator.passes for operator in self.operators)

    def evaluate(self, W: Block, intercept: Vector, *, precise: bool = True) -> Evaluation:
        """Evaluate loss, gradient and curvature; one pass, none where it was evaluated last."""
        if self._last is not None:
            V, b, last = self._last
            self._last = None
            if np.array_equal(V, W) and np.array_equal(b, intercept) and (last.precise or not precise):
                return last
        W = np.ascontiguousarray(W)
        k = self.shape[1]
        precise = precise or self.design.dtype == np.float64
        design = self.design.with_precision("double") if precise else self.design
        whole = self.method == "newton" and not self.coupled
        # Near the end Hessians hardly change, and in double precision they cost twice as much.
        held = self._hessians if precise and self.design.dtype != np.float64 else ()
        columns = tuple(range(k)) if whole and not held else ()
        sums = LossSums(self.outcome, W, intercept, self.intercept, columns)
        reductions: list[Reduction] = [sums]
        of = np.empty(0, np.intp)
        if self._test is not None:
            # The coefficients ride along: models begin with their product.
            of = np.concatenate([np.repeat(np.arange(k), self._test.shape[1]), np.arange(k)])
            test = np.hstack([np.tile(self._test, (1, k)), W])
            reductions.append(HessianProduct(self.outcome, W, intercept, test, of, self.intercept))
        values, *sketches = reduce(design, *reductions, name="certify" if precise else "evaluate")
        self._evaluations += 1
        if columns:
            self._hessians = tuple(in_memory(hessian) for hessian in values.hessians)

        def model(movable: Movable) -> tuple[Curvature, ...]:
            if whole:
                return held or self._hessians
            if self._test is None:
                return self._of_sample(W, intercept, movable)
            return tuple(
                self._over_data(j, W, intercept, sketches[0][:, of == j], float(values.curvature[j]))
                for j in range(k)
            )

        return self._evaluation(values, model, precise=precise)

    def _evaluation(
        self, values: LossValues, model: Callable[[Movable], tuple[Curvature, ...]], *, precise: bool
    ) -> Evaluation:
        return Evaluation(
            values.loss,
            values.gradient,
            values.slope if self.intercept else np.zeros(self.shape[1]),
            values.curvature,
            values.cross,
            values.move,
            values.toward,
            values.conjugate,
            model,
            precise,
        )

    def begin(self, W: Block, intercept: Vector, known: LossValues | None = None) -> Evaluation:
        """Evaluate where a solver is about to start, unless its sums are known, and keep the result for it.

        Known sums will do where :func:`needs_sums_only` says so.
        """
        if known is None:
            found = self.evaluate(W, intercept, precise=False)
        else:
            double = self.design.dtype == np.float64
            found = self._evaluation(
                known, lambda movable: self._of_sample(W, intercept, movable), precise=double
            )
        self.keep(W, intercept, found)
        return found

    def keep(self, W: Block, intercept: Vector, found: Evaluation) -> None:
        """Have the next evaluation there give what was found already, for no pass."""
        self._last = (W, intercept, found)

    def n_movable(self, support: int) -> int | None:
        """Count the coefficients that a model should move; None for all."""
        return None if self._sampled is None else self._sampled.n_movable(support)

    def _of_sample(self, W: Block, intercept: Vector, movable: Movable) -> tuple[Curvature, ...]:
        if self._sampled is None:
            return (self._coupled(W, intercept),)
        return self._sampled.at(W, intercept, movable)

    def _diagonal_blocks(self, W: Block, intercept: Vector) -> list[Block]:
        """Sum the classes' own Hessians over the sampled rows."""
        assert self.sample is not None
        sums = LossSums(self.outcome, W, intercept, False, tuple(range(self.shape[1])))
        with unrecorded():  # rows in memory: no pass over the data, and not to be counted as one
            (values,) = reduce(self.sample.design, sums, name="sample")
        return [self.sample.factor * hessian for hessian in values.hessians]

    def _over_data(self, j: int, W: Block, intercept: Vector, product: Block, total: float) -> Curvature:
        """Make one column's Hessian an operator; ``total`` is the sum of the rows' curvatures."""
        outcome = replace(self.outcome, columns=self.outcome.columns[[j]])
        at, b = W[:, [j]], intercept[[j]]
        operator = HessianOperator(self.design, outcome, at, b, fit_intercept=self.intercept)
        self.operators.append(operator)
        assert self._test is not None
        sketch, there = product[:, :-1], product[:, -1:]
        nystrom = Sketch(self._test, sketch, self.design.eps).nystrom()
        # Columns have unit variance.
        preconditioner = nystrom.preconditioner() if nystrom.rank else None
        return Curvature(operator, preconditioner, diagonal=total, there=there)

    def _coupled(self, W: Block, intercept: Vector) -> Curvature:
        """Make the Hessian of all classes an operator, preconditioned with its diagonal blocks."""
        assert self.sample is not None
        blocks = self._diagonal_blocks(W, intercept)
        p, k = self.shape
        ones = np.full((1, 1), self.sample.weight / k)  # of the intercepts, whose column is of ones
        parts: list[ShiftedInverse] = []
        for block in blocks:
            parts += [ShiftedInverse(block), *([ShiftedInverse(ones)] if self.intercept else [])]
        sizes = [p, *([1] if self.intercept else [])] * k
        operator = CoupledHessian(
            self.sample.design if self.in_memory else self.design,
            self.outcome,
            W,
            intercept,
            fit_intercept=self.intercept,
            diagonal=float(sum(np.trace(block) for block in blocks)),
            factor=self.sample.factor if self.in_memory else 1.0,
        )
        if self.in_memory:
            return Curvature(Untraced(operator), BlockDiagonal(parts, sizes), stacked=True)
        self.operators.append(operator)
        return Curvature(operator, BlockDiagonal(parts, sizes), stacked=True)


def needs_sums_only(method: str, *, coupled: bool) -> bool:
    """Whether the passes of :class:`GeneralLoss` gather no curvature of all rows."""
    return coupled or method not in ("newton", "admm")
