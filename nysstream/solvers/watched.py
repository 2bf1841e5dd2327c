"""Stochastic steps without full evaluations between epochs: a loss is watched that costs no pass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.errors import InputError
from nysstream.solvers.base import Solver, Status
from nysstream.solvers.epoch import Epoch, EpochState
from nysstream.solvers.epoch_entry import remembered_epoch
from nysstream.solvers.finite_sum import FiniteSum
from nysstream.solvers.stochastic import Stochastic

if TYPE_CHECKING:
    from collections.abc import Callable

    from nysstream.solvers.finite_sum import Change
    from nysstream.solvers.quadratic import Block, Certified, Vector


#: Times the least loss so far beyond which an epoch has lost its way.
_LOST = 2.0
#: Steps are not cut any further without counting as no progress.
_LEAST_STEP = 1e-6


@dataclass(eq=False)
class WatchedSum(FiniteSum):
    """A finite sum that adds up the losses of its batches, at the iterates that these have met."""

    def change(self, *args: Any, **kwargs: Any) -> Change:
        """Add the loss of the batch."""
        found = super().change(*args, **kwargs)
        self.seen += found.loss
        return found


@dataclass(frozen=True, eq=False)
class WatchedState:
    """Where the epochs have come to.

    Attributes
    ----------
    inner : EpochState
    answer : ndarray, shape (p', k)
        The last epoch's result, the mean of all, or that of the least loss held out.
    mean : ndarray, shape (p', k)
        Of the epochs' results; those of the t-th count t times.
    loss : float
        That was watched in the last epoch.
    least : float
        The least of them so far.
    good : ndarray, shape (p', k)
        Where the epoch of the least loss has ended.
    waited : int
        Epochs since it has fallen by enough.
    certified : Certified
        Of the answer once it is evaluated; of the start until then.
    evaluated : bool
    """

    inner: EpochState
    answer: Block
    mean: Block
    loss: float
    least: float
    good: Block
    waited: int
    certified: Certified
    evaluated: bool


@dataclass(frozen=True)
class Watched(Solver[WatchedSum, WatchedState]):
    """Epochs of a stochastic method until a loss no longer falls; then one full evaluation.

    Parameters
    ----------
    method : Stochastic
        Without references: SketchySGD, or plain steps.
    tol : float
        Part of the loss by which an epoch must lower it.
    patience : int
        Epochs that may fail to, before the solve ends. Each halves the steps.
    average : bool
        Whether the answer is the mean of the epochs' results, rather than the last.
    held_out : callable, optional
        Gives the loss, with the penalty, on rows held out at a block ``(p', k)``. Then the answer is that of
        its least value. Without it, the loss is what the batches of an epoch showed as they came.
    max_epochs : int

    Notes
    -----
    Cost: one pass an epoch, and one at the end; one before, where the losses at the start are not known.
    """

    method: Stochastic
    tol: float = 1e-3
    patience: int = 5
    average: bool = False
    held_out: Callable[[Block], float] | None = None
    max_epochs: int = 1000

    def __post_init__(self) -> None:
        if self.method.reference != "none":
            message = f"reference={self.method.reference!r}: only 'none' needs no full evaluations"
            raise InputError(message)

    def init(self, problem: WatchedSum, start: tuple[Block, Vector] | None) -> WatchedState:
        """Evaluate at the start, or at zero."""
        inner = self.method.init(problem, start)
        V, certified = inner.V, inner.certified
        return WatchedState(inner, V, V, np.nan, np.inf, V, 0, certified, evaluated=True)

    def step(self, problem: WatchedSum, state: WatchedState) -> WatchedState:
        """Run an epoch, and see what it has done to the loss; or evaluate the answer, at the end."""
        if state.waited >= self.patience:
            return self.finish(problem, state)
        problem.seen = 0.0
        inner = remembered_epoch(
            self.method, problem, state.inner, lambda: Epoch(self.method, problem, state.inner).run()
        )
        # Steps that were too long have cost an epoch its work: that says nothing of the loss's limit.
        cut = bool((inner.step < state.inner.step).any()) and float(inner.step.max()) > _LEAST_STEP
        t = inner.epoch
        if self.held_out is None and not problem.seen <= _LOST * state.least:
            # A metric of curvatures where a model is sure of itself leads further astray.
            inner = replace(inner, V=state.good, ahead=state.good, curved_at=state.good)
        mean = state.mean + 2.0 / (t + 1) * (inner.V - state.mean)
        answer = mean if self.average else inner.V
        loss = problem.seen + problem.penalty(inner.V) if self.held_out is None else self.held_out(answer)
        fallen = loss < state.least - self.tol * abs(state.least) if np.isfinite(state.least) else True
        if not fallen:
            inner = replace(inner, step=0.5 * inner.step)
        if not problem.outcome.loss.quadratic and t & (t - 1) == 0:
            inner = replace(inner, curved_at=inner.V)
        if self.held_out is not None and not loss < state.least:
            answer = state.answer
        return WatchedState(
            inner,
            answer,
            mean,
            loss,
            min(loss, state.least),
            inner.V if loss <= state.least else state.good,
            0 if fallen else state.waited + (not cut),
            state.certified,
            evaluated=False,
        )

    def check(self, problem: WatchedSum, state: WatchedState) -> Status | None:
        """Stop when the loss has not fallen for some epochs, or the limit is reached."""
        if state.waited >= self.patience and state.evaluated:
            return Status.CONVERGED
        return Status.MAX_ITERATIONS if state.inner.epoch >= self.max_epochs else None

    def value(self, problem: WatchedSum, state: WatchedState) -> tuple[Block, Vector]:
        """Return the answer so far."""
        return problem.split(state.answer)

    def report(self, problem: WatchedSum, state: WatchedState) -> dict[str, Any]:
        """Give the loss that is watched, and the certificate of the last evaluation."""
        gap = state.certified.relative_gap
        return {
            "iterations": state.inner.epoch,
            "loss": state.loss,
            "objective": state.certified.objective,
            "duality_gap": float(gap.max()) if np.isfinite(gap).all() else None,
            "optimality": float(state.certified.optimality.max()),
        }

    def passes_ahead(self, problem: WatchedSum, state: WatchedState) -> int:
        """Count the epoch and the evaluation at the end."""
        return 2 if state.waited < self.patience else 1

    def passes_to_finish(self, problem: WatchedSum, state: WatchedState) -> int:
        """Count the evaluation."""
        return int(not state.evaluated)

    def finish(self, problem: WatchedSum, state: WatchedState) -> WatchedState:
        """Evaluate the answer."""
        if state.evaluated:
            return state
        certified, _ = problem.evaluate(state.answer, precise=True)
        return replace(state, certified=certified, evaluated=True)
