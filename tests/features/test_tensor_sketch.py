"""TensorSketch against the polynomial kernel and the convolution that defines it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics.pairwise import polynomial_kernel

from nysstream.errors import InputError
from nysstream.features import TensorSketch, tensor_sketch
from tests.strategies import float_dtypes, layouts, matrices


def convolved(features, X):
    """Features from dense count sketches and circular convolution by its definition."""
    n, d = X.shape
    m = features.n_features
    extended = np.hstack([np.sqrt(features.gamma) * X, np.full((n, 1), np.sqrt(features.coef0))])
    buckets, signs = features._hashes(d)
    Z = np.zeros((n, m))
    Z[:, 0] = 1
    for j in range(features.degree):
        C = np.zeros((d + 1, m))
        C[np.arange(d + 1), buckets[j]] = signs[j]
        sketch = extended @ C
        Z = sum(np.roll(sketch, shift, axis=1) * Z[:, [shift]] for shift in range(m))
    return Z


@given(
    data=st.data(),
    dtype=float_dtypes(),
    m=st.integers(1, 17),
    degree=st.integers(1, 4),
    coef0=st.sampled_from([0.0, 0.5]),
)
def test_features_are_the_convolution_of_count_sketches(data, dtype, m, degree, coef0):
    X = data.draw(matrices(data.draw(layouts(max_rows=20, max_columns=30)), dtype))
    features = TensorSketch(
        m, degree=degree, gamma=0.3, coef0=coef0, random_state=data.draw(st.integers(0, 9))
    )
    expected = convolved(features, X.astype(np.float64))
    largest = (0.3 * (X.astype(np.float64) ** 2).sum(axis=1).max() * X.shape[1] + coef0) ** (degree / 2)
    np.testing.assert_allclose(features(X), expected, rtol=0, atol=100 * np.finfo(dtype).eps * largest)


@pytest.mark.parametrize(("degree", "gamma", "coef0"), [(1, 1.0, 0.0), (2, 0.5, 1.0), (3, 0.25, 2.0)])
def test_inner_products_are_unbiased(degree, gamma, coef0, rng):
    X = rng.standard_normal((4, 6))
    settings = {"degree": degree, "gamma": gamma, "coef0": coef0}
    estimates = []
    for state in range(1500):
        Z = TensorSketch(16, random_state=state, **settings)(X)
        estimates.append(Z @ Z.T)
    mean, deviation = np.mean(estimates, axis=0), np.std(estimates, axis=0) / np.sqrt(1500)
    error = np.abs(mean - polynomial_kernel(X, **settings))
    assert (error < 4.5 * deviation + 1e-9).all()


def test_pieces_cover_every_row(monkeypatch, rng):
    X = rng.standard_normal((23, 7))
    features = TensorSketch(32, degree=3)
    expected = features(X)
    monkeypatch.setattr(tensor_sketch, "HOST_PIECE_BYTES", 5 * 32 * 8)
    np.testing.assert_array_equal(features(X), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"degree": 0}, "degree must be an integer of at least 1"),
        ({"gamma": 0}, "gamma must be above zero"),
        ({"gamma": "scale"}, "gamma must be a number"),
        ({"coef0": -1}, "coef0 must be zero or more"),
        ({"random_state": "7"}, "random_state must be an integer"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        TensorSketch(8, **settings)
