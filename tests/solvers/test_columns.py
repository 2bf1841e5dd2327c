from __future__ import annotations

import array_api_strict
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nysstream.arrays import to_host
from nysstream.solvers.columns import dots, norms, put, replaced, row, take

DEVICE = array_api_strict.Device("device1")


@given(k=st.integers(1, 6), strict=st.booleans(), data=st.data())
def test_taken_and_put_back(k, strict, data):
    chosen = np.array(sorted(data.draw(st.sets(st.integers(0, k - 1)))), dtype=np.intp)
    host = np.arange(4.0 * k).reshape(4, k)
    X = array_api_strict.asarray(host, device=DEVICE) if strict else host
    taken = take(X, chosen)
    np.testing.assert_array_equal(to_host(taken), host[:, chosen])
    expected = host.copy()
    expected[:, chosen] *= -1
    np.testing.assert_array_equal(to_host(put(X, chosen, -1.0 * taken)), expected)
    np.testing.assert_array_equal(to_host(X), np.arange(4.0 * k).reshape(4, k))


def test_measures_and_scales(rng):
    X, Y = rng.standard_normal((7, 3)), rng.standard_normal((7, 3))
    np.testing.assert_allclose(dots(X, Y), np.diagonal(X.T @ Y))
    np.testing.assert_allclose(norms(X), np.linalg.norm(X, axis=0))
    np.testing.assert_allclose(row(X, np.array([1.0, 2.0, 3.0])) * X, X * [1, 2, 3])


def test_replaced_is_a_copy():
    x = np.zeros(3)
    np.testing.assert_array_equal(replaced(x, np.array([1]), 5.0), [0, 5, 0])
    np.testing.assert_array_equal(x, 0)
