"""Preconditioned gradient descent: the baseline that conjugate gradients must beat."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nysstream.arrays import namespace
from nysstream.errors import InputError
from nysstream.sketching.random_matrices import gaussian
from nysstream.solvers.base import Result, Solver, Status, solve
from nysstream.solvers.columns import dots, norms, row
from nysstream.solvers.linear_system import LinearSystem, as_block

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

Array = Any  # any array of the Python array API standard

# Steps without a new lowest energy after which rounding is to blame, not the step length.
_MAX_IDLE = 20


@dataclass(frozen=True, eq=False)
class DescentState:
    """Where a descent on k systems stands.

    Attributes
    ----------
    iterate, residual, direction : array, shape (p, k)
        The residual is a true one; the direction is the preconditioned residual.
    norm, rhs_norm : ndarray, shape (k,)
        Norms of the residuals and of the right-hand sides.
    energy : ndarray, shape (k,)
        Inner products of residual and direction.
    largest : ndarray, shape (k,)
        Estimates of the largest eigenvalue of the preconditioned operator.
    lowest : ndarray, shape (k,)
        The smallest energies so far.
    idle : ndarray of int, shape (k,)
        Steps since.
    iterations : int
    """

    iterate: Array
    residual: Array
    direction: Array
    norm: NDArray[np.float64]
    rhs_norm: NDArray[np.float64]
    energy: NDArray[np.float64]
    largest: NDArray[np.float64]
    lowest: NDArray[np.float64]
    idle: NDArray[np.int64]
    iterations: int


@dataclass(frozen=True)
class Descent(Solver[LinearSystem, DescentState]):
    r"""Gradient descent in the metric of the preconditioner.

    .. math:: x^+ = x + t\,P^{-1} (b - (A + \mu I) x), \qquad
              t = 1 / \lambda_{\max}(P^{-1} (A + \mu I))

    Parameters
    ----------
    rtol, atol : float
        Converged when every residual is at most ``max(rtol * norm(b_j), atol)``.
    max_iterations : int, optional
        By default ``100 * p``.
    power_iterations : int
        Products spent on the largest eigenvalue before the first step.
    seed : int
        Seed of the vectors with which that estimate begins.

    Notes
    -----
    Cost: one pass per step, after ``power_iterations`` passes to begin with; ``3 * p * k`` float64.

    The power method errs on the low side, hence on the side of too long a step. Each step also
    measures the curvature along its direction, which bounds the eigenvalue from below; and where
    the residual has grown in the metric of the preconditioner the estimate is doubled.
    """

    rtol: float = 1e-6
    atol: float = 0.0
    max_iterations: int | None = None
    power_iterations: int = 10
    seed: int = 0

    needs: ClassVar[frozenset[str]] = frozenset({"psd"})

    def __post_init__(self) -> None:
        if not (self.rtol >= 0 and self.atol >= 0):
            message = f"rtol={self.rtol}, atol={self.atol}: tolerances must not be negative"
            raise InputError(message)
        if self.power_iterations < 1:
            message = f"power_iterations={self.power_iterations}: the step length needs at least one"
            raise InputError(message)

    def init(self, problem: LinearSystem, start: Array | None) -> DescentState:
        """Estimate the step lengths, and the residuals at ``start``."""
        B = problem.rhs
        if start is not None:
            problem.check_start(start)
        X = namespace(B).zeros_like(B) if start is None else start
        R = B if start is None else problem.true_residual(X)
        D = problem.precondition.inverse(R, problem.shifts)
        largest = self._power_method(problem)
        energy, idle = dots(R, D), np.zeros(B.shape[1], np.int64)
        return DescentState(X, R, D, norms(R), norms(B), energy, largest, energy, idle, 0)

    def step(self, problem: LinearSystem, state: DescentState) -> DescentState:
        """Move all columns along their preconditioned residuals."""
        moving = state.norm > self._threshold(state)
        length = np.divide(1.0, state.largest, out=np.zeros_like(state.largest), where=moving)
        X = state.iterate + row(state.iterate, length) * state.direction
        R = problem.true_residual(X)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # overflow ends as a breakdown
            D = problem.precondition.inverse(R, problem.shifts)
            energy = dots(R, D)
            curvature = dots(state.direction, state.residual - R) / (length * state.energy)
            largest = np.fmax(state.largest, np.where(moving, curvature, 0.0))
            risen = moving & (energy > state.energy)
            largest = np.where(risen, 2 * largest, largest)
        idle = np.where(moving & (energy >= state.lowest), state.idle + 1, 0)
        state = replace(state, lowest=np.fmin(state.lowest, energy), idle=idle)
        state = replace(state, iterate=X, residual=R, direction=D, norm=norms(R), energy=energy)
        return replace(state, largest=largest, iterations=state.iterations + 1)

    def check(self, problem: LinearSystem, state: DescentState) -> Status | None:
        """Stop when every column has converged, or at the limit."""
        if not np.all(np.isfinite(state.norm)) or np.any((state.energy <= 0) & (state.norm > 0)):
            return Status.BREAKDOWN
        if np.all(state.norm <= self._threshold(state)):
            return Status.CONVERGED
        if not np.all(state.largest > 0):
            return Status.BREAKDOWN
        if np.any((state.idle >= _MAX_IDLE) & (state.norm > self._threshold(state))):
            return Status.STALLED
        limit = 100 * problem.rhs.shape[0] if self.max_iterations is None else self.max_iterations
        return Status.MAX_ITERATIONS if state.iterations >= limit else None

    def value(self, problem: LinearSystem, state: DescentState) -> Array:
        """Return the iterate."""
        return state.iterate

    def report(self, problem: LinearSystem, state: DescentState) -> dict[str, Any]:
        """Measure true residuals relative to the right-hand sides."""
        relative = np.divide(state.norm, state.rhs_norm, out=state.norm.copy(), where=state.rhs_norm > 0)
        return {
            "iterations": state.iterations,
            "relative_residual": float(relative.max()),
            "relative_residuals": relative,
            "verified": True,
        }

    def _threshold(self, state: DescentState) -> NDArray[np.float64]:
        return np.maximum(self.rtol * state.rhs_norm, self.atol)

    def _power_method(self, problem: LinearSystem) -> NDArray[np.float64]:
        """Estimate the largest eigenvalues of the preconditioned operator from below."""
        p, k = problem.rhs.shape
        V = problem.operator.place(gaussian(p, k, self.seed))
        shift = row(V, problem.shifts)
        largest = np.zeros(k)
        for _ in range(self.power_iterations):
            V = V / row(V, norms(V))
            AV = problem.operator.matmat(V) + shift * V
            PAV = problem.precondition.inverse(AV, problem.shifts)
            energy = dots(V, AV)
            # The Rayleigh quotient in the inner product of A, where the operator is symmetric.
            quotient = np.divide(dots(AV, PAV), energy, out=np.zeros(k), where=energy > 0)
            largest = np.maximum(largest, quotient)
            V = PAV
        return largest


def descent(
    A: Any,
    b: Array,
    *,
    shift: float | NDArray[Any] = 0.0,
    preconditioner: Any = None,
    x0: Array | None = None,
    rtol: float = 1e-6,
    atol: float = 0.0,
    maxiter: int | None = None,
    max_passes: int | None = None,
    time_limit: float | None = None,
    callback: Callable[[Array], object] | None = None,
    throw: bool = False,
) -> Result[DescentState]:
    r"""Solve :math:`(A + \mu_j I) x_j = b_j` by preconditioned gradient descent.

    The arguments, the result and the errors are those of :func:`nysstream.pcg`, which needs fewer
    passes; descent is the baseline to compare with.

    Parameters
    ----------
    A : LinearOperator, array, sparse array or scipy.sparse.linalg.LinearOperator, shape (p, p)
    b : array, shape (p,) or (p, k)
    shift : float or ndarray, shape (k,)
    preconditioner : Nystrom, Preconditioner, or matrix of shape (p, p), optional
    x0 : array, shape (p,) or (p, k), optional
    rtol, atol : float
    maxiter : int, optional
        By default ``100 * p``.
    max_passes : int, optional
    time_limit : float, optional
    callback : callable, optional
    throw : bool

    Returns
    -------
    Result
        ``value`` has the shape of ``b``.

    Notes
    -----
    Cost: ten passes for the step length, then one per step.
    """
    problem = LinearSystem.of(A, b, shift=shift, preconditioner=preconditioner)
    start = None if x0 is None else as_block(problem.operator, x0, "x0")
    squeeze = np.ndim(b) == 1

    def shaped(X: Array) -> Array:
        return X[:, 0] if squeeze else X

    def notify(state: DescentState, record: dict[str, Any]) -> None:
        if callback is not None and record["steps"]:
            callback(shaped(state.iterate))

    result = solve(
        problem,
        Descent(rtol, atol, maxiter),
        start=start,
        max_passes=max_passes,
        time_limit=time_limit,
        callback=notify,
        throw=throw,
    )
    return replace(result, value=shaped(result.value))
