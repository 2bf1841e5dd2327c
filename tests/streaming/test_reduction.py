"""What reductions are made of: sums in float64, and products back by rows as they lie."""

from __future__ import annotations

import array_api_strict as strict
import numpy as np
import pytest
from scipy.sparse import csr_array

from nysstream.arrays import get_device
from nysstream.streaming import DesignMatrix, GramProduct, reduce
from nysstream.streaming.reduction import accumulate, multiply_back, zero_product


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("form", [np.asarray, csr_array])
def test_products_come_laid_out_like_their_sums(rng, form, k):
    X = form(rng.random((20, 6)).astype(np.float32))
    T = rng.random((20, k)).astype(np.float32)
    total = zero_product(DesignMatrix(X), get_device("cpu"), k)
    product = multiply_back(X, T)
    assert total.shape == product.shape == (6, k)
    assert total.strides[0] // total.itemsize == product.strides[0] // product.itemsize
    assert accumulate(total, product) is total
    dense = X if form is np.asarray else X.toarray()
    np.testing.assert_allclose(total, dense.T.astype(np.float64) @ T, rtol=1e-5)


def test_products_are_made_by_other_libraries_too(rng):
    Z, T = rng.random((20, 6)), rng.random((20, 2))
    product = multiply_back(strict.asarray(Z), strict.asarray(T))
    np.testing.assert_allclose(np.asarray(product), Z.T @ T, rtol=1e-12)


def test_sums_stay_laid_out_so_along_the_tree(rng):
    X = rng.random((4000, 6))
    (product,) = reduce(DesignMatrix(X), GramProduct(np.eye(6)[:, :4]))
    assert product.flags.f_contiguous
    np.testing.assert_allclose(product, (X.T @ X)[:, :4], rtol=1e-12)
