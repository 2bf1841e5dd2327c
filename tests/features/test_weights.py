"""Weights: the same everywhere, drawn once, bounded in number."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from nysstream.errors import InputError
from nysstream.features import Fourier, ReLU, TensorSketch, weights

MAPS = [
    Fourier(40, length_scale=3.0),
    Fourier(40, kernel="matern", orthogonal=True),
    ReLU(40),
    TensorSketch(40, degree=3, coef0=1.0),
]

DIGEST = """
import hashlib, numpy as np
from nysstream.features import *
X = np.random.default_rng(0).standard_normal((7, 9))
for features in {maps}:
    print(hashlib.sha256(features(X).tobytes()).hexdigest())
"""


def test_another_process_draws_the_same_weights(capsys):
    code = DIGEST.format(maps=MAPS)
    exec(code, {})
    here = capsys.readouterr().out
    there = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert here == there
    assert len(set(here.split())) == len(MAPS)


def test_weights_are_drawn_once_however_many_threads_ask(rng):
    X = rng.standard_normal((3, 4)).astype(np.float32)
    draws, barrier, results = [], threading.Barrier(8), []

    def draw(n_inputs):
        draws.append(n_inputs)
        return (np.ones((n_inputs, 2), np.float32),)

    def ask():
        barrier.wait()
        results.append(weights.weights_for(X, "map", 4, draw)[0])

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert draws == [4]
    assert len(results) == 8
    assert all(result is results[0] for result in results)


def test_only_a_few_maps_are_kept(rng):
    X = rng.standard_normal((3, 4))
    first = ReLU(5)(X)
    for state in range(3 * weights.KEPT_MAPS):
        ReLU(5, random_state=state)(X)
    assert len(weights._kept) == weights.KEPT_MAPS
    np.testing.assert_array_equal(ReLU(5)(X), first)


def test_kept_weights_cannot_be_changed(rng):
    X = rng.standard_normal((3, 4)).astype(np.float32)
    features = ReLU(5)
    (W,) = weights.weights_for(X, features, 4, features._draw)
    with pytest.raises(ValueError, match="read-only"):
        W[0, 0] = 0


@pytest.mark.parametrize("features", MAPS, ids=repr)
def test_weight_bytes_bound_what_is_kept(features, rng):
    X = rng.standard_normal((3, 200))
    for rows in (X, X.astype(np.float32)):
        features(rows)
    arrays = {}
    for host, copies in weights._kept.values():
        for group in (host, *copies.values()):
            arrays |= {id(w): w.nbytes for w in group}
    kept = sum(arrays.values())
    assert 0 < kept <= features.weight_bytes(200) <= 3 * kept


@pytest.mark.parametrize("dtype", [np.int64, np.float16, np.complex64])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(InputError, match=f"float32 or float64 rows, not {np.dtype(dtype)}"):
        ReLU(3)(np.ones((2, 2), dtype))


def test_single_clips_what_float32_cannot_hold():
    rounded = weights.single(np.array([1e300, -1e300, 0.1]))
    assert np.isfinite(rounded).all()
    assert rounded[2] == np.float32(0.1)
