"""Fits by stochastic methods: their names, what they need, and how they are run and certified."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.errors import InputError
from nysstream.estimators.composite_plan import LossPlan
from nysstream.estimators.planning import check_rank, essentials
from nysstream.features import Identity
from nysstream.journal import settled
from nysstream.losses import Logistic
from nysstream.sketching.random_matrices import as_seed
from nysstream.sketching.subsampled import SubsampledHessian, chunk_needs
from nysstream.solvers import Result, solve
from nysstream.solvers.admm import ADMM
from nysstream.solvers.finite_sum import FiniteSum
from nysstream.solvers.osgm import OnlineScaled
from nysstream.solvers.proximal_newton import ProximalNewton
from nysstream.solvers.stochastic import Stochastic
from nysstream.streaming import Centering, LossSums, Outcome, RowSample, SetUp, pass_needs
from nysstream.streaming.affordable import Room, halving
from nysstream.streaming.minibatch import Minibatches, blocks_of_window, minibatch_needs
from nysstream.streaming.order import warn_if_sorted
from nysstream.streaming.outset import Outset

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nysstream.solvers.composite import Composite
    from nysstream.solvers.quadratic import Block, Vector
    from nysstream.streaming import DesignMatrix
    from nysstream.trace import Trace

_PRECONDITIONED = {
    "sketchysgd": Stochastic("none"),
    "sketchysvrg": Stochastic("snapshot"),
    "sketchysaga": Stochastic("table"),
    "sketchylsvrg": Stochastic("loopless"),
    "sketchykatyusha": Stochastic("loopless", accelerated=True),
    "sapphire": Stochastic("snapshot"),
    "hybrid": Stochastic("snapshot"),
}
_PLAIN = {
    name: replace(_PRECONDITIONED[f"sketchy{name}"], hessian=SubsampledHessian("identity"))
    for name in ("sgd", "svrg", "saga")
}
#: Names of ``solver=`` whose steps see a batch of rows at a time.
STOCHASTIC = (*_PRECONDITIONED, *_PLAIN, "osgm")
#: Those without a preconditioner made of sampled rows.
_UNSKETCHED = (*_PLAIN, "osgm")
#: Most and fewest rows of a batch, and the steps of an epoch to have where both allow it.
_MOST_ROWS, _LEAST_ROWS, _STEPS = 8192, 64, 32
_LEAST_SAMPLE = 4096
#: Bytes up to which the slopes of all rows are kept in memory; beyond, in a scratch file.
_TABLE_BYTES = 256 << 20
#: Accuracy from which the deterministic method goes on.
_HANDED_OVER = 1e-3


def plan_stochastic(
    design: DesignMatrix, *, memory: Any, rank: int | str, n_columns: int, solver: str
) -> LossPlan:
    """Choose preconditioner, window, concurrency and cache, within the memory limit; no read.

    Raises
    ------
    InputError
        If a rank was given for a method without a preconditioner.
    MemoryBudgetError
        If nothing fits; names the smallest limit that would do.
    """
    check_rank(rank, design.shape[1])
    if rank != "auto" and solver in _UNSKETCHED:
        message = f"rank={rank!r} is for preconditioned methods: solver={solver!r} has no sketch"
        raise InputError(message)

    def choose(earlier: dict[str, Any]) -> LossPlan:
        return _choose(design, memory, rank, n_columns, solver, earlier)

    def kept(plan: LossPlan) -> dict[str, Any]:
        return essentials(plan) | {"n_sampled": plan.n_sampled}

    plan: LossPlan = settled("plan", choose, kept)
    return plan


def _choose(
    design: DesignMatrix, memory: Any, rank: int | str, n_columns: int, solver: str, earlier: dict[str, Any]
) -> LossPlan:
    """Take what an earlier run of the job took, or the widest preconditioner that fits, of most rows."""
    room = Room.of(memory, here=True)  # where epochs run
    knob = "ask for fewer features, or a smaller rank"
    for width, m in _tried(design, rank, solver, earlier):
        needs = partial(_needs, rank=width, n_sampled=m, k=n_columns, solver=solver)
        fitted, budget, tasks = room.fit(design, needs, knob)
        if budget.fits:
            break
    budget.check()
    planned = fitted.with_cache(budget.spare)
    why, kind = "it was asked for", room.scheduler
    return LossPlan(planned, budget, solver, why, width, m, 0, n_columns, kind, tasks)


#: Rank of a Nyström preconditioner where it is left open.
_RANK = 256


def batch_rows(n_rows: int) -> int:
    """Choose the rows of a batch: many where an epoch has many steps anyway."""
    return max(_LEAST_ROWS, min(_MOST_ROWS, n_rows // _STEPS))


def _table_bytes(n_rows: int, k: int) -> int:
    """Count the bytes of a table of slopes in memory; 0 where it goes to a file."""
    return 8 * n_rows * k if 8 * n_rows * k <= _TABLE_BYTES else 0


def _tried(
    design: DesignMatrix, rank: int | str, solver: str, earlier: dict[str, Any]
) -> Iterator[tuple[int, int]]:
    """Give the ranks of a preconditioner, 0 for the whole matrix or none, and the rows to make it of."""
    if earlier:
        yield earlier["rank"], earlier["n_sampled"]
        return
    p = design.shape[1]
    ranks: list[int] = [int(rank)] if rank != "auto" else [0, *halving(min(p, _RANK), min(p, 16))]
    if solver in _UNSKETCHED:
        ranks = [0]
    for width in ranks:
        yield from ((width, rows) for rows in _sample_sizes(design, width))


def _sample_sizes(design: DesignMatrix, rank: int) -> Iterator[int]:
    """Give the rows of a sample for preconditioner and step length, and fewer for less memory.

    More rows make a better preconditioner; beyond sixteen for each column, or a fourth of all, their
    products cost as much as passes. Fewer than two for each direction know nothing of it.
    """
    n, p = design.shape
    probed = batch_rows(n)
    most = max(_LEAST_SAMPLE, 4 * p, min(16 * p, n // 4)) + probed
    least = max(_LEAST_SAMPLE, 2 * (rank or p)) + probed
    return halving(min(n, most), min(n, least))


def solve_stochastic(
    estimator: Any, problem: Composite, trace: Trace, start: tuple[Block, Vector] | None
) -> Result[Any]:
    """Minimise by the method that an estimator names; ``"hybrid"`` hands over to proximal Newton.

    Parameters
    ----------
    estimator : Penalised
    problem : Composite
        Its smooth part is over rows of a design.
    trace : Trace
    start : (ndarray, ndarray), optional
    """
    smooth: Any = problem.smooth
    seed = as_seed(estimator.random_state)
    batches = Minibatches(smooth.design, batch_rows(smooth.design.shape[0]), seed)
    sum_ = FiniteSum(problem, batches, smooth.outcome, smooth.sample.design, smooth.sample.factor)

    def limits() -> dict[str, Any]:
        passes, seconds = estimator.max_passes, estimator.time_limit
        return {
            "max_passes": None if passes is None else passes - len(trace.passes),
            "time_limit": None if seconds is None else seconds - trace.seconds,
        }

    def show(_: Any, record: dict[str, Any]) -> None:
        gap = record["duality_gap"]
        trace.residual = record["optimality"] if gap is None else gap
        trace.measure = "optimality" if gap is None else "gap"

    hybrid = estimator.solver == "hybrid"
    tol = max(estimator.tol, _HANDED_OVER) if hybrid else estimator.tol
    method: OnlineScaled | Stochastic
    if estimator.solver == "osgm":
        method = OnlineScaled(tol=tol, seed=seed)
    else:
        labels = smooth.outcome.labels
        warn_if_sorted(
            smooth.design, blocks_of_window(smooth.design), classes=None if labels is None else labels.classes
        )
        fits = _table_bytes(smooth.design.shape[0], smooth.shape[1]) > 0
        method = replace(
            _method(estimator.solver, smooth.rank, sum_), tol=tol, seed=seed, table_in_memory=fits
        )
    result: Result[Any] = solve(sum_, method, start=start, callback=show, **limits())
    if not hybrid or not (result.converged or result.status.name == "STALLED"):
        return result
    W, intercept = result.value
    if sum_.latest is not None and np.array_equal(sum_.latest[0], result.state.best):
        smooth.keep(W, intercept, sum_.latest[1])
    finished = solve(
        problem,
        ProximalNewton(tol=estimator.tol, inner=ADMM()),
        start=(W, intercept),
        callback=show,
        **limits(),
    )
    return replace(finished, history=[*result.history, *finished.history])


def _method(name: str, rank: int, problem: FiniteSum) -> Stochastic:
    """Settle the preconditioner: steps with a proximal operator want one of low rank."""
    if name in _PLAIN:
        return _PLAIN[name]
    method = _PRECONDITIONED[name]
    if rank:
        method = replace(method, hessian=SubsampledHessian("nystrom", rank))
    elif problem.rest is not None and problem.shape[0] > 2 * _RANK:
        method = replace(method, hessian=SubsampledHessian("nystrom", _RANK))
    return method


def _needs(design: DesignMatrix, rank: int, n_sampled: int, k: int, solver: str) -> dict[str, int]:
    """Count bytes in the phase that holds most: set-up, full evaluation, or an epoch."""
    p = design.shape[1]
    outcome = Outcome(Logistic(), np.zeros(k, np.intp))
    begun = Outset(design, outcome, np.zeros(k), fit_intercept=True).design
    setup = pass_needs(begun, SetUp(), RowSample(np.empty(n_sampled, np.int64)))
    zeros = np.zeros(p)
    shift = None if design.sparse or not isinstance(design.features, Identity) else zeros
    shifted = replace(design, centering=Centering(zeros, np.ones(p), np.zeros(design.n_targets), shift))
    W, b = np.broadcast_to(np.float64(0), (p, k)), np.zeros(k)
    evaluate = pass_needs(shifted.with_precision("double"), LossSums(outcome, W, b))
    epoch = minibatch_needs(shifted)
    probe = batch_rows(design.shape[0]) * p * design.dtype.itemsize
    held = {
        "solver": 24 * 8 * p * k,
        "sample": int(n_sampled * (design.row_bytes + 24 * (k + 1))) + probe,
    }
    if solver.endswith("saga"):
        window = min(design.shape[0], blocks_of_window(design) * design.block_rows)
        # Of this epoch and the last: all of them, if not in a file, and those of a window.
        held["slopes"] = 2 * (_table_bytes(design.shape[0], k) + 8 * window * k)
    if solver not in _UNSKETCHED:
        matrix = design.dtype.itemsize * p * p if rank == 0 else 6 * 8 * p * rank
        held["preconditioner"] = k * matrix + chunk_needs(design.dtype.itemsize * (p + 1))
    if solver == "hybrid":
        held["Hessians"] = (2 * k + 2) * 8 * p * p
    phases = [setup, evaluate | held, epoch | held]
    return max(phases, key=lambda needs: sum(needs.values()))
