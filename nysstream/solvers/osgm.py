"""The online scaled gradient method: a diagonal metric that is learned from pass to pass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.errors import InputError
from nysstream.sketching.subsampled import SubsampledHessian
from nysstream.solvers.base import Solver, Status
from nysstream.solvers.columns import dots
from nysstream.solvers.curvature import measure
from nysstream.solvers.epoch import PRECISE
from nysstream.solvers.finite_sum import FiniteSum

if TYPE_CHECKING:
    from nysstream.solvers.quadratic import Block, Certified, Vector

#: Momentum at the start and at most; how fast it is learned, and the scales, in inverse smoothness.
_MOMENTUM, _MOST_MOMENTUM, _MOMENTUM_RATE, _RATE = 0.95, 0.9995, 1.0, 1.0
#: Passes that may fail to improve before rounding is blamed.
_PATIENCE = 100
_TINY = 1e-300
#: Difference of scales, in inverse smoothness, and of momentum, from which derivatives are taken.
_NUDGE = 1e-3


@dataclass(frozen=True, eq=False)
class ScaledState:
    """Iterates of all columns, and what was learned about them.

    Attributes
    ----------
    V, before : ndarray, shape (p', k)
        The iterate and the one before it.
    gradient : ndarray, shape (p', k)
        Of the smooth function at the iterate.
    scales, scale_squares : ndarray, shape (p', k)
        The diagonal metric's inverse, and sums of squares of its derivatives; (1, k) where the regularizer
        couples coefficients.
    momentum, momentum_squares : ndarray, shape (k,)
    smoothness : ndarray, shape (k,)
    certified : Certified
        Of the iterate.
    precise : bool
    iterations, failures : int
    """

    V: Block
    before: Block
    gradient: Block
    scales: Block
    scale_squares: Block
    momentum: Vector
    momentum_squares: Vector
    smoothness: Vector
    certified: Certified
    precise: bool = False
    iterations: int = 0
    failures: int = 0


@dataclass(frozen=True)
class OnlineScaled(Solver[FiniteSum, ScaledState]):
    r"""Gradient steps with scales and momentum that are learned online, kept where the objective falls.

    The trial :math:`w - P g + \beta (w - w_{old})` is evaluated for one pass, which gives its objective and
    the derivatives of that by P and :math:`\beta`; they move by AdaGrad whether the trial is kept or not.
    With a penalty, the proximal operator is applied to the trial. One that couples coefficients allows one
    scale for each column only; derivatives of its trials are differences between two of them.

    Parameters
    ----------
    tol : float
        Relative duality gap at which to stop; where there is no gap, relative distance from optimality.
    max_iterations : int
    seed : int

    Notes
    -----
    Cost: one pass a step, and one to start. Memory: six blocks.

    References
    ----------
    .. [1] Gao, Chu, Ye and Udell, "Gradient methods with online scaling", COLT, 2025.
    """

    tol: float = 1e-6
    max_iterations: int = 10_000
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.tol < 1 or self.max_iterations < 1:
            message = (
                f"tol={self.tol}, max_iterations={self.max_iterations}: give a tolerance from 0 to 1 and a "
                "positive count"
            )
            raise InputError(message)

    def init(self, problem: FiniteSum, start: tuple[Block, Vector] | None) -> ScaledState:
        """Evaluate at the start, or at zero; scales begin with the smoothness that a sample shows."""
        V = np.zeros(problem.shape) if start is None else problem.join(*start)
        if problem.rest is not None:
            V = problem.rest.prox(V, 1e-12)
        certified, gradient = problem.evaluate(V, precise=False)
        smoothness = measure(problem, V, SubsampledHessian("identity"), self.seed).smoothness
        k = V.shape[1]
        scales = np.zeros((1, k) if _couples(problem) else V.shape) + 1.0 / smoothness
        return ScaledState(
            V,
            V,
            gradient + problem.l2 * V,
            scales,
            # One number for all must not vanish in the first step.
            np.zeros_like(scales) + _couples(problem),
            np.full(k, _MOMENTUM),
            np.zeros(k),
            smoothness,
            certified,
        )

    def step(self, problem: FiniteSum, state: ScaledState) -> ScaledState:
        """Evaluate one trial; or the iterate once more, in double precision."""
        measured = state.certified.measure.max()
        if not state.precise and measured <= self.tol:
            certified, gradient = problem.evaluate(state.V, precise=True)
            return replace(state, certified=certified, gradient=gradient + problem.l2 * state.V, precise=True)
        trial = self._trial(problem, state, state.scales, state.momentum)
        precise = bool(measured < PRECISE)
        certified, gradient = problem.evaluate(trial, precise=precise)
        gradient = gradient + problem.l2 * trial
        learned = self._learn(problem, state, trial, gradient)
        fallen, merged = state.certified.merge(certified)
        improved = merged.improves_on(state.certified)
        before = np.where(fallen, state.V, state.before)
        if _couples(problem):
            # Where a trial has risen to a corner no derivative leads away: the next has no momentum, and
            # once it had none, the step is half as long.
            plain = ~fallen & (state.before == state.V).all(axis=0)
            before = np.where(fallen, before, state.V)
            learned = replace(learned, scales=np.where(plain, 0.5 * state.scales, learned.scales))
        return replace(
            learned,
            V=np.where(fallen, trial, state.V),
            before=before,
            gradient=np.where(fallen, gradient, state.gradient),
            certified=merged,
            precise=precise and (state.precise or bool(fallen.all())),
            iterations=state.iterations + 1,
            failures=0 if improved else state.failures + 1,
        )

    def check(self, problem: FiniteSum, state: ScaledState) -> Status | None:
        """Stop when every column is certified, progress ends, or the limit is reached."""
        if state.precise and state.certified.measure.max() <= self.tol:
            return Status.CONVERGED
        if state.failures >= _PATIENCE:
            return Status.STALLED
        return Status.MAX_ITERATIONS if state.iterations >= self.max_iterations else None

    def value(self, problem: FiniteSum, state: ScaledState) -> tuple[Block, Vector]:
        """Return coefficients and intercepts."""
        return problem.split(state.V)

    def report(self, problem: FiniteSum, state: ScaledState) -> dict[str, Any]:
        """Measure the certificate of the worst column."""
        return {"iterations": state.iterations} | state.certified.record()

    def _trial(self, problem: FiniteSum, state: ScaledState, scales: Block, momentum: Vector) -> Block:
        """Step along the gradient and on in the last direction; apply the proximal operator."""
        trial = state.V - scales * state.gradient + momentum * (state.V - state.before)
        if problem.rest is None:
            return trial
        step = np.maximum(scales, _TINY)
        return problem.rest.prox(trial, step[0] if _couples(problem) else step)

    def _learn(self, problem: FiniteSum, state: ScaledState, trial: Block, gradient: Block) -> ScaledState:
        """Move scales and momentum against the derivatives of the trial's objective."""
        at, ahead = state.gradient, gradient
        if problem.rest is not None:
            # What the proximal operator holds in place depends on nothing.
            here, there = problem.rest.face(state.V), problem.rest.face(trial)
            if here is not None and there is not None:
                at = np.where(here.free | there.free, at + here.slope, 0.0)
                ahead = np.where(there.free, ahead + there.slope, 0.0)
        moved = state.V - state.before

        def inner(A: Block, B: Block) -> Vector:
            products = dots(A, B)
            return np.full_like(products, products.sum()) if problem.coupled else products

        drift = 0.25 * state.smoothness**2 * inner(moved, moved)
        if problem.rest is not None and _couples(problem):
            # What a coupled regularizer does to a trial is known from trials nearby.
            rest = problem.rest
            value = rest.value(trial)

            def differ(scales: Block, momentum: Vector, by: Any) -> tuple[Block, Vector]:
                """Give the derivatives of the trial and of the objective there."""
                near = self._trial(problem, state, scales, momentum)
                toward, penalty = (near - trial) / by, (rest.value(near) - value) / by
                penalty = np.full_like(penalty, penalty.sum()) if problem.coupled else penalty
                return toward, inner(ahead, toward) + penalty

            nudge = _NUDGE / state.smoothness
            toward, by_scale = differ(state.scales + nudge, state.momentum, nudge)
            _, by_momentum = differ(state.scales, state.momentum + _NUDGE, _NUDGE)
            # Where a constraint has stopped the trial, it may hardly move with the scale any more.
            step = trial - state.V
            drift = drift + 0.25 * state.smoothness**2 * inner(step, step)
            size = np.maximum(inner(toward, toward) + drift, _TINY)
            by_scale, by_momentum = by_scale[None, :] / size, by_momentum / size
        else:
            size = np.maximum(inner(at, at) + drift, _TINY)
            by_scale, by_momentum = -ahead * at / size, inner(ahead, moved) / size
        scale_squares = state.scale_squares + by_scale**2
        momentum_squares = state.momentum_squares + by_momentum**2
        rate = _RATE / state.smoothness
        scales = state.scales - rate * by_scale / np.sqrt(np.maximum(scale_squares, _TINY))
        momentum = state.momentum - _MOMENTUM_RATE * by_momentum / np.sqrt(
            np.maximum(momentum_squares, _TINY)
        )
        return replace(
            state,
            scales=np.maximum(scales, 0.0),
            scale_squares=scale_squares,
            momentum=np.clip(momentum, 0.0, _MOST_MOMENTUM),
            momentum_squares=momentum_squares,
        )


def _couples(problem: FiniteSum) -> bool:
    """Whether the regularizer couples coefficients of a column."""
    return problem.rest is not None and not problem.rest.separable
