"""The Gram matrix of a design as an operator, against dense algebra and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from scipy.sparse.linalg import eigsh

import nysstream
from nysstream.errors import DataWarning, InputError, MemoryBudgetError
from nysstream.features import Fourier
from nysstream.operators.gram import GramOperator, gram
from nysstream.streaming import DesignMatrix
from nysstream.trace import Trace, tracing
from tests.helpers import assert_close
from tests.streaming.support import Stored, Truth


@pytest.fixture(name="X")
def _rows(rng):
    """Rows of unequal columns."""
    return rng.standard_normal((300, 7)) * np.arange(1, 8) + 2


@pytest.mark.parametrize("seen", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("weighted", [False, True])
def test_products_are_those_of_the_dense_matrix(rng, X, weighted, seen):
    center, standardize = seen
    w, V = rng.random(300) if weighted else None, rng.standard_normal((7, 3))
    A = gram(Stored(X, chunk_rows=50), weight=w, center=center, standardize=standardize, n_vectors=3)
    truth = Truth(X, None, w, center, standardize)
    assert A.shape == (7, 7)
    assert A.psd
    assert_close(A @ V, truth.gram @ V, terms=300)
    assert_close(A @ V[:, 0], truth.gram @ V[:, 0], terms=300)


def test_the_product_is_symmetric_and_linear(rng, X):
    A = gram(X, center=True)
    u, v = rng.standard_normal((2, 7))
    assert u @ (A @ v) == pytest.approx(v @ (A @ u))
    assert_close(A @ (2 * u + v), 2 * (A @ u) + A @ v, terms=300)
    assert v @ (A @ v) >= 0


def test_each_product_is_one_pass(X, rng):
    source = Stored(X, chunk_rows=50)
    trace = Trace()
    with tracing(trace):
        A = gram(source, standardize=True, memory=None)
        assert A.passes == 0
        A @ rng.standard_normal((7, 5))
        A @ rng.standard_normal(7)
    assert A.passes == 2
    assert [record.name for record in trace.passes] == ["moments", "product", "product"]


def test_nothing_is_read_before_it_is_needed(X):
    source = Stored(X)
    gram(source, weight=np.ones(300))
    assert not source.runs


def test_what_fits_in_memory_is_read_once(X):
    source = Stored(X, chunk_rows=50)
    A = gram(source)
    for _ in range(3):
        A @ np.ones(7)
    assert (source.reads == 1).all()


def test_double_precision_is_had_for_the_asking(rng, X):
    rows = X.astype(np.float32)
    exact = rows.astype(np.float64)
    v = rng.standard_normal((7, 1))
    A = gram(rows)
    assert A.eps == np.finfo(np.float32).eps
    single, double = A.matmat(v), A.matmat(v, precision="double")
    assert_close(double, exact.T @ (exact @ v), terms=300)
    assert_close(single, double, dtype=np.float32, terms=300)
    assert not np.allclose(single, double, rtol=1e-12, atol=0)
    assert_close(gram(rows, precision="double") @ v, double, terms=300)


def test_features_are_applied_on_the_way(rng, X):
    features = Fourier(30, length_scale="median", random_state=3)
    A = gram(X, features=features)
    fitted = A.design.features
    assert not fitted.needs_sample
    Z = fitted(X)
    v = rng.standard_normal((30, 2))
    assert_close(A @ v, Z.T @ (Z @ v), dtype=np.float32, terms=300)


@pytest.mark.parametrize("center", [False, True])
def test_sparse_rows(rng, center):
    X = sparse.random_array((400, 9), density=0.2, format="csr", rng=rng)
    truth = Truth(X.toarray(), center=center)
    assert_close(gram(X, center=center) @ np.eye(9), truth.gram, terms=400)


def test_scipy_takes_it(X):
    operator = gram(X, center=True).as_scipy()
    values = eigsh(operator, k=2, which="LA", return_eigenvectors=False, v0=np.ones(7))
    np.testing.assert_allclose(np.sort(values), np.linalg.eigvalsh(Truth(X).gram)[-2:], rtol=1e-9)


def test_sketches_and_solvers_take_it(rng, X):
    A = nysstream.gram(X, center=True)
    b = rng.standard_normal(7)
    sketch = nysstream.nystrom(A, 7, random_state=0)
    result = nysstream.pcg(A, b, shift=2.0, preconditioner=sketch, rtol=1e-10)
    expected = np.linalg.solve(Truth(X).gram + 2 * np.eye(7), b)
    np.testing.assert_allclose(np.ravel(result.value), expected, rtol=1e-7)


def test_constant_columns_are_told(rng):
    X = rng.standard_normal((50, 3))
    X[:, 1] = 5.0
    with pytest.warns(DataWarning, match=r"constant.*1"):
        A = gram(X, center=True, standardize=True)
    product = A @ np.eye(3)
    assert not product[1].any()
    assert not product[:, 1].any()


def test_a_limit_that_is_too_small_is_refused_before_any_read(X):
    source = Stored(X)
    with pytest.raises(
        MemoryBudgetError, match=r"memory=1\.00 MiB is too small.*fewer features or smaller chunks"
    ):
        gram(source, memory="1MiB", center=True)
    assert not source.runs


@pytest.mark.parametrize("shape", [(6,), (8, 2), (300, 1)])
def test_vectors_of_another_length_are_refused(X, shape):
    with pytest.raises((InputError, IndexError), match=r"shape"):
        GramOperator(DesignMatrix(X)).matmat(np.ones(shape))


def test_weights_of_another_length_are_refused(X):
    with pytest.raises(InputError, match="299 weights for the 300 rows"):
        gram(X, weight=np.ones(299))
