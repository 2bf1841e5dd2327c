"""Stores that grow while others read them, also when the writer is killed, or is not the only one."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.sparse
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import nysstream
from nysstream.errors import InputError, MemoryBudgetError, SourceError
from nysstream.sources.growing import append, count_rows
from nysstream.sources.locking import sole_writer
from tests.strategies import cuts, float_dtypes

P = 4
WRITER = """
import sys, numpy as np
from nysstream.sources.appending import RowAppender
path, first, last, wait = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "wait"
with RowAppender(path) as appender:
    for i in range(first, last):
        appender.append(x=np.full((1, 4), i, "f4"), y=np.full(1, i, "f4"))
        if wait and i == last - 1:
            print("almost", flush=True)
            sys.stdin.readline()
print("done", flush=True)
"""


def rows_of(first, last, dtype="f4"):
    values = np.arange(first, last, dtype=dtype)
    return np.repeat(values[:, None], P, axis=1), values


def make(path, n_rows=10, *, chunk_rows=3, **options):
    X, y = rows_of(0, n_rows)
    nysstream.convert(X, path, target=y, chunk_rows=chunk_rows, **options)
    return str(path)


def check(path, n_rows):
    """Whatever can be read is whole: row i holds i everywhere."""
    X, y = rows_of(0, n_rows)
    np.testing.assert_array_equal(nysstream.open(path, "x").read(slice(0, n_rows)), X)
    np.testing.assert_array_equal(nysstream.open(path, "y").read(slice(0, n_rows))[:, 0], y)
    assert nysstream.open(path, "x").shape == (n_rows, P)
    assert count_rows(path, "x") == count_rows(path, "y") == n_rows


def start(*arguments):
    environment = os.environ | {"PYTHONPATH": str(Path(nysstream.__file__).parents[1])}
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


@settings(max_examples=10)
@given(parts=cuts(40, max_parts=4), chunk_rows=st.integers(1, 9), dtype=float_dtypes(), sparse=st.booleans())
def test_appended_rows_are_those_of_one_conversion(tmp_path_factory, parts, chunk_rows, dtype, sparse):
    path = str(tmp_path_factory.mktemp("s") / "s.zarr")
    rng = np.random.default_rng(len(parts))
    X = rng.standard_normal((41, P)).astype(dtype) * (rng.random((41, P)) < 0.5)
    y = rng.standard_normal(41)
    rows = scipy.sparse.csr_array(X) if sparse else X
    nysstream.convert(rows[:1], path, target=y[:1], chunk_rows=chunk_rows)
    for part in parts:
        part = slice(part.start + 1, part.stop + 1)
        before = nysstream.open(path, "x").shape[0]
        if sparse and part.start == part.stop:
            continue
        grown = append(path, rows[part], y[part])
        assert (grown.n_rows, grown.n_new) == (part.stop, part.stop - before)
    found = nysstream.open(path, "x").read(slice(0, 41))
    np.testing.assert_array_equal(found.toarray() if sparse else found, X)
    np.testing.assert_array_equal(nysstream.open(path, "y").read(slice(0, 41))[:, 0], y)
    assert count_rows(path, "x") == 41


def test_a_killed_writer_leaves_the_old_rows_and_the_next_repairs(tmp_path):
    path = make(tmp_path / "s.zarr")
    before = nysstream.open(path, "x")
    with start(path, 10, 40, "wait") as writer:
        assert writer.stdout.readline() == "almost\n"
        check(path, 10)  # most new rows are written, and none is seen
        with pytest.raises(SourceError, match=f"by process {writer.pid} on {socket.gethostname()}"):
            append(path, *rows_of(10, 11))
        writer.kill()
    (tmp_path / "s.zarr" / "zarr.0123.partial").write_text("{")  # of a writer killed while it wrote this
    check(path, 10)
    np.testing.assert_array_equal(before.read(slice(0, 10)), rows_of(0, 10)[0])
    append(path, *rows_of(10, 17))
    check(path, 17)
    group = zarr.open_group(path, mode="r")
    assert {array.shape[0] for array in group.array_values()} == {17}
    assert sorted(member for member, _ in group.members()) == ["x", "y"]
    assert [file.name for file in tmp_path.iterdir()] == ["s.zarr"]


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.05])
def test_killed_at_any_moment(tmp_path, delay):
    path = make(tmp_path / "s.zarr", chunk_rows=1)
    with start(path, 10, 400, "go") as writer:
        while count_rows(path, "x") == 10 and not list(tmp_path.glob(".*")) and writer.poll() is None:
            time.sleep(0.001)
        time.sleep(delay)
        writer.kill()
    n_rows = count_rows(path, "x")
    assert n_rows in (10, 400)
    check(path, n_rows)
    append(path, *rows_of(n_rows, n_rows + 5))
    check(path, n_rows + 5)


def test_readers_of_a_growing_store_see_whole_appends_only(tmp_path):
    path = make(tmp_path / "s.zarr")
    ends = [10, 17, 18, 40, 41, 60]
    script = f"""
