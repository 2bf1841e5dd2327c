"""The operator of cross-validation multiplies each column by the Gram matrix of its training set."""

from __future__ import annotations

import numpy as np
import pytest

from nysstream.operators.fold_gram import FoldGramOperator
from nysstream.solvers import PCG, LinearSystem, solve
from nysstream.streaming import ContiguousFolds, DesignMatrix, HashedFolds, TrainingColumns
from tests.helpers import assert_close
from tests.streaming.support import Stored

N, P = 90, 6


def operator_and_matrices(folds, dtype=np.float64):
    X = np.random.default_rng(0).standard_normal((N, P)).astype(dtype)
    rows = folds.of_rows(slice(0, N), N)
    matrices = [X[rows != f].T.astype(np.float64) @ X[rows != f] for f in range(folds.n_splits + 1)]
    columns = TrainingColumns(folds, np.arange(folds.n_splits + 1), None)
    return FoldGramOperator(DesignMatrix(Stored(X, chunk_rows=7)), columns), matrices


@pytest.mark.parametrize("folds", [ContiguousFolds(3), HashedFolds(3)])
@pytest.mark.parametrize("chosen", [[0, 1, 2, 3], [1], [0, 3]])
def test_columns_keep_their_matrices(folds, chosen):
    operator, matrices = operator_and_matrices(folds)
    V = np.random.default_rng(1).standard_normal((P, len(chosen)))
    product = operator.take(np.array(chosen)).matmat(V)
    assert_close(product, np.stack([matrices[f] @ V[:, j] for j, f in enumerate(chosen)], axis=1), terms=N)
    assert operator.passes == 1


def test_takes_of_takes_count_their_passes():
    operator, matrices = operator_and_matrices(ContiguousFolds(3))
    part = operator.take(np.array([1, 2, 3])).take(np.array([0, 2]))
    V = np.eye(P)[:, :2]
    assert_close(part.matmat(V), np.stack([matrices[1][:, 0], matrices[3][:, 1]], axis=1), terms=N)
    assert operator.passes == 1


def test_double_precision_upcasts():
    operator, matrices = operator_and_matrices(ContiguousFolds(3), np.float32)
    V = np.random.default_rng(1).standard_normal((P, 4))
    expected = np.stack([matrices[f] @ V[:, f] for f in range(4)], axis=1)
    assert_close(operator.matmat(V, precision="double"), expected, terms=N)
    assert_close(operator.matmat(V), expected, dtype=np.float32, terms=N)


@pytest.mark.parametrize("shift", [0.1, np.array([1e-3, 10.0, 1.0, 1e3])])
def test_conjugate_gradients_solve_a_different_system_in_each_column(shift):
    operator, matrices = operator_and_matrices(ContiguousFolds(3))
    B = np.random.default_rng(2).standard_normal((P, 4))
    result = solve(LinearSystem(operator, B, shift), PCG(rtol=1e-12))
    assert result.converged
    for j, mu in enumerate(np.broadcast_to(shift, 4)):
        expected = np.linalg.solve(matrices[j] + mu * np.eye(P), B[:, j])
        np.testing.assert_allclose(result.value[:, j], expected, rtol=1e-9)
