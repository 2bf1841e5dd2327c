"""The row-chunked Zarr writer, against what Zarr reads back."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from nysstream.errors import InputError, OutputExistsError, SourceError
from nysstream.sources.layout import Layout, default_chunk_rows
from nysstream.sources.writing import CODECS, RowWriter
from tests.strategies import cuts, layouts, matrices

F4, F8 = np.dtype("f4"), np.dtype("f8")


@given(st.data())
def test_any_cutting_of_the_rows_writes_the_same(data):
    shape = data.draw(layouts(min_rows=0, max_rows=60, max_columns=4))
    dtype = data.draw(st.sampled_from(["f2", "f4", "f8", "i1", "u8"]))
    x = data.draw(matrices(shape, dtype))
    if data.draw(st.booleans()):
        x[: len(x) // 2] = 0
    y = np.arange(shape.n_rows, dtype=F8)
    with tempfile.TemporaryDirectory() as folder:
        with RowWriter(
            f"{folder}/out.zarr",
            {"x": Layout(shape.n_columns, x.dtype), "y": Layout(1, F8, vector=True)},
            n_rows=data.draw(st.sampled_from([None, shape.n_rows])),
            chunk_rows=shape.chunk_rows or 1,
            codec=data.draw(st.sampled_from(CODECS)),
            checksum=data.draw(st.booleans()),
        ) as writer:
            for rows in data.draw(cuts(shape.n_rows)):
                writer.append(x=x[rows], y=y[rows])
        group = zarr.open_group(f"{folder}/out.zarr", mode="r")
        np.testing.assert_array_equal(group["x"][:], x, strict=True)
        np.testing.assert_array_equal(group["y"][:], y, strict=True)
        assert {node.attrs["committed_rows"] for node in (group, group["x"], group["y"])} == {shape.n_rows}
        # Every chunk is there, those of zeros too.
        for name in "xy":
            assert group[name].nchunks_initialized == group[name].nchunks
            assert not list(Path(folder).rglob("*.partial"))


@pytest.mark.parametrize("n_rows", [None, 1000])
def test_many_chunks_of_unknown_number(tmp_path, n_rows, rng):
    x = rng.standard_normal((1000, 3)).astype(F4)
    with RowWriter(tmp_path / "out.zarr", Layout(3, F4), n_rows=n_rows, chunk_rows=7) as writer:
        for start in range(0, 1000, 93):
            block = x[start : start + 93].copy()
            writer.append(block)
            block[:] = np.nan  # the writer has its own copy
    array = zarr.open_array(tmp_path / "out.zarr", mode="r")
    np.testing.assert_array_equal(array[:], x)
    assert array.chunks == (7, 3)


def test_attributes_and_column_names(tmp_path):
    names = {"x": Layout(2, F4, columns=("a", "b")), "y": Layout(1, F8, vector=True)}
    with RowWriter(tmp_path / "out.zarr", names, attributes={"made_by": "me"}) as writer:
        writer.append(x=np.ones((3, 2)), y=np.ones((3, 1)))
    group = zarr.open_group(tmp_path / "out.zarr", mode="r")
    assert group.attrs.asdict() == {"committed_rows": 3, "made_by": "me"}
    assert group["x"].attrs.asdict() == {"committed_rows": 3, "columns": ["a", "b"]}
    assert group["y"].shape == (3,)


def test_chunks_take_some_megabytes_and_no_more_rows_than_there_are(tmp_path):
    layouts = {"x": Layout(1000, F4), "y": Layout(1, F8, vector=True)}
    assert 2 << 20 <= default_chunk_rows(layouts) * 4000 <= 8 << 20
    assert default_chunk_rows({"x": Layout(10_000_000, F8)}) == 1
    with RowWriter(tmp_path / "out.zarr", Layout(5, F4)) as writer:
        writer.append(np.ones((11, 5), F4))
    assert zarr.open_array(tmp_path / "out.zarr", mode="r").chunks == (11, 5)


def test_a_store_is_written_directly_and_committed_last():
    store = zarr.storage.MemoryStore()
    with RowWriter(store, {"x": Layout(2, F4)}, chunk_rows=2) as writer:
        writer.append(x=np.ones((5, 2), F4))
        assert zarr.open_group(store, mode="r").attrs["committed_rows"] == 0
    group = zarr.open_group(store, mode="r")
    assert group.attrs["committed_rows"] == 5
    assert group["x"].shape == (5, 2)
    with pytest.raises(OutputExistsError), RowWriter(store, {"x": Layout(2, F4)}):
        pytest.fail("the body must not run")
    with RowWriter(store, {"x": Layout(2, F4)}, overwrite=True) as writer:
        writer.append(x=np.zeros((1, 2), F4))
    assert zarr.open_group(store, mode="r")["x"][:].tolist() == [[0, 0]]


def test_a_failed_store_stays_uncommitted():
    store = zarr.storage.MemoryStore()
    writer = RowWriter(store, {"x": Layout(2, F4)}, chunk_rows=2)

    def fail():
        with writer:
            writer.append(x=np.ones((5, 2), F4))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert zarr.open_group(store, mode="r").attrs["committed_rows"] == 0


def test_a_file_url_is_a_local_path(tmp_path):
    with RowWriter(f"file://{tmp_path}/out.zarr", Layout(1, F4)) as writer:
        writer.append(np.ones((2, 1), F4))
    assert zarr.open_array(tmp_path / "out.zarr", mode="r").shape == (2, 1)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ({"x": np.ones((2, 3))}, "append takes x=, y=, not x="),
        ({"x": np.ones((2, 3)), "y": np.ones(2), "z": np.ones(2)}, "not x=, y=, z="),
        ({"x": np.ones((2, 4)), "y": np.ones(2)}, r"\[x\]: a block of shape \(2, 4\)"),
        ({"x": np.ones((2, 3), int), "y": np.ones(3)}, r"differ in their rows: \{'x': 2, 'y': 3\}"),
        ({"x": np.ones((2, 3)), "y": np.ones(2)}, r"\[x\]: float64 values do not fit the array's int32"),
        ({"x": np.ones((9, 3), int), "y": np.ones(9)}, "more than the promised n_rows=8"),
        ({"x": np.ones((7, 3), int), "y": np.ones(7)}, "7 rows were appended, 8 were promised"),
    ],
)
def test_blocks_that_do_not_fit(tmp_path, blocks, message):
    arrays = {"x": Layout(3, np.dtype("i4")), "y": Layout(1, F8, vector=True)}
    with pytest.raises(InputError, match=message), RowWriter(tmp_path / "o", arrays, n_rows=8) as writer:
        writer.append(**blocks)
    assert not list(tmp_path.iterdir())


def test_settings_that_make_no_sense(tmp_path):
    with pytest.raises(InputError, match="codec 'lzma' is unknown: choose one of blosc-lz4"):
        RowWriter(tmp_path / "o", Layout(1, F4), codec="lzma")
    with pytest.raises(InputError, match="chunk_rows=0"):
        RowWriter(tmp_path / "o", Layout(1, F4), chunk_rows=0)
    with pytest.raises(InputError, match="at least one layout"):
        RowWriter(tmp_path / "o", {})
    with pytest.raises(InputError, match="dtype <U3 cannot be stored"):
        Layout(1, np.dtype("U3"))
    with pytest.raises(InputError, match="a vector exactly one"):
        Layout(2, F4, vector=True)
    with pytest.raises(InputError, match="1 column names for 2 columns"):
        Layout(2, F4, columns=("a",))


FULL_DISK = """
import resource, signal, sys
import numpy as np
from nysstream.errors import SourceError
from nysstream.sources.layout import Layout
from nysstream.sources.writing import RowWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    with RowWriter(sys.argv[1], Layout(100, np.dtype("f8")), chunk_rows=1000, codec="none") as writer:
        for _ in range(50):
            writer.append(np.random.default_rng(0).random((300, 100)))
except SourceError as error:
    print(error)
"""


def test_a_file_system_that_refuses_to_write(tmp_path):
    """A limit on the size of files stands in for a full disk: the same system call fails."""
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "out.zarr")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "cannot write rows 0:1000 of" in run.stdout
    assert "File too large" in run.stdout
    assert not list(tmp_path.iterdir())


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(SourceError, match="nowhere is not a directory; create it first"):  # noqa: SIM117
        with RowWriter(tmp_path / "nowhere" / "out.zarr", Layout(1, F4)):
            pytest.fail("the body must not run")
