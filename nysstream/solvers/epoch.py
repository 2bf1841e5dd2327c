"""An epoch of a stochastic method: what it begins with, and its steps."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from nysstream.solvers.scaled_prox import scaled_prox
from nysstream.streaming.rowstate import RowState

if TYPE_CHECKING:
    from nysstream.sketching.metric import Metric
    from nysstream.solvers.finite_sum import Change, FiniteSum
    from nysstream.solvers.quadratic import Block, Certified, Vector
    from nysstream.solvers.stochastic import Stochastic
    from nysstream.streaming.minibatch import Batch
    from nysstream.streaming.window import Window

#: A batch has risen whose loss exceeds that at a safe block by this part of it, and of the loss at the start.
_RISE = 1.0
#: Measure below which evaluations are made in double precision.
PRECISE = 1e-4


@dataclass(frozen=True, eq=False)
class EpochState:
    """Iterates between two epochs.

    Attributes
    ----------
    V : ndarray, shape (p', k)
        Coefficients, and intercepts below them.
    ahead : ndarray, shape (p', k)
        The accelerated method's second iterate.
    anchor : ndarray, shape (p', k)
        Where the compared slopes are from.
    known : ndarray, shape (p', k)
        Sum over all rows of the compared slopes' gradients.
    table : RowState or None
        The compared slopes of each row, where they are kept.
    curved_at : ndarray, shape (p', k)
        Where the metric's curvature is from.
    step : ndarray, shape (k,)
        Lengths of steps, relative to what the metric's smoothness allows.
    best : ndarray, shape (p', k)
    certified : Certified
        Of the best.
    precise : bool
        Whether that was in double precision.
    objective : ndarray, shape (k,)
        At the last evaluation.
    first_loss : float
        Of one row at the start, on average over the rows and summed over the columns.
    estimate : float
        Distance from optimality by what the last epoch saw.
    epoch, evaluated, failures : int
        Epochs done; the epoch after which was evaluated last; and evaluations since the last improvement.
    """

    V: Block
    ahead: Block
    anchor: Block
    known: Block
    table: RowState | None
    curved_at: Block
    step: Vector
    best: Block
    certified: Certified
    precise: bool
    objective: Vector
    first_loss: float
    estimate: float = np.inf
    epoch: int = 0
    evaluated: int = 0
    failures: int = 0


class Epoch:
    """One epoch under way.

    Parameters
    ----------
    solver : Stochastic
    problem : FiniteSum
    state : EpochState
        Where it begins.
    """

    def __init__(self, solver: Stochastic, problem: FiniteSum, state: EpochState) -> None:
        self.solver, self.problem, self.state = solver, problem, state
        self.measured = solver.measured(problem, state)
        self.n_rows = problem.batches.design.shape[0]
        self.count = problem.batches.count(state.epoch)
        self.window: Window | None = None
        self.slopes = self.new_slopes = np.empty((0, 0))
        self.table: RowState | None = None
        if solver.reference == "table":
            self.table = RowState((self.n_rows, state.V.shape[1]), solver.table_in_memory)
        self.level = mean_loss(problem, state.best, state.certified.objective)

    def run(self) -> EpochState:
        """Visit every row once."""
        solver, problem, first = self.solver, self.problem, self.state
        coins = solver.coins(problem, first.epoch)
        mean, averaged = np.zeros_like(first.V), 0
        with contextlib.closing(problem.batches.epoch(first.epoch)) as batches:
            for i, batch in enumerate(batches):
                if coins[i]:
                    self._renew()
                self._visit(batch, first.V)
                if 2 * i >= self.count:
                    averaged += 1
                    mean += (self.state.V - mean) / averaged
        problem.epochs += 1
        self._leave_window()
        state = replace(self.state, epoch=first.epoch + 1, table=self.table)
        # Of a penalty's kinks the mean keeps no zeros, so that it is for smooth problems where digits count.
        smooth = solver.reference == "snapshot" and problem.rest is None
        if (solver.reference == "none" or smooth) and averaged:
            state = replace(state, V=mean, ahead=mean)
        if solver.reference == "table":
            W, _ = problem.split(state.V)
            gradient, slope = problem.split(state.known)
            apart = problem.composite.regularizer.distance(W, gradient)
            apart = np.maximum(apart, np.abs(slope)) / problem.composite.scale
            state = replace(state, estimate=float(apart.max()))
        return state

    def _renew(self) -> None:
        """Make the iterate the snapshot, with a full evaluation between two batches."""
        state = self.state
        precise = bool(state.certified.measure.max() < PRECISE)
        certified, gradient = self.problem.evaluate(state.V, precise=precise)
        self.state = self.solver.judge(state, certified, gradient, precise=precise)

    def _visit(self, batch: Batch, safe: Block) -> None:
        """Take one step."""
        solver, problem, state = self.solver, self.problem, self.state
        at = self._coupled() if solver.accelerated else state.V
        compared = slopes = None
        if self.table is not None:
            self._enter_window(batch)
        if solver.reference in ("snapshot", "loopless") or (
            solver.reference == "table" and state.table is None
        ):
            compared = state.anchor
        elif solver.reference == "table":
            slopes = self.slopes[batch.window.places(batch.rows)]
        change = problem.change(batch, at, compared=compared, slopes=slopes)
        if self._risen(batch, change, safe, compared=compared is not None):
            if self.table is not None:  # its rows keep what they were compared with
                kept = problem.slopes(batch, state.anchor) if slopes is None else slopes
                self.new_slopes[batch.window.places(batch.rows)] = kept
            self.state = replace(state, V=safe, ahead=safe, step=0.5 * state.step)
            return
        share = len(batch) / self.n_rows
        gradient = change.gradient / share + state.known + problem.l2 * at
        known = state.known
        if self.table is not None:
            self.new_slopes[batch.window.places(batch.rows)] = change.slopes
            known = known + change.gradient
        if solver.accelerated:
            V, ahead = self._accelerate(at, gradient)
        else:
            length = solver.length * state.step / self.measured.smoothness
            V = ahead = advance(problem, self.measured.metric, at, gradient, length)
        self.state = replace(state, V=V, ahead=ahead, known=known)

    def _risen(self, batch: Batch, change: Change, safe: Block, *, compared: bool) -> bool:
        """Whether a batch's loss is far above what the same rows had at a block that was good.

        Without compared losses the level of all rows stands for it, which costs nothing; a batch above that
        may just hold rows of large losses, and is looked at once more.
        """
        start = len(batch) * self.state.first_loss

        def above(before: float) -> bool:
            return not change.loss - before <= _RISE * (abs(before) + start)  # NaN has risen, too

        if compared:
            return above(change.compared_loss)
        return above(len(batch) * self.level) and above(self.problem.loss(batch, safe))

    def _coefficients(self) -> tuple[Vector, Vector, Vector]:
        """Give Katyusha's smoothness, strong convexity relative to it, and share of the second iterate."""
        state, damping = self.state, self.measured.damping
        L = self.measured.smoothness / (self.solver.length * state.step)
        l2 = self.problem.l2[: self.problem.composite.smooth.shape[0]].min(axis=0)
        # Relative to the metric; the identity has no damping.
        least = l2 / (l2 + damping) if damping else l2
        convexity = np.maximum(least, 1.0 / self.count)
        sigma = convexity / L
        return L, sigma, np.minimum(np.sqrt(2 / 3 * self.count * sigma), 0.5)

    def _coupled(self) -> Block:
        theta, state = self._coefficients()[2], self.state
        return theta * state.ahead + 0.5 * state.anchor + (0.5 - theta) * state.V

    def _accelerate(self, at: Block, gradient: Block) -> tuple[Block, Block]:
        """Move the iterate by a short step and the second one by a long one."""
        problem, metric = self.problem, self.measured.metric
        L, sigma, theta = self._coefficients()
        eta = 1.0 / (3.0 * theta)
        direction = metric.inverse(gradient)
        V, ahead = at - direction / (3 * L), self.state.ahead
        shrunk = 1 + eta * sigma
        Z = (eta * sigma * at + ahead - (eta / L) * direction) / shrunk
        if problem.rest is None:
            return problem.balance(V), problem.balance(Z)
        V = scaled_prox(problem.rest, metric, V, 1 / (3 * L), self.state.V)
        return V, scaled_prox(problem.rest, metric, Z, eta / (L * shrunk), ahead)

    def _enter_window(self, batch: Batch) -> None:
        """Read the window's slopes, once for all its batches."""
        if batch.window is self.window:
            return
        self._leave_window()
        self.window = batch.window
        shape = (int(batch.window.offsets[-1]), self.state.V.shape[1])
        self.slopes = (
            np.zeros(shape) if self.state.table is None else self.state.table.of_window(batch.window)
        )
        self.new_slopes = np.empty(shape)

    def _leave_window(self) -> None:
        if self.window is not None and self.table is not None:
            self.table.write_window(self.window, self.new_slopes)
        self.window = None


def mean_loss(problem: FiniteSum, V: Block, objective: Vector) -> float:
    """Take the penalty off an objective, and divide by the rows."""
    columns = objective[:1] if problem.coupled else objective
    return (float(columns.sum()) - problem.penalty(V)) / problem.batches.design.shape[0]


def advance(problem: FiniteSum, metric: Metric, V: Block, gradient: Block, length: Vector) -> Block:
    """Take one step along the negative gradient in a metric, and apply the proximal operator.

    Parameters
    ----------
    problem : FiniteSum
    metric : Metric
    V, gradient : ndarray, shape (p', k)
    length : ndarray, shape (k,)

    Returns
    -------
    ndarray, shape (p', k)
    """
    moved = V - length * metric.inverse(gradient)
    if problem.rest is None:
        return problem.balance(moved)
    return scaled_prox(problem.rest, metric, moved, length, V)
