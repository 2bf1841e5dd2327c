"""What a Zarr source promises beyond the bytes: absent chunks, committed rows, what travels."""

import functools
import http.server
import json
import multiprocessing
import pickle
import shutil
import threading
import warnings

import numpy as np
import pytest
import zarr

import nysstream.sources as sources
from nysstream.errors import DataWarning, InputError, MissingChunksError, SourceError
from nysstream.sources import ZarrSource, as_source, zarr_blobs
from nysstream.sources.zarr_store import location_of

VALUES = np.arange(200.0).reshape(50, 4) + 1


def make(path, *, name=None, committed=None, values=VALUES, **settings):
    array = zarr.create_array(path, name=name, data=values, **{"chunks": (10, 4), **settings})
    if committed is not None:
        array.attrs["committed_rows"] = committed
    return array


@pytest.mark.parametrize("shards", [None, (20, 4)])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_absent_chunks_of_a_foreign_store_are_counted_and_warned_about_once(tmp_path, zarr_format, shards):
    if zarr_format == 2:
        shards = None
    array = make(tmp_path / "x.zarr", zarr_format=zarr_format, shards=shards, fill_value=-1)
    array[10:20] = -1  # such chunks are not stored
    array[40:50] = -1
    with pytest.warns(DataWarning, match=r"x\.zarr: 2 of 5 chunks are absent, read as fill value -1"):
        source = sources.open(tmp_path / "x.zarr")
    for each in (source, pickle.loads(pickle.dumps(source))):  # another warning would be an error
        np.testing.assert_array_equal(each.read(slice(0, 50)), array[:])


def test_absent_chunks_can_be_refused_or_accepted(tmp_path):
    array = make(tmp_path / "x.zarr")
    (tmp_path / "x.zarr" / "c" / "3" / "0").unlink()
    with pytest.raises(MissingChunksError, match=r"x\.zarr: chunk c/3/0 \(rows 30:40\) is absent.*'fill'"):
        sources.open(tmp_path / "x.zarr", missing_chunks="error")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        source = sources.open(tmp_path / "x.zarr", missing_chunks="fill")
        np.testing.assert_array_equal(source.read(slice(0, 50)), array[:])
    with pytest.raises(InputError, match="missing_chunks='ignore'"):
        sources.open(tmp_path / "x.zarr", missing_chunks="ignore")


def test_chunks_that_vanish_while_reading_are_noticed(tmp_path):
    make(tmp_path / "x.zarr")
    refusing = sources.open(tmp_path / "x.zarr", missing_chunks="error")
    warning = sources.open(tmp_path / "x.zarr")
    (tmp_path / "x.zarr" / "c" / "3" / "0").unlink()
    with pytest.raises(MissingChunksError, match="c/3/0"):
        refusing.read(slice(0, 50))
    with pytest.warns(DataWarning, match="some chunks are absent"):
        warning.read(slice(0, 50))


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("on_group", [False, True])
def test_only_committed_rows_are_seen(tmp_path, on_group, in_memory):
    store = zarr.storage.MemoryStore() if in_memory else tmp_path / "x.zarr"
    array = make(store, name="run/x", committed=None if on_group else 23)
    if on_group:
        zarr.open_group(array.store).attrs["committed_rows"] = 23
    shipped = pickle.dumps(as_source(array))
    for source in (as_source(array), pickle.loads(shipped)):
        assert source.shape == (23, 4)
        np.testing.assert_array_equal(source.read(slice(0, 23)), VALUES[:23])
        with pytest.raises(InputError, match="<= 23"):
            source.read(slice(0, 24))


def test_a_worker_sees_the_rows_that_were_committed_when_the_source_was_made(tmp_path):
    array = make(tmp_path / "x.zarr", committed=20)
    shipped = pickle.dumps(sources.open(tmp_path / "x.zarr"))
    array.attrs["committed_rows"] = 40
    assert pickle.loads(shipped).shape == (20, 4)
    assert sources.open(tmp_path / "x.zarr").shape == (40, 4)


@pytest.mark.parametrize("shards", [None, (20, 4)])
def test_an_absent_chunk_within_the_committed_rows_is_an_error(tmp_path, shards):
    array = make(tmp_path / "x.zarr", committed=50, shards=shards)
    (tmp_path / "x.zarr" / "c" / "1" / "0").unlink()
    for policy in ("warn", "fill"):  # the store has promised those rows, whatever the reader accepts
        with pytest.raises(
            MissingChunksError, match=r"c/1/0 .*absent, though the store has committed 50 rows"
        ):
            sources.open(tmp_path / "x.zarr", missing_chunks=policy)
    array.attrs["committed_rows"] = 10
    np.testing.assert_array_equal(sources.open(tmp_path / "x.zarr").read(slice(0, 10)), VALUES[:10])


