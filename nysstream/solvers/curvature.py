"""Curvature of finite sums from sampled rows: the metric that steps are measured in, and their length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.sketching.metric import ColumnMetrics, Metric
from nysstream.sketching.subsampled import SampledRows
from nysstream.solvers.columns import dots
from nysstream.streaming import Tile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.sketching.subsampled import SubsampledHessian
    from nysstream.solvers.finite_sum import FiniteSum
    from nysstream.solvers.quadratic import Block, Vector

#: Iterations of the power method, and by how much a fresh sample may exceed the metric before the damping
#: grows, by which factor and how often.
_POWER, _MOST, _GROWTH, _ATTEMPTS = 20, 32.0, 10.0, 6


@dataclass(frozen=True, eq=False)
class Measured:
    """A metric, and how much steeper than in the metric the function may be.

    Attributes
    ----------
    metric : Metric
    smoothness : ndarray, shape (k,)
        Largest eigenvalue of the fresh sample's Hessian relative to the metric.
    damping : float
        Largest of all columns.
    """

    metric: Metric
    smoothness: Vector
    damping: float


def measure(problem: FiniteSum, at: Block, hessian: SubsampledHessian, seed: int) -> Measured:
    """Make the metric of the curvature at a block, with as much damping as a fresh sample asks for.

    Parameters
    ----------
    problem : FiniteSum
    at : ndarray, shape (p', k)
    hessian : SubsampledHessian
    seed : int

    Notes
    -----
    Cost: no pass; memory and arithmetic as :meth:`SubsampledHessian.build` says, for each metric.
    """
    rows = SampledRows(problem.sample, problem.intercept)
    m, k = rows.shape[0], at.shape[1]
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, 1])))
    outcome = _outcomes(problem, rows)
    # Rows without weight would tell of no curvature.
    counted = np.arange(m) if outcome[1] is None else np.flatnonzero(outcome[1])
    counted = counted if counted.size else np.arange(m)
    # As many fresh rows as a batch has: it is the batches' curvature that steps must be short for.
    n_fresh = max(1, min(problem.batches.batch_rows, counted.size // 2))
    fresh = counted[np.unique(np.linspace(0, counted.size - 1, n_fresh).astype(np.intp))]
    share = np.zeros(m, np.bool_)
    share[counted] = True
    share[fresh] = counted.size == 1
    curvature = _curvature(problem, rows, at, share, fresh, outcome)
    scale = problem.factor * counted.size / np.count_nonzero(share)
    shared = problem.outcome.loss.quadratic  # columns of equal curvature share a metric
    groups: list[int] = []  # the first column of each
    of = np.zeros(k, np.intp)
    for j in range(k):
        alike = [i for i, g in enumerate(groups) if np.array_equal(problem.l2[:, j], problem.l2[:, g])]
        of[j] = alike[0] if shared and alike else len(groups)
        groups += [] if shared and alike else [j]
    parts = [
        hessian.build(rows, scale * np.where(share, curvature[:, j], 0.0), problem.l2[:, j], rng)
        for j in groups
    ]
    probe = rows.part(fresh)
    weight = problem.factor * counted.size / fresh.size
    start = rng.standard_normal(at.shape)
    dampings = np.array([part.damping for part in parts])
    for attempt in range(_ATTEMPTS):
        metric = ColumnMetrics(
            [part.metric(damping) for part, damping in zip(parts, dampings, strict=True)], of
        )
        smoothness = _largest(problem, probe, at, weight * curvature[fresh], weight, metric, start)
        steep = np.array([smoothness[of == i].max() > _MOST for i in range(len(parts))])
        if hessian.kind == "identity" or not steep.any() or attempt == _ATTEMPTS - 1:
            break
        dampings = np.where(steep, _GROWTH * dampings, dampings)
    return Measured(metric, smoothness, float(dampings.max()))


def _curvature(
    problem: FiniteSum,
    rows: SampledRows,
    at: Block,
    share: NDArray[np.bool_],
    fresh: NDArray[np.intp],
    outcome: tuple[Any, Any],
) -> Block:
    """Give the weighted curvatures of the sampled rows, (m, k).

    In columns whose loss is flat at all rows of the share, or at all fresh ones, it is the loss's bound:
    elsewhere the loss may not be flat.
    """
    y, weight = outcome
    z, loss = rows.multiply(at), problem.outcome.loss
    h = np.asarray(loss.curvature(z, y), np.float64)
    flat = ~((h[share] > 0).any(axis=0) & (h[fresh] > 0).any(axis=0))
    if loss.curvature_bound is not None and flat.any():
        h = np.where(flat, loss.curvature_bound, h)
    return h if weight is None else h * weight[:, None]


def _outcomes(problem: FiniteSum, rows: SampledRows) -> tuple[Any, Any]:
    sample = rows.design
    everything = slice(0, sample.shape[0])
    assert sample.target is not None
    y = np.asarray(sample.target.read(everything), np.float64)
    weight = None if sample.weight is None else np.asarray(sample.weight.read(everything), np.float64)[:, 0]
    return problem.outcome.of(Tile(0, None, None, y, weight))


def _largest(
    problem: FiniteSum,
    rows: SampledRows,
    at: Block,
    curvature: Block,
    scale: float,
    metric: Metric,
    start: Block,
) -> Vector:
    """Estimate the largest eigenvalue of the fresh sample's Hessian relative to a metric, by columns."""
    coupled, loss = problem.coupled, problem.outcome.loss
    y, given = _outcomes(problem, rows) if coupled else (None, None)
    z = rows.multiply(at, keep=True) if coupled else None

    def product(X: Block) -> Block:
        T = rows.multiply(X, keep=True)
        if coupled:
            T = scale * loss.curvature_product(z, y, T)  # type: ignore[attr-defined]
            T = T if given is None else T * given[:, None]
        else:
            T = curvature * T
        return rows.multiply_back(T) + problem.l2 * X

    def inner(A: Block, B: Block) -> Vector:
        products = dots(A, B)
        return np.full_like(products, products.sum()) if coupled else products

    X, found = start, np.zeros(start.shape[1])
    for _ in range(_POWER):
        Y = product(X)
        Z = metric.inverse(Y)
        below = inner(X, Y)
        found = np.divide(inner(Y, Z), below, out=np.zeros_like(below), where=below > 0)
        size = np.sqrt(np.maximum(inner(Z, Z), 1e-300))
        X = Z / size
    return np.maximum(found, 1e-12)
