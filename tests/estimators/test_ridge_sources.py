"""Ridge gives scikit-learn's coefficients from rows at rest anywhere, in any layout."""

from __future__ import annotations

import dask.array
import h5py
import hdf5plugin
import numcodecs
import numpy as np
import pytest
import scipy.sparse
import zarr
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

import nysstream
from nysstream import Ridge
from tests.estimators.conftest import assert_same_model, dense_ridge

CHUNK = 64  # does not divide the number of rows

MEMORY = {
    "C": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "float32": lambda X: X.astype(np.float32),
    "big-endian": lambda X: X.astype(">f8"),
    "strided": lambda X: np.repeat(X, 2, axis=0)[::2],
    "reversed": lambda X: np.ascontiguousarray(X[::-1])[::-1],
    "lists": lambda X: X.tolist(),
    "read-only": lambda X: _frozen(X),
    "CSR": scipy.sparse.csr_array,
    "CSR float32": lambda X: scipy.sparse.csr_matrix(X.astype(np.float32)),
    "CSC": scipy.sparse.csc_array,
    "dask": lambda X: dask.array.from_array(X, chunks=(CHUNK, -1)),
    "dask in column chunks": lambda X: dask.array.from_array(X, chunks=((100, 200), (3, 4))),
}

ZARR = {
    "v2 raw": {"zarr_format": 2, "compressors": None},
    "v2 blosc": {"zarr_format": 2, "compressors": numcodecs.Blosc("zstd")},
    "v2 zstd Fortran": {"zarr_format": 2, "compressors": numcodecs.Zstd(1), "order": "F"},
    "v2 gzip big-endian": {"zarr_format": 2, "compressors": numcodecs.GZip(1), "dtype": ">f8"},
    "v3 raw": {"compressors": None},
    "v3 blosc": {"compressors": BloscCodec()},
    "v3 zstd": {"compressors": ZstdCodec()},
    "v3 gzip float32": {"compressors": GzipCodec(), "dtype": "f4"},
    "v3 sharded": {"chunks": (16, 7), "shards": (CHUNK, 7)},
    "v3 column chunks": {"chunks": (CHUNK, 3)},
    "v3 sharded column chunks": {"chunks": (16, 2), "shards": (32, 4), "dtype": "f4"},
    "v3 one chunk": {"chunks": (300, 7)},
    "v3 chunk longer than the data": {"chunks": (400, 7)},
}

HDF5 = {
    "contiguous": {},
    "contiguous big-endian": {"dtype": ">f4"},
    "chunked": {"chunks": (CHUNK, 7)},
    "column chunks": {"chunks": (CHUNK, 3)},
    "gzip shuffled": {"chunks": (CHUNK, 7), "compression": "gzip", "shuffle": True},
    "lzf": {"chunks": (CHUNK, 7), "compression": "lzf"},
    "plugin": {"chunks": (CHUNK, 7), **hdf5plugin.Blosc2()},
}


def _frozen(X):
    X = X.copy()
    X.flags.writeable = False
    return X


def write_zarr(path, problem, *, dtype="f8", chunks=(CHUNK, 7), **options):
    """Store rows, targets and weights as arrays of one group."""
    group = zarr.open_group(path, mode="w", zarr_format=options.pop("zarr_format", 3))
    group.create_array("X", shape=problem.X.shape, dtype=dtype, chunks=chunks, **options)[:] = problem.X
    for name in ("Y", "y", "weight"):
        values = getattr(problem, name)
        group.create_array(name, data=values, chunks=(50, *values.shape[1:]))
    return path


@pytest.mark.parametrize("make", MEMORY.values(), ids=MEMORY.keys())
def test_arrays_in_memory(problem, make):
    assert_same_model(Ridge(tol=1e-10).fit(make(problem.X), problem.y), dense_ridge(problem.X, problem.y))


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint16, np.bool_])
def test_whole_numbers(problem, dtype):
    X = (np.abs(problem.X) * 5).astype(np.int64) % (2 if dtype is np.bool_ else 100)
    expected = dense_ridge(X, problem.y)
    assert_same_model(Ridge(tol=1e-10).fit(X.astype(dtype), problem.y), expected)
    stored = dask.array.from_array(X.astype(dtype), chunks=(CHUNK, -1))  # streamed without validation
    assert_same_model(Ridge(tol=1e-10).fit(stored, problem.y), expected)