def test_an_absent_inner_chunk_within_the_committed_rows_is_an_error(tmp_path):
    array = make(tmp_path / "x.zarr", committed=50, shards=(20, 4))
    array[10:20] = 0  # the fill value, so the inner chunk is dropped
    with pytest.raises(MissingChunksError, match=r"inner chunk \(1, 0\) of shard c/0/0"):
        as_source(array)


@pytest.mark.parametrize("published", [51, -1, "many", True, 3.5])
def test_nonsense_in_committed_rows_is_refused(tmp_path, published):
    make(tmp_path / "x.zarr", committed=published)
    with pytest.raises(SourceError, match=r"committed_rows = .*50 rows"):
        sources.open(tmp_path / "x.zarr")


def test_absent_chunks_of_a_store_without_files(tmp_path):
    array = make(zarr.storage.MemoryStore(), name="x")
    del array.store._store_dict["x/c/2/0"]
    with pytest.warns(DataWarning, match="1 of 5 chunks"):
        source = as_source(array)
    np.testing.assert_array_equal(source.read(slice(0, 50)), array[:])


def read_in_child(source, connection):
    connection.send(source.read(slice(5, 25)))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_other_processes_open_the_store_themselves(tmp_path, method):
    make(tmp_path / "x.zarr", name="g/x")
    source = sources.open(tmp_path / "x.zarr", "g/x")
    source.read(slice(0, 5))
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    child = context.Process(target=read_in_child, args=(source, theirs))
    child.start()
    assert ours.poll(60)
    np.testing.assert_array_equal(ours.recv(), VALUES[5:25])
    child.join()


def test_what_travels_is_a_location_and_option_names(tmp_path):
    make(tmp_path / "x.zarr", name="g/x")
    shipped = pickle.dumps(sources.open(tmp_path / "x.zarr", "g/x"))
    assert len(shipped) < 1000
    assert b"zarr.core" not in shipped


def test_a_wrapped_array_is_found_again_by_its_location(tmp_path, monkeypatch):
    make(tmp_path / "x.zarr", name="g/x")
    monkeypatch.chdir(tmp_path)
    for wrapped in (as_source(zarr.open_array("x.zarr", path="g/x")), sources.open("x.zarr", "g/x")):
        shipped = pickle.dumps(wrapped)
        monkeypatch.chdir("/")
        np.testing.assert_array_equal(pickle.loads(shipped).read(slice(3, 9)), VALUES[3:9])
        monkeypatch.chdir(tmp_path)


def test_a_store_without_a_location_cannot_travel(tmp_path):
    array = make(zarr.storage.MemoryStore(), name="x")

    class Unlocated(zarr.storage.WrapperStore):
        pass

    source = as_source(zarr.open_array(Unlocated(array.store), path="x", mode="r"))
    np.testing.assert_array_equal(source.read(slice(0, 50)), VALUES)
    with pytest.raises(InputError, match="no URL for other processes"):
        pickle.dumps(source)


def test_urls_and_archives(tmp_path):
    make(tmp_path / "x.zarr")
    with zarr.storage.ZipStore(tmp_path / "x.zarr.zip", mode="w") as store:
        make(store, name="x")
    make("memory://somewhere/x.zarr")
    for url in (f"file://{tmp_path}/x.zarr", tmp_path / "x.zarr.zip", "memory://somewhere/x.zarr"):
        source = sources.open(url)
        for each in (source, pickle.loads(pickle.dumps(source))):
            np.testing.assert_array_equal(each.read(slice(7, 31)), VALUES[7:31])


