"""Appends that are cut short and gone on with: every row once, whatever happens in between."""

from __future__ import annotations

import shutil

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
import scipy.sparse
import zarr

import nysstream as ns
from nysstream.errors import CheckpointError
from nysstream.sources import (
    ArraySource,
    continuing,
    converting,
    csr_converting,
    csr_writing,
    growing,
    tables,
)
from nysstream.sources.growing import append
from nysstream.sources.layout import Layout
from nysstream.sources.writing import RowWriter
from tests.kills import Crash, crash_at, is_killed

OLD, NEW, CHUNK = 100, 1000, 64
NOTES = "nysstream.sources.continuing:Continued."
#: After the job was begun; after some rows; when all are written; when all are published; at the very end.
MOMENTS = [
    (f"{NOTES}begin", 1, "after"),
    (f"{NOTES}note", 9, "after"),
    (f"{NOTES}complete", 1, "after"),
    (f"{NOTES}finish", 1, "before"),
    (f"{NOTES}finish", 1, "after"),
]


def rows_of(first, last, seed=0):
    x = np.random.default_rng(seed).standard_normal((OLD + 3 * NEW, 4))[first:last]
    return x, x.sum(axis=1)


def small_blocks():
    continuing._SECONDS = 0.0
    converting.BLOCK_BYTES = 2000
    csr_converting.BLOCK_ENTRIES = 300
    csr_writing.CHUNK_BYTES = 1024
    tables.CSV_BLOCK_BYTES = 4096


@pytest.fixture(autouse=True)
def noted_often(monkeypatch):
    """Small blocks, of which each is noted; as children have them."""
    for module, name in (
        (continuing, "_SECONDS"),
        (converting, "BLOCK_BYTES"),
        (csr_converting, "BLOCK_ENTRIES"),
        (csr_writing, "CHUNK_BYTES"),
        (tables, "CSV_BLOCK_BYTES"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))
    small_blocks()


def make(folder, kind="dense"):
    x, y = rows_of(0, OLD)
    rows = scipy.sparse.csr_array(x) if kind == "sparse" else x
    ns.convert(rows, folder / "store", target=y, chunk_rows=CHUNK)
    x, y = rows_of(OLD, OLD + NEW)
    pyarrow.csv.write_csv(pa.table({**{f"c{j}": x[:, j] for j in range(4)}, "y": y}), folder / "new.csv")
    return folder / "store"


def grow(folder, kind="dense", **settings):
    """Append the new rows, as one run of the job."""
    small_blocks()
    x, y = rows_of(OLD, OLD + NEW)
    given = {
        "dense": (x, y),
        "sparse": (scipy.sparse.csr_array(x), y),
        "csv": (folder / "new.csv", "y"),
    }[kind]
    with ns.checkpointing(folder / "c", resume=True):
        return append(folder / "store", *given, **settings)


def check(store, n_rows, kind="dense"):
    """Check that the store reads as the first rows, each once."""
    x, y = rows_of(0, n_rows)
    found = ns.open(str(store), "x")
    assert found.shape == (n_rows, 4)
    rows = found.read(slice(0, n_rows))
    np.testing.assert_array_equal(rows.toarray() if kind == "sparse" else rows, x)
    np.testing.assert_array_equal(ns.open(str(store), "y").read(slice(0, n_rows))[:, 0], y)


def files_of(place):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in place.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("kind", "moment"),
    [("dense", moment) for moment in MOMENTS]
    + [(kind, MOMENTS[i]) for kind in ("sparse", "csv") for i in (1, 3)]
    # Before a chunk with new rows was whole.
    + [(kind, (f"{NOTES}note", 1, "after")) for kind in ("dense", "sparse", "csv")],
)
def test_killed_at(tmp_path, kind, moment):
    store = make(tmp_path, kind)
    assert is_killed(moment, grow, tmp_path, kind)
    published = moment[0].endswith("finish")
    check(store, OLD + NEW if published else OLD, kind)
    first = []
    grown = grow(tmp_path, kind, progress=lambda done, _: first.append(done))
    assert (grown.n_rows, grown.n_new) == (OLD + NEW, NEW)
    check(store, OLD + NEW, kind)
    if published or "complete" in moment[0]:
        assert not first
    elif moment[1] > 1:
        assert first[0] > 200  # much was there
    # Once more: there is nothing to do.
    before = files_of(store)
    assert grow(tmp_path, kind, progress=crash_at(0)) == grown
    assert files_of(store) == before


