"""The median distance."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.spatial.distance import pdist

from nysstream.errors import InputError
from nysstream.features.bandwidth import ROWS_COMPARED, median_distance


@pytest.mark.parametrize("metric", ["euclidean", "cityblock"])
def test_sparse_and_dense_samples_agree(metric, rng):
    X = rng.standard_normal((50, 8)) * (rng.random((50, 8)) < 0.3)
    expected = np.median(pdist(X, metric))
    assert median_distance(X, metric) == pytest.approx(expected, rel=1e-12)
    assert median_distance(csr_array(X), metric) == pytest.approx(expected, rel=1e-7)
    assert median_distance(X.astype(np.float32), metric) == pytest.approx(expected, rel=1e-6)


def test_a_long_sample_is_thinned_evenly(rng):
    X = np.sort(rng.standard_normal((4 * ROWS_COMPARED, 1)), axis=0)
    # Two normal variables differ by more than this half of the time.
    assert median_distance(X, "euclidean") == pytest.approx(0.6745 * np.sqrt(2), rel=0.05)


def test_many_duplicates_fall_back_to_the_other_distances():
    X = np.zeros((10, 2))
    X[0] = [3, 4]
    assert np.median(pdist(X)) == 0
    assert median_distance(X, "euclidean") == 5


@pytest.mark.parametrize("X", [np.ones((5, 2)), np.ones((1, 2)), csr_array(np.ones((5, 2)))])
def test_identical_rows_are_refused(X):
    with pytest.raises(InputError, match=f"{X.shape[0]} sampled rows are all identical"):
        median_distance(X, "cityblock")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("make", [np.asarray, csr_array])
def test_values_that_are_not_finite_are_refused(make, value, rng):
    X = rng.standard_normal((5, 2))
    X[3, 1] = value
    with pytest.raises(InputError, match="not finite"):
        median_distance(make(X), "euclidean")
