"""Newton's method for the coefficients, intercept and scale of Huber's loss together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import scipy.linalg

from nysstream.solvers.base import Solver, Status

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.streaming.scale_kernel import ScaleValues

    Vector = NDArray[np.float64]

#: The scale grows by this factor where so many rows are outliers that the model has no minimum.
_MOST_CHANGE = 10.0
#: Rounds of coefficients for given scale, and scale for given coefficients, in memory.
_MOST_ROUNDS = 50
#: Coefficients of columns of unit variance change by at most this many mean residuals.
_MOST_RESIDUALS = 100.0
#: Added to the Hessian's diagonal, relative to that of columns of unit variance.
_DAMPING = 1e-12
#: Shorter steps tried where the whole one does not descend.
_MOST_CUTS = 12
#: From this distance on, passes are in double precision.
_PRECISE = 1e-4
#: What rounding allows where the scale is as small as it may be.
_LEAST_OPTIMALITY = 1e-5
_PATIENCE = 4


@dataclass(frozen=True, eq=False)
class Point:
    """Coefficients, intercept and scale.

    Attributes
    ----------
    vector : ndarray, shape (p,)
    intercept : float
    scale : float
    """

    vector: Vector
    intercept: float
    scale: float


class ScaleProblem(Protocol):
    r"""Minimise :math:`\sum_i h_i \sigma (1 + H_\epsilon(r_i / \sigma)) + \sum_j a_j w_j^2`.

    Attributes
    ----------
    penalty : ndarray, shape (p,)
        :math:`a_j`.
    epsilon, smallest_scale : float
    intercept : bool
    """

    penalty: Vector
    epsilon: float
    smallest_scale: float
    intercept: bool

    @property
    def passes(self) -> int:
        """Reads of the data made so far."""

    def validate(self, needs: frozenset[str]) -> None:
        """Raise if something is unusable."""

    def evaluate(self, point: Point, *, precise: bool) -> ScaleValues:
        """Make one pass; in double precision if asked to be precise."""


@dataclass(frozen=True, eq=False)
class ScaleState:
    """The iterate with what a pass told about it.

    Attributes
    ----------
    point : Point
    values : ScaleValues
    precise : bool
    objective, bound, optimality : float
        The bound is on the minimum; minus infinity where there is none. Optimality is the largest
        derivative over the rows' weight.
    at_least : bool
        Whether the scale is the smallest allowed.
    iterations, failures : int
    """

    point: Point
    values: ScaleValues
    precise: bool
    objective: float
    bound: float
    optimality: float
    at_least: bool
    iterations: int = 0
    failures: int = 0

    @property
    def gap(self) -> float | None:
        """The duality gap, if there is one, relative to the objective."""
        if not np.isfinite(self.bound):
            return None
        return max(self.objective - self.bound, 0.0) / max(abs(self.objective), 1e-300)

    @property
    def measure(self) -> float:
        """What the tolerance is about: the duality gap, or optimality without one.

        Relative to what rows that are no outliers make up: an objective that outliers inflate, to however
        large a number, would make any gap look small.
        """
        if self.at_least and self.optimality <= _LEAST_OPTIMALITY:
            return 0.0
        if not np.isfinite(self.bound):
            return self.optimality
        size = 2 * self.values.sums["weight"] * self.point.scale
        size = min(abs(self.objective), max(size, 1e-6 * abs(self.objective)))
        return max(self.objective - self.bound, 0.0) / max(size, 1e-300)


@dataclass(frozen=True)
class ScaleNewton(Solver[Any, ScaleState]):
    r"""Minimise for given outliers, in :math:`(w, b, \sigma)` together; find outliers again; repeat.

    Parameters
    ----------
    tol : float
        Relative duality gap at which to stop; without a penalty, the largest derivative relative to the
        rows' weight.
    max_iterations : int

    Notes
    -----
    Cost: one pass per step, and one for each that had to be shortened to descend. In memory about ten
    factorisations of ``p^3 / 3`` flops for each.

    For given outliers the objective is jointly convex: :math:`N \sigma + S(w, b) / \sigma` plus a linear
    function and the penalty, with S the sum of squares of the other rows and N the total weight less
    :math:`\epsilon^2` that of the outliers. A pass gives this model exactly. It is minimised in memory,
    alternating between a linear system and :math:`\sigma^2 = S / N`. The model shares the gradient of the
    objective, so that steps are descent directions; near the minimum, where outliers no longer change, one
    step is enough.

    The slopes :math:`\psi`, made to sum to zero and shrunk so that :math:`|u| \le 2 \epsilon` and
    :math:`\sum h (1 - u^2/4) \ge 0`, bound the minimum from below by
    :math:`-\sum h u y - \sum_j (x_j^\top h u)^2 / (4 a_j)`.

    References
    ----------
    .. [1] Huber and Ronchetti, "Robust Statistics", 2nd edition, 2009, section 7.7.
    """

    tol: float = 1e-6
    max_iterations: int = 100

    def init(self, problem: ScaleProblem, start: Point | None) -> ScaleState:
        """Evaluate the start, for one pass."""
        assert start is not None
        return self._evaluate(problem, start, precise=False)

    def step(self, problem: ScaleProblem, state: ScaleState) -> ScaleState:
        """Step to the minimum of the quadratic model, or less far."""
        if not state.precise and state.measure <= self.tol:
            found = self._evaluate(problem, state.point, precise=True)
            return replace(found, iterations=state.iterations + 1)
        precise = state.precise or state.optimality <= _PRECISE
        vector, intercept, scale = self._direction(problem, state)
        point, t = state.point, 1.0
        for _ in range(_MOST_CUTS):
            moved = Point(
                point.vector + t * vector,
                point.intercept + t * intercept,
                max(point.scale + t * scale, problem.smallest_scale),
            )
            found = self._evaluate(problem, moved, precise=precise)
            noise = 1e-12 if found.precise == state.precise else 1e-5
            if found.objective <= state.objective + noise * abs(state.objective):
                break
            t *= 0.3
        if found.precise and not state.precise:  # what was known before is not comparable
            return replace(found, iterations=state.iterations + 1)
        descended = found.objective < state.objective - 1e-9 * abs(state.objective)
        improved = descended or found.measure < 0.9 * state.measure
        better = found.objective <= state.objective or found.optimality < state.optimality
        failures = 0 if improved else state.failures + 1
        return replace(found if better else state, iterations=state.iterations + 1, failures=failures)

    def check(self, problem: ScaleProblem, state: ScaleState) -> Status | None:
        """Stop when certified, when progress ends, or at the limit."""
        if state.precise and state.measure <= self.tol:
            return Status.CONVERGED
        if state.failures >= _PATIENCE:
            return Status.STALLED
        return Status.MAX_ITERATIONS if state.iterations >= self.max_iterations else None

    def value(self, problem: ScaleProblem, state: ScaleState) -> Point:
        """Return the iterate."""
        return state.point

    def report(self, problem: ScaleProblem, state: ScaleState) -> dict[str, Any]:
        """Measure the iterate."""
        return {
            "iterations": state.iterations,
            "objective": np.array([state.objective]),
            "duality_gap": state.gap,
            "optimality": state.optimality,
        }

    def _evaluate(self, problem: ScaleProblem, point: Point, *, precise: bool) -> ScaleState:
        values = problem.evaluate(point, precise=precise)
        s, sigma, eps, v = values.sums, point.scale, problem.epsilon, point.vector
        outside = s["weight"] - s["inside"]
        loss = s["weight"] * sigma + s["squares"] / sigma + 2 * eps * s["sizes"] - eps**2 * sigma * outside
        gradient, slope, steep = self._derivatives(problem, point, values)
        if sigma <= problem.smallest_scale:  # the bound holds the scale up
            steep = min(steep, 0.0)
        largest = max(float(np.abs(gradient).max(initial=0.0)), abs(slope), abs(steep))
        objective = loss + float(problem.penalty @ v**2)
        # Residuals divided by the least scale are rounding: no certificate can be made of them.
        at_least = sigma <= problem.smallest_scale
        bound = -np.inf if at_least else self._bound(problem, point, values)
        return ScaleState(point, values, precise, objective, bound, largest / s["weight"], at_least)

    def _derivatives(
        self, problem: ScaleProblem, point: Point, values: ScaleValues
    ) -> tuple[Vector, float, float]:
        s = values.sums
        outside = s["weight"] - s["inside"]
        steep = s["weight"] - s["squares"] / point.scale**2 - problem.epsilon**2 * outside
        slope = s["slope"] if problem.intercept else 0.0
        return values.gradient + 2 * problem.penalty * point.vector, slope, steep

    def _direction(self, problem: ScaleProblem, state: ScaleState) -> tuple[Vector, float, float]:
        """Step to the minimum for the outliers as they are now, in coefficients, intercept and scale."""
        values, s, point, eps = state.values, state.values.sums, state.point, problem.epsilon
        old, n = point.scale, s["inside"]
        take = 1 / n if problem.intercept and n > 0 else 0.0
        # What outliers pull with: signs times rows.
        pull = (values.gradient - 2 / old * values.residuals) / (2 * eps)
        pull_b = (s["slope"] - 2 / old * s["residuals"]) / (2 * eps)
        still = values.residuals - values.inside * (take * s["residuals"])
        pull = pull - values.inside * (take * pull_b)
        share = s["weight"] - eps**2 * (s["weight"] - n)
        d, db, scale = np.zeros_like(pull), 0.0, old
        if share <= 0:
            return d, db, (_MOST_CHANGE - 1) * old
        for _ in range(_MOST_ROUNDS):
            shift = scale * problem.penalty
            d = -_solve(
                values.gram, shift + _DAMPING * s["weight"], still + eps * scale * pull + shift * point.vector
            )
            along = float(values.inside @ d)
            db = -take * (s["residuals"] + along + eps * scale * pull_b)
            squares = s["squares"] + float((2 * values.residuals + values.gram @ d) @ d)
            squares += take * along**2 + db * (2 * s["residuals"] + 2 * along + n * db)
            last, scale = scale, max(np.sqrt(max(squares, 0.0) / share), problem.smallest_scale)
            if abs(scale - last) <= 1e-9 * last:
                break
        # Where too few rows hold a direction, outliers pull far: no farther than residuals are long.
        longest = _MOST_RESIDUALS * (s["sizes"] / s["weight"] + np.sqrt(s["squares"] / s["weight"]) + old)
        length = float(np.linalg.norm(d)) + abs(db)
        shorten = min(1.0, longest / length) if length > 0 else 1.0
        return shorten * d, shorten * db, shorten * (scale - old)

    def _bound(self, problem: ScaleProblem, point: Point, values: ScaleValues) -> float:
        """Bound the minimum from below by a dual point made of the slopes."""
        s, eps = values.sums, problem.epsilon
        center = s["slope"] / s["weight"] if problem.intercept else 0.0
        outside = s["weight"] - s["inside"]
        squares = 4 * s["squares"] / point.scale**2 + 4 * eps**2 * outside - center**2 * s["weight"]
        shrink = min(1 / (1 + abs(center) / (2 * eps)), np.sqrt(4 * s["weight"] / max(squares, 1e-300)))
        gradient = shrink * values.gradient  # a constant slope is orthogonal to centred columns
        if np.any((problem.penalty == 0) & (gradient != 0)):
            return -np.inf
        penalty = np.where(problem.penalty > 0, problem.penalty, 1.0)
        inner = shrink * (s["inner"] - center * s["target"])
        return float(-inner - np.sum(gradient**2 / (4 * penalty)))


def _solve(gram: NDArray[np.float64], shift: Vector, rhs: Vector) -> Vector:
    """Solve with ``gram + diag(shift)``, which is positive definite but for rounding."""
    diagonal = np.diagonal(gram) + shift
    for jitter in (0.0, 1e-10, 1e-7, 1e-4):
        work = np.array(gram, order="F")
        np.einsum("ii->i", work)[...] = (1 + jitter) * diagonal
        try:
            factor = scipy.linalg.cho_factor(work, lower=True, overwrite_a=True, check_finite=False)
        except np.linalg.LinAlgError:
            continue
        return np.asarray(scipy.linalg.cho_solve(factor, rhs, check_finite=False))
    return np.asarray(rhs / diagonal)
