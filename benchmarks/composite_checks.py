"""Whether a penalised regression is solved: one test, in float64, for every solver alike.

Needs NumPy only, and SciPy where the data are sparse. It shares no code with any solver.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

BLOCK_ROWS = 4096


@dataclass(frozen=True)
class Objective:
    r"""What everyone minimises: the mean loss and :math:`\lambda_1 \|w\|_1 + \lambda_2 \|w\|^2 / 2` in a box.

    There is no intercept: some of the contenders have none, and others penalise it.

    Attributes
    ----------
    loss : str
        ``"squared"``, half the square, or ``"logistic"``, of targets -1 and 1.
    l1, l2 : float
    lower, upper : float
        Bounds on every coefficient.
    """

    loss: str
    l1: float = 0.0
    l2: float = 0.0
    lower: float = -math.inf
    upper: float = math.inf

    @property
    def boxed(self) -> bool:
        """Whether there are bounds."""
        return self.lower > -math.inf or self.upper < math.inf

    def penalty(self, w: Any) -> float:
        """Evaluate the penalty; infinite outside the box."""
        if np.any(w < self.lower) or np.any(w > self.upper):
            return math.inf
        return float(self.l1 * np.abs(w).sum() + 0.5 * self.l2 * (w @ w))

    def conjugate(self, v: Any) -> float:
        """Evaluate the largest ``v'w - penalty(w)``; infinite where there is none."""
        excess = np.sign(v) * np.maximum(np.abs(v) - self.l1, 0.0)
        if self.l2 == 0 and not (math.isfinite(self.lower) and math.isfinite(self.upper)):
            return 0.0 if not np.any(np.abs(v) > self.l1 * (1 + 1e-12)) and not self.boxed else math.inf
        if self.l2 > 0:
            w = np.clip(excess / self.l2, self.lower, self.upper)
        else:
            w = np.where(excess > 0, self.upper, np.where(excess < 0, self.lower, 0.0))
            w = np.clip(w, self.lower, self.upper)
        return float(v @ w - self.l1 * np.abs(w).sum() - 0.5 * self.l2 * (w @ w))

    def violation(self, w: Any, gradient: Any) -> float:
        """Measure, in the largest coordinate, how far ``-gradient`` is from the penalty's subdifferential."""
        slope = -gradient - self.l2 * w
        low = np.where(w > 0, self.l1, -self.l1)
        high = np.where(w < 0, -self.l1, self.l1)
        low = np.where(w <= self.lower, -math.inf, low)
        high = np.where(w >= self.upper, math.inf, high)
        return float(np.maximum(np.maximum(low - slope, slope - high), 0.0).max())


@dataclass(frozen=True)
class Check:
    """What an answer is worth.

    Attributes
    ----------
    objective : float
    bound : float
        Lower bound on every objective, from the scaled residual.
    violation : float
        Of the optimality conditions, in the largest coordinate, relative to the gradient at zero.
    n_nonzero : int
    """

    objective: float
    bound: float
    violation: float
    n_nonzero: int


def blocks_of(X: Any, y: Any) -> Any:
    """Cut rows in memory, or mapped, into blocks in float64."""
    for start in range(0, X.shape[0], BLOCK_ROWS):
        Z = X[start : start + BLOCK_ROWS]
        yield Z.astype(np.float64), np.asarray(y[start : start + BLOCK_ROWS], np.float64)


def check(objective: Objective, X: Any, y: Any, coef: Any) -> Check:
    r"""Recompute the objective of an answer from the rows, and bound the minimum from below.

    Dual points are multiples :math:`s \, \ell'(x_i^\top w, y_i)`, with s as near one as the penalty's
    conjugate allows; for the squared loss the best such s.

    Parameters
    ----------
    objective : Objective
    X : array or scipy.sparse matrix, shape (n, p)
    y : array, shape (n,)
    coef : array, shape (p,)
    """
    w = np.asarray(coef, np.float64).reshape(-1)
    n, p = X.shape
    gradient, at_zero = np.zeros(p), np.zeros(p)
    total, slopes = 0.0, []
    for Z, target in blocks_of(X, y):
        z = Z @ w
        if objective.loss == "squared":
            slope, start = z - target, -target
            total += 0.5 * float(slope @ slope)
        else:
            margin = target * z
            # 1 / (1 + exp(margin)), by the exponential that does not overflow
            small = np.exp(-np.abs(margin))
            slope = -target * np.where(margin > 0, small, 1.0) / (1 + small)
            start = -0.5 * target
            total += float(np.sum(np.logaddexp(0.0, -margin)))
        gradient += Z.T @ slope
        at_zero += Z.T @ start
        slopes.append(slope)
    gradient /= n
    at_zero /= n
    s = np.concatenate(slopes)
    y = np.asarray(y, np.float64)
    bound = max(_dual(objective, s, y, gradient, scale) for scale in _scales(objective, s, y, gradient))
    return Check(
        total / n + objective.penalty(w),
        bound,
        objective.violation(w, gradient) / float(np.abs(at_zero).max()),
        int(np.count_nonzero(w)),
    )


def _scales(objective: Objective, slopes: Any, y: Any, gradient: Any) -> tuple[float, ...]:
    """Propose multiples of the residual that the conjugates admit."""
    most = 1.0 if objective.loss == "logistic" else math.inf
    if objective.l2 == 0 and not objective.boxed:
        largest = float(np.abs(gradient).max())
        most = min(most, objective.l1 / largest if largest > 0 else most)
    if objective.loss == "logistic":
        return (most,)
    squares = float(slopes @ slopes)
    best = float(-(y @ slopes)) / squares if squares > 0 else 0.0
    return (min(max(best, 0.0), most), min(1.0, most))


def _dual(objective: Objective, slopes: Any, y: Any, gradient: Any, scale: float) -> float:
    u = scale * slopes
    if objective.loss == "squared":
        conjugate = 0.5 * float(u @ u) + float(u @ y)
    else:
        t = np.clip(-y * u, 0.0, 1.0)
        conjugate = float(np.sum(_times_log(t) + _times_log(1 - t)))
    return -conjugate / len(y) - objective.conjugate(-scale * gradient)


def _times_log(t: Any) -> Any:
    return t * np.log(np.where(t > 0, t, 1.0))


def strongest(loss: str, X: Any, y: Any) -> float:
    """Find the least l1 penalty that makes every coefficient zero."""
    at_zero = np.zeros(X.shape[1])
    for Z, target in blocks_of(X, y):
        at_zero += Z.T @ target
    return float(np.abs(at_zero).max()) / len(y) * (1.0 if loss == "squared" else 0.5)