def test_object_stores(tmp_path):
    obstore = pytest.importorskip("obstore")
    make(tmp_path / "x.zarr", shards=(20, 4))
    store = zarr.storage.ObjectStore(obstore.store.LocalStore(tmp_path / "x.zarr"), read_only=True)
    source = as_source(zarr.open_array(store, mode="r"))
    for each in (source, pickle.loads(pickle.dumps(source))):
        np.testing.assert_array_equal(each.read(slice(7, 31)), VALUES[7:31])
    shutil.rmtree(tmp_path / "x.zarr" / "c" / "1")
    with pytest.warns(DataWarning, match="1 of 3 chunks"):
        np.testing.assert_array_equal(
            as_source(zarr.open_array(store)).read(slice(20, 40)), np.zeros((20, 4))
        )


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Keep standard error clean."""


@pytest.fixture
def web(tmp_path):
    """Serve the folder by HTTP; gives the URL."""
    handler = functools.partial(QuietHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_web_servers(tmp_path, web):
    pytest.importorskip("obstore")
    make(tmp_path / "x.zarr", name="g/x")
    (tmp_path / "x.zarr" / "g" / "x" / "c" / "2" / "0").unlink()
    source = sources.open(f"{web}/x.zarr", "g/x", missing_chunks="fill")
    for each in (source, pickle.loads(pickle.dumps(source))):
        np.testing.assert_array_equal(each.read(slice(7, 20)), VALUES[7:20])
    with pytest.raises(SourceError, match=r"x\.zarr\[g/y\] does not exist"):
        sources.open(f"{web}/x.zarr", "g/y")
    assert not source.read(slice(20, 30)).any()


def test_stale_consolidated_metadata_are_not_used(tmp_path):
    array = make(tmp_path / "x.zarr", name="x")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(tmp_path / "x.zarr")
    array.append(VALUES)
    assert sources.open(tmp_path / "x.zarr").shape == (100, 4)


@pytest.mark.parametrize(
    ("dtype", "message"), [("complex64", "complex64"), ("<U3", "<U3"), ("M8[s]", "datetime64")]
)
@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
def test_arrays_that_hold_no_real_numbers_are_refused(tmp_path, dtype, message):
    zarr.create_array(tmp_path / "x.zarr", name="g/x", shape=(4, 2), dtype=dtype, chunks=(2, 2))
    with pytest.raises(InputError, match=rf"x\.zarr\[g/x\] has dtype {message}"):
        sources.open(tmp_path / "x.zarr", "g/x")


def test_irregular_chunks_are_refused(tmp_path):
    """Newer versions of Zarr open such arrays, older ones do not."""
    make(tmp_path / "x.zarr")
    path = tmp_path / "x.zarr" / "zarr.json"
    metadata = json.loads(path.read_text())
    grid = {"name": "rectilinear", "configuration": {"kind": "inline", "chunk_shapes": [[20, 30], [4]]}}
    path.write_text(json.dumps({**metadata, "chunk_grid": grid}))
    with pytest.raises(
        (InputError, SourceError), match=r"x\.zarr (has chunks of irregular|cannot be opened)"
    ):
        sources.open(tmp_path / "x.zarr")


def test_three_dimensions_are_refused(tmp_path):
    make(tmp_path / "x.zarr", values=np.ones((4, 3, 2)), chunks=(2, 3, 2))
    with pytest.raises(InputError, match=r"3 dimensions, shape \(4, 3, 2\)"):
        sources.open(tmp_path / "x.zarr")


def test_scratch_and_chunk_rows_are_stated(tmp_path):
    raw = as_source(make(tmp_path / "raw.zarr", values=np.ones((4000, 500)), chunks=(2000, 500)))
    sharded = as_source(
        make(tmp_path / "s.zarr", values=np.ones((4000, 500)), chunks=(500, 500), shards=(2000, 500))
    )
    assert (raw.chunk_rows, sharded.chunk_rows) == (2000, 2000)
    assert 2000 * 500 * 8 <= raw.decode_bytes < 3 * 2000 * 500 * 8
    assert 2 * 500 * 500 * 8 <= sharded.decode_bytes < 2000 * 500 * 8 * 2
    assert isinstance(raw, ZarrSource)


def test_a_secret_in_the_address_of_a_store_is_not_shown(tmp_path):
    obstore = pytest.importorskip("obstore")
    web_store = obstore.store.HTTPStore.from_url("https://user:hunter2@example.org/x.zarr")
    assert location_of(zarr.storage.ObjectStore(web_store, read_only=True)) is None


@pytest.mark.skipif(not zarr_blobs._TELLS, reason="this kernel cannot be told")
@pytest.mark.parametrize("shards", [None, (20, 4)])
def test_the_kernel_is_told_of_a_few_chunks_before_they_are_read(tmp_path, monkeypatch, shards):
    array = make(tmp_path / "x.zarr", shards=shards, compressors=None, fill_value=-1)
    array[20:40] = -1  # absent: nothing to tell of, and no error
    told, tell = [], zarr_blobs._will_need

    def spy(path, span):
        told.append((path, span))
        tell(path, span)

    monkeypatch.setattr(zarr_blobs, "_will_need", spy)
    monkeypatch.setattr(zarr_blobs, "_AHEAD_BYTES", 1)  # one ahead
    source = sources.open(tmp_path / "x.zarr", missing_chunks="fill")
    runs = [slice(i, i + 10) for i in range(0, 50, 10)]
    reads = source.in_turn(runs)
    counts = []
    for rows in runs:
        np.testing.assert_array_equal(reads.read(rows), array[rows])
        counts.append(len(told))
    reads.close()
    assert told == sorted(set(told), key=told.index)  # each once
    if shards is None:
        assert [path.rsplit("/", 2)[-2:][0] for path, _ in told] == ["0", "1", "2", "3", "4"]
        assert counts == [2, 3, 4, 5, 5]
    else:
        assert [span.end - span.start for _, span in told] == [10 * 4 * 8] * 3
    np.testing.assert_array_equal(source.read(slice(0, 50)), array[:])  # not announced: nobody is told
    assert len(told) == counts[-1]
