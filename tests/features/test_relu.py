"""ReLU features against the arc-cosine kernel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nysstream.errors import InputError
from nysstream.features import ReLU
from tests.strategies import layouts, matrices


def arc_cosine(X):
    """Evaluate the kernel of order one by its closed form."""
    norms = np.linalg.norm(X, axis=1)
    cosine = np.clip(X @ X.T / np.outer(norms, norms), -1, 1)
    angle = np.arccos(cosine)
    return np.outer(norms, norms) * (np.sin(angle) + (np.pi - angle) * cosine) / np.pi


def test_inner_products_estimate_the_kernel(rng):
    X = rng.standard_normal((12, 5))
    Z = ReLU(40_000, random_state=5)(X)
    products = Z[:, None, :] * Z[None, :, :] * Z.shape[1]
    errors = (products.mean(axis=2) - arc_cosine(X)) / (products.std(axis=2) / np.sqrt(Z.shape[1]))
    assert np.abs(errors).max() < 4.5
    # Negative control: the linear kernel is not what is estimated.
    assert np.abs(products.mean(axis=2) - X @ X.T).max() > 0.5


@given(data=st.data(), exponent=st.integers(-10, 10))
def test_homogeneous_and_nonnegative(data, exponent):
    X = data.draw(matrices(data.draw(layouts(max_rows=30)), np.float64))
    Z = ReLU(20)(X)
    assert Z.min() >= 0
    np.testing.assert_array_equal(ReLU(20)(2.0**exponent * X), 2.0**exponent * Z)


def test_bad_settings_are_named():
    with pytest.raises(InputError, match="n_features"):
        ReLU("many")
    with pytest.raises(InputError, match="random_state"):
        ReLU(3, random_state=0.5)
