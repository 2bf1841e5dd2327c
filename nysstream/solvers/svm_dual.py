"""Duals of support vector machines: working sets, solved by Newton steps on the free variables."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.solvers.base import Status
from nysstream.solvers.svm_face import Face

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]
    Index = NDArray[np.intp]

#: A violation of the optimality conditions below this, in units of the margin, is rounding.
_SMALLEST = 1e-7
#: Fewest candidates on either side of a working set.
_PARTNERS = 8
#: Working sets without a gain, after which rounding is all that is left.
_IDLE = 10


@dataclass(frozen=True, eq=False)
class BoxDual:
    r"""Minimise :math:`\tfrac12 \beta^\top K \beta - t^\top \beta + \epsilon \|\beta\|_1` in a box.

    The sum of the variables is zero.

    The dual of :math:`\min_{f, b} \tfrac12 \|f\|^2 + \sum_i \ell_i(f(x_i) + b)`, with
    :math:`\ell_i(z) = \max(u_i (t_i - z) - \epsilon |u_i|,\ l_i (t_i - z) - \epsilon |l_i|,\ 0)`. The hinge
    loss has :math:`t_i = y_i`, a box from 0 to :math:`C y_i` and no :math:`\epsilon`; the
    :math:`\epsilon`-insensitive loss a box from -C to C.

    Attributes
    ----------
    target, lower, upper : ndarray, shape (n,)
        The box holds zero.
    epsilon : float
    columns : callable
        Gives rows of K by their numbers, shape (m, n).
    seed : int
        Of the rows to begin with.
    """

    target: Vector
    lower: Vector
    upper: Vector
    epsilon: float
    columns: Callable[[Index], NDArray[Any]]
    seed: int = 0

    def intercept(self, f: Vector, total: float = 0.0) -> float:
        """Minimise the primal over the intercept: a quantile of breakpoints, weighted by the box.

        It is the multiplier of the sum of the variables, which is to be ``total``.
        """
        r = self.target - f
        rising, falling = self.upper > 0, self.lower < 0
        at = np.concatenate([r[rising] - self.epsilon, r[falling] + self.epsilon])
        by = np.concatenate([self.upper[rising], -self.lower[falling]])
        order = np.argsort(at, kind="stable")
        mass = np.cumsum(by[order])
        half = float(self.upper.sum()) - total
        slack = 1e-12 * mass[-1]
        first = int(np.clip(np.searchsorted(mass, half - slack), 0, at.size - 1))
        last = min(first + 1, at.size - 1) if abs(mass[first] - half) <= slack else first
        return float((at[order[first]] + at[order[last]]) / 2)

    def losses(self, z: Vector) -> float:
        """Sum the losses of the predictions z, shape (n,)."""
        r = self.target - z
        above = self.upper * r - self.epsilon * np.abs(self.upper)
        below = self.lower * r - self.epsilon * np.abs(self.lower)
        return float(np.maximum(np.maximum(above, below), 0).sum())

    def slopes(self, beta: Vector, g: Vector) -> tuple[Vector, Vector]:
        """Give the one-sided derivatives to the left and to the right, for gradients g of the smooth part."""
        e = self.epsilon
        return g + np.where(beta > 0, e, -e), g + np.where(beta >= 0, e, -e)

    def pulls(self, beta: Vector, g: Vector) -> tuple[Vector, Vector]:
        """Measure how much each variable gains by growing, and by shrinking; -inf where it cannot."""
        left, right = self.slopes(beta, g)
        grow = np.where(beta < self.upper, -right, -np.inf)
        return grow, np.where(beta > self.lower, left, -np.inf)

    def violations(self, beta: Vector, g: Vector) -> Vector:
        """Measure by how much each variable violates optimality; negative where it wants to shrink."""
        grow, shrink = self.pulls(beta, g)
        return np.asarray(np.where(grow >= shrink, np.maximum(grow, 0.0), -np.maximum(shrink, 0.0)))

    def restrict(self, rows: Index) -> BoxDual:
        """Give the problem of some of the variables, the others fixed; the targets are to be shifted."""
        return BoxDual(self.target[rows], self.lower[rows], self.upper[rows], self.epsilon, self.columns)


@dataclass
class DualResult:
    """An answer to a :class:`BoxDual`, with its certificate.

    Attributes
    ----------
    beta : ndarray, shape (n,)
    intercept : float
    f : ndarray, shape (n,)
        Predictions without the intercept.
    objective, gap : float
        Of the primal; its distance to the value of the dual bounds that to the optimum.
    status : Status
    iterations, n_columns, newton_steps : int
    history : list of dict
    """

    beta: Vector
    intercept: float
    f: Vector
    objective: float
    gap: float
    status: Status
    iterations: int
    n_columns: int
    newton_steps: int
    history: list[dict[str, Any]]

    @property
    def relative_gap(self) -> float:
        """The gap as a share of the objective."""
        return self.gap / self.objective if self.objective > 0 else 0.0


class Columns:
    """Rows of the kernel matrix that were evaluated, kept while they fit."""

    def __init__(self, problem: BoxDual, capacity: int) -> None:
        self.problem = problem
        self.capacity = capacity
        n = problem.target.size
        self.place = np.full(n, -1, np.intp)
        self.numbers: Index = np.empty(0, np.intp)
        self._stored: NDArray[Any] | None = None
        self.evaluated = 0

    def get(self, rows: Index) -> None:
        """Make sure that the rows are there; others may go."""
        missing = rows[self.place[rows] < 0]
        if missing.size == 0:
            return
        values = self.problem.columns(missing)
        self.evaluated += missing.size
        if self._stored is None:
            self._stored = np.empty((max(2 * missing.size, 16), values.shape[1]), values.dtype)
        used = self.numbers.size
        if used + missing.size > self.capacity:
            keep = rows[self.place[rows] >= 0]
            kept = self._stored[self.place[keep]]
            self.place[:] = -1
            self.numbers = keep
            self.place[keep] = np.arange(keep.size)
            used = keep.size
            self._stored[:used] = kept
        if used + missing.size > len(self._stored):
            larger = np.empty(
                (max(used + missing.size, int(1.5 * len(self._stored))), values.shape[1]), values.dtype
            )
            larger[:used] = self._stored[:used]
            self._stored = larger
        self._stored[used : used + missing.size] = values
        self.place[missing] = np.arange(used, used + missing.size)
        self.numbers = np.concatenate([self.numbers, missing])

    def among(self, rows: Index) -> Vector:
        """Give the block of the matrix of some rows that are there, in float64."""
        assert self._stored is not None
        return self._stored[self.place[rows][:, None], rows[None, :]].astype(np.float64)

    def times(self, rows: Index, values: Vector) -> Vector:
        """Multiply the matrix with a vector that is zero but in these rows."""
        assert self._stored is not None
        coefficients = np.zeros(self.numbers.size, self._stored.dtype)
        coefficients[self.place[rows]] = values
        used = np.flatnonzero(coefficients)
        if 2 * used.size < self.numbers.size:
            return np.asarray(coefficients[used] @ self._stored[used], np.float64)
        return np.asarray(coefficients @ self._stored[: self.numbers.size], np.float64)

    def exact(self, beta: Vector) -> Vector:
        """Multiply the matrix with beta in float64, evaluating again what is gone."""
        total = np.zeros(beta.size)
        rows = np.flatnonzero(beta)
        for start in range(0, rows.size, 256):
            part = rows[start : start + 256]
            there = self.place[part] >= 0
            for chosen, stored in ((part[there], True), (part[~there], False)):
                if chosen.size:
                    K = self._stored[self.place[chosen]] if stored else self.problem.columns(chosen)  # type: ignore[index]
                    total += beta[chosen] @ K.astype(np.float64, copy=False)
        return total


def solve_dual(
    problem: BoxDual,
    *,
    tol: float,
    capacity: int,
    max_iterations: int = 1000,
    time_limit: float | None = None,
    callback: Callable[[dict[str, Any]], object] | None = None,
) -> DualResult:
    r"""Solve a dual to a relative duality gap.

    Parameters
    ----------
    problem : BoxDual
    tol : float
        Largest gap, as a share of the primal objective.
    capacity : int
        Rows of the matrix that may be kept.
    max_iterations : int
        Working sets.
    time_limit : float, optional
        Seconds.
    callback : callable, optional
        Called with the record of every working set; it may raise ``StopIteration``.

    Returns
    -------
    DualResult

    Notes
    -----
    Cost: a row of the matrix, ``2 n d`` flops, for each variable that was ever in a working set, usually
    little more than the support vectors; ``m^3 / 3`` flops for each Newton step on m free variables.

    Decomposition as in [1]_, but with working sets of hundreds, the variables that violate optimality most
    and those that are free, each solved exactly: the equations of the free variables by Cholesky
    factors, the rest by the projections of [2]_. The intercept, for the gap and for the next working set,
    minimises the primal; so the gap is as small as beta allows.

    References
    ----------
    .. [1] Joachims, "Making large-scale SVM learning practical", 1999.
    .. [2] Bertsekas, "Projected Newton methods for optimization problems with simple constraints", 1982.
    """
    clock = time.perf_counter()
    n = problem.target.size
    columns = Columns(problem, capacity)
    beta, f = np.zeros(n), np.zeros(n)
    history: list[dict[str, Any]] = []
    working = _first(problem, capacity)
    quota = max(working.size // 2, 2)
    steps, best, idle, highest = 0, np.inf, 0, -np.inf
    exact = True
    status = Status.MAX_ITERATIONS
    while True:
        b = problem.intercept(f)
        g = f + b - problem.target
        gap = float(beta @ (f - problem.target)) + problem.epsilon * float(np.abs(beta).sum())
        losses = problem.losses(f + b)
        gap += losses
        objective = 0.5 * max(float(beta @ f), 0.0) + losses
        done = gap <= tol * objective or gap <= 1e-14 * float(problem.upper.sum() - problem.lower.sum())
        if done and not exact:
            f, exact = columns.exact(beta), True
            continue
        record = {
            "steps": len(history),
            "seconds": time.perf_counter() - clock,
            "duality_gap": gap / objective if objective > 0 else 0.0,
            "objective": objective,
            "n_support": int(np.count_nonzero(beta)),
            "newton_steps": steps,
            "n_working": int(working.size),
        }
        history.append(record)
        if done:
            status = Status.CONVERGED
        elif time_limit is not None and record["seconds"] >= time_limit:
            status = Status.TIME_LIMIT
        if callback is not None:
            try:
                callback(record)
            except StopIteration:
                status = Status.STOPPED if status is Status.MAX_ITERATIONS else status
        if status is not Status.MAX_ITERATIONS or len(history) > max_iterations:
            break
        if len(history) > 1:
            pulls = problem.pulls(beta, g)
            worst = float(pulls[0].max() + pulls[1].max())
            if worst <= _SMALLEST:  # nothing wants to move, unless rounding has hidden it
                if exact:
                    status = Status.STALLED
                    break
                f, exact = columns.exact(beta), True
                continue
            working = _next(problem, beta, pulls, quota, capacity)
            if gap > 0.5 * best:
                quota = min(2 * quota, max(capacity // 2, 2))
            best = min(best, gap)
            precision = max(0.05 * worst, _SMALLEST)
        else:
            precision = 0.1
        columns.get(working)
        part = problem.restrict(working)
        face = Face(part, columns.among(working), beta[working], f[working])
        steps += face.solve(precision)
        change = face.beta - beta[working]
        # The first working set was drawn at random: it may hold nothing that wants to move.
        if not change.any() and exact and len(history) > 1:
            status = Status.STALLED
            break
        value = objective - gap
        idle = idle + 1 if value - highest <= 1e-13 * abs(value) else 0
        highest = max(highest, value)
        if idle >= _IDLE:
            status = Status.STALLED
            break
        beta[working] = face.beta
        f = f + columns.times(working, change)
        exact = False
    return DualResult(beta, b, f, objective, gap, status, len(history) - 1, columns.evaluated, steps, history)


def _first(problem: BoxDual, capacity: int) -> Index:
    """Choose rows to begin with: as many that may only grow as may only shrink."""
    rng = np.random.default_rng(problem.seed)
    size = min(max(problem.target.size // 20, 100), max(capacity // 2, 2))
    chosen = [
        rng.permutation(rows)[: -(-size // 2)]
        for rows in (np.flatnonzero(problem.upper > 0), np.flatnonzero(problem.lower < 0))
    ]
    return np.unique(np.concatenate(chosen))


def _next(problem: BoxDual, beta: Vector, pulls: tuple[Vector, Vector], quota: int, capacity: int) -> Index:
    """Choose the free variables, and of those that gain most by growing, and by shrinking, up to a quota.

    Where few gain, the next ones join: with the sum fixed, every variable needs a partner.
    """
    free = (beta > problem.lower) & (beta < problem.upper) & ((beta != 0) | (problem.epsilon == 0))
    chosen = [np.flatnonzero(free)]
    for pull, other in (pulls, pulls[::-1]):
        v = np.where(free, -np.inf, pull)
        candidates = np.flatnonzero(v > _SMALLEST - max(float(other.max()), 0.0))
        most = max(min(quota, int(np.count_nonzero(v > _SMALLEST))), _PARTNERS)
        if candidates.size > most:
            candidates = candidates[np.argpartition(-v[candidates], most - 1)[:most]]
        chosen.append(candidates)
    working = np.unique(np.concatenate(chosen))
    if working.size > capacity:
        rank = np.maximum(*pulls)[working]
        working = np.sort(working[np.argpartition(-rank, capacity - 1)[:capacity]])
    return working
