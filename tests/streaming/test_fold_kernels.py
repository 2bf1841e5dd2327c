"""Products and residuals of every training set in one pass, against dense algebra."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from nysstream.errors import InputError
from nysstream.streaming import (
    Centering,
    ContiguousFolds,
    DesignMatrix,
    FoldGramProduct,
    FoldSquaredResidual,
    HashedFolds,
    TrainingColumns,
    reduce,
)
from tests.helpers import assert_close
from tests.streaming.support import Stored, Truth, small_blocks

N, P, Q = 120, 5, 2
LEFT_OUT = np.array([0, 0, 1, 2, 3, 3])  # three folds, and all rows
TARGETS = np.array([0, 1, 0, 1, 1, 0])


def problem(seed=0, n=N):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, P)) * np.geomspace(0.5, 2, P) + np.arange(P)
    return X, rng.standard_normal((n, Q)) + 3, rng.integers(0, 3, n).astype(float), rng


def training_sets(folds, X, Y, weight, *, standardize=False):
    """Give the truth on the rows outside each fold and on all rows, and their centerings."""
    found = folds.of_rows(slice(0, len(X)), len(X))
    truths, centerings = [], []
    for fold in range(folds.n_splits + 1):
        seen = found != fold
        truth = Truth(X[seen], Y[seen], weight[seen], standardize=standardize)
        scale = truth.deviation if standardize else np.ones(P)
        centerings.append(Centering(truth.mean, scale, np.average(Y[seen], axis=0, weights=weight[seen])))
        truths.append(truth)
    return found, truths, tuple(centerings)


@given(
    seed=st.integers(0, 99),
    chunk_rows=st.integers(1, 60),
    standardize=st.booleans(),
    folds=st.sampled_from([ContiguousFolds(3), HashedFolds(3)]),
    kind=st.sampled_from([np.float32, np.float64, "sparse"]),
)
def test_products_see_their_training_sets(seed, chunk_rows, standardize, folds, kind):
    X, Y, weight, rng = problem(seed)
    X = X.astype(np.float32).astype(np.float64)
    V = rng.standard_normal((P, 6))
    _, truths, centerings = training_sets(folds, X, Y, weight, standardize=standardize)
    columns = TrainingColumns(folds, LEFT_OUT, centerings)
    source = scipy.sparse.csr_array(X) if kind == "sparse" else Stored(X.astype(kind), chunk_rows=chunk_rows)
    (product,) = reduce(DesignMatrix(source, None, weight), FoldGramProduct(V, columns))
    expected = np.stack([truths[f].gram @ V[:, j] for j, f in enumerate(LEFT_OUT)], axis=1)
    # Centring by algebra loses some digits.
    assert_close(product, expected, dtype=np.float64 if kind == "sparse" else kind, terms=20 * N)


@pytest.mark.parametrize("centred", [True, False])
def test_residuals_on_rows_seen_and_held_out(centred):
    X, Y, weight, rng = problem()
    W = rng.standard_normal((P, 6))
    folds = HashedFolds(3)
    found, truths, centerings = training_sets(folds, X, Y, weight)
    columns = TrainingColumns(folds, LEFT_OUT, centerings if centred else None)
    design = DesignMatrix(Stored(X, chunk_rows=11), Y, weight)
    ((gradient, squares, errors),) = reduce(design, FoldSquaredResidual(W, TARGETS, columns))
    for j, (f, t) in enumerate(zip(LEFT_OUT, TARGETS, strict=True)):
        mean, target_mean = (truths[f].mean, centerings[f].target_mean[t]) if centred else (0.0, 0.0)
        R = Y[:, t] - target_mean - (X - mean) @ W[:, j]
        seen = found != f
        assert squares[j] == pytest.approx(np.sum((weight * R**2)[seen]), rel=1e-12)
        assert errors[j] == pytest.approx(np.sum((weight * R**2)[~seen]), rel=1e-12)
        expected = (X - mean)[seen].T @ (weight * R)[seen]
        np.testing.assert_allclose(gradient[:, j], expected, rtol=1e-10, atol=1e-10)
    assert errors[LEFT_OUT == 3].tolist() == [0.0, 0.0]


def test_tiles_may_be_shifted_by_the_mean_of_all_rows():
    X, Y, weight, rng = problem()
    V = rng.standard_normal((P, 6))
    folds = ContiguousFolds(3)
    _, truths, centerings = training_sets(folds, X, Y, weight)
    shared = Centering(centerings[-1].mean, np.ones(P), np.zeros(Q), shift=centerings[-1].mean)
    design = DesignMatrix(Stored(X), Y, weight, centering=shared)
    columns = TrainingColumns(folds, LEFT_OUT, centerings)
    (product,) = reduce(design, FoldGramProduct(V, columns))
    expected = np.stack([truths[f].gram @ V[:, j] for j, f in enumerate(LEFT_OUT)], axis=1)
    assert_close(product, expected, terms=N)


def test_columns_may_be_taken(monkeypatch):
    small_blocks(monkeypatch)
    X, Y, weight, rng = problem()
    V = rng.standard_normal((P, 6))
    folds = HashedFolds(3)
    *_, centerings = training_sets(folds, X, Y, weight)
    columns = TrainingColumns(folds, LEFT_OUT, centerings)
    design = DesignMatrix(Stored(X), None, weight)
    (whole,) = reduce(design, FoldGramProduct(V, columns))
    some = np.array([1, 3, 4])
    (part,) = reduce(design, FoldGramProduct(np.ascontiguousarray(V[:, some]), columns.take(some)))
    assert_close(part, whole[:, some])


@pytest.mark.parametrize("shape", [(P, 5), (P + 1, 6)])
def test_vectors_must_fit(shape):
    X, Y, _, _ = problem()
    columns = TrainingColumns(ContiguousFolds(3), LEFT_OUT, None)
    with pytest.raises(InputError, match="vectors has shape"):
        reduce(DesignMatrix(X), FoldGramProduct(np.ones(shape), columns))
    with pytest.raises(InputError, match="shape"):
        reduce(DesignMatrix(X, Y), FoldSquaredResidual(np.ones(shape), np.zeros(shape[1], int), columns))
