"""Regression problems and their solutions in double precision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from sklearn.linear_model import Ridge as DenseRidge


@dataclass(frozen=True)
class Regression:
    """Rows with far-off means and unequal scales, two targets, and weights; all exact in float32."""

    X: np.ndarray
    Y: np.ndarray
    weight: np.ndarray

    @property
    def y(self) -> np.ndarray:
        return np.ascontiguousarray(self.Y[:, 0])


def regression(n=300, p=7, seed=0) -> Regression:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) @ rng.standard_normal((p, p)) * np.geomspace(0.3, 3, p) + np.arange(p)
    X = X.astype(np.float32).astype(np.float64)
    Y = X @ rng.standard_normal((p, 2)) + rng.standard_normal((n, 2)) + [3.0, -40.0]
    weight = rng.integers(0, 4, n).astype(np.float64)
    return Regression(X, Y.astype(np.float32).astype(np.float64), weight)


@pytest.fixture
def problem() -> Regression:
    return regression()


def dense_ridge(X, y, sample_weight=None, *, alpha=1.0, **settings) -> DenseRidge:
    """Solve in memory, in double precision, by a direct method."""
    X, y = np.asarray(X, np.float64), np.asarray(y, np.float64)
    return DenseRidge(alpha=alpha, solver="svd", **settings).fit(X, y, sample_weight)


def assert_same_model(model, expected, *, rtol=1e-5) -> None:
    """Compare coefficients and intercepts of two fitted models, relative to the largest coefficient."""
    assert np.shape(model.coef_) == np.shape(expected.coef_)
    scale = np.abs(expected.coef_).max()
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=0, atol=rtol * scale)
    size = max(scale, np.abs(expected.intercept_).max(initial=0.0))
    np.testing.assert_allclose(model.intercept_, expected.intercept_, rtol=0, atol=rtol * size)
