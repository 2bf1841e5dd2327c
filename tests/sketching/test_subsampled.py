"""Preconditioners of sampled rows beside the dense Hessian."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse

from nysstream.errors import InputError
from nysstream.features import Fourier
from nysstream.sketching.metric import DiagonalMetric
from nysstream.sketching.subsampled import KINDS, SampledRows, SubsampledHessian
from nysstream.streaming import DesignMatrix, SetUp, centering_of, reduce
from tests.helpers import assert_close, with_singular_values


def sampled(X, *, features=None, intercept=True):
    """Make sampled rows, centred and scaled, and the dense matrix they stand for."""
    design = DesignMatrix(X, np.ones(X.shape[0]), precision="double")
    if features is not None:
        design = replace(design, features=features)
    (statistics,) = reduce(design, SetUp())
    design = replace(design, centering=centering_of(design, statistics, center=True, standardize=True))
    Z = X.toarray() if scipy.sparse.issparse(X) else X
    Z = Z if features is None else features(Z)
    R = (Z - statistics.mean) / design.centering.scale
    return SampledRows(design, intercept), np.hstack([R, np.ones((len(R), 1))]) if intercept else R


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("kind", ["dense", "far", "sparse", "features"])
def test_rows_are_those_of_the_centred_design(rng, kind, intercept):
    X = rng.standard_normal((40, 3)) + (1e6 if kind == "far" else 2.0)
    X = scipy.sparse.csr_array(X * (rng.random(X.shape) < 0.5)) if kind == "sparse" else X
    rows, R = sampled(X, features=Fourier(5) if kind == "features" else None, intercept=intercept)
    V, T, weight = rng.standard_normal((R.shape[1], 2)), rng.standard_normal((40, 2)), rng.random(40)
    tight = {"terms": 1 << 30 if kind == "far" else 1000}
    assert_close(rows.multiply(V), R @ V, **tight)
    assert_close(rows.multiply(V, keep=True), R @ V, **tight)
    assert_close(rows.multiply_back(T), R.T @ T, **tight)
    chunks = np.concatenate([chunk for _, chunk in rows.chunks(weight)])
    assert_close(chunks, np.sqrt(weight)[:, None] * R, **tight)
    few = np.array([3, 8, 9])
    assert_close(rows.part(few).multiply(V), (R @ V)[few], **tight)


@pytest.mark.parametrize("m", [12, 200])
def test_newton_is_the_matrix_itself(rng, m):
    rows, R = sampled(rng.standard_normal((m, 20)))
    weight, diagonal = rng.random(m), rng.random(21)
    metric = SubsampledHessian("newton").build(rows, weight, diagonal, rng).metric(0.7)
    V = rng.standard_normal((21, 2))
    H = R.T @ (weight[:, None] * R) + np.diag(diagonal) + 0.7 * np.eye(21)
    assert_close(metric.inverse(V), np.linalg.solve(H, V), terms=10_000)


@pytest.mark.parametrize("m", [280, 400, 580, 640])
def test_newton_of_few_rows_holds_no_more_than_a_matrix(rng, m):
    X = rng.standard_normal((m, 600), dtype=np.float32)
    rows, weight, diagonal = (
        SampledRows(DesignMatrix(X), intercept=False),
        rng.random(m) / m,
        np.full(600, 0.1),
    )
    part = SubsampledHessian("newton").build(rows, weight, diagonal, rng)
    tracemalloc.start()
    part = SubsampledHessian("newton").build(rows, weight, diagonal, rng)
    metric = part.metric(part.damping)
    V = rng.standard_normal((600, 1))
    found, product = metric.inverse(V), metric.apply(V)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 1.1 * 4 * 600**2
    H = (X.T * weight) @ X.astype(np.float64) + np.diag(diagonal + part.damping)
    np.testing.assert_allclose(product, H @ V, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(H @ found, V, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("sparse", [False, True])
def test_few_wide_rows_are_dense_at_a_time(rng, monkeypatch, sparse):
    monkeypatch.setattr("nysstream.sketching.subsampled._CHUNK_BYTES", 1 << 20)
    m, p, rank = 300, 30_000, 4
    X = scipy.sparse.random_array((m, p), density=1e-3, format="csr", dtype=np.float32, rng=rng)
    rows = SampledRows(DesignMatrix(X if sparse else X.toarray()), intercept=True)
    tracemalloc.start()
    SubsampledHessian("nystrom", rank).build(rows, np.ones(m) / m, np.full(p + 1, 1e-6), rng)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 48 * p * rank + 3 * 16 * 4 * p


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "identity"])
def test_preconditioners_lower_the_condition(rng, kind):
    p = 30
    scales = np.diag(np.logspace(0, 2, p)) if kind == "diagonal" else np.eye(p)
    X = with_singular_values(400, np.logspace(0, -4, p), rng) @ scales
    X -= X.mean(axis=0)
    rows = SampledRows(DesignMatrix(X, np.ones(400), precision="double"), False)
    l2 = np.full(p, 1e-8)
    part = SubsampledHessian(kind, 15).build(rows, np.ones(400), l2, rng)
    H = X.T @ X + np.diag(l2)
    before = np.linalg.cond(H)
    P = np.linalg.inv(part.metric(part.damping).inverse(np.eye(p)))
    values = np.linalg.eigvals(np.linalg.solve(P, H)).real
    assert values.max() / values.min() < before / 10


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("l2", [0.0, 2.0])
def test_rows_without_curvature_leave_the_diagonal(rng, kind, l2):
    rows, R = sampled(rng.standard_normal((12, 20)))
    V = rng.standard_normal((R.shape[1], 2))
    found = SubsampledHessian(kind).build(rows, np.zeros(12), np.full(21, l2), rng)
    with np.errstate(all="raise"):
        step = found.metric(found.damping).inverse(V)
    scale = l2 if l2 and kind != "identity" else 1.0
    assert_close(step, V / scale, terms=1e6)


def test_nystrom_of_full_rank_is_the_matrix(rng):
    rows, R = sampled(rng.standard_normal((100, 6)))
    part = SubsampledHessian("nystrom").build(rows, np.ones(100), np.zeros(7), rng)
    V = rng.standard_normal((7, 2))
    assert_close(part.metric(1.0).apply(V), R.T @ (R @ V) + V, terms=1 << 20)


@pytest.mark.parametrize("kind", ["columns", "rows"])
def test_sparse_maps_keep_squares_on_average(rng, kind):
    rows, R = sampled(rng.standard_normal((60, 4)))
    total = np.zeros((5, 5))
    for _ in range(300):
        F = SubsampledHessian(kind, 5).build(rows, np.ones(60), np.zeros(5), rng).matrix
        total += F.T @ F / 300
    H = R.T @ R
    assert np.linalg.norm(total - H) < 0.15 * np.linalg.norm(H)


def test_identity_and_settings(rng):
    rows, _ = sampled(rng.standard_normal((30, 3)))
    metric = SubsampledHessian("identity").build(rows, np.ones(30), np.ones(4), rng).metric(5.0)
    assert isinstance(metric, DiagonalMetric)
    assert (metric.diagonal == 1).all()
    with pytest.raises(InputError, match="kind='best'"):
        SubsampledHessian("best")
    with pytest.raises(InputError, match="rank=0"):
        SubsampledHessian("nystrom", 0)
