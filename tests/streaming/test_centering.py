"""Means and scales from a set-up pass."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy import sparse

from nysstream.errors import DataWarning
from nysstream.features import Fourier
from nysstream.streaming import DesignMatrix, SetUp, centering_of, reduce
from tests.streaming.support import Stored, Truth


def centering(design, *, center=True, standardize=True):
    (statistics,) = reduce(design, SetUp(center=center))
    return centering_of(design, statistics, center=center, standardize=standardize)


def test_nothing_asked_is_nothing_done(rng):
    assert centering(DesignMatrix(rng.random((20, 3))), center=False, standardize=False) is None


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_means_and_scales(rng, center, standardize, dtype):
    if not center and not standardize:
        return
    X, y, w = (rng.standard_normal((90, 3)) + 1).astype(dtype), rng.random((90, 2)), rng.random(90)
    made = centering(DesignMatrix(Stored(X), y, w), center=center, standardize=standardize)
    truth = Truth(X, y, w)
    tol = 1e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(made.mean, truth.mean if center else 0, rtol=tol, atol=tol)
    np.testing.assert_allclose(made.scale, truth.deviation if standardize else 1, rtol=tol)
    np.testing.assert_allclose(
        made.target_mean, np.average(y, axis=0, weights=w) if center else 0, rtol=1e-12
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -3e5, 1e-7])
@pytest.mark.parametrize("stored", ["dense", "sparse"])
def test_constant_columns_are_found_however_they_round(rng, dtype, value, stored):
    X = rng.standard_normal((1000, 3)).astype(dtype)
    X[:, 1] = value
    design = DesignMatrix(sparse.csr_array(X) if stored == "sparse" else Stored(X), None, rng.random(1000))
    # Sparse rows are centred by algebra, which cannot tell constant from nearly constant, and says so.
    with pytest.warns(DataWarning, match="constant"):
        made = centering(design)
    assert np.isinf(made.scale).tolist() == [False, True, False]
    with warnings.catch_warnings():  # without standardising, a constant is nobody's concern
        warnings.simplefilter("ignore" if stored == "sparse" else "error")
        assert np.isinf(centering(design, standardize=False).scale).tolist() == [False, True, False]


@pytest.mark.parametrize(("dtype", "ratio"), [(np.float32, 1e6), (np.float32, 1e4), (np.float64, 1e12)])
def test_columns_that_vary_a_little_are_not_constant(rng, dtype, ratio):
    X = (ratio + rng.standard_normal((1000, 2))).astype(dtype)
    made = centering(DesignMatrix(Stored(X, chunk_rows=100)))
    np.testing.assert_allclose(made.scale, Truth(X).deviation, rtol=1e-5)
    # The shift is known exactly, and what it leaves is small.
    assert (made.shift == made.shift.astype(dtype)).all()
    assert (np.abs(made.rest) <= np.finfo(dtype).eps * ratio).all()


def test_rows_are_shifted_where_means_are_far_only(rng):
    X = rng.standard_normal((100, 2))
    assert centering(DesignMatrix(X + 1e3)).shift is None
    assert centering(DesignMatrix(X + 1e5)).shift is not None
    assert centering(DesignMatrix((X + 5).astype(np.float32))).shift is None
    assert centering(DesignMatrix((X + 50).astype(np.float32))).shift is not None
    assert centering(DesignMatrix(sparse.csr_array(X + 1e5))).shift is None
    made = centering(DesignMatrix(X + 1e3))
    assert (made.rest == made.mean).all()


def test_constant_columns_alone_call_for_no_shift(rng):
    X = rng.standard_normal((100, 2))
    X[:, 0] = 1e9
    with pytest.warns(DataWarning):
        assert centering(DesignMatrix(X)).shift is None


def test_features_are_centred_like_columns(rng):
    X, features = rng.standard_normal((200, 3)), Fourier(10)
    made = centering(DesignMatrix(X, features=features))
    truth = Truth(features(X))
    np.testing.assert_allclose(made.mean, truth.mean, atol=1e-6)
    np.testing.assert_allclose(made.scale, truth.deviation, rtol=1e-5)