def test_killed_again_and_again(tmp_path):
    store = make(tmp_path)
    for moment in [(f"{NOTES}note", 5, "after")] * 3 + MOMENTS[2:]:
        assert is_killed(moment, grow, tmp_path)
    assert not is_killed(MOMENTS[3], grow, tmp_path)
    check(store, OLD + NEW)


def test_rows_that_were_written_are_not_read_again(tmp_path):
    class Counting(ArraySource):
        def read(self, rows, out=None):
            reads.append(rows)
            return super().read(rows, out)

    store, reads = make(tmp_path), []
    x, y = rows_of(OLD, OLD + NEW)
    with pytest.raises(Crash), ns.checkpointing(tmp_path / "c"):
        append(store, Counting(x), y, progress=crash_at(500))
    source = Counting(x)
    with ns.checkpointing(tmp_path / "c", resume=True):
        assert source.fingerprint
        reads.clear()
        append(store, source, y)
    copied = [rows for rows in reads if 1 < rows.stop - rows.start < 100]
    assert min(rows.start for rows in copied) >= 500 - 2 * CHUNK
    check(store, OLD + NEW)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_another_append_that_failed_has_written_over_the_rows(tmp_path, kind):
    store = make(tmp_path, kind)
    with pytest.raises(Crash):
        grow(tmp_path, kind, progress=crash_at(500))
    x, y = rows_of(OLD, OLD + NEW, seed=1)
    with pytest.raises(Crash):
        append(store, scipy.sparse.csr_array(x) if kind == "sparse" else x, y, progress=crash_at(600))
    grow(tmp_path, kind)
    check(store, OLD + NEW, kind)


def test_others_have_appended_in_between(tmp_path):
    store = make(tmp_path)
    with pytest.raises(Crash):
        grow(tmp_path, progress=crash_at(500))
    append(store, *rows_of(OLD, OLD + 7))
    with pytest.raises(
        CheckpointError, match=r"had 100 rows .* has 107, those of this append not among them"
    ):
        grow(tmp_path)
    check(store, OLD + 7)
    with ns.checkpointing(tmp_path / "c", overwrite=True):
        append(store, *rows_of(OLD + 7, OLD + NEW))
    check(store, OLD + NEW)


def test_others_have_appended_as_many_rows(tmp_path):
    store = make(tmp_path)
    assert is_killed(MOMENTS[2], grow, tmp_path)  # all was ready to be published
    append(store, *rows_of(OLD, OLD + NEW, seed=1))
    before = files_of(store)
    with pytest.raises(CheckpointError, match="perhaps among them"):
        grow(tmp_path)
    assert files_of(store) == before


def test_a_finished_append_is_not_repeated_whatever_follows(tmp_path):
    store = make(tmp_path)
    grown = grow(tmp_path)
    append(store, *rows_of(OLD + NEW, OLD + NEW + 50))
    assert grow(tmp_path) == grown
    check(store, OLD + NEW + 50)


def test_other_rows_and_another_store_are_refused(tmp_path):
    store = make(tmp_path)
    with pytest.raises(Crash):
        grow(tmp_path, "csv", progress=crash_at(500))
    x, y = rows_of(OLD, OLD + NEW)
    for given, settings, said in (
        ((x + 1, y), {}, "source was"),
        ((tmp_path / "new.csv", "y"), {"columns": ["c1", "c0", "c2", "c3"]}, "arrays was"),
    ):
        with pytest.raises(CheckpointError, match=said), ns.checkpointing(tmp_path / "c", resume=True):
            append(store, *given, **settings)
    (tmp_path / "other").mkdir()
    other = make(tmp_path / "other")
    with pytest.raises(CheckpointError, match="output was"), ns.checkpointing(tmp_path / "c", resume=True):
        append(other, tmp_path / "new.csv", "y")
    check(other, OLD)
    grow(tmp_path, "csv")
    check(store, OLD + NEW)


