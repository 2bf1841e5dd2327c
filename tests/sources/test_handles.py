"""Copies of a source share what they have open; files that others may write to are let go."""

import pickle

import h5py
import hdf5plugin
import numpy as np
import pytest
import zarr

import nysstream.sources as sources
from nysstream.errors import SourceError
from nysstream.sources import handles

VALUES = np.arange(200.0).reshape(50, 4)


@pytest.fixture(autouse=True)
def empty(monkeypatch):
    monkeypatch.setattr(handles, "_handles", handles.OrderedDict())


def write(path, values, **options):
    if path.suffix == ".zarr":
        zarr.create_array(path, data=values, overwrite=True, chunks=(10, values.shape[1]))
    else:
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=values, chunks=(10, values.shape[1]), **options)


@pytest.mark.parametrize("name", ["x.zarr", "x.h5"])
def test_copies_share_a_handle_and_new_sources_do_not(tmp_path, name):
    write(tmp_path / name, VALUES)
    source = sources.open(tmp_path / name)
    first, second = (pickle.loads(pickle.dumps(source)) for _ in range(2))
    assert first._reader() is second._reader()
    assert first._reader() is not source._reader()
    assert pickle.loads(pickle.dumps(sources.open(tmp_path / name)))._reader() is not first._reader()


def test_a_file_that_hdf5_reads_is_let_go_with_the_source(tmp_path):
    write(tmp_path / "x.h5", VALUES, **hdf5plugin.Bitshuffle())
    source = pickle.loads(pickle.dumps(sources.open(tmp_path / "x.h5")))
    np.testing.assert_array_equal(source.read(slice(0, 50)), VALUES)
    del source
    write(tmp_path / "x.h5", VALUES + 1)  # HDF5 refuses this while the file is open
    np.testing.assert_array_equal(sources.open(tmp_path / "x.h5").read(slice(0, 50)), VALUES + 1)


def test_a_file_that_is_read_without_hdf5_can_be_written_meanwhile(tmp_path):
    write(tmp_path / "x.h5", VALUES)
    source = sources.open(tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5", "a") as file:
        file["more"] = VALUES
    np.testing.assert_array_equal(source.read(slice(0, 50)), VALUES)


@pytest.mark.parametrize("name", ["x.zarr", "x.h5"])
@pytest.mark.parametrize("other", [VALUES[:30], VALUES[:, :3], VALUES.astype("f4")])
def test_a_store_that_changed_on_the_way_is_refused(tmp_path, name, other):
    write(tmp_path / name, VALUES)
    shipped = pickle.dumps(sources.open(tmp_path / name))
    write(tmp_path / name, other)
    with pytest.raises(SourceError, match="has changed since it was opened"):
        pickle.loads(shipped).read(slice(0, 10))


def test_few_handles_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(handles, "_KEPT", 3)
    write(tmp_path / "x.zarr", VALUES)
    shipped = [pickle.dumps(sources.open(tmp_path / "x.zarr")) for _ in range(6)]
    for content in shipped:
        np.testing.assert_array_equal(pickle.loads(content).read(slice(3, 9)), VALUES[3:9])
    assert len(handles._handles) == 3
