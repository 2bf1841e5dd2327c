"""A fingerprint follows the values, not the store."""

import subprocess
import sys

import dask.array as da
import h5py
import numpy as np
import pytest
import zarr

import nysstream.sources as sources
from nysstream.sources import as_source

VALUES = np.random.default_rng(5).normal(size=(300, 4)).astype("f4")


@pytest.fixture
def folder(tmp_path):
    np.save(tmp_path / "x.npy", VALUES.astype(">f4"))
    zarr.create_array(tmp_path / "x.zarr", data=VALUES, chunks=(30, 3))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=VALUES, chunks=(10, 4), compression="gzip")
    return tmp_path


def test_the_same_values_have_one_identity_wherever_they_lie(folder):
    same = [sources.open(folder / name) for name in ("x.npy", "x.zarr", "x.h5")]
    same += [
        as_source(VALUES),
        as_source(np.asfortranarray(VALUES)),
        as_source(da.from_array(VALUES, chunks=100)),
    ]
    same.append(as_source(zarr.open_array(folder / "x.zarr")))
    prints = [source.fingerprint for source in same]
    (folder / "x.zarr").rename(folder / "moved.zarr")
    prints.append(sources.open(folder / "moved.zarr").fingerprint)
    assert len(set(prints)) == 1
    assert len(prints[0]) == 32


def test_another_process_agrees(folder):
    program = f"import nysstream.sources as s; print(s.open({str(folder / 'x.zarr')!r}).fingerprint)"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == sources.open(folder / "x.zarr").fingerprint


@pytest.mark.parametrize(
    "other",
    [
        VALUES[:-1],
        VALUES[:, :3],
        VALUES.astype("f8"),
        VALUES.view("i4"),
        VALUES[::-1],
        np.vstack([VALUES[:-1], VALUES[-1:] + 1]),
        np.vstack([VALUES[:1] + 1, VALUES[1:]]),
    ],
)
def test_other_values_shapes_and_dtypes_have_another(other):
    assert as_source(other).fingerprint != as_source(VALUES).fingerprint


def test_a_vector_is_not_a_matrix_of_one_column():
    assert as_source(VALUES[:, 0]).fingerprint != as_source(VALUES[:, :1]).fingerprint


def test_a_large_array_is_sampled_at_both_ends_and_between():
    values = np.zeros((200_000, 8))
    plain = as_source(values).fingerprint
    for row in (0, 99_990, 199_999):
        changed = values.copy()
        changed[row] = 1
        assert as_source(changed).fingerprint != plain, row


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0,)])
def test_nothing_has_an_identity_too(shape):
    assert as_source(np.ones(shape)).fingerprint == as_source(np.zeros(shape)).fingerprint
