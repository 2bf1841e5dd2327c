"""Newton steps on the free variables of a small box-constrained quadratic with zero sum."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.solvers.svm_dual import BoxDual

    Vector = NDArray[np.float64]
    Index = NDArray[np.intp]

_MAX_STEPS = 500
#: Exchanges without progress before they are given up.
_PATIENCE = 4


class Face:
    """The variables of a working set, of which some are free and the others at the ends of their pieces.

    Parameters
    ----------
    problem : BoxDual
        Of these variables alone.
    K : ndarray, shape (m, m)
    beta, f : ndarray, shape (m,)
        Where to start; f are the predictions, those of the variables outside included.
    """

    def __init__(self, problem: BoxDual, K: Vector, beta: Vector, f: Vector) -> None:
        self.problem = problem
        self.K = K
        self.beta = beta.copy()
        self.f = f.copy()
        self.total = float(beta.sum())
        # Proximal to where it is, so that dependent rows do no harm: no bias, only more steps.
        self.damping = 1e-9 * max(float(K.trace()) / len(K), 1e-100)
        p = problem
        kink = p.epsilon > 0
        #: -1, 0 or 1: the linear piece that a variable is free to move on, on which side of the kink.
        self.side = np.sign(self.beta) if kink else np.zeros(len(beta))
        self.free = (self.beta > p.lower) & (self.beta < p.upper) & ((self.side != 0) | (not kink))

    def solve(self, precision: float) -> int:
        """Move to where no variable violates optimality by more than ``precision``; counts the steps."""
        steps, solved = self._exchange(precision)
        return steps if solved else steps + self._descend(precision)

    def _exchange(self, precision: float) -> tuple[int, bool]:
        """Exchange all free variables beyond their ends for all others that want to move, again and again.

        Block principal pivoting: nothing makes it converge, but it mostly does, in few steps. When it does
        not, or within the precision ends above its first value, the variables are where they were.
        """
        p, value = self.problem, self._value()
        start = self.beta, self.f, self.free.copy(), self.side.copy()
        outside = self.f - self.K @ self.beta
        if not self.free.any():
            self._release(p.intercept(self.f, self.total), precision, single=False)
        fewest, patience, steps = len(self.beta) + 1, _PATIENCE, 0
        beta, total = self.beta.copy(), self.total
        while True:
            F = np.flatnonzero(self.free)
            if F.size == 0:
                break
            fixed = np.flatnonzero(~self.free & (beta != 0))
            pull = outside[F] + self.K[np.ix_(F, fixed)] @ beta[fixed] if fixed.size else outside[F]
            beta[F], b = self._newton(
                F, pull - p.target[F] + p.epsilon * self.side[F], total - beta[fixed].sum()
            )
            steps += 1
            lower, upper = self._bounds(F)
            below, above = beta[F] < lower, beta[F] > upper
            f = outside + self.K @ beta
            v = p.violations(beta, f + b - p.target)
            v[F] = 0.0
            wrong = np.abs(v) > precision
            n_wrong = int(below.sum() + above.sum() + wrong.sum())
            if n_wrong == 0:
                self.beta, self.f = beta, f
                if self._value() <= value:
                    return steps, True
                break
            if n_wrong < fewest:
                fewest, patience = n_wrong, _PATIENCE
            else:
                patience -= 1
                if patience == 0:
                    break
            beta[F] = np.clip(beta[F], lower, upper)
            self.free[F[below | above]] = False
            self.free |= wrong
            if p.epsilon > 0:
                moved = wrong & (beta == 0)
                self.side[moved] = np.sign(v[moved])
        self.beta, self.f, self.free, self.side = start
        return steps, False

    def _descend(self, precision: float) -> int:
        """Release and minimise in turns, each of which lowers the objective."""
        steps, b = 0, 0.0
        single = False
        if self.free.any():
            steps, b = self._minimise()
        else:
            b = self.problem.intercept(self.f, self.total)
        value = self._value()
        while steps < _MAX_STEPS:
            if not self._release(b, precision, single=single):
                break
            more, b = self._minimise()
            steps += more
            new = self._value()
            stuck = new >= value - 1e-13 * abs(value)
            if stuck and single:
                break
            single = stuck
            value = new
        return steps

    def _value(self) -> float:
        """Evaluate the objective up to a constant."""
        p = self.problem
        outside = self.f - self.K @ self.beta
        return float(self.beta @ (0.5 * (self.f + outside) - p.target) + p.epsilon * np.abs(self.beta).sum())

    def _release(self, b: float, precision: float, *, single: bool) -> bool:
        """Free the variables at ends that gain most by growing or by shrinking.

        With the sum fixed, where none is free, none moves but in a pair; and then the multiplier is unknown.
        """
        p = self.problem
        pulls = np.stack(p.pulls(self.beta, self.f + b - p.target))
        pulls[:, self.free] = -np.inf
        pair = not self.free.any()
        worst = float(pulls.max(axis=1).sum() if pair else pulls.max())
        if not worst > precision:
            return False
        chosen = pulls >= (float(pulls.max()) if single else max(precision, 0.1 * float(pulls.max())))
        if pair:
            chosen[:] &= not single
            chosen[np.arange(2), np.argmax(pulls, axis=1)] = True
        grow, shrink = chosen
        if p.epsilon > 0:
            self.side[grow & (self.beta == 0)] = 1
            self.side[shrink & (self.beta == 0)] = -1
        self.free |= grow | shrink
        return True

    def _bounds(self, F: Index) -> tuple[Vector, Vector]:
        """Give the ends of the pieces on which variables are free."""
        lower, upper = self.problem.lower[F], self.problem.upper[F]
        side = self.side[F]
        return np.where(side > 0, 0.0, lower), np.where(side < 0, 0.0, upper)

    def _minimise(self) -> tuple[int, float]:
        """Minimise over the free variables, of which those that reach their ends are free no more."""
        p, b, steps = self.problem, 0.0, 0
        while steps < _MAX_STEPS:
            F = np.flatnonzero(self.free)
            if F.size == 0:
                return steps, p.intercept(self.f, self.total)
            g = self.f[F] - p.target[F] + p.epsilon * self.side[F]
            d, b = self._newton(F, g, 0.0)
            steps += 1
            lower, upper = self._bounds(F)
            x = self.beta[F]
            aim = x + d
            inside = (aim >= lower) & (aim <= upper)
            if inside.all():
                self._move(F, d)
                return steps, b
            # Far beyond the ends, as where the matrix is singular, the projection would be rounded.
            d = d * min(1.0, 1e5 * float((upper - lower).max()) / float(np.abs(d).max()))
            aim = x + d
            direction = project(aim, lower, upper, float(x.sum())) - x
            K = self.K[np.ix_(F, F)]
            gain, direction = _along(K, g, direction)
            with np.errstate(divide="ignore", invalid="ignore"):
                room = np.where(d > 0, (upper - x) / d, np.where(d < 0, (lower - x) / d, np.inf))
            first = int(np.argmin(room))
            straight = min(float(room[first]), 1.0) * d
            straight_gain = _along(K, g, straight)[0]
            # Where the matrix is singular the projection may lead hardly anywhere: then to the first end.
            if straight_gain > gain:
                gain, direction = straight_gain, straight
                direction[first] = (upper if d[first] > 0 else lower)[first] - x[first]
            if gain <= 0:
                outward = ((x <= lower) & (d < 0)) | ((x >= upper) & (d > 0))
                if not outward.any():
                    return steps, b
                self._fix(F[outward])
                continue
            self._move(F, direction)
            x = self.beta[F]
            slack = 1e-12 * (upper - lower)
            at_lower, at_upper = x <= lower + slack, x >= upper - slack
            self.beta[F] = np.where(at_lower, lower, np.where(at_upper, upper, x))
            ends = at_lower | at_upper
            self._fix(F[ends])
            if not ends.any() and is_tiny(direction, x):
                return steps, b
        return steps, b

    def _newton(self, F: Index, g: Vector, total: float) -> tuple[Vector, float]:
        """Minimise the model with gradient g among steps of this sum; the step, and the multiplier."""
        H = self.K[np.ix_(F, F)]
        H[np.diag_indices_from(H)] += self.damping
        rhs = np.column_stack([-g, np.ones(F.size)])
        damping = self.damping
        while True:
            try:
                factor = scipy.linalg.cho_factor(H, lower=True, check_finite=False)
                break
            except np.linalg.LinAlgError:
                H[np.diag_indices_from(H)] += 99 * damping
                damping *= 100
        solved = scipy.linalg.cho_solve(factor, rhs, check_finite=False)
        # Refined once: what damping has left of the residual is damping times the solution.
        solved += scipy.linalg.cho_solve(factor, damping * solved, check_finite=False)
        b = (float(solved[:, 0].sum()) - total) / float(solved[:, 1].sum())
        step = solved[:, 0] - b * solved[:, 1]
        # Where the matrix is singular both are large, and their difference is rounded.
        return step + (total - step.sum()) / F.size, b

    def _move(self, F: Index, change: Vector) -> None:
        self.beta[F] += change
        self.f += self.K[:, F] @ change

    def _fix(self, rows: Index) -> None:
        self.free[rows] = False


def _along(K: Vector, g: Vector, direction: Vector) -> tuple[float, Vector]:
    """Go in a direction, at most its length, as far as the objective falls; by how much, and the step.

    A fall that is within rounding of none counts as none.
    """
    slope = float(g @ direction)
    if slope >= -1e-12 * float(np.abs(g) @ np.abs(direction)):
        return 0.0, direction
    curvature = float(direction @ (K @ direction))
    length = 1.0 if curvature <= 0 else min(1.0, -slope / curvature)
    return -length * (slope + length * curvature / 2), length * direction


def is_tiny(direction: Vector, x: Vector) -> bool:
    """Whether a step is within rounding of none."""
    return float(np.abs(direction).max()) <= 1e-12 * max(float(np.abs(x).max()), 1e-300)


def project(aim: Vector, lower: Vector, upper: Vector, total: float) -> Vector:
    r"""Find the point of a box nearest to ``aim`` whose entries add up to ``total``.

    Parameters
    ----------
    aim, lower, upper : ndarray, shape (m,)
    total : float
        Between the sums of the bounds.
    """
    low, high = float((aim - upper).min()), float((aim - lower).max())
    shift = 0.0 if low <= 0 <= high else low
    slack = 1e-15 * float(np.abs(aim).sum() + np.abs(upper - lower).sum())
    x = np.clip(aim - shift, lower, upper)
    for _ in range(200):
        excess = float(x.sum()) - total
        if abs(excess) <= slack or high <= low:
            break
        if excess > 0:
            low = max(low, shift)
        else:
            high = min(high, shift)
        interior = int(np.count_nonzero((x > lower) & (x < upper)))
        trial = shift + excess / interior if interior else np.inf
        shift = trial if low < trial < high else (low + high) / 2
        x = np.clip(aim - shift, lower, upper)
    return np.asarray(x)
