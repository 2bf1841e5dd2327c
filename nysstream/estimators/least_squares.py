"""Regularised least squares on a design: one set-up pass, then systems solved side by side."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.errors import AccuracyWarning
from nysstream.estimators.choosing import sample_size
from nysstream.estimators.sampling import factor_sample
from nysstream.estimators.starting import Start
from nysstream.features import Identity
from nysstream.operators import as_operator
from nysstream.operators.gram import GramOperator
from nysstream.sketching.factored import Factored
from nysstream.sketching.nystrom import Nystrom
from nysstream.sketching.of_statistics import sketch_of_pass
from nysstream.sketching.preconditioner import Preconditioner
from nysstream.sketching.test_matrix import TestMatrix
from nysstream.solvers import LinearSystem
from nysstream.streaming import (
    DesignMatrix,
    RowSample,
    SetUp,
    SquaredResidual,
    Statistics,
    centering_of,
    reduce,
    uniform_rows,
)
from nysstream.streaming.panels import scaled_inplace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from nysstream.estimators.planning import Plan

#: Bytes of the sample that rough scales are taken from.
_SAMPLE_BYTES = 16 << 20


@dataclass
class LeastSquares:
    r"""The normal equations of a design, after its set-up pass.

    Attributes
    ----------
    design : DesignMatrix
        Centred and scaled.
    statistics : Statistics
    operator : GramOperator
    cross : ndarray, shape (p, q)
        Right-hand sides, one per target.
    method : str
        How the preconditioner was made.
    preconditioner : Preconditioner or None
    nystrom : Nystrom or None
        Approximation of the Gram matrix of the centred and scaled design, from a sketch.
    width : int
        Columns of that sketch.
    started : Start or None
        Where the first solve starts.
    matrix : ndarray, shape (p, p), or None
        The whole Gram matrix, where it alone is to be multiplied with: then no row is read again.
    """

    design: DesignMatrix
    statistics: Statistics
    operator: GramOperator
    cross: NDArray[np.float64]
    method: str
    preconditioner: Preconditioner | None = None
    nystrom: Nystrom | None = None
    width: int = 0
    started: Start | None = None
    matrix: NDArray[np.float64] | None = None
    _evaluated: list[tuple[NDArray[np.float64], ...]] = field(default_factory=list)

    def system(
        self, targets: NDArray[np.intp], shifts: NDArray[np.float64], *, rtol: float = 0.0
    ) -> LinearSystem:
        """Make the systems of pairs of a target and a shift, one column each.

        Parameters
        ----------
        targets : ndarray of int, shape (k,)
        shifts : ndarray, shape (k,)
        rtol : float
            Relative residual that is asked for. The residual of the start is known from the set-up
            pass, to single precision: as long as no column is near its goal, it costs no pass.
        """
        rhs = self.cross[:, targets]
        if self.matrix is not None:
            held = as_operator(self.matrix, psd=True)
            return LinearSystem(held, rhs, shifts, self.preconditioner)

        def residual(W: NDArray[np.float64]) -> NDArray[np.float64]:
            """Recompute the residuals of all columns in double precision, from the rows; one pass."""
            started, self.started = self.started, None
            if started is not None and np.array_equal(started.value, W):
                known = started.residual(rhs, shifts, rtol)
                if known is not None:
                    return known
            reduction = SquaredResidual(np.ascontiguousarray(W), targets)
            double = self.design.with_precision("double")
            ((gradient, squares),) = reduce(double, reduction, name="residual")
            self.operator.passes += 1
            self._evaluated[:] = [(W.copy(), squares, gradient)]
            return np.asarray(gradient - shifts * W)

        return LinearSystem(self.operator, rhs, shifts, self.preconditioner, residual)

    def start(self, targets: NDArray[np.intp], shifts: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Give the solution by the Gram matrix, accurate to its rounding, or the start given; else none."""
        rhs = self.cross[:, targets]
        if self.method == "gram" and self.preconditioner is not None:
            return np.asarray(self.preconditioner.inverse(rhs, shifts))
        if self.started is None:
            return None
        self.started = self.started.scaled(rhs, shifts)
        return self.started.value

    def effective_dimension(self, shift: float) -> list[float] | None:
        """Bracket the effective dimension, where the method allows it."""
        if self.nystrom is not None:
            return list(self.nystrom.effective_dimension(shift))
        if self.method == "gram" and isinstance(self.preconditioner, Factored):
            return [self.preconditioner.effective_dimension(shift)] * 2
        return None

    def singular(self) -> bool:
        """Whether the columns are known to be linearly dependent."""
        centering = self.design.centering
        p = self.design.shape[1]
        varying = p if centering is None else int(np.isfinite(centering.scale).sum())
        freedom = self.statistics.n_weighted - (centering is not None)
        if varying < p or freedom < varying:
            return True
        if self.method == "gram" and isinstance(self.preconditioner, Factored):
            return self.preconditioner.rank() < varying
        return self.width == p and self.nystrom is not None and self.nystrom.rank < varying

    def squares(self, W: NDArray[np.float64], targets: NDArray[np.intp]) -> NDArray[np.float64]:
        """Sum the weighted squared residuals of each column, from the last pass that saw it."""
        if self.matrix is not None:
            fitted = np.sum(W * (self.matrix @ W - 2 * self.cross[:, targets]), axis=0)
            return np.asarray(np.maximum(self.statistics.target_squares[targets] + fitted, 0.0))
        result = np.full(W.shape[1], np.nan)
        for j, squares, _ in self.seen(W):
            result[j] = squares
        missing = np.isnan(result)
        if missing.any():  # a column without a last pass: from the sums of the set-up
            ((_, squares),) = reduce(
                self.design.with_precision("double"),
                SquaredResidual(np.ascontiguousarray(W), targets),
                name="objective",
            )
            result = np.where(missing, squares, result)
        return result

    def seen(self, W: NDArray[np.float64]) -> Iterator[tuple[int, Any, NDArray[np.float64]]]:
        """Give the number of each column that a residual was computed of, its squares and its gradient."""
        for evaluated, squares, gradient in self._evaluated:
            for j in range(W.shape[1]):
                same = np.flatnonzero(np.all(evaluated == W[:, j : j + 1], axis=0))
                if same.size:
                    yield j, squares[same[0]], gradient[:, same[0]]

    def coefficients(
        self, W: NDArray[np.float64], targets: NDArray[np.intp]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Turn solutions into coefficients ``(k, p)`` and intercepts ``(k,)`` of the features."""
        centering = self.design.centering
        if centering is None:
            return np.ascontiguousarray(W.T), np.zeros(W.shape[1])
        coef = W / centering.scale[:, None]
        return np.ascontiguousarray(coef.T), centering.target_mean[targets] - centering.mean @ coef


def set_up(
    plan: Plan,
    *,
    center: bool,
    standardize: bool,
    seed: int,
    shifts: NDArray[np.float64],
    rank: int | str,
    start: NDArray[np.float64] | None = None,
    asked: bool = True,
) -> LeastSquares:
    """Make the set-up pass, and from what it gathers the preconditioner.

    Parameters
    ----------
    plan : Plan
    center : bool
        Whether an unpenalised intercept is wanted.
    standardize : bool
        Whether columns are scaled to unit variance.
    seed : int
    shifts : ndarray
        Those to be solved for. An automatic rank is chosen for the smallest.
    rank : int or "auto"
    start : ndarray, shape (p, k), optional
        Coefficients to start from, one column per system. Their product rides along.
    asked : bool
        Whether it was the user who asked for scaled columns, and is to be warned where there are none.

    Notes
    -----
    Cost: one pass; with ``standardize`` also a sample of rows, before it.
    """
    design = plan.design
    gather = set_up_reduction(plan, center=center, standardize=standardize, seed=seed)
    if start is not None and plan.method != "gram":
        gather = replace(gather, given=start)
    sample = None
    if plan.method == "subsampled":
        rows = uniform_rows(design.shape[0], sample_size(design), seed)
        statistics, sample = reduce(design, gather, RowSample(rows), name="set-up")
    else:
        (statistics,) = reduce(design, gather, name="set-up")
    problem = normal_equations(
        plan,
        statistics,
        gather.test,
        center=center,
        standardize=standardize,
        shifts=shifts,
        rank=rank,
        asked=asked,
    )
    furnish(problem, gather, statistics, sample, shifts)
    return problem


def furnish(
    problem: LeastSquares,
    gather: SetUp,
    statistics: Statistics,
    sample: tuple[Any, NDArray[np.float64]] | None,
    shifts: NDArray[np.float64],
) -> None:
    """Add the start and the preconditioner of sampled rows, where there are such."""
    if gather.given is not None:
        problem.started = Start.of(problem.design, gather.given, statistics.sketch[:, gather.n_test :])
    if sample is not None:
        sampled, weights = sample
        problem.preconditioner = factor_sample(
            problem.design,
            statistics.weight,
            sampled,
            weights,
            np.unique(shifts).size,
            all_shifted=bool(shifts.min() > 0),
        )
    TestMatrix.forget()


def set_up_reduction(plan: Plan, *, center: bool, standardize: bool, seed: int) -> SetUp:
    """Say what the set-up pass of a plan is to gather.

    Notes
    -----
    Cost: none, or with ``standardize`` and a sketch a sample of rows.
    """
    guess = _rough_scales(plan.design) if standardize and plan.rank else None
    test = TestMatrix(plan.design.shape[1], plan.rank, plan.n_probes, seed, guess) if plan.rank else None
    return SetUp(test, plan.rank + plan.n_probes, center, gram=plan.method == "gram")


def normal_equations(
    plan: Plan,
    statistics: Statistics,
    test: Callable[[], NDArray[np.float64]] | None = None,
    *,
    center: bool,
    standardize: bool,
    shifts: NDArray[np.float64],
    rank: int | str,
    asked: bool = True,
) -> LeastSquares:
    """Make the problem, and its preconditioner, of what a set-up pass has gathered; no pass.

    Parameters
    ----------
    plan : Plan
    statistics : Statistics
    test : callable, optional
        The test matrix of the sketch, if there is one.
    center, standardize, shifts, rank, asked
        As for :func:`set_up`.
    """
    design = plan.design
    p = design.shape[1]
    centering = centering_of(design, statistics, center=center, standardize=standardize, asked=asked)
    scale = np.ones(p) if centering is None else centering.scale
    centred = replace(design, centering=centering)
    n_shifts = np.unique(shifts).size
    preconditioner: Preconditioner | None = None
    nystrom = None
    if test is not None:
        nystrom = _approximate(plan, test, statistics, scale, float(shifts.min()), rank)
        preconditioner = nystrom.preconditioner() if nystrom is not None and nystrom.rank else None
    elif statistics.gram is not None:
        # A symmetric matrix in C order is its transpose in Fortran order.
        preconditioner = Factored(scaled_inplace(statistics.gram, scale).T, design.eps, n_shifts)
    cross = statistics.cross / scale[:, None]
    if centering is not None:
        cross[:, statistics.target_squares == 0] = 0  # constant targets: the rest is rounding
    statistics = replace(statistics, sketch=np.empty((p, 0)), gram=None)  # spent
    operator = GramOperator(centred)
    return LeastSquares(centred, statistics, operator, cross, plan.method, preconditioner, nystrom, plan.rank)


def _approximate(
    plan: Plan,
    test: Callable[[], NDArray[np.float64]],
    statistics: Statistics,
    scale: NDArray[np.float64],
    smallest_shift: float,
    rank: int | str,
) -> Nystrom | None:
    sketch = sketch_of_pass(plan.design, statistics, test(), plan.rank, scale)
    if sketch is None:
        return None
    if rank == "auto" and smallest_shift > 0 and plan.rank < scale.size:
        return sketch.nystrom(sketch.choose_rank(smallest_shift))
    return sketch.nystrom(None if rank == "auto" else int(rank))


def _rough_scales(design: DesignMatrix) -> NDArray[np.float64]:
    """Estimate the columns' standard deviations from a sample of rows."""
    # As few rows as make a small matrix: rough is good enough.
    rows = design.sample_rows(
        min(1024, max(32, _SAMPLE_BYTES // (8 * max(design.shape[1], design.source.shape[1]))))
    )
    Z = rows if isinstance(design.features, Identity) else design.features(rows)
    deviation = np.std(Z, axis=0)
    typical = deviation[deviation > 0]
    return np.where(deviation > 0, deviation, typical.mean() if typical.size else 1.0)


def warn_not_unique(problem: LeastSquares, shifts: NDArray[np.float64]) -> None:
    """Warn where no shift makes the answer unique and the matrix is known to be singular.

    Warns
    -----
    AccuracyWarning
    """
    if np.any(shifts == 0) and problem.singular():
        message = (
            "alpha=0 and the columns are linearly dependent, so the solution is not unique: this is the one "
            "of least norm; give a small alpha for a stable answer"
        )
        warnings.warn(message, AccuracyWarning, stacklevel=3)
