"""Problems, solvers, outcomes, and the one loop that runs a solver on a problem."""

from __future__ import annotations

import enum
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from nysstream.errors import InputError, SolverError
from nysstream.solvers.linear_system import LinearSystem

__all__ = ["LinearSystem", "Problem", "Result", "Solver", "Status", "solve"]

Array = Any  # any array of the Python array API standard


class Status(enum.Enum):
    """How a solve ended; the value is what to tell the user."""

    CONVERGED = "The tolerance was met."
    MAX_PASSES = "The pass limit was reached: raise max_passes, raise the rank, or loosen the tolerance."
    MAX_ITERATIONS = "The iteration limit was reached: raise it, raise the rank, or loosen the tolerance."
    TIME_LIMIT = "The time limit was reached: raise time_limit, or resume from the returned state."
    STOPPED = "The callback asked to stop: resume from the returned state."
    INTERRUPTED = "The solve was interrupted: the value is the last complete step; resume from its state."
    STALLED = (
        "The residual no longer decreases: rounding in the products limits the accuracy. Ask for "
        'precision="double", a larger shift, or a looser tolerance.'
    )
    BREAKDOWN = (
        "A direction of no positive curvature appeared: the operator or the preconditioner is not positive "
        "definite. Check that the matrix is symmetric, and use a larger shift."
    )


class Problem(Protocol):
    """What :func:`solve` asks of a problem; problems are frozen records."""

    @property
    def passes(self) -> int:
        """Reads of the data made so far on behalf of this problem."""

    def validate(self, needs: frozenset[str]) -> None:
        """Raise :class:`InputError` naming whatever is unusable, or needed and missing."""


P = TypeVar("P", bound=Problem)
S = TypeVar("S")


class Solver(ABC, Generic[P, S]):
    """A frozen dataclass of settings, with the four moves of an iteration.

    States are frozen dataclasses of arrays and plain numbers. A step is a function of the problem
    and the state alone, so that a solve resumed from a state repeats the bits of one left alone.
    """

    #: Properties a problem must have, by the names its ``validate`` knows.
    needs: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def init(self, problem: P, start: Array | None) -> S:
        """Make the first state, at ``start`` or at zero."""

    @abstractmethod
    def step(self, problem: P, state: S) -> S:
        """Take one step, leaving ``state`` as it is."""

    @abstractmethod
    def check(self, problem: P, state: S) -> Status | None:
        """Say whether to stop, and why."""

    @abstractmethod
    def value(self, problem: P, state: S) -> Array:
        """Return the best answer that the state holds."""

    @abstractmethod
    def report(self, problem: P, state: S) -> dict[str, Any]:
        """Measure the state for the history: numbers and small host arrays by name."""

    def passes_ahead(self, problem: P, state: S) -> int:
        """Count the reads of one more step and of finishing after it."""
        return 1

    def passes_to_finish(self, problem: P, state: S) -> int:
        """Count the reads of finishing now."""
        return 0

    def finish(self, problem: P, state: S) -> S:
        """Settle a state that a limit cut short, e.g. by verifying its residual."""
        return state


@dataclass(frozen=True, eq=False)
class Result(Generic[S]):
    """What a solve returns.

    Attributes
    ----------
    value : array
    status : Status
    stats : dict
        ``steps``, ``passes``, ``seconds`` of this call, and the solver's last report.
    history : list of dict
        One record per step, the start included, with the same keys as ``stats``.
    state : object
        Hand it to :func:`solve` to continue.
    """

    value: Array
    status: Status
    stats: dict[str, Any]
    history: list[dict[str, Any]]
    state: S

    @property
    def converged(self) -> bool:
        """Whether the tolerance was met."""
        return self.status is Status.CONVERGED


def solve(
    problem: P,
    solver: Solver[P, S],
    *,
    start: Array | None = None,
    state: S | None = None,
    max_steps: int | None = None,
    max_passes: int | None = None,
    time_limit: float | None = None,
    callback: Callable[[S, dict[str, Any]], object] | None = None,
    throw: bool = False,
) -> Result[S]:
    """Run a solver on a problem until it converges, fails, or meets a limit.

    Parameters
    ----------
    problem : Problem
    solver : Solver
    start : array, optional
        First iterate, by default zero.
    state : object, optional
        State to continue from, in place of ``start``.
    max_steps, max_passes : int, optional
        Limits on this call. Passes include the last one, which verifies the answer.
    time_limit : float, optional
        Seconds. No step begins that, if it lasted as long as the longest so far, would leave no
        time to finish.
    callback : callable, optional
        Called with the state and the record of every step; it may raise ``StopIteration``.
    throw : bool
        Raise unless converged.

    Returns
    -------
    Result
        An interrupt from the keyboard ends the solve with the last complete step.

    Raises
    ------
    InputError
        Before the first read, if the problem lacks something that the solver needs.
    SolverError
        If ``throw`` and the solve did not converge; the message is the advice of its status.
    """
    problem.validate(solver.needs)
    if start is not None and state is not None:
        message = "start and state were both given: a state holds its own iterate, so drop start"
        raise InputError(message)
    clock = time.perf_counter()
    first_pass = problem.passes
    history: list[dict[str, Any]] = []
    steps, longest = 0, 0.0

    def record(current: S) -> dict[str, Any]:
        return {
            "steps": steps,
            "passes": problem.passes - first_pass,
            "seconds": time.perf_counter() - clock,
            **solver.report(problem, current),
        }

    def limit(current: S) -> Status | None:
        ahead = solver.passes_ahead(problem, current)
        if max_steps is not None and steps >= max_steps:
            return Status.MAX_ITERATIONS
        if max_passes is not None and problem.passes - first_pass + ahead > max_passes:
            return Status.MAX_PASSES
        if time_limit is not None and time.perf_counter() - clock + longest * ahead >= time_limit:
            return Status.TIME_LIMIT
        return None

    if state is None:
        state = solver.init(problem, start)
    try:
        while True:
            history.append(record(state))
            status = solver.check(problem, state) or limit(state)
            if callback is not None:
                try:
                    callback(state, history[-1])
                except StopIteration:
                    status = status or Status.STOPPED
            if status is not None:
                break
            began = time.perf_counter()
            state = solver.step(problem, state)
            steps += 1
            longest = max(longest, time.perf_counter() - began)
        left = None if max_passes is None else max_passes - (problem.passes - first_pass)
        if status is not Status.CONVERGED and (
            left is None or left >= solver.passes_to_finish(problem, state)
        ):
            state = solver.finish(problem, state)
            history.append(record(state))
            if solver.check(problem, state) is Status.CONVERGED:
                status = Status.CONVERGED
    except KeyboardInterrupt:
        status = Status.INTERRUPTED
    stats = {**record(state), "status": status.name.lower()}
    if throw and status is not Status.CONVERGED:
        raise SolverError(status.value)
    return Result(solver.value(problem, state), status, stats, history, state)
