"""Rows appended to a store, read back by Zarr and by a source that was opened before."""

from __future__ import annotations

import tempfile

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from nysstream.errors import InputError, SourceError
from nysstream.sources import open as open_source
from nysstream.sources.appending import RowAppender
from nysstream.sources.layout import Layout
from nysstream.sources.writing import RowWriter
from tests.strategies import cuts

X, Y = Layout(3, np.dtype("f4"), columns=("a", "b", "c")), Layout(1, np.dtype("i8"), vector=True)


def rows_of(rows):
    i = np.arange(rows.start, rows.stop)
    return {"x": (i[:, None] + np.array([0.1, 0.2, 0.3])).astype("f4"), "y": i}


def check(path, n_rows):
    group = zarr.open_group(path, mode="r")
    for name, expected in rows_of(slice(0, n_rows)).items():
        np.testing.assert_array_equal(group[name][:], expected, strict=True)
        assert group[name].attrs["committed_rows"] == n_rows
        assert group[name].nchunks_initialized == group[name].nchunks
    assert group.attrs["committed_rows"] == n_rows
    assert group["x"].attrs["columns"] == ["a", "b", "c"]


@settings(max_examples=10)
@given(data=st.data(), chunk_rows=st.integers(1, 20))
def test_rows_written_in_instalments(data, chunk_rows):
    parts = data.draw(cuts(60, max_parts=4))
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/out"
        with RowWriter(path, {"x": X, "y": Y}, chunk_rows=chunk_rows, codec="zstd") as writer:
            writer.append(**rows_of(parts[0]))
        for part in parts[1:]:
            with RowAppender(path) as appender:
                appender.append(**rows_of(part))
            assert appender.rows_appended == part.stop
        check(path, 60)


def test_readers_see_whole_instalments_only(tmp_path):
    path = tmp_path / "out"
    with RowWriter(path, {"x": X, "y": Y}, chunk_rows=4) as writer:
        writer.append(**rows_of(slice(0, 6)))
    before = open_source(path, "x")
    expected = rows_of(slice(0, 6))["x"]

    def fail():
        with RowAppender(path) as appender:
            appender.append(**{name: 0 * a for name, a in rows_of(slice(6, 50)).items()})
            assert open_source(path, "x").shape == (6, 3)
            np.testing.assert_array_equal(before.read(slice(0, 6)), expected)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    np.testing.assert_array_equal(open_source(path, "x").read(slice(0, 6)), expected)
    with RowAppender(path) as appender:
        appender.append(**rows_of(slice(6, 31)))
    check(path, 31)


def test_a_single_array_in_a_store():
    store = zarr.storage.MemoryStore()
    with RowWriter(store, Y, chunk_rows=4) as writer:
        writer.append(np.arange(5))
    with RowAppender(store) as appender:
        appender.append(np.arange(5, 11))
    assert zarr.open_array(store, mode="r")[:].tolist() == list(range(11))


def test_what_cannot_be_appended_to(tmp_path):
    with pytest.raises(SourceError, match="cannot open .*nowhere"):  # noqa: RUF043
        RowAppender(tmp_path / "nowhere")
    group = zarr.open_group(tmp_path / "foreign", mode="w")
    array = group.create_array("x", shape=(4, 4), chunks=(2, 2), dtype="f4")
    with pytest.raises(InputError, match="does not publish committed_rows"):
        RowAppender(tmp_path / "foreign")
    group.attrs["committed_rows"] = array.attrs["committed_rows"] = 4
    with pytest.raises(InputError, match="runs of whole rows"):
        RowAppender(tmp_path / "foreign")
