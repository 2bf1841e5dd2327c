"""Small models, fitted by every method."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest

from nysstream import Ridge


@pytest.fixture(scope="session")
def fits():
    """Fit one problem by every method, once without reaching the tolerance, and once with zero targets."""
    rng = np.random.default_rng(3)
    X = rng.standard_normal((600, 12)) * np.logspace(0, -2, 12)
    y = X @ rng.standard_normal(12) + 0.1 * rng.standard_normal(600)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return SimpleNamespace(
            X=X,
            y=y,
            sketched=Ridge(alpha=[1e-3, 1.0], solver="nystrom", rank=5).fit(X, y),
            plain=Ridge(alpha=1e-3, solver="cg").fit(X, y),
            gram=Ridge(alpha=1e-3, solver="gram").fit(X, y),
            subsampled=Ridge(alpha=1e-3, solver="subsampled").fit(X, y),
            stopped=Ridge(alpha=1e-3, solver="cg", max_passes=4).fit(X, y),
            zero=Ridge(alpha=0.0, solver="nystrom", fit_intercept=False).fit(X, np.zeros((600, 2))),
        )