import sys
from nysstream.sources.growing import append
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.sources.test_growing import rows_of
for first, last in zip({ends}, {ends[1:]}):
    append({path!r}, *rows_of(first, last))
"""
    seen = set()
    with subprocess.Popen([sys.executable, "-c", script]) as writer:
        while writer.poll() is None:
            n_rows = nysstream.open(path, "x").shape[0]
            seen.add(n_rows)
            X, y = rows_of(0, n_rows)
            np.testing.assert_array_equal(nysstream.open(path, "x").read(slice(0, n_rows)), X)
            np.testing.assert_array_equal(nysstream.open(path, "y").read(slice(0, n_rows))[:, 0], y)
    assert writer.returncode == 0
    assert seen <= set(ends)
    check(path, 60)


def test_what_is_published_by_all_counts(tmp_path):
    path = make(tmp_path / "s.zarr")
    append(path, *rows_of(10, 20))
    group = zarr.open_group(path, mode="r+")
    group.attrs["committed_rows"] = 10  # as if the writer had been killed just before its last write
    check(path, 10)
    append(path, *rows_of(10, 12))
    check(path, 12)


def test_a_lock_of_another_machine_is_reported(tmp_path):
    path = make(tmp_path / "s.zarr")
    lock = tmp_path / ".s.zarr.appending"
    lock.write_text(json.dumps({"pid": 7, "host": "elsewhere"}))
    with pytest.raises(SourceError, match=r"process 7 on elsewhere.*remove .*\.s\.zarr\.appending"):
        append(path, *rows_of(10, 11))
    lock.write_text(json.dumps({"pid": 7, "host": socket.gethostname()}))  # of a dead process
    append(path, *rows_of(10, 11))
    lock.write_text("rubbish")
    append(path, *rows_of(11, 12))
    assert not lock.exists()
    check(path, 12)


def test_a_killed_writer_of_sparse_rows(tmp_path):
    path = str(tmp_path / "s.zarr")
    X = scipy.sparse.csr_array(np.eye(9, 5) + 1.0)
    nysstream.convert(X[:4], path, target=np.arange(4.0), chunk_rows=2)
    group = zarr.open_group(path, mode="r+")
    with pytest.raises(KeyboardInterrupt):
        _interrupted(path, X)
    # As if the arrays had been finished, and the writer killed before it said so.
    append(path, X[4:9], np.arange(4.0, 9.0))
    group.attrs["committed_rows"] = 4
    assert nysstream.open(path, "x").shape == (4, 5)
    np.testing.assert_array_equal(nysstream.open(path, "x").read(slice(0, 4)).toarray(), X[:4].toarray())
    append(path, X[4:6], np.arange(4.0, 6.0))
    np.testing.assert_array_equal(nysstream.open(path, "x").read(slice(0, 6)).toarray(), X[:6].toarray())
    assert nysstream.open(path, "y").shape == (6, 1)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_a_shorter_append_after_one_that_was_killed(tmp_path, kind, monkeypatch):
    path, kept = str(tmp_path / "s.zarr"), np.eye(9, 5) + 1.0
    rows = scipy.sparse.csr_array(kept) if kind == "sparse" else kept
    nysstream.convert(rows[:4], path, target=np.arange(4.0), chunk_rows=2)
    real, seen = zarr.Array.update_attributes, []

    def killed(group, attributes):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(zarr.Group, "update_attributes", killed)  # after all arrays have published
        with pytest.raises(KeyboardInterrupt):
            append(path, rows[4:9], np.arange(4.0, 9.0))

    def look(array, attributes):
        seen.append(nysstream.open(path, "x").shape[0])
        return real(array, attributes)

    monkeypatch.setattr(zarr.Array, "update_attributes", look)
    append(path, rows[4:5], np.arange(4.0, 5.0))
    assert set(seen) == {4}
    found = nysstream.open(path, "x").read(slice(0, 5))
    np.testing.assert_array_equal(found.toarray() if kind == "sparse" else found, kept[:5])
    assert nysstream.open(path, "y").shape == (5, 1)


def _interrupted(path, X):
    from nysstream.sources.csr_appending import CSRAppender

    with CSRAppender(path) as appender:
        appender.append(X[4:7], y=np.arange(4.0, 7.0))
        raise KeyboardInterrupt


@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("where", ["local", "s3"])
def test_a_store_that_is_growing_is_not_replaced(request, tmp_path, where, kind):
    path = str(tmp_path / "s.zarr") if where == "local" else f"{request.getfixturevalue('s3')}/s.zarr"
    X = np.eye(9, 5) + 1.0
    rows = scipy.sparse.csr_array(X) if kind == "sparse" else X
    nysstream.convert(rows[:4], path, chunk_rows=2)

    def replace(*_):
        with pytest.raises(SourceError, match="is being written by"):
            nysstream.convert(rows, path, chunk_rows=2, overwrite=True)

    append(path, rows[4:6], progress=replace)
    found = nysstream.open(path, "x").read(slice(0, 6))
    np.testing.assert_array_equal(found.toarray() if kind == "sparse" else found, X[:6])
    nysstream.convert(rows, path, chunk_rows=2, overwrite=True)
    assert nysstream.open(path, "x").shape == (9, 5)


@pytest.mark.parametrize("provider", ["s3", "az"])
def test_object_storage_has_one_writer_too(request, provider):
    url = f"{request.getfixturevalue(provider)}/deep/s.zarr"
    X, y = rows_of(0, 5)
    nysstream.convert(X, url, target=y, chunk_rows=2)
    append(url, *rows_of(5, 8))
    found = nysstream.open(url, "x")
    np.testing.assert_array_equal(found.read(slice(0, 8)), rows_of(0, 8)[0])
    from nysstream.sources.targets import locate

    name, place = locate(url)
    with sole_writer(name, place):
        with pytest.raises(SourceError, match=f"is being written by process {os.getpid()}"):
            append(url, *rows_of(8, 9))
        assert nysstream.open(url, "x").shape == (8, P)
    append(url, *rows_of(8, 9))
    assert count_rows(url, "x") == 9


def test_a_dead_writer_of_an_object_store_is_taken_over():
    obstore = pytest.importorskip("obstore")
    from obstore.store import MemoryStore
    from zarr.storage import ObjectStore

    bucket = MemoryStore()
    place = ObjectStore(bucket)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for holder, free in (
        ({"pid": gone.pid, "host": socket.gethostname()}, True),
        ({"pid": gone.pid, "host": "elsewhere"}, False),
        ({"pid": os.getpid(), "host": socket.gethostname()}, False),
    ):
        obstore.put(bucket, ".appending", json.dumps(holder).encode())
        if free:
            with sole_writer("store", place):
                pass
        else:
            with pytest.raises(SourceError, match="is being written by"), sole_writer("store", place):
                pytest.fail("there are two writers")


def test_a_store_is_replaced_that_holds_its_own_lock():
    obstore = pytest.importorskip("obstore")
    from obstore.store import MemoryStore
    from zarr.storage import ObjectStore

    bucket = MemoryStore()
    for first in (0, 5):
        X, y = rows_of(first, first + 5)
        nysstream.convert(X, ObjectStore(bucket), target=y, chunk_rows=2, overwrite=True)
    append(ObjectStore(bucket), *rows_of(10, 12))
    assert ".appending" not in [found["path"] for found in obstore.list(bucket).collect()]
    found = zarr.open_group(ObjectStore(bucket), mode="r")["x"][:]
    np.testing.assert_array_equal(found, rows_of(5, 12)[0])


@pytest.mark.parametrize("moment", ["put", "head", "get", "delete"])
def test_a_lock_that_object_storage_refuses(moment, monkeypatch):
    obstore = pytest.importorskip("obstore")
    from obstore.exceptions import NotFoundError, PermissionDeniedError
    from obstore.store import MemoryStore
    from zarr.storage import ObjectStore

    bucket = MemoryStore()
    kind = NotFoundError if moment in ("head", "get") else PermissionDeniedError

    def refuse(*_, **__):
        raise kind

    if kind is NotFoundError:
        obstore.put(bucket, ".appending", b"{}")
    monkeypatch.setattr(obstore, moment, refuse)
    said = {"put": "cannot lock.*access is denied", "delete": "cannot unlock.*access is denied"}
    with (
        pytest.raises(SourceError, match=said.get(moment, "is being written by another process")),
        sole_writer("store", ObjectStore(bucket)),
    ):
        assert moment == "delete"


def test_a_lock_on_a_full_disk(tmp_path):
    path = make(tmp_path / "s.zarr")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(SourceError, match=r"cannot lock .*s\.zarr for writing: .*large"):
            append(path, *rows_of(10, 14))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert [found.name for found in tmp_path.iterdir()] == ["s.zarr"]


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path):
    path = make(tmp_path / "s.zarr")
    X, y = rows_of(10, 14)
    bad = X.copy()
    bad[2, 1] = np.nan
    for arguments, options, message in (
        ((X,), {}, "has an array y"),
        ((X, y, y), {}, "has no array weight"),
        ((X[:, :2], y), {}, "x of .* has 2 columns"),
        ((X, y[:-1]), {}, "has 3 rows"),
        ((X.astype(complex), y), {}, "complex"),
        ((bad, y), {}, "nan"),
        ((X, y), {"columns": ["a"]}, "named columns"),
    ):
        with pytest.raises((InputError, SourceError), match=message):
            append(path, *arguments, **options)
        check(path, 10)
    with pytest.raises(MemoryBudgetError):
        append(path, X, y, memory="1MiB")
    with pytest.raises(SourceError, match="holds no Zarr"):
        append(tmp_path / "nowhere", X, y)
    sparse = str(tmp_path / "sparse.zarr")
    nysstream.convert(scipy.sparse.csr_array(X), sparse)
    with pytest.raises(InputError, match="holds sparse rows, and those of array are dense"):
        append(sparse, X)
    zarr.create_array(tmp_path / "foreign", shape=(3, 3), chunks=(3, 3), dtype="f4")
    with pytest.raises(InputError, match="does not publish committed_rows"):
        append(tmp_path / "foreign", X)


def test_columns_keep_their_names(tmp_path):
    (tmp_path / "a.csv").write_text("a,b,t\n1,2,3\n4,5,6\n")
    (tmp_path / "b.csv").write_text("b,a,t\n1,2,3\n")
    path = str(tmp_path / "s.zarr")
    nysstream.convert(tmp_path / "a.csv", path, target=["t"])
    append(path, tmp_path / "a.csv", ["t"])
    assert nysstream.open(path, "x").shape == (4, 2)
    with pytest.raises(InputError, match=r"column 0 of x is 'b' in .*, and 'a' in"):
        append(path, tmp_path / "b.csv", ["t"])
    append(path, tmp_path / "b.csv", ["t"], columns=["a", "b"])
    np.testing.assert_array_equal(nysstream.open(path, "x").read(slice(4, 5)), [[2, 1]])


def test_a_single_array_grows():
    store = zarr.storage.MemoryStore()
    from nysstream.sources.layout import Layout
    from nysstream.sources.writing import RowWriter

    with RowWriter(store, Layout(P, np.dtype("f4")), chunk_rows=4) as writer:
        writer.append(rows_of(0, 6)[0])
    append(store, rows_of(6, 11)[0])
    np.testing.assert_array_equal(zarr.open_array(store, mode="r")[:], rows_of(0, 11)[0])


SWMR = """
import h5py, sys
import numpy as np
with h5py.File(sys.argv[1], "w", libver="latest") as file:
    for name, width in (("x", (4,)), ("y", ())):
        rows = np.arange(10.0, dtype="f4").reshape(-1, *[1] * len(width)) * np.ones((10, *width), "f4")
        file.create_dataset(name, data=rows, maxshape=(None, *width), chunks=(5, *width))
    file.swmr_mode = True
    print("ready", flush=True)
    sys.stdin.readline()
    for name in ("x", "y"):
        data = file[name]
        data.resize(16, axis=0)
        rows = np.arange(10.0, 16.0, dtype="f4")
        data[10:] = rows[:, None] * np.ones((6, 4), "f4") if name == "x" else rows
        data.flush()
    print("grown", flush=True)
    sys.stdin.readline()
"""


def test_hdf5_that_is_being_written_is_read_as_far_as_it_goes(tmp_path):
    path = str(tmp_path / "s.h5")
    writer = subprocess.Popen(
        [sys.executable, "-c", SWMR, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert writer.stdout.readline() == "ready\n"
        assert count_rows(path, "x") == 10
        model = nysstream.Ridge(keep_statistics=True)
        model.fit(nysstream.open(path, "x"), nysstream.open(path, "y"))
        with h5py.File(path, "r", swmr=True) as file:
            data = file["x"]
            writer.stdin.write("\n")
            writer.stdin.flush()
            assert writer.stdout.readline() == "grown\n"
            np.testing.assert_array_equal(
                nysstream.sources.as_source(data).read(slice(0, 16)), rows_of(0, 16)[0]
            )
        nysstream.update(model, nysstream.open(path, "x"), nysstream.open(path, "y"))
        assert model.result_.stats["new_rows"] == 6
        with pytest.raises(InputError, match="open for writing"):
            nysstream.open(path, "x").__getstate__()
    finally:
        writer.communicate("\n")
