"""Every training set of cross-validation, and all rows: their normal equations solved side by side."""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from nysstream.errors import InputError, NysstreamWarning
from nysstream.estimators.least_squares import LeastSquares, normal_equations, set_up_reduction
from nysstream.estimators.linear import r2
from nysstream.operators.fold_gram import FoldGramOperator
from nysstream.sketching.preconditioner import Columns, Identity
from nysstream.sketching.test_matrix import TestMatrix
from nysstream.solvers import LinearSystem
from nysstream.streaming import DesignMatrix, FoldSetUp, FoldSquaredResidual, TrainingColumns, reduce

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.estimators.planning import Plan
    from nysstream.streaming import Centering, Folds, Statistics

_Evaluated = tuple["NDArray[np.float64]", "NDArray[np.float64]", "NDArray[np.float64]"]


@dataclass
class CrossValidation:
    """The normal equations of each training set, and last those of all rows.

    A block of systems holds, for one set after the other, the same pairs of a target and a shift.

    Attributes
    ----------
    design : DesignMatrix
        Of all rows; centred and scaled.
    folds : Folds
    problems : list of LeastSquares
        One for the rows outside each fold, and last one for all rows.
    held_out : list of Statistics
        Of each fold.
    center : bool
        Whether those are sums about the means.
    """

    design: DesignMatrix
    folds: Folds
    problems: list[LeastSquares]
    held_out: list[Statistics]
    center: bool
    _evaluated: list[_Evaluated] = field(default_factory=list)

    @property
    def whole(self) -> LeastSquares:
        """The problem over all rows."""
        return self.problems[-1]

    def columns(self, n_systems: int) -> TrainingColumns:
        """Say which rows each column of a block sees, with ``n_systems`` columns per training set."""
        left_out = np.repeat(np.arange(len(self.problems)), n_systems)
        found = [problem.design.centering for problem in self.problems]
        centerings: tuple[Centering, ...] | None = tuple(c for c in found if c is not None)
        return TrainingColumns(self.folds, left_out, centerings or None)

    def system(self, targets: NDArray[np.intp], shifts: NDArray[np.float64]) -> LinearSystem:
        """Make the systems of all training sets for pairs of a target and a shift."""
        count = len(self.problems)
        columns = self.columns(targets.size)
        operator = FoldGramOperator(self.design, columns)
        all_targets, all_shifts = np.tile(targets, count), np.tile(shifts, count)
        rhs = np.hstack([problem.cross[:, targets] for problem in self.problems])
        preconditioner = None
        if any(problem.preconditioner is not None for problem in self.problems):
            parts = [problem.preconditioner or Identity() for problem in self.problems]
            preconditioner = Columns(parts, [targets.size] * count)

        def residual(W: NDArray[np.float64]) -> NDArray[np.float64]:
            """Recompute the residuals of all columns in double precision, from the rows; one pass."""
            gradient = self._evaluate(W, all_targets, columns, "residual")
            operator.passes += 1
            return np.asarray(gradient - all_shifts * W)

        return LinearSystem(operator, rhs, all_shifts, preconditioner, residual)

    def start(self, targets: NDArray[np.intp], shifts: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Give the solutions by the Gram matrices, if there are any."""
        starts = [problem.start(targets, shifts) for problem in self.problems]
        found = [start for start in starts if start is not None]
        return np.hstack(found) if len(found) == len(starts) else None

    def squares(
        self, W: NDArray[np.float64], targets: NDArray[np.intp]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Sum squares of each column over the rows that it sees, and over those held out.

        Notes
        -----
        Cost: none if the last pass verified these columns, else one pass.
        """
        if not self._evaluated or not np.array_equal(self._evaluated[0][0], W):
            count = len(self.problems)
            self._evaluate(W, np.tile(targets, count), self.columns(targets.size), "score")
        return self._evaluated[0][1:]

    def _evaluate(
        self, W: NDArray[np.float64], targets: NDArray[np.intp], columns: TrainingColumns, name: str
    ) -> NDArray[np.float64]:
        double = self.design.with_precision("double")
        reduction = FoldSquaredResidual(np.ascontiguousarray(W), targets, columns)
        ((gradient, squares, errors),) = reduce(double, reduction, name=name)
        self._evaluated[:] = [(W.copy(), squares, errors)]
        return np.asarray(gradient)


def set_up_folds(
    plan: Plan,
    folds: Folds,
    *,
    center: bool,
    standardize: bool,
    seed: int,
    shifts: NDArray[np.float64],
    rank: int | str,
) -> CrossValidation:
    """Make the one set-up pass of all training sets, and their preconditioners.

    Parameters
    ----------
    plan : Plan
    folds : Folds
    center, standardize, seed, shifts, rank
        As for :func:`nysstream.estimators.least_squares.set_up`. Means and scales are those of
        each training set: nothing is learnt from the rows held out.

    Raises
    ------
    InputError
        If a fold has no rows, or no weight.

    Notes
    -----
    Cost: one pass; with ``standardize`` and a sketch also a sample of rows, before it.
    """
    design = plan.design
    gather = set_up_reduction(plan, center=center, standardize=standardize, seed=seed)
    (statistics,) = reduce(design, FoldSetUp(gather, folds), name="set-up")
    solve_for = functools.partial(
        normal_equations, plan, test=gather.test, center=center, standardize=standardize, shifts=shifts
    )
    whole = solve_for(statistics.whole(), rank=rank)
    if whole.nystrom is not None and whole.nystrom.rank:
        rank = whole.nystrom.rank  # one choice for all: the training sets differ little
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NysstreamWarning)  # given for all rows already
        problems = [solve_for(training, rank=rank) for training in statistics.training_sets()]
    held_out = [statistics.held_out(fold) for fold in range(folds.n_splits)]
    TestMatrix.forget()
    design = _share_shift(whole.design, problems)
    return CrossValidation(design, folds, [*problems, whole], held_out, center)


