"""Products, residuals and predictions against dense algebra."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from nysstream.features import Fourier, ReLU
from nysstream.streaming import (
    Centering,
    DesignMatrix,
    GramProduct,
    Predict,
    PredictionError,
    SetUp,
    SquaredResidual,
    centering_of,
    reduce,
)
from tests import strategies
from tests.helpers import assert_close, tolerance
from tests.streaming.support import Stored, Truth, small_blocks

TARGETS = np.array([0, 1, 1, 0])


def centred(design, **options):
    """See the design centred and scaled, by a first pass."""
    (statistics,) = reduce(design, SetUp(center=options["center"]))
    return replace(design, centering=centering_of(design, statistics, **options))


def check_all(design, truth, *, dtype):
    """Compare every kernel on a design, centred by algebra or not, with dense algebra."""
    rng = np.random.default_rng(3)
    n, p = truth.Z.shape
    V = rng.standard_normal((p, len(TARGETS)))
    product, (gradient, squares) = reduce(design, GramProduct(V), SquaredResidual(V, TARGETS))
    X, w = truth.rows, truth.w[:, None]
    R = truth.targets[:, TARGETS] - X @ V
    eps = tolerance(dtype, terms=n)
    # Bounds by norms, since sums of both signs may cancel.
    size = np.sqrt((w * X**2).sum(axis=0).max())
    np.testing.assert_allclose(
        product, truth.gram @ V, rtol=0, atol=eps * size * np.sqrt((w * (X @ V) ** 2).sum(axis=0).max())
    )
    np.testing.assert_allclose(
        gradient, X.T @ (w * R), rtol=0, atol=eps * size * np.sqrt((w * R**2).sum(axis=0).max())
    )
    np.testing.assert_allclose(squares, (w * R**2).sum(axis=0), rtol=eps * 10)


@st.composite
def problems(draw):
    """Draw stored rows whose columns vary, two targets, and weights, zeros among them or none."""
    layout = draw(strategies.layouts(min_rows=12, max_rows=120, max_columns=5))
    X = draw(strategies.matrices(layout, draw(strategies.stored_dtypes())))
    X[: layout.n_rows // 2] = X[: layout.n_rows // 2] == 0  # no column is constant
    X[0], X[1] = 0, 1
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    y = rng.standard_normal((layout.n_rows, 2))
    w = draw(st.sampled_from([None, rng.integers(0, 3, layout.n_rows), rng.random(layout.n_rows)]))
    if w is not None:
        w[:4] = 1
    start = draw(st.integers(0, layout.chunk_rows - 1))
    return Stored(X, chunk_rows=layout.chunk_rows, chunk_start=start), y, w


@given(
    problem=problems(),
    seen=st.sampled_from([(False, False), (True, False), (True, True), (False, True)]),
    precision=st.sampled_from(["single", "double"]),
    partitions=st.integers(1, 9),
)
def test_kernels_on_any_store(problem, seen, precision, partitions):
    source, y, w = problem
    center, standardize = seen
    with pytest.MonkeyPatch.context() as patch:
        small_blocks(patch, partitions=partitions)
        design = DesignMatrix(source, y, w, precision=precision)
        design = centred(design, center=center, standardize=standardize)
        X = np.asarray(source.array.read(slice(0, source.shape[0])), np.float64)
        check_all(design, Truth(X, y, w, center, standardize), dtype=design.dtype)


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_kernels_on_sparse_rows(rng, monkeypatch, center, standardize, dtype):
    small_blocks(monkeypatch, block_bytes=3000, partitions=4)
    X = sparse.random_array((200, 9), density=0.3, format="csr", rng=rng, dtype=dtype)
    y, w = rng.standard_normal((200, 2)), rng.random(200)
    design = centred(DesignMatrix(X, y, w), center=center, standardize=standardize)
    assert len(design.partitions) > 1
    check_all(design, Truth(X.toarray(), y, w, center, standardize), dtype=dtype)


@pytest.mark.parametrize("features", [Fourier(24), ReLU(24)], ids=["fourier", "relu"])
@pytest.mark.parametrize("stored", ["dense", "sparse"])
def test_kernels_behind_features(rng, monkeypatch, features, stored):
    small_blocks(monkeypatch, block_bytes=2000, partitions=4)
    X = sparse.random_array((150, 6), density=0.5, format="csr", rng=rng)
    y, w = rng.standard_normal((150, 2)), rng.random(150)
    source = X if stored == "sparse" else Stored(X.toarray())
    design = centred(DesignMatrix(source, y, w, features=features), center=True, standardize=True)
    assert design.dtype == np.float32
    check_all(design, Truth(features(X.toarray()), y, w, True, True), dtype=np.float32)
    check_all(
        design.with_precision("double"), Truth(features(X.toarray()), y, w, True, True), dtype=np.float32
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_far_means_are_subtracted_from_rows(rng, monkeypatch, dtype):
    small_blocks(monkeypatch, partitions=5)
    far = 1e4 if dtype == np.float32 else 1e9
    X = (far * np.array([1, -1, 0.0]) + rng.standard_normal((300, 3))).astype(dtype)
    y, w = rng.standard_normal((300, 2)), rng.random(300)
    design = centred(DesignMatrix(Stored(X, chunk_rows=16), y, w), center=True, standardize=True)
    truth = Truth(X, y, w, True, True)
    assert design.centering.shift is not None
    check_all(design, truth, dtype=dtype)
    # The control: by algebra alone, digits are lost.
    algebra = replace(design, centering=replace(design.centering, shift=None))
    V = np.eye(3)
    (good,), (bad,) = reduce(design, GramProduct(V)), reduce(algebra, GramProduct(V))
    errors = [np.abs(product - truth.gram).max() for product in (good, bad)]
    assert errors[0] * 100 < errors[1]


def test_near_means_are_left_to_algebra(rng):
    X = (3 + rng.standard_normal((300, 3))).astype(np.float32)
    design = centred(DesignMatrix(X, rng.standard_normal((300, 2))), center=True, standardize=True)
    assert design.centering.shift is None
    check_all(design, Truth(X, design.target.read(slice(0, 300)), None, True, True), dtype=np.float32)


def test_columns_of_infinite_scale_vanish(rng):
    X = rng.standard_normal((60, 3))
    centering = Centering(np.zeros(3), np.array([1, np.inf, 1]), np.zeros(1))
    design = DesignMatrix(X, rng.standard_normal(60), centering=centering)
    (product,) = reduce(design, GramProduct(np.ones((3, 2))))
    kept = X[:, [0, 2]]
    assert_close(product[[0, 2]], kept.T @ (kept @ np.ones((2, 2))), terms=60)
    assert not product[1].any()


def test_predictions_come_in_the_order_of_rows(rng, monkeypatch):
    small_blocks(monkeypatch)
    X, coef = rng.standard_normal((203, 4)), rng.standard_normal((4, 2))
    design = DesignMatrix(Stored(X, chunk_rows=7))
    (predicted,) = reduce(design, Predict(coef, np.array([1.0, -2.0])))
    assert_close(predicted, X @ coef + [1.0, -2.0], terms=4)
    assert predicted.dtype == np.float64


@given(problem=problems(), partitions=st.integers(1, 6))
def test_prediction_errors_on_any_store(problem, partitions):
    source, y, w = problem
    y = y + np.array([1e6, -3e5])
    rng = np.random.default_rng(0)
    coef, intercept = rng.standard_normal((source.shape[1], 2)), y.mean(axis=0)
    with pytest.MonkeyPatch.context() as patch:
        small_blocks(patch, partitions=partitions)
        design = DesignMatrix(source, y, w, precision="double")
        errors, squares, weight = reduce(design, PredictionError(coef, intercept, y[0]))[0]
    X = np.asarray(source.array.read(slice(0, source.shape[0])), np.float64)
    truth = Truth(X, y, w)
    assert_close(errors, truth.w @ (y - X @ coef - intercept) ** 2, terms=len(X) * 1e9)
    np.testing.assert_allclose(squares, truth.w @ truth.targets**2, rtol=1e-10)
    assert weight == pytest.approx(truth.w.sum())


@given(problem=problems())
def test_integer_weights_are_repeated_rows(problem):
    source, y, _ = problem
    X = source.array.read(slice(0, source.shape[0]))
    counts = np.random.default_rng(1).integers(0, 4, len(X))
    V = np.random.default_rng(2).standard_normal((X.shape[1], 2))
    repeated = DesignMatrix(np.repeat(X, counts, axis=0), np.repeat(y, counts, axis=0))
    weighted = DesignMatrix(source, y, counts)
    for reduction in (GramProduct(V), SquaredResidual(V, np.array([0, 1]))):
        if counts.sum() == 0:
            return
        one, other = reduce(weighted, reduction)[0], reduce(repeated, reduction)[0]
        if isinstance(one, tuple):
            one, other = one[1], other[1]
        assert_close(one, other, dtype=weighted.dtype, terms=500)


@given(problem=problems(), data=st.data())
def test_products_of_runs_of_rows_add_up(problem, data):
    source, y, w = problem
    V = np.random.default_rng(2).standard_normal((source.shape[1], 2))
    design = DesignMatrix(source, y, w)
    parts = [design.restrict(rows) for rows in data.draw(strategies.cuts(len(y))) if rows.start < rows.stop]
    total = sum(reduce(part, GramProduct(V))[0] for part in parts)
    assert_close(total, reduce(design, GramProduct(V))[0], dtype=design.dtype, terms=500)
