"""What a design matrix is, before anything is read."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from scipy import sparse

from nysstream.arrays import get_device
from nysstream.errors import InputError
from nysstream.features import Fourier, Identity, TensorSketch
from nysstream.streaming import DesignMatrix, GramProduct, SetUp, reduce
from nysstream.trace import Trace, tracing
from tests.helpers import assert_close
from tests.streaming.support import Stored

ROWS = np.zeros((10, 3))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros(10),), r"has one dimension; X must have two: reshape it to \(n, 1\) or \(1, p\)"),
        ((np.zeros((0, 3)),), "0 rows and 3 columns: nothing to do"),
        ((np.zeros((10, 0)),), "10 rows and 0 columns: nothing to do"),
        ((ROWS, np.zeros(9)), "holds 9 targets for the 10 rows"),
        ((ROWS, None, np.zeros(11)), "holds 11 weights for the 10 rows"),
        ((ROWS, None, np.zeros((10, 2))), "has 2 columns; weights are one number per row"),
        ((ROWS, sparse.csr_array(np.zeros((10, 1)))), r"targets must be dense: pass targets.toarray\(\)"),
        ((ROWS, None, sparse.csr_array(np.zeros((10, 1)))), "weights must be dense"),
        (("rows.npy",), "is a location, not an array"),
        ((ROWS.astype(complex),), "complex"),
    ],
)
def test_what_does_not_belong_together_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        DesignMatrix(*arguments)


@pytest.mark.parametrize(
    ("stored", "block", "single", "features"),
    [
        (np.bool_, np.float32, np.float32, np.float32),
        (np.int8, np.float32, np.float32, np.float32),
        (np.uint16, np.float32, np.float32, np.float32),
        (np.int32, np.float64, np.float64, np.float32),
        (np.float16, np.float32, np.float32, np.float32),
        (">f4", np.float32, np.float32, np.float32),
        (np.float64, np.float64, np.float64, np.float32),
    ],
)
def test_dtypes(stored, block, single, features):
    design = DesignMatrix(ROWS.astype(stored))
    assert design.block_dtype == block
    assert design.dtype == single
    assert design.eps == np.finfo(single).eps
    assert DesignMatrix(ROWS.astype(stored), features=Fourier(4)).dtype == features
    assert design.with_precision("double").dtype == np.float64
    assert design.with_precision("double").block_dtype == block
    assert design.with_precision("single") is design


def test_shapes():
    design = DesignMatrix(ROWS, np.zeros((10, 2)), features=Fourier(7))
    assert design.shape == (10, 7)
    assert design.n_targets == 2
    assert DesignMatrix(ROWS).n_targets == 0
    assert DesignMatrix(ROWS).features == Identity()


def test_sparse_rows_stay_sparse_but_behind_features():
    X = sparse.csr_array(np.eye(4))
    assert DesignMatrix(X).sparse
    assert not DesignMatrix(X, features=Fourier(3)).sparse
    assert not DesignMatrix(ROWS).sparse


@pytest.mark.parametrize("features", [Fourier(3), TensorSketch(8)])
def test_features_take_sparse_rows_or_refuse_them(features):
    X = sparse.csr_array(np.eye(4))
    if features.accepts_sparse:
        (product,) = reduce(DesignMatrix(X, features=features), GramProduct(np.eye(features.n_outputs(4))))
        Z = features(np.eye(4))
        assert_close(product, Z.T @ Z, dtype=np.float32, terms=4)
    else:
        with pytest.raises(InputError, match="does not accept the sparse rows"):
            DesignMatrix(X, features=features)


def test_ranges_of_rows(rng):
    X, y, w = rng.random((40, 3)), rng.random(40), rng.random(40)
    part = DesignMatrix(Stored(X), y, w, features=Fourier(5)).restrict(slice(5, 30))
    assert part.shape == (25, 5)
    np.testing.assert_array_equal(part.source.read(slice(0, 25)), X[5:30])
    np.testing.assert_array_equal(part.target.read(slice(0, 25))[:, 0], y[5:30])
    np.testing.assert_array_equal(part.weight.read(slice(0, 25))[:, 0], w[5:30])


def test_fingerprints_tell_data_and_maps_apart(rng):
    X, y = rng.random((40, 3)), rng.random(40)
    design = DesignMatrix(X, y, features=Fourier(5))
    same = DesignMatrix(X.copy(), y.copy(), features=Fourier(5), cache_bytes=5, max_tasks=1)
    others = [
        DesignMatrix(X, y),
        DesignMatrix(X, features=Fourier(5)),
        DesignMatrix(X, None, y, features=Fourier(5)),
        DesignMatrix(X, y, features=Fourier(5, random_state=1)),
        DesignMatrix(X + 1, y, features=Fourier(5)),
        design.restrict(slice(0, 39)),
    ]
    assert same.fingerprint == design.fingerprint
    assert len({d.fingerprint for d in [design, *others]}) == 7


def test_a_design_travels(rng):
    X = rng.random((40, 3))
    design = DesignMatrix(Stored(X), X[:, 0], features=Fourier(5), device=get_device("cpu"))
    assert design.partitions
    (here,), (there,) = (reduce(d, SetUp()) for d in (design, pickle.loads(pickle.dumps(design))))
    assert here.squares.tobytes() == there.squares.tobytes()


def test_tiles_fit_the_cache_and_depend_on_shapes_alone(rng):
    design = DesignMatrix(np.broadcast_to(np.float32(0), (10**6, 512)))
    narrow, wide = GramProduct(np.empty((512, 1))), GramProduct(np.empty((512, 64)))
    assert design.tile_rows(narrow) * 512 * 4 == 2 << 20
    assert design.tile_rows(wide) >= design.tile_rows(narrow)
    assert design.tile_rows(narrow, wide) == design.tile_rows(wide)
    assert DesignMatrix(design.source, cache_bytes=10**9, max_tasks=1).tile_rows(wide) == design.tile_rows(
        wide
    )
    few = DesignMatrix(ROWS)
    assert few.tile_rows(GramProduct(np.empty((3, 1)))) <= 10


@pytest.mark.parametrize("n_rows", [1, 7, 100, 5000])
def test_samples_are_spread_over_the_rows(n_rows):
    X = np.arange(2.0 * n_rows).reshape(n_rows, 2)
    source = Stored(X, chunk_rows=16)
    with tracing(Trace()):
        sample = DesignMatrix(source).sample_rows(64, 8)
    assert sample.dtype == np.float64
    assert len(sample) >= min(n_rows, 57)
    assert len(sample) <= 72
    assert source.reads.max() <= 2
    assert sample[0, 0] == 0
    assert sample[-1].tolist() == X[-1].tolist()
    assert set(sample[:, 0]) <= set(X[:, 0])


def test_samples_of_sparse_rows_are_dense():
    X = sparse.csr_array(np.eye(5, dtype=np.float32))
    np.testing.assert_array_equal(DesignMatrix(X).sample_rows(5, 1), np.eye(5))
