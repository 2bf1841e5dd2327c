"""The statistics of training sets are those of their rows, whatever the chunks."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st

from nysstream.errors import InputError
from nysstream.features import Fourier
from nysstream.sketching.test_matrix import TestMatrix
from nysstream.streaming import (
    ContiguousFolds,
    DesignMatrix,
    FoldSetUp,
    GivenFolds,
    HashedFolds,
    SetUp,
    reduce,
)
from tests.helpers import assert_close
from tests.streaming.support import Stored, Truth, small_blocks

P = 6


def data(n=90, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, P)) + 10 * np.arange(P)
    return X, rng.standard_normal((n, 2)) - 5, rng.integers(0, 3, n).astype(float)


def assert_statistics(found, X, Y, weight, omega=None):
    truth = Truth(X, Y, weight)
    assert found.n_rows == len(X)
    assert found.n_weighted == np.count_nonzero(weight)
    assert found.weight == pytest.approx(weight.sum())
    assert_close(found.mean, truth.mean, terms=len(X))
    assert_close(found.squares, np.diag(truth.gram), terms=len(X))
    assert_close(found.cross, truth.rows.T @ (weight[:, None] * truth.targets), terms=len(X))
    if omega is not None:
        assert_close(found.sketch, truth.gram @ omega, terms=len(X))
    if found.gram is not None:
        assert_close(found.gram, truth.gram, terms=len(X))


@given(
    seed=st.integers(0, 99),
    chunk_rows=st.integers(1, 100),
    folds=st.sampled_from([ContiguousFolds(2), ContiguousFolds(7), HashedFolds(3), HashedFolds(4, 1)]),
    gram=st.booleans(),
)
def test_training_sets_leave_one_fold_out(seed, chunk_rows, folds, gram):
    X, Y, weight = data(seed=seed)
    test = None if gram else TestMatrix(P, 3, 0, 0)
    set_up = SetUp(test, 0 if gram else 3, gram=gram)
    design = DesignMatrix(Stored(X, chunk_rows=chunk_rows), Y, weight)
    with pytest.MonkeyPatch.context() as patch:
        small_blocks(patch)
        (statistics,) = reduce(design, FoldSetUp(set_up, folds))
    rows = folds.of_rows(slice(0, len(X)), len(X))
    omega = None if test is None else test()
    assert_statistics(statistics.whole(), X, Y, weight, omega)
    for fold, found in enumerate(statistics.training_sets()):
        seen = rows != fold
        assert_statistics(found, X[seen], Y[seen], weight[seen], omega)
    assert fold == folds.n_splits - 1
    for fold in range(folds.n_splits):
        held = rows == fold
        found = statistics.held_out(fold)
        assert found.gram is None
        assert_statistics(found, X[held], Y[held], weight[held], omega)


def test_sparse_rows():
    X, Y, weight = data()
    X[X < 10] = 0
    folds = HashedFolds(3)
    design = DesignMatrix(scipy.sparse.csr_array(X), Y, weight)
    (statistics,) = reduce(design, FoldSetUp(SetUp(gram=True), folds))
    seen = folds.of_rows(slice(0, len(X)), len(X)) != 1
    assert_close(
        list(statistics.training_sets())[1].gram,
        Truth(X[seen], Y[seen], weight[seen]).gram,
        terms=100 * len(X),
    )


def test_features():
    X, Y, _ = data()
    features = Fourier(20, length_scale=20.0)
    design = DesignMatrix(Stored(X), Y, features=features, precision="double")
    (statistics,) = reduce(design, FoldSetUp(SetUp(gram=True), ContiguousFolds(3)))
    assert_statistics(next(statistics.training_sets()), features(X[30:]), Y[30:], np.ones(60))


@pytest.mark.parametrize("folds", [ContiguousFolds(3), HashedFolds(3)])
def test_bad_values_are_named_by_their_row(folds):
    X, Y, _ = data()
    X[71, 4] = np.nan
    with pytest.raises(InputError, match="row 71, column 4"):
        reduce(DesignMatrix(Stored(X, chunk_rows=50), Y), FoldSetUp(SetUp(), folds))


def test_negative_weights_are_named_by_their_row():
    X, Y, weight = data()
    weight[33] = -1
    with pytest.raises(InputError, match="row 33"):
        reduce(DesignMatrix(X, Y, Stored(weight)), FoldSetUp(SetUp(), HashedFolds(3)))


def test_every_fold_needs_rows_and_weight():
    X, Y, weight = data()
    with pytest.raises(InputError, match="fold 1 of 3 holds no rows"):
        reduce(DesignMatrix(X, Y), FoldSetUp(SetUp(), GivenFolds(np.repeat([0, 2], 45))))
    weight[:30] = 0
    with pytest.raises(InputError, match="fold 0 of 3 are zero"):
        reduce(DesignMatrix(X, Y, weight), FoldSetUp(SetUp(), ContiguousFolds(3)))
    with pytest.raises(InputError, match="n_samples=90"):
        reduce(DesignMatrix(X, Y), FoldSetUp(SetUp(), ContiguousFolds(91)))
