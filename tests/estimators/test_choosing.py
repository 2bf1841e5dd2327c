"""The cost model: what it expects of each method, against what happens, and where it is not asked."""

from __future__ import annotations

import time

import numpy as np
import pytest

from nysstream import DesignMatrix, Ridge
from nysstream.estimators import choosing
from nysstream.estimators.planning import plan_fit
from nysstream.features import Fourier

FEATURES = Fourier(1100, length_scale=4.0)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((9_000, 12), dtype=np.float32) / np.sqrt(np.arange(1, 13, dtype=np.float32))
    return X, (np.sin(X @ rng.standard_normal(12)) + 0.1 * rng.standard_normal(9_000)).astype(np.float32)


@pytest.mark.parametrize("alpha", [0.1, 10.0])
def test_expected_passes_are_near_the_true_ones(rows, alpha):
    X, y = rows
    outlook = choosing.look_ahead(DesignMatrix(X, y, features=FEATURES), 1, 2)
    expected = choosing.candidates(DesignMatrix(X, y, features=FEATURES), outlook, alpha, 1e-6, 256)
    for method, rank in (("gram", "auto"), ("nystrom", 256), ("subsampled", "auto"), ("cg", "auto")):
        model = Ridge(alpha, features=FEATURES, solver=method, rank=rank, memory="2GiB").fit(X, y)
        passes = model.result_.stats["passes"]
        assert passes / 2.5 <= expected[method].passes <= 2.5 * passes, method


def test_the_spectrum_is_that_of_the_matrix(rows):
    X, _ = rows
    Z = FEATURES(X)
    values = np.linalg.eigvalsh(np.cov(Z.T.astype(np.float64), bias=True) * len(X))[::-1]
    outlook = choosing.look_ahead(DesignMatrix(X, features=FEATURES), 1, 2)
    assert np.allclose(outlook.values[:20], values[:20], rtol=0.35)
    assert np.sum(outlook.values) + outlook.rest == pytest.approx(np.sum(values), rel=0.1)
    # Rows span less than the leading eigenvectors do, but not much less.
    for rank in (128, 256, 512):
        missed = np.interp(rank, outlook.missed_ranks, outlook.missed)
        assert values[rank:].sum() < missed < 8 * values[rank:].sum()
    assert outlook.sketch_error(512) < outlook.sketch_error(64)


@pytest.mark.parametrize(
    "X",
    [np.zeros((50, 1200)), np.ones((1, 1200)), np.full((40, 1100), np.nan), np.eye(3, 1100) * 1e30],
    ids=["zeros", "one row", "not finite", "huge"],
)
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_odd_data_get_an_answer(X, shift, monkeypatch):
    monkeypatch.setattr(choosing, "_QUICK", 0.0)
    with np.errstate(all="ignore"):
        plan = plan_fit(
            DesignMatrix(X, X[:, 0]), memory="2GiB", rank="auto", n_systems=1, shift=shift, n_shifts=1
        )
    assert all(candidate.seconds > 0 for candidate in plan.candidates.values())
    assert plan.method in plan.candidates


def test_a_stopped_clock_does_not_matter(rows, monkeypatch):
    X, y = rows
    monkeypatch.setattr(choosing, "_QUICK", 0.0)
    monkeypatch.setattr(time, "perf_counter", lambda: 7.0)
    choosing.multiplication_rate.cache_clear()
    try:
        plan = plan_fit(
            DesignMatrix(X, y, features=FEATURES),
            memory="2GiB",
            rank="auto",
            n_systems=1,
            shift=1.0,
            n_shifts=1,
        )
    finally:
        choosing.multiplication_rate.cache_clear()
    assert plan.method in plan.candidates
    assert all(np.isfinite(candidate.seconds) for candidate in plan.candidates.values())


def test_little_arithmetic_is_not_looked_at(rows, monkeypatch):
    X, y = rows
    monkeypatch.setattr(choosing, "multiplication_rate", lambda: 1e11)

    def refuse(*_):
        pytest.fail("looked ahead")

    monkeypatch.setattr("nysstream.estimators.planning.look_ahead", refuse)
    plan = plan_fit(
        DesignMatrix(X, y, features=FEATURES), memory="2GiB", rank="auto", n_systems=1, shift=1.0, n_shifts=1
    )
    assert plan.method == "gram"
    assert not plan.candidates


def test_more_arithmetic_is(rows, monkeypatch):
    X, y = rows
    monkeypatch.setattr(choosing, "multiplication_rate", lambda: 1e9)
    plan = plan_fit(
        DesignMatrix(X, y, features=FEATURES), memory="2GiB", rank="auto", n_systems=1, shift=1.0, n_shifts=1
    )
    assert plan.candidates.keys() == {"gram", "nystrom", "subsampled", "cg"}
