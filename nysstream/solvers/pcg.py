"""Preconditioned conjugate gradients for many systems at once, in mixed precision."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nysstream.arrays import like, namespace
from nysstream.errors import InputError
from nysstream.solvers.base import Result, Solver, Status, solve
from nysstream.solvers.columns import dots, norms, put, replaced, row, take
from nysstream.solvers.linear_system import LinearSystem, as_block
from nysstream.solvers.pcg_state import ACTIVE, BREAKDOWN, CONVERGED, STALLED, PCGState

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

Array = Any  # any array of the Python array API standard

# A recursive residual is trusted while it differs from the true one by less than this fraction.
_DRIFT = 0.1


@dataclass(frozen=True)
class PCG(Solver[LinearSystem, PCGState]):
    r"""Preconditioned conjugate gradients, one independent recursion per column.

    Parameters
    ----------
    rtol, atol : float
        Column j has converged when its true residual, recomputed in double precision, satisfies
        :math:`\|r_j\| \le \max(\mathrm{rtol}\,\|b_j\|, \mathrm{atol})`.
    max_iterations : int, optional
        By default ``10 * p``.
    recompute_every : int
        Steps after which the true residuals of all unfinished columns are compared with their
        recursions.

    Notes
    -----
    Cost: one pass per step for all unfinished columns together; ``4 * p * k`` float64 in the
    state, and as much again during a step.

    Departures from the textbook:

    1. Columns stay independent, each with its own scalars. Finished columns leave the block.
    2. A column whose recursion claims convergence is parked, and its true residual decides. In a
       problem without a ``residual`` function, parked iterates join the directions of the next
       step in one block, multiplied in double precision, for no pass of their own. A
       ``residual`` function reads the data by itself; parked columns then wait until none is
       running, or for the regular check, and are verified in one pass together.
    3. A recursion that has drifted from its true residual restarts there: iterative refinement.
       Directions may thus be multiplied in single precision while the answer is accurate to
       double. A column has stalled when its true residual has not halved from one restart to
       the next.
    """

    rtol: float = 1e-6
    atol: float = 0.0
    max_iterations: int | None = None
    recompute_every: int = 50

    needs: ClassVar[frozenset[str]] = frozenset({"psd"})

    def __post_init__(self) -> None:
        if not (self.rtol >= 0 and self.atol >= 0):
            message = f"rtol={self.rtol}, atol={self.atol}: tolerances must not be negative"
            raise InputError(message)
        if self.recompute_every < 1 or (self.max_iterations is not None and self.max_iterations < 0):
            message = (
                f"recompute_every={self.recompute_every}, max_iterations={self.max_iterations}: "
                "counts must be positive"
            )
            raise InputError(message)

    def init(self, problem: LinearSystem, start: Array | None) -> PCGState:
        """Start at zero for no pass, or elsewhere for one."""
        B = problem.rhs
        xp = namespace(B)
        rhs_norm = norms(B)
        if start is None:
            X, R, norm = xp.zeros_like(B), B, rhs_norm
        else:
            problem.check_start(start)
            # Zero solves a zero right-hand side exactly, whatever the start.
            X = start * like(B, (rhs_norm > 0).astype(np.float64)[None, :])
            R = problem.true_residual(X)
            norm = np.where(rhs_norm > 0, norms(R), 0.0)
        k = B.shape[1]
        converged = norm <= self._threshold(rhs_norm)
        state = PCGState(
            best=X,
            # Residuals rise at first while the error falls, so a start is no rival to what follows.
            best_norm=np.where(converged, norm, np.inf),
            rhs_norm=rhs_norm,
            fate=np.where(converged, CONVERGED, ACTIVE).astype(np.int8),
            iterations=np.zeros(k, np.int64),
            columns=np.arange(k),
            iterate=X,
            residual=R,
            direction=R,
            rho=np.zeros(k),
            norm=norm,
            restart_norm=np.full(k, np.inf),
            parked=np.zeros(k, np.bool_),
            fresh=np.ones(k, np.bool_),
            since_check=0,
        )
        state = state.drop_finished()
        return self._restart(problem, state, np.arange(state.columns.size), state.residual).drop_finished()

    def step(self, problem: LinearSystem, state: PCGState) -> PCGState:
        """Advance the running columns and verify those that are due, in one pass."""
        due = np.flatnonzero(self._due(problem, state))
        moving = np.setdiff1d(np.flatnonzero(~state.parked), due)
        D, X = take(state.direction, moving), take(state.iterate, due)
        if problem.residual is None:
            block = namespace(D).concat([D, X], axis=1) if due.size else D
            columns = state.columns[due]
            operator = problem.operator.take(np.concatenate([state.columns[moving], columns]))
            product = operator.matmat(block, precision="double" if due.size else None)
            Q, AX = product[:, : moving.size], product[:, moving.size :]
            true = take(problem.rhs, columns) - AX - row(X, problem.shifts[columns]) * X
        elif due.size:  # then none is moving
            Q, true = D, take(problem.true_residual(state.assemble()), state.columns[due])
        else:
            Q, true = problem.operator.take(state.columns[moving]).matmat(D), X
        state = replace(state, since_check=state.since_check + 1)
        with np.errstate(over="ignore", invalid="ignore"):  # overflow ends as a breakdown
            if moving.size:
                state = self._advance(problem, state, moving, D, Q)
            if due.size:
                state = self._verify(problem, state, due, true)
        return state.drop_finished()

    def check(self, problem: LinearSystem, state: PCGState) -> Status | None:
        """Stop when no column is active, at the worst fate among them, or at the limit."""
        if state.columns.size:
            limit = 10 * problem.rhs.shape[0] if self.max_iterations is None else self.max_iterations
            return Status.MAX_ITERATIONS if state.iterations[state.columns].max() >= limit else None
        worst = int(state.fate.max())
        return {CONVERGED: Status.CONVERGED, STALLED: Status.STALLED, BREAKDOWN: Status.BREAKDOWN}[worst]

    def value(self, problem: LinearSystem, state: PCGState) -> Array:
        """Return each column's iterate of smallest true residual, or a later one of smaller residual."""
        newer = ~state.fresh & (state.norm < state.best_norm[state.columns])
        return put(state.best, state.columns[newer], take(state.iterate, np.flatnonzero(newer)))

    def report(self, problem: LinearSystem, state: PCGState) -> dict[str, Any]:
        """Measure residuals relative to the right-hand sides, and whether all are true ones."""
        norm = state.best_norm.copy()
        norm[state.columns] = np.fmin(norm[state.columns], state.norm)
        relative = np.divide(norm, state.rhs_norm, out=norm.copy(), where=state.rhs_norm > 0)
        return {
            "iterations": int(state.iterations.max()),
            "relative_residual": float(relative.max()),
            "relative_residuals": relative,
            "verified": bool(state.fresh.all()),
        }

    def passes_ahead(self, problem: LinearSystem, state: PCGState) -> int:
        """Count one read for the step, and one to verify, unless the step itself verifies all."""
        return 1 if self._due(problem, state).all() else 2

    def passes_to_finish(self, problem: LinearSystem, state: PCGState) -> int:
        """Count one read, unless all true residuals are known."""
        return 0 if state.fresh.all() else 1

    def finish(self, problem: LinearSystem, state: PCGState) -> PCGState:
        """Learn the true residual of every unfinished column; the recursions are left as they are."""
        if state.fresh.all():
            return state
        norm = norms(take(problem.true_residual(state.assemble()), state.columns))
        state = self._note(state, np.arange(state.columns.size), norm)
        return state.drop_finished()

    def _threshold(self, rhs_norm: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.maximum(self.rtol * rhs_norm, self.atol)

    def _due(self, problem: LinearSystem, state: PCGState) -> NDArray[np.bool_]:
        """Choose the columns whose true residuals the next step computes."""
        if state.since_check >= self.recompute_every:
            return np.ones_like(state.parked)
        if problem.residual is None or state.parked.all():
            return state.parked
        return np.zeros_like(state.parked)

    def _advance(
        self, problem: LinearSystem, state: PCGState, moving: NDArray[np.intp], D: Array, Q: Array
    ) -> PCGState:
        """Take one iteration of conjugate gradients in the moving columns, given Q = A D."""
        columns = state.columns[moving]
        shifts = problem.shifts[columns]
        Q = Q + row(D, shifts) * D
        curvature = dots(D, Q)
        forward = curvature > 0
        rho = state.rho[moving]
        alpha = np.divide(rho, curvature, out=np.zeros_like(rho), where=forward)
        X = take(state.iterate, moving) + row(D, alpha) * D
        R = take(state.residual, moving) - row(Q, alpha) * Q
        norm = norms(R)
        Z = problem.precondition.take(columns).inverse(R, shifts)
        new_rho = dots(R, Z)
        beta = np.divide(new_rho, rho, out=np.zeros_like(rho), where=rho > 0)
        # Curvature of no sign within rounding may come from rounding: look at the true residual.
        rounding = 10 * problem.operator.eps * norms(D) * norms(Q)
        lost = ~forward & (curvature >= -rounding)
        broken = ~(forward | lost) | ~((new_rho > 0) | (norm == 0)) | ~np.isfinite(new_rho)
        threshold = self._threshold(state.rhs_norm[columns])
        iterations, fate = state.iterations.copy(), state.fate.copy()
        iterations[columns] += 1
        fate[columns[broken]] = BREAKDOWN
        return replace(
            state,
            iterations=iterations,
            fate=fate,
            iterate=put(state.iterate, moving, X),
            residual=put(state.residual, moving, R),
            direction=put(state.direction, moving, Z + row(D, beta) * D),
            rho=replaced(state.rho, moving, new_rho),
            norm=replaced(state.norm, moving, norm),
            parked=replaced(state.parked, moving, (norm <= threshold) | lost | broken),
            fresh=replaced(state.fresh, moving, False),
        )

    def _verify(self, problem: LinearSystem, state: PCGState, due: NDArray[np.intp], true: Array) -> PCGState:
        """Settle the due columns by their true residuals: finish, go on, or restart."""
        columns = state.columns[due]
        norm = norms(true)
        drift = norms(true - take(state.residual, due))
        lost = state.parked[due] & (state.norm[due] > self._threshold(state.rhs_norm[columns]))
        state = self._note(state, due, norm)
        restart = (state.fate[columns] == ACTIVE) & ((drift > _DRIFT * norm) | lost)
        stalled = restart & (norm > state.restart_norm[due] / 2)
        restart &= ~stalled
        fate = state.fate.copy()
        fate[columns[stalled]] = STALLED
        state = replace(
            state,
            fate=fate,
            parked=replaced(state.parked, due, False),
            since_check=0 if due.size == state.columns.size else state.since_check,
        )
        return self._restart(problem, state, due[restart], take(true, np.flatnonzero(restart)))

    def _note(self, state: PCGState, due: NDArray[np.intp], norm: NDArray[np.float64]) -> PCGState:
        """Note true residual norms: keep better iterates, and mark the columns that converged."""
        columns = state.columns[due]
        better = norm < state.best_norm[columns]
        fate = state.fate.copy()
        fate[columns[norm <= self._threshold(state.rhs_norm[columns])]] = CONVERGED
        return replace(
            state,
            best=put(state.best, columns[better], take(state.iterate, due[better])),
            best_norm=replaced(state.best_norm, columns[better], norm[better]),
            fate=fate,
            norm=replaced(state.norm, due, norm),
            fresh=replaced(state.fresh, due, True),
        )

    def _restart(self, problem: LinearSystem, state: PCGState, which: NDArray[np.intp], R: Array) -> PCGState:
        """Begin new recursions at the iterates, given their true residuals."""
        if which.size == 0:
            return state
        columns = state.columns[which]
        Z = problem.precondition.take(columns).inverse(R, problem.shifts[columns])
        rho = dots(R, Z)
        fate = state.fate.copy()
        fate[columns[~(rho > 0)]] = BREAKDOWN
        norm = state.norm[which]
        first = np.isinf(state.restart_norm[which]) & (state.iterations[columns] == 0)
        return replace(
            state,
            fate=fate,
            residual=put(state.residual, which, R),
            direction=put(state.direction, which, Z),
            rho=replaced(state.rho, which, rho),
            restart_norm=replaced(state.restart_norm, which, np.where(first, np.inf, norm)),
        )


def pcg(
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
) -> Result[PCGState]:
    r"""Solve :math:`(A + \mu_j I) x_j = b_j` for all columns together.

    Parameters
    ----------
    A : LinearOperator, array, sparse array or scipy.sparse.linalg.LinearOperator, shape (p, p)
        Positive semidefinite. A LinearOperator of ours must declare it; giving a bare matrix
        declares it.
    b : array, shape (p,) or (p, k)
    shift : float or ndarray, shape (k,)
        Non-negative :math:`\mu_j`.
    preconditioner : Nystrom, Preconditioner, or matrix of shape (p, p), optional
        A matrix, SciPy's ``LinearOperator`` included, approximates the inverse, like SciPy's ``M``.
    x0 : array, shape (p,) or (p, k), optional
        Start, by default zero.
    rtol, atol : float
        Stop when the true residual is at most ``max(rtol * norm(b), atol)`` in every column.
    maxiter : int, optional
        Limit on iterations, by default ``10 * p``.
    max_passes : int, optional
        Limit on passes, the verification of the answer included.
    time_limit : float, optional
        Seconds.
    callback : callable, optional
        Called with the current solution after every step.
    throw : bool
        Raise unless converged.

    Returns
    -------
    Result
        ``value`` has the shape of ``b``.

    Raises
    ------
    InputError
        Before the first read, if an argument cannot be used.
    SolverError
        If ``throw`` and a column did not converge.

    Notes
    -----
    Cost: one pass per iteration and one to verify; :class:`PCG` tells when they are shared.

    Examples
    --------
    >>> import numpy as np
    >>> result = pcg(np.diag([1.0, 2.0]), np.ones(2), shift=1.0)
    >>> result.converged, result.value.round(6).tolist()
    (True, [0.5, 0.333333])
    """
    problem = LinearSystem.of(A, b, shift=shift, preconditioner=preconditioner)
    start = None if x0 is None else as_block(problem.operator, x0, "x0")
    solver = PCG(rtol, atol, maxiter)
    squeeze = np.ndim(b) == 1

    def shaped(X: Array) -> Array:
        return X[:, 0] if squeeze else X

    def notify(state: PCGState, record: dict[str, Any]) -> None:
        if callback is not None and record["steps"]:
            callback(shaped(solver.value(problem, state)))

    result = solve(
        problem,
        solver,
        start=start,
        max_passes=max_passes,
        time_limit=time_limit,
        callback=notify,
        throw=throw,
    )
    return replace(result, value=shaped(result.value))
