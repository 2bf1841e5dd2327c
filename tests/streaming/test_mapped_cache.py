"""Blocks kept after the feature map: no map and no read in later passes, and the same bits."""

import numpy as np
import pytest

from nysstream.features import Fourier, Identity
from nysstream.operators.gram import GramOperator
from nysstream.streaming import DesignMatrix, RowSample, SetUp, SquaredResidual, reduce
from nysstream.streaming.cache import clear_cache, mapped_cache
from nysstream.streaming.design import DesignMatrix as Design
from nysstream.trace import Trace, tracing


class CountingFourier(Fourier):
    """Counts the rows it maps."""

    rows = 0

    def __call__(self, X):
        type(self).rows += X.shape[0]
        return super().__call__(X)


@pytest.fixture(autouse=True)
def fresh():
    CountingFourier.rows = 0
    clear_cache()
    yield
    clear_cache()


def design_of(tmp_path, rng, cache_bytes):
    X = rng.standard_normal((3000, 8)).astype(np.float32)
    np.save(tmp_path / "x.npy", X)
    from nysstream.sources import open as open_source

    source = open_source(tmp_path / "x.npy")
    y = rng.standard_normal(3000)
    return DesignMatrix(source, y, features=CountingFourier(64, length_scale=3.0), cache_bytes=cache_bytes)


@pytest.mark.parametrize("share", [0.0, 0.5, 2.0])
def test_later_passes_use_what_fits_and_give_the_same_bits(tmp_path, rng, monkeypatch, share):
    monkeypatch.setattr("nysstream.streaming.partition.BLOCK_BYTES", 8000)
    mapped = 3000 * 64 * 4
    design = design_of(tmp_path, rng, int(3000 * 8 * 4 + share * mapped))
    V = rng.standard_normal((64, 3))
    plain = GramOperator(Design(design.source, features=design.features)) @ V
    CountingFourier.rows = 0
    trace = Trace()
    with tracing(trace):
        reduce(design, SetUp())
        assert CountingFourier.rows == 3000
        again = GramOperator(design) @ V
    missing = CountingFourier.rows - 3000
    assert np.array_equal(plain, again)
    assert missing == 3000 if share == 0 else missing <= 3000 * (1 - min(1, 0.9 * share))
    assert trace.passes[1].cost.bytes_read == 0
    assert trace.passes[1].cost.bytes_from_cache == 3000 * 8 * 4


def test_passes_that_need_stored_rows_or_double_precision_get_them(tmp_path, rng):
    design = design_of(tmp_path, rng, 1 << 24)
    reduce(design, SetUp())
    (rows, _), _ = reduce(design, RowSample(np.array([5, 17])), SetUp())
    assert np.array_equal(rows, np.load(tmp_path / "x.npy")[[5, 17]])
    W = rng.standard_normal((64, 1))
    ((gradient, _),) = reduce(design.with_precision("double"), SquaredResidual(W, np.zeros(1, np.intp)))
    Z = design.features(np.load(tmp_path / "x.npy").astype(float))
    y = np.asarray(design.target.read(slice(0, 3000)))
    np.testing.assert_allclose(gradient, Z.T @ (y - Z @ W), rtol=1e-10, atol=1e-9)


def test_nothing_is_reserved_for_an_interrupted_pass(tmp_path, rng):
    design = design_of(tmp_path, rng, 1 << 24)
    broken = DesignMatrix(
        design.source, np.full(3000, np.nan), features=design.features, cache_bytes=design.cache_bytes
    )
    with pytest.raises(ValueError, match="NaN"):
        reduce(broken, SetUp())
    device = design.get_device()
    assert mapped_cache(broken, device).used == 0


def test_identity_needs_no_second_copy(tmp_path, rng):
    design = design_of(tmp_path, rng, 1 << 24)
    plain = DesignMatrix(design.source, features=Identity(), cache_bytes=1 << 24)
    assert mapped_cache(plain, plain.get_device()).capacity == 0
