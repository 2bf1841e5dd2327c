"""Locations and objects find their source; everything else is refused with advice."""

import multiprocessing
import os
import pathlib
import re

import h5py
import numpy as np
import pandas as pd
import pytest
import zarr
from scipy import sparse

import nysstream.sources as sources
from nysstream.errors import InputError, SourceError
from nysstream.sources import (
    SOURCES,
    ArraySource,
    CSRSource,
    HDF5Source,
    NpySource,
    RowRange,
    ZarrSource,
    as_source,
)
from nysstream.sources.locations import checked_location

VALUES = np.arange(40.0).reshape(10, 4)


@pytest.fixture
def stored(tmp_path):
    """Store the same matrix as .npy, HDF5 and Zarr, under names that tell and names that do not."""
    np.save(tmp_path / "x.npy", VALUES)
    (tmp_path / "plain").write_bytes((tmp_path / "x.npy").read_bytes())
    for name in ("x.h5", "untold"):
        with h5py.File(tmp_path / name, "w") as file:
            file["x"] = VALUES
    zarr.create_array(tmp_path / "x.zarr", name="x", data=VALUES)
    zarr.create_array(tmp_path / "folder", data=VALUES, zarr_format=2)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("x.npy", NpySource),
        ("plain", NpySource),
        ("x.h5", HDF5Source),
        ("untold", HDF5Source),
        ("x.zarr", ZarrSource),
        ("folder", ZarrSource),
    ],
)
def test_files_are_told_by_name_or_content(stored, name, kind):
    for location in (stored / name, str(stored / name), f"file://{stored / name}"):
        source = sources.open(location)
        assert isinstance(source, kind)
        np.testing.assert_array_equal(source.read(slice(2, 7)), VALUES[2:7])


@pytest.mark.parametrize("name", ["x.npy", "x.h5", "x.zarr"])
def test_a_run_of_rows(stored, name):
    source = sources.open(stored / name, rows=slice(3, -2))
    assert isinstance(source, RowRange)
    assert source.shape == (5, 4)
    np.testing.assert_array_equal(source.read(slice(1, 4)), VALUES[4:7])
    with pytest.raises(InputError, match="contiguous"):
        sources.open(stored / name, rows=slice(0, 10, 2))


def test_objects_find_their_source(stored):
    array = zarr.open_array(stored / "x.zarr", path="x", mode="r")
    with h5py.File(stored / "x.h5") as file:
        objects = [
            (VALUES, ArraySource),
            (sparse.csr_array(VALUES), CSRSource),
            (sparse.csr_matrix(VALUES), CSRSource),
            (array, ZarrSource),
            (file["x"], HDF5Source),
            (np.load(stored / "x.npy", mmap_mode="r"), NpySource),
        ]
        for obj, kind in objects:
            source = as_source(obj)
            assert type(source) is kind
            assert as_source(source) is source
            block = source.read(slice(2, 7))
            np.testing.assert_array_equal(block.toarray() if source.sparse else block, VALUES[2:7])


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        ([[1.0, 2.0]], "list cannot be streamed"),
        ("x.npy", r"nysstream\.open\('x\.npy'\)"),
        (pathlib.Path("x.npy"), r"nysstream\.open"),
        (pd.DataFrame({"a": [1.0]}), r"to_numpy\(\)"),
        (sparse.coo_array(VALUES), r"tocsr\(\)"),
        (None, "NoneType"),
    ],
)
def test_other_objects_are_refused_with_advice(obj, message):
    with pytest.raises(InputError, match=message):
        as_source(obj)


def test_groups_are_refused_with_advice(stored):
    with pytest.raises(InputError, match="pass one of its arrays"):
        as_source(zarr.open_group(stored / "x.zarr", mode="r"))
    with h5py.File(stored / "x.h5") as file, pytest.raises(InputError, match="pass one of its arrays"):
        as_source(file)


def test_several_arrays_have_to_be_named(tmp_path):
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["train/X"] = VALUES
        file["test/X"] = VALUES + 1
        file["train/y"] = VALUES[:, 0]
    for name in ("train/X", "test/X", "train/y"):
        with h5py.File(tmp_path / "two.h5") as file:
            zarr.create_array(tmp_path / "two.zarr", name=name, data=file[name][:])
    for path in (tmp_path / "two.h5", tmp_path / "two.zarr"):
        with pytest.raises(InputError, match=r"exactly one matrix.*test/X \(10, 4\).*train/y \(10,\)"):
            sources.open(path)
        with pytest.raises(InputError, match=r"\[train\] is a group.*train/X"):
            sources.open(path, "train")
        with pytest.raises(SourceError, match=r"\[train/Z\] does not exist.*train/X"):
            sources.open(path, "train/Z")
        for name in ("test/X", "/test/X"):
            np.testing.assert_array_equal(sources.open(path, name).read(slice(0, 3)), VALUES[:3] + 1)
        vector = sources.open(path, "train/y")
        assert (vector.shape, vector.vector) == ((10, 1), True)
        np.testing.assert_array_equal(vector.read(slice(2, 5)), VALUES[2:5, :1])


