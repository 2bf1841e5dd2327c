"""What every registered feature map must do."""

from __future__ import annotations

import json
import pickle
import tracemalloc

import array_api_strict
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array, issparse

from nysstream.errors import InputError
from nysstream.features import FEATURES, from_json, parse, to_json
from tests.strategies import cuts, float_dtypes, layouts, matrices

#: Settings other than the defaults, by name; every registered map is tested with its defaults too.
VARIANTS = {
    "fourier": [
        "fourier:37,kernel=laplacian,length_scale=4",
        "fourier:37,kernel=matern,nu=2.5,length_scale=3,random_state=5",
        "fourier:37,orthogonal=true",
    ],
    "tensor_sketch": ["tensor_sketch:37,degree=3,gamma=0.2,coef0=1"],
}


def texts():
    """Name a few maps for each entry of the registry."""
    for name in FEATURES:
        try:
            parse(name)
        except InputError:
            yield f"{name}:24"
        else:
            yield name
        yield from VARIANTS.get(name, [])


every_map = pytest.mark.parametrize("features", [parse(text) for text in texts()], ids=list(texts()))


def dense(Z):
    return Z.toarray() if issparse(Z) else Z


def largest_error(X, Z):
    """Allow for rounding errors; heavy-tailed frequencies amplify those of the phase."""
    return 2e4 * np.finfo(X.dtype).eps * max(1.0, float(np.abs(Z).max(initial=0)))


def test_variants_name_registered_maps():
    assert set(VARIANTS) <= set(FEATURES)


@every_map
@given(data=st.data(), dtype=float_dtypes())
def test_shape_and_dtype(features, data, dtype):
    X = data.draw(matrices(data.draw(layouts(max_rows=30)), dtype))
    before = X.copy()
    Z = features(X)
    assert Z.shape == (len(X), features.n_outputs(X.shape[1]))
    assert Z.dtype == dtype
    np.testing.assert_array_equal(X, before)


@every_map
@given(data=st.data())
def test_rows_do_not_depend_on_the_block_they_come_in(features, data):
    layout = data.draw(layouts(max_rows=60))
    X = data.draw(matrices(layout, np.float64))
    Z = features(X)
    parts = [features(X[rows]) for rows in data.draw(cuts(layout.n_rows))]
    np.testing.assert_allclose(np.concatenate(parts), Z, rtol=0, atol=largest_error(X, Z))


@every_map
@given(data=st.data(), dtype=float_dtypes())
def test_sparse_rows_give_what_dense_rows_give(features, data, dtype):
    X = data.draw(matrices(data.draw(layouts(max_rows=30)), dtype))
    X[np.random.default_rng(0).random(X.shape) < 0.6] = 0
    if not features.accepts_sparse:
        pytest.skip("takes dense rows only")
    Z, expected = features(csr_array(X)), features(X)
    assert Z.dtype == dtype
    np.testing.assert_allclose(dense(Z), expected, rtol=0, atol=largest_error(X, expected))


@every_map
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_another_device_computes_the_same(features, dtype, rng):
    X = rng.standard_normal((11, 6)).astype(dtype)
    xp = array_api_strict
    place = xp.Device("device1")
    Z = features(xp.asarray(X, device=place))
    assert Z.device == place
    on_host = np.asarray(Z.to_device(xp.Device("CPU_DEVICE")))
    assert on_host.dtype == dtype
    np.testing.assert_allclose(on_host, features(X), rtol=0, atol=largest_error(X, on_host))


@every_map
def test_copies_are_equal_and_hold_settings_only(features, rng):
    X = rng.standard_normal((50, 300))
    Z = features(X)
    pickled = pickle.dumps(features)
    assert len(pickled) < 1000
    for copy in (pickle.loads(pickled), from_json(json.loads(json.dumps(to_json(features))))):
        assert copy == features
        assert hash(copy) == hash(features)
        np.testing.assert_array_equal(copy(X), Z)


@every_map
def test_the_seed_decides(features, rng):
    X = rng.standard_normal((20, 5))
    settings = to_json(features)
    if "random_state" not in settings:
        np.testing.assert_array_equal(features(X), X)
        return
    other = from_json(settings | {"random_state": settings["random_state"] + 1})
    assert other != features
    assert np.abs(other(X) - features(X)).max() > 0.01


@every_map
def test_maps_fixed_by_their_settings_ignore_the_sample(features, rng):
    assert not features.needs_sample
    assert features.fit(rng.standard_normal((5, 3))) == features


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("make", [np.asarray, csr_array], ids=["dense", "sparse"])
@every_map
def test_work_bytes_bound_the_memory_used(features, make, dtype, rng):
    big = from_json(to_json(features) | ({"n_features": 512} if "n_features" in to_json(features) else {}))
    X = make(rng.standard_normal((2000, 40)).astype(dtype))
    big(X)  # draws the weights
    tracemalloc.start()
    Z = big(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    output = 0 if Z is X else Z.nbytes
    # NumPy's ufuncs buffer 64 KiB on their own.
    assert peak - output <= big.work_bytes(2000, 40, dtype().itemsize) + 100_000


@every_map
def test_no_rows_give_no_rows(features):
    assert features(np.empty((0, 4))).shape == (0, features.n_outputs(4))
