"""Metrics: products, inverses and blocks agree with the dense matrix."""

from __future__ import annotations

import numpy as np
import pytest

from nysstream.errors import InputError
from nysstream.sketching.factored import Factored
from nysstream.sketching.metric import ColumnMetrics, DenseMetric, DiagonalMetric, LowRankMetric
from tests.helpers import assert_close


def made(kind, rng, p=9):
    """Make a metric and the matrix it stands for."""
    d = 0.5 + rng.random(p)
    if kind == "diagonal":
        return DiagonalMetric(d), np.diag(d)
    if kind == "low rank":
        F = rng.standard_normal((4, p))
        return LowRankMetric(F, d), F.T @ F + np.diag(d)
    if kind == "no rank":
        return LowRankMetric(np.zeros((0, p)), d), np.diag(d)
    F = rng.standard_normal((20, p))
    return DenseMetric(Factored(np.asfortranarray(F.T @ F)), 0.3), F.T @ F + 0.3 * np.eye(p)


@pytest.mark.parametrize("kind", ["diagonal", "low rank", "no rank", "dense"])
def test_agrees_with_the_dense_matrix(kind, rng):
    metric, P = made(kind, rng)
    V = rng.standard_normal((9, 3))
    for _ in range(2):  # before and after the factor has overwritten a triangle
        assert_close(metric.apply(V), P @ V, terms=1000)
        assert_close(metric.inverse(V), np.linalg.solve(P, V), terms=1000)
        assert_close(metric.main_diagonal(), np.diag(P), terms=1000)
        for index in (np.array([1, 4, 7]), np.array([6, 0, 3])):
            assert_close(metric.block(index), P[np.ix_(index, index)], terms=1000)


def test_a_factor_in_single_precision_is_multiplied_in_strips(rng, monkeypatch):
    monkeypatch.setattr("nysstream.sketching.metric._STRIP_BYTES", 200)
    F, d, V = (
        rng.standard_normal((5, 33), dtype=np.float32),
        rng.random(33) + 0.1,
        rng.standard_normal((33, 2)),
    )
    single, double = LowRankMetric(F, d), LowRankMetric(F.astype(np.float64), d)
    for name in ("apply", "inverse"):
        assert_close(getattr(single, name)(V), getattr(double, name)(V), terms=1000)
    assert_close(single.main_diagonal(), double.main_diagonal(), terms=100)


def test_columns_have_metrics_of_their_own(rng):
    (first, P), (second, Q) = made("low rank", rng), made("dense", rng)
    metric = ColumnMetrics([first, second], np.array([0, 1, 0]))
    V = rng.standard_normal((9, 3))
    expected = np.column_stack([P @ V[:, 0], Q @ V[:, 1], P @ V[:, 2]])
    assert_close(metric.apply(V), expected, terms=1000)
    assert_close(metric.inverse(expected), V, terms=1000)
    with pytest.raises(InputError, match="ask one of the parts"):
        metric.main_diagonal()
    assert_close(ColumnMetrics([first], np.zeros(3, int)).main_diagonal(), np.diag(P), terms=100)
