"""A pass in a strict array namespace, on a device that is not the host's: what CuPy needs, without a GPU.

``array_api_strict`` has nothing beyond the standard, and refuses to mix arrays of two devices.
"""

from __future__ import annotations

from dataclasses import replace

import array_api_strict as strict
import numpy as np
import pytest

from nysstream import arrays
from nysstream.features import Fourier, Identity, ReLU, TensorSketch
from nysstream.streaming import (
    DesignMatrix,
    GramProduct,
    Predict,
    PredictionError,
    RowSample,
    SetUp,
    SquaredResidual,
    centering_of,
    reduce,
)
from nysstream.streaming.cache import clear_cache
from nysstream.streaming.prefetch import slot_pool
from tests.helpers import assert_close
from tests.streaming.support import Stored, small_blocks

ELSEWHERE = strict.Device("device1")


class StrictSlot(arrays.Slot):
    """Copies on receipt."""

    def __init__(self, nbytes: int) -> None:
        self.host = np.full(nbytes, 255, np.uint8)

    def wait(self):
        """Do nothing: nothing is under way."""

    def send(self, view):
        """Keep the view."""
        self.view = view

    def receive(self):
        """Copy to the device."""
        return strict.asarray(self.view.copy(), device=ELSEWHERE)

    def release(self):
        """Poison the host buffer."""
        self.host[:] = 255


class StrictDevice(arrays.Device):
    """A device of its own, with arrays of the standard and nothing more."""

    name = "strict"
    xp = strict

    def slot(self, nbytes):
        """Make a slot."""
        return StrictSlot(nbytes)

    def put(self, host):
        """Copy to the device."""
        return strict.asarray(np.array(host), device=ELSEWHERE)


DEVICE = StrictDevice()


@pytest.fixture(autouse=True)
def _small_and_fresh(monkeypatch):
    small_blocks(monkeypatch, block_bytes=9 * 5 * 8, partitions=4)
    yield
    slot_pool.clear()
    clear_cache()


def fingers(p):
    return np.random.default_rng(4).standard_normal((p, 6))


def everything(X, y, w, features, *, device, resident, center, precision="single", **options):
    """Run a set-up pass, and all kernels on the centred design."""
    source = X if resident else Stored(X, chunk_rows=9)
    design = DesignMatrix(source, y, w, features=features, device=device, precision=precision, **options)
    p = design.shape[1]
    V = np.random.default_rng(5).standard_normal((p, 3))
    (statistics, sample) = reduce(
        design, SetUp(lambda: fingers(p), 6, center=center, gram=True), RowSample(np.array([3, 50, 99]))
    )
    # Some columns of a tensor sketch are zero up to rounding, which standardising would blow up.
    standardize = center and not isinstance(features, TensorSketch)
    seen = replace(design, centering=centering_of(design, statistics, center=center, standardize=standardize))
    product, (gradient, squares) = reduce(seen, GramProduct(V), SquaredResidual(V, np.array([0, 1, 1])))
    predicted, (errors, deviations, _) = reduce(
        design, Predict(V, np.ones(3)), PredictionError(V[:, :2], np.ones(2), y.mean(axis=0))
    )
    names = ("mean", "squares", "cross", "target_squares", "sketch", "gram")
    gathered = [getattr(statistics, name) for name in names]
    return [*gathered, *sample, product, gradient, squares, predicted, errors, deviations]


@pytest.mark.parametrize("resident", [False, True], ids=["stored", "resident"])
@pytest.mark.parametrize("weighted", [False, True], ids=["equal", "weighted"])
@pytest.mark.parametrize("center", [False, True], ids=["as is", "centred"])
@pytest.mark.parametrize(
    "features",
    [Identity(), Fourier(12), ReLU(12), TensorSketch(12)],
    ids=["identity", "fourier", "relu", "tensor"],
)
def test_results_are_those_of_numpy(rng, features, center, weighted, resident):
    X, y = rng.standard_normal((137, 5)), rng.standard_normal((137, 2))
    w = rng.random(137) if weighted else None
    dtype = np.float64 if isinstance(features, Identity) else np.float32
    expected = everything(X, y, w, features, device="cpu", resident=resident, center=center)
    actual = everything(X, y, w, features, device=DEVICE, resident=resident, center=center)
    for one, other in zip(actual, expected, strict=True):
        assert isinstance(one, np.ndarray)
        assert_close(one, other, dtype=dtype, terms=137)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int32, np.int8, np.bool_, ">f4"])
@pytest.mark.parametrize("precision", ["single", "double"])
def test_stored_dtypes(rng, dtype, precision):
    X, y = rng.standard_normal((137, 5)), rng.standard_normal((137, 2))
    X = X > 0 if dtype is np.bool_ else (3 * X).astype(dtype)
    options = {"resident": False, "center": True, "precision": precision}
    expected = everything(X, y, None, Identity(), device="cpu", **options)
    actual = everything(X, y, None, Identity(), device=DEVICE, **options)
    for one, other in zip(actual, expected, strict=True):
        assert_close(one, other, dtype=np.float32, terms=137)


def test_far_means(rng):
    X, y = (1e4 + rng.standard_normal((137, 5))).astype(np.float32), rng.standard_normal((137, 2))
    options = {"resident": False, "center": True}
    expected = everything(X, y, None, Identity(), device="cpu", **options)
    actual = everything(X, y, None, Identity(), device=DEVICE, **options)
    for one, other in list(zip(actual, expected, strict=True))[:-3]:  # predictions are dominated by the mean
        assert_close(one, other, dtype=np.float32, terms=137)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_blocks_are_cached_on_the_device(rng, share):
    X = rng.standard_normal((144, 5))
    design = DesignMatrix(Stored(X, chunk_rows=9), device=DEVICE, cache_bytes=int(share * X.nbytes))
    for _ in range(3):
        (product,) = reduce(design, GramProduct(np.eye(5)))
        assert_close(product, X.T @ X, terms=144)
    assert design.source.reads.sum() == 144 * (3 - 2 * share)


def test_a_value_that_is_not_finite_is_named(rng):
    X = rng.random((90, 3))
    X[55, 1] = np.nan
    with pytest.raises(ValueError, match=r"row 55, column 1"):
        reduce(DesignMatrix(Stored(X), device=DEVICE), SetUp())
    w = np.ones(90)
    w[71] = -1
    with pytest.raises(ValueError, match=r"weight of row 71 is negative"):
        reduce(DesignMatrix(Stored(np.ones((90, 2))), None, w, device=DEVICE), SetUp())


def test_mixing_devices_is_noticed():
    # What these tests rely on.
    with pytest.raises((ValueError, RuntimeError, TypeError)):
        strict.asarray([1.0]) + strict.asarray([1.0], device=ELSEWHERE)
