"""Proximal steps in a metric: the regularizer's minimiser near a point, distances measured by a matrix."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg

from nysstream.regularizers import Separable
from nysstream.sketching.metric import ColumnMetrics, DiagonalMetric, LowRankMetric
from nysstream.solvers.columns import dots

if TYPE_CHECKING:
    from nysstream.regularizers import Regularizer
    from nysstream.sketching.metric import Metric
    from nysstream.solvers.quadratic import Block, Vector

#: Newton steps of the root-find, their least length, and the accuracy asked for; likewise for faces.
_ROOT_STEPS, _SHORTEST, _ROOT = 30, 1e-4, 1e-9
_FACES, _FACE = 60, 1e-7
#: Iterations of the accelerated gradient, which end once they move by this part of what the step moves.
_ITERATIONS, _SETTLED, _POWER = 500, 1e-5, 30
_TINY = 1e-300


def scaled_prox(regularizer: Regularizer, metric: Metric, center: Block, step: Vector, start: Block) -> Block:
    r"""Minimise :math:`\eta_j r(u_j) + \tfrac12 \|u_j - c_j\|_P^2` for every column j.

    Parameters
    ----------
    regularizer : Regularizer
    metric : Metric, (p, p)
        P.
    center : ndarray, shape (p, k)
        c.
    step : ndarray, shape (k,)
        :math:`\eta`.
    start : ndarray, shape (p, k)
        A guess.

    Returns
    -------
    ndarray, shape (p, k)
        A point that a proximal operator returned, or on a face that one found: its zeros are exact, and
        constraints hold.

    Notes
    -----
    Cost: no pass. Exact for diagonal metrics, and for ones of low rank plus a diagonal, where a sum over
    coefficients is minimised by a root-find in as many dimensions as the rank [1]_: ``s^2 p`` flops for each
    of a few Newton steps. For other sums over coefficients Newton's method on the faces that proximal
    gradient steps find, ``a^3 / 3`` flops with a coefficients that are free; otherwise accelerated proximal
    gradient, ``2 p^2`` flops for each iteration.

    References
    ----------
    .. [1] Becker and Fadili, "A quasi-Newton proximal splitting method", NeurIPS, 2012.
    """
    if isinstance(metric, ColumnMetrics):
        out = np.empty_like(center)
        for number, part in enumerate(metric.parts):
            at = np.flatnonzero(metric.of == number)
            out[:, at] = scaled_prox(regularizer.columns(at), part, center[:, at], step[at], start[:, at])
        return out
    if isinstance(regularizer, Separable) and isinstance(metric, DiagonalMetric):
        return regularizer.prox(center, step / metric.diagonal[:, None])
    if isinstance(regularizer, Separable):
        columns = []
        for j in range(center.shape[1]):
            problem = (regularizer.columns([j]), metric, center[:, [j]], float(step[j]), start[:, [j]])
            found = _root(*problem) if isinstance(metric, LowRankMetric) else None
            columns.append(_by_faces(*problem) if found is None else found)
        return np.hstack(columns)
    return _accelerated(regularizer, metric, center, step, start)


def _root(regularizer: Separable, metric: Metric, center: Block, step: float, start: Block) -> Block | None:
    r"""Find a with :math:`a = F (u(a) - c)`, where u(a) is the minimiser given the low-rank part's slope.

    It is the gradient of a strongly convex, piecewise quadratic function of a, which Newton's method with a
    line search minimises in finitely many steps. None where rounding is in the way, as it is where the
    diagonal is tiny.
    """
    assert isinstance(metric, LowRankMetric)
    F, d = metric.factor, metric.diagonal[:, None]

    def at(a: Block) -> tuple[Block, Block, float]:
        u = regularizer.prox(center - (F.T @ a) / d, step / d)
        moved = u - center
        image = F @ moved
        penalty = float(regularizer.value(u)[0])
        height = 0.5 * np.sum(a**2) - step * penalty - 0.5 * np.sum(d * moved**2) - np.sum(a * image)
        return u, a - image, float(height)

    a = F @ (start - center)
    scale = np.abs(a).max(initial=0.0)
    u, residual, height = at(a)
    for _ in range(_ROOT_STEPS):
        if np.abs(residual).max(initial=0.0) <= _ROOT * scale:
            return u
        face = regularizer.face(u)
        free = np.flatnonzero(face.free[:, 0])
        part = F[:, free]
        jacobian = (part / metric.diagonal[free]) @ part.T
        jacobian[np.diag_indices_from(jacobian)] += 1.0
        move = scipy.linalg.solve(jacobian, -residual, assume_a="pos", check_finite=False)
        slope = float(np.sum(move * residual))
        length = 1.0
        while (found := at(a + length * move))[2] > height + 1e-4 * length * slope:
            length *= 0.5
            if length < _SHORTEST:
                return None
        a = a + length * move
        u, residual, height = found
    return None


def _by_faces(regularizer: Separable, metric: Metric, center: Block, step: float, start: Block) -> Block:
    """Alternate proximal gradient steps, which find the face, and Newton steps on it, for one column."""
    scale = _diagonal(regularizer, metric, center.shape[0])

    def at(u: Block) -> tuple[Block, float]:
        gradient = metric.apply(u - center)
        return gradient, float(0.5 * np.sum((u - center) * gradient) + step * regularizer.value(u)[0])

    u = regularizer.prox(start, _TINY)
    gradient, height = at(u)
    asked = _FACE * max(float(np.abs(gradient).max(initial=0.0)), _TINY)
    for _ in range(_FACES):
        u = regularizer.prox(u - gradient / scale, step / scale)
        gradient, height = at(u)
        if step * float(regularizer.distance(u, gradient / step)[0]) <= asked:
            break
        face = regularizer.face(u)
        free = np.flatnonzero(face.free[:, 0])
        if free.size == 0:
            continue
        slope = gradient[free] + step * (face.slope[free] + face.curvature[free] * u[free])
        matrix = metric.block(free)
        matrix[np.diag_indices_from(matrix)] += step * face.curvature[free, 0]
        try:
            factor = scipy.linalg.cho_factor(matrix, lower=True, overwrite_a=True, check_finite=False)
        except np.linalg.LinAlgError:
            continue
        move = np.zeros_like(u)
        move[free] = scipy.linalg.cho_solve(factor, -slope, check_finite=False)
        length = 1.0
        while length >= _SHORTEST:
            found = np.clip(u + length * move, face.lower, face.upper)
            following, lower = at(found)
            if lower < height:
                u, gradient, height = found, following, lower
                break
            length *= 0.5
    return u


def _accelerated(
    regularizer: Regularizer, metric: Metric, center: Block, step: Vector, start: Block
) -> Block:
    """Take accelerated proximal gradient steps with restarts; give the last point a prox returned."""
    scale = _diagonal(regularizer, metric, center.shape[0])
    u = previous = regularizer.prox(start, _TINY)
    point, momentum = u, 1.0
    whole = np.abs(center - start).max(axis=0)
    for _ in range(_ITERATIONS):
        gradient = metric.apply(point - center)
        u = regularizer.prox(point - gradient / scale, step / scale)
        move = u - previous
        if np.all(np.abs(move).max(axis=0) <= _SETTLED * whole):
            return u
        if np.sum(dots(point - u, move)) > 0:  # momentum points uphill
            point, momentum = u, 1.0
        else:
            following = 0.5 * (1 + math.sqrt(1 + 4 * momentum**2))
            point, momentum = u + ((momentum - 1) / following) * move, following
        previous = u
    return u


def _diagonal(regularizer: Regularizer, metric: Metric, p: int) -> Block:
    """Give a diagonal, (p, 1), that is above the metric; one number, (1,), where the regularizer needs it."""
    known = metric.__dict__.setdefault("_above", {})
    key = regularizer.separable
    if key not in known:
        d = metric.main_diagonal() if key else np.ones(p)
        root = np.sqrt(d)[:, None]
        v = np.random.default_rng(0).standard_normal((p, 1))
        size = 0.0
        for _ in range(_POWER):
            v /= np.linalg.norm(v)
            v = metric.apply(v / root) / root
            size = float(np.linalg.norm(v))
        known[key] = 1.1 * size * (d[:, None] if key else np.ones(1))
    found: Block = known[key]
    return found