@pytest.mark.parametrize("fortran", [False, True])
@pytest.mark.parametrize("mapped", [False, True])
def test_npy_files(problem, npy_file, fortran, mapped):
    path = npy_file(problem.X, fortran=fortran)
    X = np.load(path, mmap_mode="r") if mapped else nysstream.open(path)
    assert_same_model(Ridge(tol=1e-10).fit(X, problem.y), dense_ridge(problem.X, problem.y))


@pytest.mark.parametrize("options", ZARR.values(), ids=ZARR.keys())
def test_zarr(problem, tmp_path, options):
    path = write_zarr(tmp_path / "x.zarr", problem, **options)
    X = nysstream.open(path, "X")
    model = Ridge(tol=1e-10).fit(X, nysstream.open(path, "y"), nysstream.open(path, "weight"))
    expected = dense_ridge(problem.X, problem.y, problem.weight)
    assert_same_model(model, expected)
    np.testing.assert_allclose(model.predict(X), expected.predict(problem.X), atol=1e-4)


@pytest.mark.parametrize("options", HDF5.values(), ids=HDF5.keys())
def test_hdf5(problem, tmp_path, options):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("train/X", data=problem.X, **options)
        file["train/y"] = problem.y
        file.create_dataset("train/weight", data=problem.weight, chunks=(30,), compression="gzip")
    X, y, weight = (nysstream.open(tmp_path / "x.h5", f"train/{name}") for name in ("X", "y", "weight"))
    expected = dense_ridge(problem.X, problem.y, problem.weight)
    assert_same_model(Ridge(tol=1e-10).fit(X, y, weight), expected)
    with h5py.File(tmp_path / "x.h5") as file:
        assert_same_model(Ridge(tol=1e-10).fit(file["train/X"], file["train/y"], problem.weight), expected)


def test_targets_and_weights_may_be_stored_elsewhere(problem, tmp_path, npy_file, zarr_store):
    path = write_zarr(tmp_path / "x.zarr", problem)
    group = zarr.open_group(path)
    other = npy_file(problem.Y)
    expected = dense_ridge(problem.X, problem.Y, problem.weight)
    for Y in (group["Y"], nysstream.open(path, "Y"), nysstream.open(other), problem.Y, problem.Y.tolist()):
        assert_same_model(Ridge(tol=1e-10).fit(group["X"], Y, problem.weight), expected)
    for weight in (group["weight"], nysstream.open(npy_file(problem.weight)), problem.weight.tolist()):
        assert_same_model(Ridge(tol=1e-10).fit(group["X"], problem.Y, weight), expected)
        assert_same_model(Ridge(tol=1e-10).fit(problem.X, problem.Y, weight), expected)
    assert_same_model(Ridge(tol=1e-10).fit(problem.X, group["Y"], group["weight"]), expected)
    lazy = dask.array.from_array(problem.Y, chunks=(77, 1))
    assert_same_model(Ridge(tol=1e-10).fit(group["X"], lazy, group["weight"]), expected)


def test_rows_select_training_and_test_data(problem, tmp_path):
    path = write_zarr(tmp_path / "x.zarr", problem)
    train, test = slice(0, 210), slice(210, None)
    X, y = (nysstream.open(path, name, rows=train) for name in ("X", "y"))
    expected = dense_ridge(problem.X[train], problem.y[train])
    model = Ridge(tol=1e-10).fit(X, y)
    assert_same_model(model, expected)
    X, y = (nysstream.open(path, name, rows=test) for name in ("X", "y"))
    np.testing.assert_allclose(model.predict(X), expected.predict(problem.X[test]), atol=1e-4)
    assert model.score(X, y) == pytest.approx(expected.score(problem.X[test], problem.y[test]), abs=1e-6)
