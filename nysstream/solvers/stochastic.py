"""Stochastic methods: preconditioned steps along gradients of minibatches, one epoch at a time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nysstream.errors import InputError
from nysstream.sketching.subsampled import SubsampledHessian
from nysstream.solvers.base import Solver, Status
from nysstream.solvers.curvature import Measured, measure
from nysstream.solvers.epoch import PRECISE, Epoch, EpochState, mean_loss
from nysstream.solvers.epoch_entry import remembered_epoch
from nysstream.solvers.finite_sum import FiniteSum

if TYPE_CHECKING:
    from nysstream.solvers.quadratic import Block, Certified, Vector

Reference = Literal["none", "snapshot", "loopless", "table"]
REFERENCES = ("none", "snapshot", "loopless", "table")
#: Epochs that may fail to improve before rounding is blamed.
_PATIENCE = 8


@dataclass(frozen=True)
class Stochastic(Solver[FiniteSum, EpochState]):
    r"""Steps :math:`w \leftarrow \mathrm{prox}(w - \eta P^{-1} v)` with a gradient v of every batch.

    Parameters
    ----------
    reference : {"snapshot", "table", "loopless", "none"}
        What the slopes of a batch are compared with, to take out the noise of the draw: those at a snapshot
        that is renewed after every epoch (SVRG), or at random between batches (L-SVRG); those of the rows'
        last visits, which are kept (SAGA); or nothing (SGD).
    accelerated : bool
        Katyusha's coupling of three iterates, with a snapshot renewed at random.
    hessian : SubsampledHessian
        What P is made of.
    length : float
        Steps, in units of the inverse of the smoothness that a fresh sample shows in the metric.
    tol : float
        Relative duality gap at which to stop; where there is no gap, relative distance from optimality.
    max_epochs : int
    evaluate_every : int
        Epochs between full evaluations where the method needs none.
    seed : int
        Of samples and coins; the order of the rows is the batches'.
    table_in_memory : bool
        Where the slopes are kept.

    Notes
    -----
    Cost of an epoch: one pass in batches; and one to evaluate, with a snapshot after every epoch, else from
    time to time and at the end. What is reported is always of a full evaluation. Memory: the metric, five
    blocks, and with a table ``8 n k`` bytes.

    Without a reference, and with a snapshot where the penalty is smooth, an epoch's result is the mean over
    its second half.

    Where an epoch ends higher than it began, in a column, the column goes back and its steps are halved;
    likewise at once where a batch's loss is far above what its rows had at a good block. For losses that
    are not quadratic the metric is made anew after 1, 2, 4, ... epochs.

    References
    ----------
    .. [1] Frangella, Rathore, Zhao and Udell, "SketchySGD", SIMODS, 2024.
    .. [2] Frangella, Rathore, Zhao and Udell, "PROMISE", JMLR, 2024.
    .. [3] Sun et al., "SAPPHIRE: Preconditioned stochastic variance reduction", 2025.
    """

    reference: Reference = "snapshot"
    accelerated: bool = False
    hessian: SubsampledHessian = field(default_factory=SubsampledHessian)
    length: float = 1.0
    tol: float = 1e-6
    max_epochs: int = 1000
    evaluate_every: int = 5
    seed: int = 0
    table_in_memory: bool = True

    def __post_init__(self) -> None:
        if self.reference not in REFERENCES:
            message = f"reference={self.reference!r} is not known: use one of {', '.join(REFERENCES)}"
            raise InputError(message)
        if self.accelerated and self.reference != "loopless":
            message = f"accelerated=True goes with reference='loopless', not with {self.reference!r}"
            raise InputError(message)
        if not 0 <= self.tol < 1 or min(self.max_epochs, self.evaluate_every) < 1 or not self.length > 0:
            message = (
                f"tol={self.tol}, length={self.length}, max_epochs={self.max_epochs}, "
                f"evaluate_every={self.evaluate_every}: give a tolerance from 0 to 1 and positive numbers"
            )
            raise InputError(message)

    # The moves of a solver.

    def init(self, problem: FiniteSum, start: tuple[Block, Vector] | None) -> EpochState:
        """Evaluate at the start, or at zero."""
        V = np.zeros(problem.shape) if start is None else problem.join(*start)
        if problem.rest is not None:
            V = problem.rest.prox(V, 1e-12)
        certified, known = problem.evaluate(V, precise=False)
        known = np.zeros_like(known) if self.reference == "none" else known
        step, objective = np.ones(V.shape[1]), certified.objective
        loss = mean_loss(problem, V, objective)
        return EpochState(V, V, V, known, None, V, step, V, certified, False, objective, abs(loss))

    def step(self, problem: FiniteSum, state: EpochState) -> EpochState:
        """Run an epoch, and evaluate where that is due; or verify what single precision has found."""
        if not state.precise and state.certified.measure.max() <= self.tol:
            return self._evaluate(problem, replace(state, V=state.best), precise=True)
        state = remembered_epoch(self, problem, state, lambda first=state: Epoch(self, problem, first).run())  # type: ignore[misc]
        if self._due(state):
            state = self._evaluate(problem, state, precise=state.certified.measure.max() < PRECISE)
        if not problem.outcome.loss.quadratic and state.epoch & (state.epoch - 1) == 0:
            # Of a column that has not moved the metric stays; steps that were too long would be so again.
            moved = np.any(state.curved_at != state.V, axis=0)
            state = replace(state, curved_at=state.V, step=np.where(moved, 1.0, state.step))
        return state

    def check(self, problem: FiniteSum, state: EpochState) -> Status | None:
        """Stop when every column is certified, progress ends, or the limit is reached."""
        if state.precise and state.certified.measure.max() <= self.tol:
            return Status.CONVERGED
        if state.failures >= _PATIENCE:
            return Status.STALLED
        return Status.MAX_ITERATIONS if state.epoch >= self.max_epochs else None

    def value(self, problem: FiniteSum, state: EpochState) -> tuple[Block, Vector]:
        """Return the best evaluated coefficients and intercepts."""
        return problem.split(state.best)

    def report(self, problem: FiniteSum, state: EpochState) -> dict[str, Any]:
        """Measure the certificate of the worst column."""
        return {"iterations": state.epoch} | state.certified.record()

    def passes_ahead(self, problem: FiniteSum, state: EpochState) -> int:
        """Count the epoch, what is evaluated within it, and the evaluation at its end."""
        return 2 + int(self.coins(problem, state.epoch).sum())

    def passes_to_finish(self, problem: FiniteSum, state: EpochState) -> int:
        """Count the evaluation that is missing."""
        return int(state.evaluated < state.epoch)

    def finish(self, problem: FiniteSum, state: EpochState) -> EpochState:
        """Evaluate where the last epoch has ended."""
        if state.evaluated == state.epoch:
            return state
        return self._evaluate(problem, state, precise=state.certified.measure.max() < PRECISE)

    # What they are made of.

    def measured(self, problem: FiniteSum, state: EpochState) -> Measured:
        """Give the metric of a state, made anew where it is not the one made last."""
        last = problem.memo.get("measured")
        if last is None or last[0] != self.hessian or not np.array_equal(last[1], state.curved_at):
            last = None
            problem.memo.clear()  # freed before the next is made
            found = measure(problem, state.curved_at, self.hessian, self.seed)
            problem.memo["measured"] = last = (self.hessian, state.curved_at, found)
        result: Measured = last[2]
        return result

    def coins(self, problem: FiniteSum, epoch: int) -> Any:
        """Say before which batches of an epoch the snapshot is renewed."""
        count = problem.batches.count(epoch)
        if self.reference != "loopless":
            return np.zeros(count, np.bool_)
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, epoch, 2])))
        return rng.random(count) < 1.0 / count

    def _due(self, state: EpochState) -> bool:
        if self.reference == "snapshot":
            return True
        waited = state.epoch - state.evaluated
        return waited >= self.evaluate_every or (waited > 0 and state.estimate <= self.tol)

    def _evaluate(self, problem: FiniteSum, state: EpochState, *, precise: bool) -> EpochState:
        """Evaluate the iterate; columns that have risen go back to their best, with half the step."""
        certified, gradient = problem.evaluate(state.V, precise=precise)
        return self.judge(state, certified, gradient, precise=precise)

    def judge(self, state: EpochState, certified: Certified, gradient: Block, *, precise: bool) -> EpochState:
        """Take in an evaluation of the iterate."""
        noise = 1e-12 * np.abs(state.objective)
        fallen = certified.objective <= state.objective + noise
        if self.reference in ("snapshot", "loopless"):
            anchor, known = np.where(fallen, state.V, state.anchor), np.where(fallen, gradient, state.known)
        else:
            anchor, known = state.anchor, state.known
        better, merged = state.certified.merge(certified)
        best = np.where(better, state.V, state.best)
        V = np.where(fallen, state.V, best)
        improved = merged.improves_on(state.certified)
        return replace(
            state,
            V=V,
            ahead=np.where(fallen, state.ahead, V),
            anchor=anchor,
            known=known,
            step=np.where(fallen, state.step, 0.5 * state.step),
            best=best,
            certified=merged,
            precise=precise,
            objective=np.where(fallen, certified.objective, state.objective),
            evaluated=state.epoch,
            failures=0 if improved else state.failures + 1,
        )
