"""Fits of losses with kinks and an l2 penalty: what they need, and how they are run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.estimators.composite_plan import LossPlan
from nysstream.estimators.planning import AUTO_RANK, N_PROBES, check_rank, essentials
from nysstream.features import Identity
from nysstream.journal import current_journal, settled
from nysstream.losses import Hinge
from nysstream.sketching.of_statistics import sketch_of_pass
from nysstream.sketching.random_matrices import as_seed
from nysstream.sketching.shifted_inverse import ShiftedInverse
from nysstream.sketching.test_matrix import TestMatrix
from nysstream.solvers import Result, solve
from nysstream.solvers.augmented import AugmentedLagrangian
from nysstream.solvers.dual_bundle import BUNDLE
from nysstream.solvers.kinked import KinkedProblem
from nysstream.solvers.row_splitting import Majorant, RowSplitting
from nysstream.streaming import Centering, SetUp, centering_of, pass_needs, reduce
from nysstream.streaming.affordable import Room, halving
from nysstream.streaming.augmented_kernels import AugmentedStep
from nysstream.streaming.panels import scaled_inplace
from nysstream.streaming.row_steps import Costs, RowStep
from nysstream.streaming.rowstate import RowState
from nysstream.streaming.split_kernels import SplitStep

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from nysstream.sketching.preconditioner import Preconditioner
    from nysstream.streaming import DesignMatrix, Statistics
    from nysstream.trace import Trace

    Vector = NDArray[np.float64]
    Block = NDArray[np.float64]

#: Bytes up to which the rows' numbers are kept in memory; beyond, in a scratch file.
_ROWS_BYTES = 256 << 20


@dataclass(frozen=True)
class KinkedPlan(LossPlan):
    """How a fit of a loss with a kink will run.

    Its method is ``"newton"``: a matrix for each column is summed in every pass; or ``"splitting"``: one
    matrix, or a sketch of it, serves all columns and passes, of which there are many more.

    Attributes
    ----------
    in_memory : bool
        Whether the rows' numbers are kept there.
    returned : bool
        Whether they come back with the sums of every pass.
    """

    in_memory: bool = True
    returned: bool = False


def plan_kinked(design: DesignMatrix, *, memory: Any, rank: int | str, n_columns: int) -> KinkedPlan:
    """Choose method, concurrency, and where the rows' numbers go, within the memory limit; no read.

    Raises
    ------
    MemoryBudgetError
        If nothing fits; names the smallest limit that would do.
    """
    check_rank(rank, design.shape[1])

    def choose(earlier: dict[str, Any]) -> KinkedPlan:
        return _choose(design, memory, rank, n_columns, earlier)

    plan: KinkedPlan = settled("plan", choose, essentials)
    return plan


def _choose(
    design: DesignMatrix, memory: Any, rank: int | str, k: int, earlier: dict[str, Any]
) -> KinkedPlan:
    """Take what an earlier run of the job took, or the first method that fits."""
    room = Room.of(memory)
    # Other processes have no part in this one's rows, and journals keep what passes give.
    returned = current_journal() is not None or room.scheduler not in ("threads", "synchronous")
    plan = None
    for method, width, why in _methods(rank, design.shape[1], earlier):
        small = _numbers(method) * 16 * design.shape[0] * k <= _ROWS_BYTES
        for tasks in halving(room.threads):
            for in_memory in [True] if returned else [True, False] if small else [False]:
                candidate = design.with_tasks(tasks, room.threads)
                needs = _needs(candidate, method, width, k, in_memory=in_memory, returned=returned)
                budget = room.budget(needs, "ask for fewer features")
                planned, kind = candidate.with_cache(budget.spare), room.scheduler
                plan = KinkedPlan(
                    planned, budget, method, why, width, 0, 0, k, kind, tasks, in_memory, returned
                )
                if budget.fits:
                    return plan
    assert plan is not None
    plan.budget.check()
    return plan


def _methods(rank: int | str, p: int, earlier: dict[str, Any]) -> list[tuple[str, int, str]]:
    """List methods, with the columns of their sketches, as they are to be tried."""
    if earlier:
        return [(earlier["method"], earlier["rank"], earlier["why"])]
    if rank != "auto":
        return [("splitting", int(rank), "a rank was asked for")]
    sketches = [
        ("splitting", width, "no matrix of all columns fits")
        for width in halving(min(p, AUTO_RANK), min(p, 16))
    ]
    return [
        ("newton", 0, "matrices of all columns fit: few passes will do"),
        ("splitting", 0, "only one matrix of all columns fits"),
        *sketches,
    ]


def _numbers(method: str) -> int:
    """Count the numbers of each row and column."""
    return 2 if method == "newton" else 1


def _needs(
    design: DesignMatrix, method: str, rank: int, k: int, *, in_memory: bool, returned: bool
) -> dict[str, int]:
    """Count bytes in the phase that holds most: set-up, making the inverse, or iteration."""
    n, p = design.shape
    gather = set_up_reduction(design, method, rank, 0, center=True)
    setup = pass_needs(design, gather)
    kept = {"feature weights": setup["feature weights"], "block buffers": setup["block buffers"]}
    invert = dict(kept)
    if rank:
        invert["sketch"] = 7 * 8 * p * (rank + N_PROBES)
    elif method == "splitting":
        # The last sum, as merged and as moved to the means, becomes one matrix, and that an inverse.
        invert |= {"partial sums": 2 * gather.part_bytes(design), "Gram matrix": 8 * p * p}
    zeros = np.zeros(p)
    shift = None if design.sparse or not isinstance(design.features, Identity) else zeros
    shifted = replace(design, centering=Centering(zeros, np.ones(p), np.zeros(design.n_targets), shift))
    W, b, flags = np.broadcast_to(np.float64(0), (p, k)), np.zeros(k), np.zeros(k, np.bool_)
    costs = Costs(Hinge(), np.ones((1, k)))
    # What stands for the state here takes no memory; where it does is counted below.
    after = None if returned else RowState((1, 1))
    step: RowStep = SplitStep(costs, W, b, 1.0, b, 1.0, after=after)
    if method == "newton":
        columns = tuple(range(k))
        step = AugmentedStep(costs, W, b, W, b, b, b, flags, b, True, columns, None, flags, after=after)
    iterate = pass_needs(shifted.with_precision("double"), step)
    iterate["solver"] = 8 * p * k * (10 + 3 * BUNDLE)
    matrices = (2 * k + 2) * 8 * p * p if method == "newton" else 2 * 8 * p * p
    iterate["matrices"] = 8 * p * rank if rank else matrices
    # Those of the last pass and of this one; and what came back, as one array.
    states = 3 if returned else 2
    iterate["rows' numbers"] = states * 8 * n * k * _numbers(method) if in_memory else 0
    return max([setup, invert, iterate], key=lambda needs: sum(needs.values()))


def set_up_reduction(design: DesignMatrix, method: str, rank: int, seed: int, *, center: bool) -> SetUp:
    """Say what the set-up pass gathers: means alone, the Gram matrix, or a sketch of it."""
    p = design.shape[1]
    if not rank:
        return SetUp(center=center, gram=method == "splitting")
    n_probes = N_PROBES if rank < p else 0
    return SetUp(TestMatrix(p, rank, n_probes, seed), rank + n_probes, center)


@dataclass(frozen=True)
class KinkedFit:
    """What a fit gives.

    Attributes
    ----------
    result : Result
    coef : ndarray, shape (k, p)
    intercept : ndarray, shape (k,)
    weight : float
        Sum of the rows' weights.
    """

    result: Result[Any]
    coef: Block
    intercept: Vector
    weight: float


def fit_kinked(
    plan: KinkedPlan,
    costs: Costs,
    trace: Trace,
    *,
    fit_intercept: bool = True,
    standardize: bool = False,
    seed: int = 0,
    tol: float,
    max_passes: int | None,
    time_limit: float | None,
    callback: Callable[[dict[str, Any]], object] | None = None,
) -> KinkedFit:
    r"""Minimise :math:`\tfrac12 \|w\|^2 + \sum_i h_i c_i \ell(\phi(x_i)^\top w + b, y_i)` for every column.

    Parameters
    ----------
    plan : KinkedPlan
    costs : Costs
    trace : Trace
        Of the fit; limits count its passes and its time.
    fit_intercept, standardize : bool
        Whether there are intercepts, and whether columns are scaled to unit variance.
    seed : int
        Of the sketch, where there is one.
    tol : float
        Relative duality gap.
    max_passes, time_limit : number, optional
    callback : callable, optional
        Called with the record of every pass; it may raise ``StopIteration``.

    Notes
    -----
    Cost: one pass to set up and one for each iteration.
    """
    design = plan.design
    gather = set_up_reduction(design, plan.method, plan.rank, seed, center=fit_intercept)
    (statistics,) = reduce(design, gather, name="set-up")
    centering = centering_of(design, statistics, center=fit_intercept, standardize=standardize)
    scale = np.ones(design.shape[1]) if centering is None else centering.scale
    start, unit = np.zeros(costs.n_columns), np.ones(costs.n_columns)
    if not costs.loss.classification:
        size = np.sqrt(statistics.target_squares / statistics.weight)
        unit = np.where(size > 0, size, 1.0)
        start = statistics.target_mean if fit_intercept else start
    newton = plan.method == "newton"
    problem = KinkedProblem(
        replace(design, centering=centering),
        costs,
        statistics.weight,
        start,
        unit,
        fit_intercept,
        None if newton else _inverse(design, gather, statistics, plan.rank, scale),
        plan.in_memory,
        plan.returned,
    )
    solver: Any = AugmentedLagrangian(tol=tol) if newton else RowSplitting(tol=tol)

    def show(_: Any, record: dict[str, Any]) -> None:
        trace.residual, trace.measure = record["duality_gap"], "gap"
        if callback is not None:
            callback(record)

    result = solve(
        problem,
        solver,
        max_passes=None if max_passes is None else max_passes - len(trace.passes),
        time_limit=None if time_limit is None else time_limit - trace.seconds,
        callback=show,
    )
    W, b = result.value
    coef = np.ascontiguousarray((W / scale[:, None]).T)
    if centering is not None:
        b = b - coef @ centering.mean
    return KinkedFit(result, coef, b, statistics.weight)


def fit_penalised(
    model: Any, plan: KinkedPlan, costs: Costs, trace: Trace
) -> tuple[Result[Any], KinkedPlan, float]:
    """Fit a :class:`nysstream.estimators.penalised.Penalised`, as its ``_fit_loss`` does."""
    fit = fit_kinked(
        plan,
        costs,
        trace,
        fit_intercept=model.fit_intercept,
        standardize=model.standardize,
        seed=as_seed(model.random_state),
        tol=model.tol,
        max_passes=model.max_passes,
        time_limit=model.time_limit,
    )
    model._set_coefficients(fit.coef, fit.intercept)
    model.target_mean_ = np.zeros(len(fit.coef))
    return fit.result, plan, fit.weight


def _inverse(
    design: DesignMatrix, gather: SetUp, statistics: Statistics, rank: int, scale: Vector
) -> Preconditioner:
    """Make the inverse of what the set-up pass has gathered."""
    if statistics.gram is not None:
        return ShiftedInverse(scaled_inplace(statistics.gram, scale))
    assert gather.test is not None
    sketch = sketch_of_pass(design, statistics, gather.test(), rank, scale)
    TestMatrix.forget()
    if sketch is None:
        trace = float(np.sum(statistics.squares / scale**2))
        return Majorant(np.zeros((scale.size, 0)), np.zeros(0), trace)
    nystrom = sketch.nystrom()
    return Majorant(nystrom.vectors, nystrom.values, nystrom.certificate.spectral_error)
