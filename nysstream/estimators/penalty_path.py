"""Paths of penalised least squares on Gram matrices in memory, and their errors on rows held out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.estimators.penalised import Penalty
from nysstream.estimators.planning import Plan
from nysstream.journal import unrecorded
from nysstream.operators import as_operator
from nysstream.sketching.shifted_inverse import ShiftedInverse
from nysstream.solvers import solve
from nysstream.solvers.active_set import solve_path
from nysstream.solvers.admm import ADMM
from nysstream.solvers.quadratic import CompositeQuadratic
from nysstream.streaming import (
    Centering,
    FoldSetUp,
    SetUp,
    SquaredResidual,
    pass_needs,
)
from nysstream.streaming.affordable import Room

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.estimators.least_squares import LeastSquares
    from nysstream.regularizers import Separable
    from nysstream.streaming import DesignMatrix, Folds, Statistics

    Vector = NDArray[np.float64]
    Block = NDArray[np.float64]

#: Distance from optimality that rounding may leave where it spoils the duality gap.
_OPTIMAL = 1e-8
#: Iterations of ADMM for strengths at which the search by active sets did not settle.
_REPAIRS = 1000


@dataclass(frozen=True, eq=False)
class PenaltyPath:
    """Solutions of one training set for many strengths.

    Parameters
    ----------
    problem : LeastSquares
        With its Gram matrix, and one target.
    standardize, positive : bool
        As for :class:`nysstream.ElasticNet`.
    """

    problem: LeastSquares
    standardize: bool
    positive: bool

    def regularizer(self, alphas: Vector, ratio: float) -> Separable:
        """Give the penalties of all strengths, one column each."""
        weight = self.problem.statistics.weight
        lower = 0.0 if self.positive else -np.inf
        penalty = Penalty(alphas * ratio * weight, alphas * (1 - ratio) * weight, lower)
        return penalty.scaled(self._scale(), standardize=self.standardize)

    def solve(self, alphas: Vector, ratio: float, *, tol: float) -> Block:
        """Solve for strengths in descending order, (p, k), in scaled coordinates.

        Notes
        -----
        Cost: no pass. Active sets find minimisers up to rounding; they are certified, and ADMM takes over
        for strengths where they are not good enough.
        """
        problem, regularizer = self.problem, self.regularizer(alphas, ratio)
        gram: Block = getattr(problem.preconditioner, "gram")  # noqa: B009
        b = problem.cross[:, 0]
        W = solve_path(gram, b, regularizer.l1, regularizer.l2, positive=self.positive)
        columns = np.arange(alphas.size)
        model = self._model(gram, regularizer, columns)
        certified = model.certify(W, gram @ W)
        bad = np.flatnonzero(np.minimum(certified.measure, certified.optimality * tol / _OPTIMAL) > tol)
        if bad.size:
            part = self._model(gram, regularizer, bad)
            with unrecorded():  # in memory: no passes
                result = solve(part, ADMM(tol=tol, max_iterations=_REPAIRS), start=W[:, bad])
            W[:, bad] = result.value
        return W

    def coefficients(self, W: Block) -> tuple[Block, Vector]:
        """Turn solutions into coefficients (p, k) and intercepts (k,) of the features."""
        coef, intercept = self.problem.coefficients(W, np.zeros(W.shape[1], np.intp))
        return coef.T, intercept

    def _scale(self) -> Vector:
        centering = self.problem.design.centering
        assert centering is not None
        return centering.scale

    def _model(self, gram: Block, regularizer: Separable, columns: NDArray[np.intp]) -> CompositeQuadratic:
        k = columns.size
        return CompositeQuadratic(
            as_operator(gram, psd=True),
            np.repeat(self.problem.cross, k, axis=1),
            np.full(k, 0.5 * self.problem.statistics.target_squares[0]),
            regularizer.columns(columns),
            ShiftedInverse(gram),
            exact=True,
        )


def strongest(problem: LeastSquares, *, standardize: bool, positive: bool) -> float:
    """Give the least strength of an l1 penalty at which all coefficients are zero."""
    path = PenaltyPath(problem, standardize=standardize, positive=positive)
    unit = path.regularizer(np.ones(1), 1.0).l1
    gradient = problem.cross if positive else np.abs(problem.cross)
    return max(0.0, float(np.max(gradient / unit)))


def held_out_errors(statistics: Statistics, coef: Block, intercept: Vector, *, centred: bool) -> Vector:
    r"""Give mean squared errors on a fold from its sums: no pass.

    Parameters
    ----------
    statistics : Statistics
        Of the fold, with its Gram matrix.
    coef : ndarray, shape (p, k)
    intercept : ndarray, shape (k,)
    centred : bool
        Whether the sums are about the means.

    Returns
    -------
    ndarray, shape (k,)

    Notes
    -----
    With sums about the means, :math:`\sum h r^2 = S - 2 c^\top w + w^\top G w + h (\bar y - b - m^\top w)^2`.
    Cost: ``2 p^2 k`` flops. Rounding errors are those of the sums, relative to S.
    """
    assert statistics.gram is not None
    squares = np.einsum("ij,ij->j", coef, statistics.gram @ coef)
    errors = statistics.target_squares[0] - 2 * statistics.cross[:, 0] @ coef + squares
    if centred:
        offset = statistics.target_mean[0] - intercept - statistics.mean @ coef
        errors = errors + statistics.weight * offset**2
    return np.asarray(np.maximum(errors, 0.0) / statistics.weight)


def plan_path(design: DesignMatrix, folds: Folds, *, memory: Any, n_columns: int) -> Plan:
    """Choose the concurrency and the cache within the memory limit; no read.

    Parameters
    ----------
    design : DesignMatrix
    folds : Folds
    memory : int, float, str or None
    n_columns : int
        Strengths of one path.

    Raises
    ------
    MemoryBudgetError
        If the Gram matrices of the folds do not fit; names the smallest limit that would do.
    """
    room = Room.of(memory)
    knob = (
        "ask for fewer folds or fewer features, or fit Lasso or ElasticNet for each alpha of your own: their "
        "solver='admm' needs no Gram matrix"
    )
    fitted, budget, tasks = room.fit(design, lambda d: _needs(d, folds, n_columns), knob)
    budget.check()
    planned, why = fitted.with_cache(budget.spare), "strengths are chosen in memory"
    return Plan(planned, budget, "gram", why, 0, 0, n_columns, room.scheduler, tasks)


def _needs(design: DesignMatrix, folds: Folds, n_columns: int) -> dict[str, int]:
    """Count bytes in the phase that holds most: set-up, paths, or verification."""
    p, n_parts = design.shape[1], folds.n_splits
    gather = SetUp(gram=True)
    setup = pass_needs(design, FoldSetUp(gather, folds))
    kept = {name: setup[name] for name in ("feature weights", "block buffers")}
    # Beside the folds' sums: those merged into training sets, the matrices of all rows and of one training
    # set, its factor with what it is extended by, and its inverse where ADMM repairs.
    merging = 2 + n_parts.bit_length()
    paths = kept | {
        "folds": (n_parts + merging) * gather.part_bytes(design),
        "Gram matrix": 2 * 8 * p * p,
        "factor": 3 * 8 * p * p,
        "solver": 12 * 8 * p * n_columns,
    }
    shifted = design
    if not design.sparse:
        shifted = replace(
            design, centering=Centering(np.zeros(p), np.ones(p), np.zeros(1), shift=np.zeros(p))
        )
    vectors = np.broadcast_to(np.float64(0), (p, 1))
    residual = SquaredResidual(vectors, np.zeros(1, np.intp))
    verify = pass_needs(shifted.with_precision("double"), residual)
    verify |= {"Gram matrix": 8 * p * p, "factor": 3 * 8 * p * p}
    return max([setup, paths, verify], key=lambda needs: sum(needs.values()))