def test_the_only_matrix_among_vectors_needs_no_name(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a/X"], file["a/y"] = VALUES, VALUES[:, 0]
    zarr.create_array(tmp_path / "x.zarr", name="a/X", data=VALUES)
    zarr.create_array(tmp_path / "x.zarr", name="a/y", data=VALUES[:, 0])
    for path in (tmp_path / "x.h5", tmp_path / "x.zarr"):
        assert sources.open(path).shape == (10, 4)


def test_stores_without_arrays_say_so(tmp_path):
    zarr.create_group(tmp_path / "x.zarr")
    h5py.File(tmp_path / "x.h5", "w").close()
    for path in (tmp_path / "x.h5", tmp_path / "x.zarr"):
        with pytest.raises(InputError, match="none"):
            sources.open(path)


@pytest.mark.parametrize("name", ["x.npy", "x.h5", "x.zarr", "x.csv", "folder/x"])
def test_paths_that_do_not_exist(tmp_path, name):
    with pytest.raises(SourceError, match=r"x.*(does not exist|No such file)"):
        sources.open(tmp_path / name)


def test_paths_that_cannot_be_followed(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(SourceError, match="symbolic links"):
        sources.open(tmp_path / "loop")
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(SourceError, match="Is a directory"):
        sources.open(tmp_path / "folder.npy")


def test_files_of_other_kinds(tmp_path):
    (tmp_path / "x.csv").write_text("1,2\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.zarr").mkdir()
    (tmp_path / "x.h5").write_text("not HDF5")
    with pytest.raises(SourceError, match="nysstream convert"):
        sources.open(tmp_path / "x.csv")
    with pytest.raises(SourceError, match="directory without Zarr metadata"):
        sources.open(tmp_path / "empty")
    with pytest.raises(SourceError, match="no Zarr array or group"):
        sources.open(tmp_path / "empty.zarr")
    with pytest.raises(SourceError, match="cannot be opened as HDF5"):
        sources.open(tmp_path / "x.h5")


def test_damaged_metadata(tmp_path):
    zarr.create_array(tmp_path / "x.zarr", data=VALUES)
    (tmp_path / "x.zarr" / "zarr.json").write_text('{"zarr_format": 3, "node_')
    with pytest.raises(SourceError, match=r"x\.zarr cannot be opened"):
        sources.open(tmp_path / "x.zarr")


@pytest.mark.parametrize(
    "url",
    [
        "s3://user:hunter2@bucket/x.zarr",
        "https://hunter2@example.org/x.zarr",
        "abfss://container:hunter2@account.dfs.core.windows.net/x.zarr",
        "https://example.org/x.zarr?X-Amz-Signature=hunter2",
    ],
)
def test_secrets_in_a_url_are_refused_and_not_repeated(url):
    with pytest.raises(InputError, match="environment") as caught:
        sources.open(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["s3://bucket/x.npy", "https://example.org/x.npy"])
def test_files_that_are_read_from_disk_only(url):
    with pytest.raises(SourceError, match="local disks; download"):
        sources.open(url)


def test_schemes_that_nothing_reads():
    with pytest.raises(SourceError, match=r"gopher://x\.zarr"):
        sources.open("gopher://x.zarr")


def test_options_of_another_kind_are_refused(stored):
    with pytest.raises(InputError, match=r"NpySource does not take.*allow_external"):
        sources.open(stored / "x.npy", allow_external=True)


def test_paths_as_bytes_are_refused():
    with pytest.raises(InputError, match="fsdecode"):
        sources.open(b"x.npy")


def test_a_new_kind_is_one_entry_of_the_registry(monkeypatch, stored):
    class Constant(ArraySource):
        @classmethod
        def accepts_url(cls, url):
            return url.endswith(".csv")

        @classmethod
        def open(cls, url, name, *, missing_chunks):
            return cls(np.ones((2, 2)), name=url)

    monkeypatch.setitem(SOURCES, "constant", Constant)
    assert isinstance(sources.open("x.csv"), Constant)


def open_as_nobody(path, connection):
    if os.geteuid() == 0:
        os.setuid(65534)  # root may read anything
    try:
        sources.open(path)
    except SourceError as error:
        connection.send(str(error))
    connection.send("opened")


@pytest.mark.parametrize("name", ["x.npy", "x.h5", "x.zarr", "untold"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_files_that_may_not_be_read(stored, name):
    (stored / name).chmod(0)
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    child = context.Process(target=open_as_nobody, args=(stored / name, theirs))
    child.start()
    assert ours.poll(60)
    assert re.search(rf"{name}.*Permission denied", ours.recv())
    child.join()
    (stored / name).chmod(0o700)


@pytest.mark.parametrize(
    "location",
    [
        "simplecache::https://user:SECRET@host/x.zarr",
        "https:/user:SECRET@host/x",
        "file:/user:SECRET@host/x",
        "file://user:SECRET@host/x",
        "s3:///user:SECRET@bucket/x",
    ],
)
def test_urls_that_are_mistyped_do_not_show_their_passwords(location):
    with pytest.raises(InputError, match="carries credentials") as caught:
        checked_location(location)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("path", ["a:b@c/x.zarr", "runs/12:30@node/x.zarr", "/data/a:b@c"])
def test_paths_with_such_marks_are_paths(path):
    assert checked_location(path) == path
