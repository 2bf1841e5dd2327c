"""Kernel matrices as operators: tiles of any size give the dense matrix's products."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.gaussian_process.kernels import Matern
from sklearn.metrics import pairwise

from nysstream.operators.kernel import KernelOperator
from nysstream.operators.pairwise import KERNELS, Kernel
from tests.streaming.support import Stored


def truth(kernel, X, Y):
    """Evaluate a kernel by scikit-learn, in float64."""
    X, Y = X.astype(np.float64), Y.astype(np.float64)
    if kernel.name == "linear":
        return X @ Y.T
    if kernel.name == "poly":
        return pairwise.polynomial_kernel(X, Y, kernel.degree, kernel.gamma, kernel.coef0)
    if kernel.name == "rbf":
        return pairwise.rbf_kernel(X, Y, kernel.gamma)
    if kernel.name == "laplacian":
        return pairwise.laplacian_kernel(X, Y, kernel.gamma)
    nu = {"matern12": 0.5, "matern32": 1.5, "matern52": 2.5}[kernel.name]
    return Matern(length_scale=(2 * kernel.gamma) ** -0.5, nu=nu)(X, Y)


@given(
    name=st.sampled_from(KERNELS),
    n=st.integers(1, 40),
    d=st.integers(1, 5),
    tile_rows=st.integers(1, 17),
    memory=st.sampled_from([0, 2000, 10**6]),
    scaled=st.booleans(),
    single=st.booleans(),
    seed=st.integers(0, 2**16),
)
@settings(deadline=None, max_examples=60)
def test_products_are_those_of_the_dense_matrix(name, n, d, tile_rows, memory, scaled, single, seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d)) + 5
    kernel = Kernel(name, 0.3, 2, 1.0, "single" if single else "double")
    scale = rng.random(n) if scaled else None
    source = Stored(X, chunk_rows=7) if memory < 10**6 else X
    A = KernelOperator(source, kernel, scale=scale, memory=memory, tile_rows=tile_rows)
    S = np.ones(n) if scale is None else scale
    K = S[:, None] * truth(kernel, X, X) * S
    V = rng.standard_normal((n, 3))
    size = np.abs(K).max() * n
    for _ in range(2):  # with tiles made, and with tiles kept
        np.testing.assert_allclose(A.matmat(V), K @ V, atol=(2e-5 if single else 1e-12) * size, rtol=0)
    np.testing.assert_allclose(A.matmat(V, precision="double"), K @ V, atol=1e-12 * size, rtol=0)
    assert A.passes == 3
    assert A.trace() == pytest.approx(np.trace(K), rel=1e-5)
    np.testing.assert_allclose(A.dense(), K, atol=1e-7 if "matern" in name else 1e-11 * size)
    chosen = np.sort(rng.choice(n, min(n, 4), replace=False))
    # The root magnifies the rounding of the distance of a row from itself.
    tolerance = (2e-5 if single else 1e-12) * size + (1e-6 if "matern" in name else 0)
    np.testing.assert_allclose(A.block_product(chosen, V), K[chosen] @ V, atol=tolerance, rtol=0)
    np.testing.assert_allclose(A.block(chosen), K[np.ix_(chosen, chosen)], atol=tolerance, rtol=0)


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_of_two_sets_of_rows(name):
    rng = np.random.default_rng(0)
    X, Y = rng.standard_normal((20, 3)), rng.standard_normal((30, 3))
    kernel = Kernel(name, 0.7, 3, 0.5, "double")
    np.testing.assert_allclose(kernel(X, Y), truth(kernel, X, Y), rtol=1e-9, atol=1e-12)


def test_single_precision_does_not_suffer_from_a_distant_origin():
    X = np.random.default_rng(0).standard_normal((50, 3)) + 1e4
    A = KernelOperator(X, Kernel("rbf", 0.5))
    np.testing.assert_allclose(A @ np.ones(50), pairwise.rbf_kernel(X, gamma=0.5).sum(axis=1), rtol=1e-5)


def test_products_do_not_depend_on_the_number_of_threads():
    import dask

    X, V = np.random.default_rng(0).standard_normal((300, 4)), np.ones((300, 2))
    products = []
    for workers in (1, 4):
        with dask.config.set(num_workers=workers):
            products.append(KernelOperator(X, Kernel("rbf", 0.5), tile_rows=32).matmat(V))
    np.testing.assert_array_equal(*products)
