"""Proximal steps in a metric, beside what optimality asks for."""

from __future__ import annotations

import numpy as np
import pytest

from nysstream.regularizers import GroupLasso, Separable, Simplex
from nysstream.sketching.factored import Factored
from nysstream.sketching.metric import ColumnMetrics, DenseMetric, DiagonalMetric, LowRankMetric
from nysstream.solvers.scaled_prox import scaled_prox
from tests.helpers import with_eigenvalues


def metrics(rng, p, condition):
    """Make metrics of each kind, with their matrices."""
    d = np.exp(rng.standard_normal(p))
    F = rng.standard_normal((5, p)) * np.sqrt(condition)
    P = with_eigenvalues(np.logspace(0, -np.log10(condition), p), rng)
    return {
        "diagonal": (DiagonalMetric(d), np.diag(d)),
        "low rank": (LowRankMetric(F, d), F.T @ F + np.diag(d)),
        "dense": (DenseMetric(Factored(np.asfortranarray(P)), 1e-9), P + 1e-9 * np.eye(p)),
    }


REGULARIZERS = {
    "l1": Separable(l1=0.5),
    "l1 and l2": Separable(l1=0.5, l2=2.0),
    "box": Separable(lower=-0.2, upper=0.3),
    "positive l1": Separable(l1=0.1, lower=0.0),
    "free": Separable(),
}


@pytest.mark.parametrize("condition", [10.0, 1e6])
@pytest.mark.parametrize("kind", ["diagonal", "low rank", "dense"])
@pytest.mark.parametrize("name", REGULARIZERS)
def test_sums_over_coefficients_are_solved_exactly(rng, kind, name, condition):
    p, regularizer = 25, REGULARIZERS[name]
    metric, P = metrics(rng, p, condition)[kind]
    center, start, step = rng.standard_normal((p, 2)), np.zeros((p, 2)), np.array([0.3, 1.0])
    u = scaled_prox(regularizer, metric, center, step, start)
    gradient = P @ (u - center)
    apart = regularizer.distance(u, gradient / step) * step
    assert np.isfinite(apart).all()
    assert (apart <= 1e-6 * np.abs(P @ center).max(axis=0)).all()


def test_zeros_are_exact_and_bounds_hold(rng):
    metric, _ = metrics(rng, 25, 10.0)["low rank"]
    center, regularizer = rng.standard_normal((25, 1)), Separable(l1=20.0, upper=0.1)
    u = scaled_prox(regularizer, metric, center, np.ones(1), np.zeros((25, 1)))
    assert 0 < np.count_nonzero(u == 0) < 25
    assert u.max() <= 0.1


@pytest.mark.parametrize("regularizer", [Simplex(), GroupLasso(0.5, groups=np.arange(12) // 3)])
def test_regularizers_that_couple_coefficients(rng, regularizer):
    metric, P = metrics(rng, 12, 10.0)["dense"]
    center = rng.standard_normal((12, 1))
    u = scaled_prox(regularizer, metric, center, np.ones(1), np.full((12, 1), 1 / 12))
    assert np.isfinite(regularizer.value(u)).all()
    gradient = P @ (u - center)
    np.testing.assert_allclose(u, regularizer.prox(u - gradient, 1.0), atol=1e-4)


def test_columns_have_their_own_metrics_and_strengths(rng):
    kinds = metrics(rng, 25, 10.0)
    pair = ColumnMetrics([kinds["dense"][0], kinds["low rank"][0]], np.array([1, 0]))
    regularizer = Separable(l1=np.array([[0.2, 0.7]]))
    center, zeros = rng.standard_normal((25, 2)), np.zeros((25, 2))
    together = scaled_prox(regularizer, pair, center, np.ones(2), zeros)
    for j, kind in enumerate(("low rank", "dense")):
        alone = scaled_prox(
            regularizer.columns([j]), kinds[kind][0], center[:, [j]], np.ones(1), zeros[:, [j]]
        )
        np.testing.assert_array_equal(together[:, [j]], alone)
