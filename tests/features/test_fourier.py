"""Random Fourier features against the kernels that scikit-learn computes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from sklearn.gaussian_process.kernels import Matern
from sklearn.metrics.pairwise import laplacian_kernel, rbf_kernel

from nysstream.errors import InputError
from nysstream.features import Fourier
from tests.strategies import float_dtypes, layouts, matrices

LENGTH = 1.7
KERNELS = {
    "gaussian": ({}, lambda X: rbf_kernel(X, gamma=1 / (2 * LENGTH**2))),
    "gaussian, orthogonal": ({"orthogonal": True}, lambda X: rbf_kernel(X, gamma=1 / (2 * LENGTH**2))),
    "laplacian": ({"kernel": "laplacian"}, lambda X: laplacian_kernel(X, gamma=1 / LENGTH)),
}
for nu in (0.5, 1.5, 2.5, 4.0):
    for orthogonal in (False, True):
        KERNELS[f"matern {nu}{', orthogonal' * orthogonal}"] = (
            {"kernel": "matern", "nu": nu, "orthogonal": orthogonal},
            lambda X, nu=nu: Matern(LENGTH, nu=nu)(X),
        )


def standardised_errors(Z, K):
    """Errors of the kernel estimates between distinct rows, in standard errors of their means."""
    products = Z[:, None, :] * Z[None, :, :] * Z.shape[1]
    errors = (products.mean(axis=2) - K) / (products.std(axis=2) / np.sqrt(Z.shape[1]))
    return errors[np.triu_indices(len(Z), 1)]


@pytest.mark.parametrize("name", KERNELS)
def test_inner_products_estimate_the_kernel(name, rng):
    settings, kernel = KERNELS[name]
    X = rng.standard_normal((12, 5))
    Z = Fourier(20_000, length_scale=LENGTH, random_state=7, **settings)(X)
    errors = standardised_errors(Z, kernel(X))
    assert np.abs(errors).max() < 4.5
    # Negative control: a slightly different length scale is noticed.
    assert np.abs(standardised_errors(Z, kernel(0.9 * X))).max() > 4.5


def test_a_length_scale_per_column_divides_the_columns(rng):
    X = rng.standard_normal((9, 4))
    scales = np.array([0.5, 1.0, 3.0, 10.0])
    Z = Fourier(2000, length_scale=scales)(X)
    np.testing.assert_allclose(Z, Fourier(2000)(X / scales), atol=1e-6)


def test_orthogonal_frequencies_are_orthogonal_and_normal_in_law():
    d, m = 6, 15
    (W, phase) = Fourier(m, orthogonal=True)._draw(d)
    gram = W.T.astype(np.float64) @ W
    for start in range(0, m, d):
        block = gram[start : start + d, start : start + d]
        np.testing.assert_allclose(block, np.diag(np.diag(block)), atol=1e-5)
    assert np.abs(gram[:d, d:]).max() > 0.1  # blocks are independent of each other
    assert phase.shape == (m,)
    (W, _) = Fourier(60_000, orthogonal=True)._draw(d)
    np.testing.assert_allclose([W.mean(), W.var(), (W**4).mean()], [0, 1, 3], atol=0.05)


@pytest.mark.parametrize("nu", [None, 2.5])
def test_orthogonal_features_vary_less(nu, rng):
    X = rng.standard_normal((6, 8)) / 3
    first, second = np.triu_indices(6, 1)
    kernel = "gaussian" if nu is None else "matern"

    def variances(orthogonal):
        by_features, by_frequencies = [], []
        for state in range(400):
            features = Fourier(8, kernel=kernel, nu=nu, orthogonal=orthogonal, random_state=state)
            Z = features(X)
            by_features.append(np.sum(Z[first] * Z[second], axis=1))
            W, _ = features._draw(8)
            by_frequencies.append(np.cos((X[first] - X[second]) @ W).mean(axis=1))
        return np.var(by_features, axis=0).mean(), np.var(by_frequencies, axis=0).mean()

    orthogonal, independent = variances(True), variances(False)
    # The random phase adds variance of its own; without it the gain is larger.
    assert orthogonal[0] < 0.92 * independent[0]
    assert orthogonal[1] < 0.75 * independent[1]


@given(data=st.data())
def test_single_and_double_precision_evaluate_the_same_map(data):
    X = data.draw(matrices(data.draw(layouts(max_rows=40)), np.float32))
    features = Fourier(33, orthogonal=data.draw(st.booleans()), length_scale=2.0)
    Z32, Z64 = features(X), features(X.astype(np.float64))
    assert (Z32.dtype, Z64.dtype) == (np.float32, np.float64)
    np.testing.assert_allclose(Z32, Z64, rtol=0, atol=np.sqrt(2 / 33) * 1e-5)


@given(data=st.data(), dtype=float_dtypes())
def test_features_are_the_formula(data, dtype):
    X = data.draw(matrices(data.draw(layouts(max_rows=300)), dtype))
    features = Fourier(50, length_scale=0.7)
    W, phase = (w.astype(np.float64) for w in features._draw(X.shape[1]))
    expected = np.sqrt(2 / 50) * np.cos(X.astype(np.float64) @ W + phase)
    np.testing.assert_allclose(features(X), expected, rtol=0, atol=100 * np.finfo(dtype).eps)


@pytest.mark.parametrize(("kernel", "metric"), [("gaussian", "euclidean"), ("laplacian", "cityblock")])
def test_the_median_is_taken_in_the_distance_of_the_kernel(kernel, metric, rng):
    sample = rng.standard_normal((80, 3))
    features = Fourier(10, kernel=kernel, length_scale="median")
    assert features.needs_sample
    fitted = features.fit(sample)
    assert fitted == Fourier(10, kernel=kernel, length_scale=np.median(pdist(sample, metric)))
    assert not fitted.needs_sample
    assert fitted.fit(2 * sample) is fitted


def test_a_map_that_needs_rows_says_so(rng):
    with pytest.raises(InputError, match=r"call fit\(sample\)"):
        Fourier(10, length_scale="median")(rng.standard_normal((3, 2)))


def test_length_scales_must_match_the_columns(rng):
    with pytest.raises(InputError, match="3 entries and the rows have 2 columns"):
        Fourier(10, length_scale=(1, 2, 3))(rng.standard_normal((3, 2)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_features": 0}, "n_features must be an integer of at least 1"),
        ({"n_features": 2.5}, "n_features must be an integer, not 2.5"),
        ({"n_features": True}, "n_features must be an integer"),
        ({"kernel": "cauchy"}, "'gaussian', 'laplacian', 'matern'"),
        ({"kernel": "matern", "nu": 0}, "nu must be above zero"),
        ({"kernel": "matern", "nu": np.inf}, "nu must be a finite number"),
        ({"nu": 1.5}, "nu belongs to kernel='matern'"),
        ({"length_scale": "mean"}, "'median', not 'mean'"),
        ({"length_scale": -1}, "length_scale must be above zero"),
        ({"length_scale": [1, np.nan]}, "length_scale must be a finite number"),
        ({"length_scale": []}, "empty"),
        ({"length_scale": None}, "length_scale must be a number, not None"),
        ({"kernel": "laplacian", "orthogonal": True}, "rotation-invariant"),
        ({"orthogonal": 1}, "orthogonal must be True or False"),
        ({"random_state": None}, "random_state of a feature map must be an integer"),
        ({"random_state": -1}, "random_state must be an integer of at least 0"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        Fourier(**({"n_features": 4} | settings))


def test_numpy_settings_become_plain_and_compare_equal():
    plain = Fourier(8, length_scale=(1.0, 2.0), random_state=3)
    numpy = Fourier(np.int64(8), length_scale=np.array([1, 2], np.float32), random_state=np.uint8(3))
    assert plain == numpy
    assert hash(plain) == hash(numpy)
    assert type(numpy.n_features) is int