def test_two_writers_of_one_job(tmp_path):
    store = make(tmp_path)
    with pytest.raises(CheckpointError, match="is being written by"):
        grow(tmp_path, progress=lambda *_: grow(tmp_path))
    grow(tmp_path)
    check(store, OLD + NEW)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_a_note_that_is_lost_hides_no_rows(tmp_path, kind, monkeypatch):
    store = make(tmp_path, kind)
    with monkeypatch.context() as patch:
        patch.setattr(continuing.Continued, "finish", _lose)
        with pytest.raises(Crash):
            grow(tmp_path, kind)
    check(store, OLD + NEW, kind)
    before = files_of(store / "x")
    grown = grow(tmp_path, kind)
    assert (grown.n_rows, grown.n_new) == (OLD + NEW, NEW)
    check(store, OLD + NEW, kind)
    assert grow(tmp_path, kind, progress=crash_at(0)) == grown
    assert {path: found[1] for path, found in files_of(store / "x").items()} == {
        path: found[1] for path, found in before.items()
    }


def _lose(continued):
    """Be killed while the note is replaced in storage that cannot do this at once."""
    shutil.rmtree(continued._journal._place / "entries")
    continued._journal._waiting.clear()
    raise Crash


def test_two_runs_of_one_job_that_begin_at_once(tmp_path, monkeypatch):
    store, real, grown = make(tmp_path), growing._begun, []

    def begun(*arguments):
        found = real(*arguments)
        if not grown:  # this run has looked into the checkpoint, and another does all meanwhile
            grown.append(None)
            grown.append(grow(tmp_path))
        return found

    monkeypatch.setattr(growing, "_begun", begun)
    monkeypatch.setattr("nysstream.checkpoint._keep_others_out", lambda *_: None)  # nothing locks
    assert grow(tmp_path) == grown[1]
    check(store, OLD + NEW)


def test_the_same_rows_are_appended_twice_where_a_job_says_so_twice(tmp_path):
    store = make(tmp_path)
    x, y = rows_of(OLD, OLD + 10)
    for _ in range(2):
        with ns.checkpointing(tmp_path / "c", resume=True):
            assert [append(store, x, y).n_rows for _ in range(2)] == [OLD + 10, OLD + 20]
    assert ns.open(str(store), "x").shape == (OLD + 20, 4)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("where", ["s3", "memory"])
def test_object_storage(request, tmp_path, where, kind):
    base = f"memory://{tmp_path.name}" if where == "memory" else request.getfixturevalue("s3")
    store, convertible = f"{base}/store", scipy.sparse.csr_array if kind == "sparse" else np.asarray
    x, y = rows_of(0, OLD + NEW)
    ns.convert(convertible(x[:OLD]), store, target=y[:OLD], chunk_rows=CHUNK)
    first = []
    for row in (1, 500):
        with pytest.raises(Crash), ns.checkpointing(tmp_path / "c", resume=True):
            append(store, convertible(x[OLD:]), y[OLD:], progress=crash_at(row))
        check(store, OLD, kind)
    with ns.checkpointing(tmp_path / "c", resume=True):
        append(store, convertible(x[OLD:]), y[OLD:], progress=lambda done, _: first.append(done))
    assert first[0] > 200
    check(store, OLD + NEW, kind)


def test_a_single_array(tmp_path):
    x = rows_of(0, OLD + NEW)[0]
    with RowWriter(tmp_path / "a", Layout(4, np.dtype(np.float64)), chunk_rows=CHUNK) as writer:
        writer.append(x[:OLD])
    for row in (1, 500, 900):
        with pytest.raises(Crash), ns.checkpointing(tmp_path / "c", resume=True):
            append(tmp_path / "a", x[OLD:], progress=crash_at(row))
    for _ in range(2):
        with ns.checkpointing(tmp_path / "c", resume=True):
            assert append(tmp_path / "a", x[OLD:]).n_new == NEW
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "a", mode="r")[:], x)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_nothing_is_left_of_what_a_killed_append_was_writing(tmp_path, kind):
    store = make(tmp_path, kind)
    left = 0
    for number in (4, 8, 12):  # metadata or chunks, of the store or of the checkpoint
        assert is_killed(("zarr.storage._local:Path.replace", number, "before"), grow, tmp_path, kind)
        left += len(list(store.rglob("*.partial")))
    assert left
    grow(tmp_path, kind)
    assert not list(store.rglob("*.partial"))