def _share_shift(design: DesignMatrix, problems: list[LeastSquares]) -> DesignMatrix:
    """Have tiles shifted by the overall means if any training set needs it: all see the same tiles."""
    centering = design.centering
    if centering is None or centering.shift is not None:
        return design
    others = [problem.design.centering for problem in problems]
    if all(other is None or other.shift is None for other in others):
        return design
    shift = centering.mean.astype(design.dtype).astype(np.float64)
    return replace(design, centering=replace(centering, shift=shift))


def score_folds(
    problem: CrossValidation, errors: NDArray[np.float64], n_shifts: int, scoring: str
) -> NDArray[np.float64]:
    """Score every shift on every fold, averaged over the targets.

    Parameters
    ----------
    problem : CrossValidation
    errors : ndarray, shape ((K + 1) * L * q,)
        Squared errors on held-out rows, as :meth:`CrossValidation.squares` gives them, for
        systems that run over the targets first.
    n_shifts : int
    scoring : {"r2", "neg_mean_squared_error"}

    Returns
    -------
    ndarray, shape (L, K)
    """
    count = len(problem.held_out)
    per_fold = errors.reshape(count + 1, n_shifts, -1)[:count]
    scores = np.empty((n_shifts, count))
    for f, statistics in enumerate(problem.held_out):
        if scoring == "neg_mean_squared_error":
            values = -per_fold[f] / statistics.weight
        else:
            squares = _about_mean(statistics, centred=problem.center)
            values = r2(per_fold[f], squares)
        scores[:, f] = values.mean(axis=1)
    return scores


def check_scoring(problem: CrossValidation, scoring: str) -> None:
    """Refuse folds that cannot be scored.

    Raises
    ------
    InputError
        If R2 is undefined, because a fold has a single row.
    """
    if scoring != "r2":
        return
    for f, statistics in enumerate(problem.held_out):
        if statistics.n_rows < 2:
            message = (
                f"fold {f} holds one row, for which R2 is undefined: use fewer folds, or "
                "scoring='neg_mean_squared_error'"
            )
            raise InputError(message)


def _about_mean(statistics: Statistics, *, centred: bool) -> NDArray[np.float64]:
    """Sum the squared deviations of the targets from their means."""
    squares = np.asarray(statistics.target_squares)
    if centred:
        return squares
    deviations = squares - statistics.weight * np.square(statistics.target_mean)
    rounding = 16 * np.finfo(np.float64).eps * squares
    return np.where(deviations <= rounding, 0.0, deviations)
