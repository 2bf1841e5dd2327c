"""Data sets, models and outputs in object storage give the bits that local files give."""

from __future__ import annotations

import base64
import importlib.util
import logging
import pickle
import re
import time

import cloudpickle
import h5py
import numpy as np
import pytest
import zarr
from scipy import sparse
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

import nysstream
from nysstream import Ridge
from nysstream.errors import CheckpointError, InputError, NysstreamError, SourceError
from nysstream.report import write_report
from nysstream.sources import as_source, remote
from nysstream.sources.appending import RowAppender
from nysstream.sources.csr_writing import CSRWriter
from nysstream.sources.remote import is_transient
from nysstream.sources.writing import Layout, RowWriter
from nysstream.streaming import DesignMatrix, GramProduct, reduce
from tests.object_storage import ACCOUNT, ACCOUNT_KEY, KEY, SECRET, credentials, faulty_proxy, web_server

N_ROWS, N_COLUMNS = 3_000, 12


@pytest.fixture(scope="module")
def rows():
    """Rows and targets."""
    rng = np.random.default_rng(5)
    X = rng.standard_normal((N_ROWS, N_COLUMNS)).astype(np.float32)
    return X, X @ rng.standard_normal(N_COLUMNS) + 0.1 * rng.standard_normal(N_ROWS)


@pytest.fixture
def only_fsspec(monkeypatch):
    """Hide obstore, so that fsspec has to do."""
    found = importlib.util.find_spec
    monkeypatch.setattr(
        remote.importlib.util, "find_spec", lambda name: None if name == "obstore" else found(name)
    )


@pytest.fixture(params=["s3", "s3-fsspec", "gcsfs-fsspec", "az", "memory"])
def place(request):
    """Give the URL of an empty place, by each of the ways to get there."""
    provider, _, way = request.param.partition("-")
    if provider == "memory":
        return f"memory://{request.node.originalname}"
    if way == "fsspec":
        pytest.importorskip({"s3": "s3fs"}.get(provider, provider))
        request.getfixturevalue("only_fsspec")
    return request.getfixturevalue(provider)


def write(url, X, y, **options):
    layouts = {"x": Layout(X.shape[1], X.dtype), "y": Layout(1, y.dtype, vector=True)}
    with RowWriter(url, layouts, chunk_rows=500, **options) as writer:
        writer.append(x=X, y=y)


def fit(url):
    return Ridge(1.0, solver="nystrom", rank=5, memory="4GiB").fit(
        nysstream.open(url, "x"), nysstream.open(url, "y")
    )


def test_from_rows_to_predictions(place, rows, tmp_path):
    X, y = rows
    write(f"{place}/a.zarr", X, y, checksum=True)
    write(tmp_path / "a.zarr", X, y)
    model, local = fit(f"{place}/a.zarr"), fit(str(tmp_path / "a.zarr"))
    np.testing.assert_array_equal(model.coef_, local.coef_)
    model.save(f"{place}/model.zarr")
    again = nysstream.load(f"{place}/model.zarr")
    np.testing.assert_array_equal(again.coef_, local.coef_)
    source = nysstream.open(f"{place}/a.zarr", "x")
    np.testing.assert_array_equal(again.predict(source), local.predict(X))
    np.testing.assert_array_equal(source.read(slice(499, 1001)), X[499:1001])
    assert source.fingerprint == nysstream.open(tmp_path / "a.zarr", "x").fingerprint


def test_rows_that_arrive_later(place, rows):
    X, y = rows
    write(f"{place}/a.zarr", X[:1700], y[:1700])
    before = nysstream.open(f"{place}/a.zarr", "x")
    with RowAppender(f"{place}/a.zarr") as appender:
        appender.append(x=X[1700:], y=y[1700:])
    assert before.shape[0] == 1700
    np.testing.assert_array_equal(before.read(slice(1400, 1700)), X[1400:1700])
    after = nysstream.open(f"{place}/a.zarr", "x")
    np.testing.assert_array_equal(after.read(slice(0, N_ROWS)), X)


def test_converting_there_and_back(place, rows, tmp_path):
    X, y = rows
    write(f"{place}/a.zarr", X, y)
    nysstream.convert(f"{place}/a.zarr", f"{place}/b.zarr", name="x", target="y", codec="zstd", checksum=True)
    nysstream.convert(f"{place}/b.zarr", str(tmp_path / "c.zarr"), name="x", target="y")
    np.testing.assert_array_equal(nysstream.open(tmp_path / "c.zarr", "x").read(slice(0, N_ROWS)), X)
    with pytest.raises(nysstream.errors.OutputExistsError, match=r"b\.zarr exists"):
        nysstream.convert(f"{place}/a.zarr", f"{place}/b.zarr", name="x")


def test_what_was_computed_is_recalled(place, rows):
    X, y = rows
    whole = Ridge(1.0, solver="nystrom", rank=5).fit(X, y)
    for resume in (False, True):
        with nysstream.checkpointing(f"{place}/c", resume=resume) as checkpoint:
            model = Ridge(1.0, solver="nystrom", rank=5).fit(X, y)
        assert (checkpoint.n_recalled > 0) is resume
        np.testing.assert_array_equal(model.coef_, whole.coef_)


def test_shards(s3, rows, tmp_path):
    X, y = rows
    for url in (f"{s3}/a.zarr", str(tmp_path / "a.zarr")):
        store = remote.remote_store(url, read_only=False) if "://" in url else url
        group = zarr.open_group(store, mode="w")
        group.create_array("x", data=X, chunks=(100, N_COLUMNS), shards=(1000, N_COLUMNS))
        group.create_array("y", data=y, chunks=(N_ROWS,))
    np.testing.assert_array_equal(nysstream.open(f"{s3}/a.zarr", "x").read(slice(950, 2050)), X[950:2050])
    np.testing.assert_array_equal(fit(f"{s3}/a.zarr").coef_, fit(str(tmp_path / "a.zarr")).coef_)


def test_sparse_rows(place, rows, tmp_path):
    X = sparse.csr_array(np.where(rows[0] > 0.5, rows[0], 0))
    path = tmp_path / "a.npz"
    sparse.save_npz(path, X)
    nysstream.convert(str(path), f"{place}/a.zarr", chunk_rows=500)
    found = nysstream.open(f"{place}/a.zarr", "x")
    assert found.sparse
    np.testing.assert_array_equal(found.read(slice(7, 2011)).toarray(), X[7:2011].toarray())


LAYOUTS = {
    "gzip": {"chunks": (300, 5), "compression": "gzip", "shuffle": True},
    "plain": {"chunks": (500, N_COLUMNS)},
    "contiguous": {},
    "checked": {"chunks": (100, N_COLUMNS), "fletcher32": True},
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_hdf5_by_byte_ranges(layout, s3, rows, tmp_path):
    X, y = rows
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=X, **layout)
        file.create_dataset("y", data=y)
    upload(tmp_path / "a.h5", s3, "a.h5")
    found = nysstream.open(f"{s3}/a.h5", "x")
    np.testing.assert_array_equal(found.read(slice(123, 2345)), X[123:2345])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(found)).read(slice(0, 7)), X[:7])
    np.testing.assert_array_equal(fit(f"{s3}/a.h5").coef_, fit(str(tmp_path / "a.h5")).coef_)


def test_hdf5_from_every_provider(place, rows, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=rows[0], chunks=(300, 5), compression="lzf")
    upload(tmp_path / "a.h5", place, "a.h5")
    np.testing.assert_array_equal(nysstream.open(f"{place}/a.h5").read(slice(5, 1000)), rows[0][5:1000])


def test_hdf5_layouts_that_are_hopeless_at_a_distance(s3, rows, tmp_path, monkeypatch):
    monkeypatch.setattr("nysstream.sources.hdf5_remote._HUGE_STRIP", 1 << 14)
    monkeypatch.setattr("nysstream.sources.hdf5_remote._MANY_CHUNKS", 100)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("columns", data=rows[0], chunks=(N_ROWS, 1))
        file.create_dataset("tiny", data=rows[0], chunks=(5, 5))
        file.create_dataset("scaled", data=rows[0].astype("i4"), chunks=(100, 5), scaleoffset=0)
    upload(tmp_path / "a.h5", s3, "a.h5")
    for name, reason in (
        ("columns", "3,000 at a time"),
        ("tiny", "too many"),
        ("scaled", "only HDF5 itself"),
    ):
        with pytest.raises(SourceError, match=f"{reason}.*convert it to Zarr"):
            nysstream.open(f"{s3}/a.h5", name)


def upload(path, url, key):
    store = remote.remote_store(url, read_only=False)
    sync(store.set(key, default_buffer_prototype().buffer.from_bytes(path.read_bytes())))


@pytest.mark.parametrize("way", ["obstore", "fsspec"])
def test_web_servers_are_read_from(way, rows, tmp_path, request):
    if way == "fsspec":
        pytest.importorskip("aiohttp")
        request.getfixturevalue("only_fsspec")
    X, y = rows
    write(tmp_path / "a.zarr", X, y)
    zarr.open_group(tmp_path / "b.zarr", mode="w").create_array(
        "x", data=X, chunks=(100, N_COLUMNS), shards=(1000, N_COLUMNS)
    )
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=X, chunks=(300, 5), compression="gzip")
    with web_server(tmp_path) as server:
        for name in ("a.zarr", "b.zarr", "a.h5"):
            found = nysstream.open(f"{server.url}/{name}", "x")
            np.testing.assert_array_equal(found.read(slice(5, 2345)), X[5:2345])
        with pytest.raises(SourceError, match=r"nothing\.zarr\[x\] does not exist"):
            nysstream.open(f"{server.url}/nothing.zarr", "x")
        with pytest.raises(SourceError, match="only read from"):
            write(f"{server.url}/c.zarr", X, y)


@pytest.fixture
def proxy(object_server, s3, monkeypatch):
    """Put a proxy between this process and the bucket, that does not fail yet."""
    with faulty_proxy(object_server) as server:
        credentials(monkeypatch, server.url)
        monkeypatch.setattr(remote, "_CLIENT", {**remote._CLIENT, "read_timeout": "500ms"})
        yield server


def chunks(handler):
    return handler.command == "GET" and "/x/c/" in handler.path


@pytest.mark.parametrize("fault", [500, 503, 429, "reset", "cut", "silence"])
def test_what_passes_is_asked_for_again(fault, proxy, s3, rows):
    write(f"{s3}/a.zarr", *rows)
    source = nysstream.open(f"{s3}/a.zarr", "x")
    proxy.faults = [(chunks, fault)] * 3
    np.testing.assert_array_equal(source.read(slice(0, N_ROWS)), rows[0])
    assert not proxy.faults
    assert sum(command == "GET" and "/x/c/" in path for command, path in proxy.seen) == 6 + 3


def test_writing_survives_faults(proxy, s3, rows):
    proxy.faults = [(lambda handler: handler.command == "PUT", fault) for fault in (500, 503, "reset")]
    write(f"{s3}/a.zarr", *rows)
    assert not proxy.faults
    np.testing.assert_array_equal(nysstream.open(f"{s3}/a.zarr", "x").read(slice(0, N_ROWS)), rows[0])


@pytest.mark.parametrize("fault", [500, 503, "reset", "cut"])
def test_fsspec_asks_again_too(fault, rows, tmp_path, only_fsspec):
    pytest.importorskip("aiohttp")
    write(tmp_path / "a.zarr", *rows)
    with web_server(tmp_path) as origin, faulty_proxy(("127.0.0.1", origin.server_port)) as proxy:
        source = nysstream.open(f"{proxy.url}/a.zarr", "x")
        proxy.faults = [(chunks, fault)] * 3
        np.testing.assert_array_equal(source.read(slice(0, N_ROWS)), rows[0])
        assert not proxy.faults


def test_fsspec_does_not_take_a_busy_web_server_for_a_missing_file(rows, tmp_path, only_fsspec):
    pytest.importorskip("aiohttp")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=rows[0], chunks=(300, 5))
    with web_server(tmp_path) as origin, faulty_proxy(("127.0.0.1", origin.server_port)) as proxy:
        proxy.faults = [(lambda handler: True, 503)] * 3
        np.testing.assert_array_equal(nysstream.open(f"{proxy.url}/a.h5").read(slice(0, 7)), rows[0][:7])
        assert not proxy.faults
        with pytest.raises(SourceError, match=r"b\.h5 does not exist"):
            nysstream.open(f"{proxy.url}/b.h5")


def test_what_does_not_pass_is_said_at_once(proxy, s3, rows):
    write(f"{s3}/a.zarr", *rows)
    source = nysstream.open(f"{s3}/a.zarr", "x")
    proxy.seen.clear()
    proxy.faults = [(chunks, 403)] * 50
    with pytest.raises(SourceError, match=r"a\.zarr.*access is denied.*credentials"):
        source.read(slice(0, 100))
    assert len(proxy.seen) == 1
    proxy.faults = [(chunks, 404)] * 50
    proxy.seen.clear()
    with pytest.raises(nysstream.errors.MissingChunksError, match=r"x.*chunk c/0/0.*absent"):
        source.read(slice(0, 100))
    assert len(proxy.seen) == 1
    proxy.faults = [(lambda handler: True, 403)] * 50
    for wanted in (lambda: nysstream.open(f"{s3}/a.zarr", "x"), lambda: nysstream.open(f"{s3}/a.h5", "x")):
        with pytest.raises(SourceError, match=f"{s3}.*access is denied"):
            wanted()
    with pytest.raises(SourceError, match=r"cannot write.*access is denied"):
        write(f"{s3}/b.zarr", *rows)
    proxy.faults.clear()
    with pytest.raises(SourceError, match=r"does not exist; check the bucket"):
        nysstream.open(f"{s3}/nothing.h5", "x")
    with pytest.raises(SourceError, match=r"nothing\.zarr\[x\] does not exist; check"):
        nysstream.open(f"{s3}/nothing.zarr", "x")


@pytest.mark.parametrize(
    ("store", "variable"),
    [
        ("S3", "AWS_ACCESS_KEY_ID"),
        ("GCS", "GOOGLE_APPLICATION_CREDENTIALS"),
        ("MicrosoftAzure", "AZURE_STORAGE_"),
    ],
)
def test_no_credentials_are_said_to_be_missing(store, variable):
    error = OSError(f"Generic {store} error: Error performing GET http://169.254.169.254/latest/api/token")
    assert re.search(f"no credentials were found.*{variable}", remote.explained(error))


def test_not_transient():
    assert not is_transient(PermissionError("Access Denied"))


def test_secrets_stay_in_the_environment(proxy, s3, rows, tmp_path, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    write(f"{s3}/a.zarr", *rows)
    X, y = nysstream.open(f"{s3}/a.zarr", "x"), nysstream.open(f"{s3}/a.zarr", "y")
    model = Ridge(1.0, solver="nystrom", rank=5).fit(X, y)
    model.save(tmp_path / "model.zarr")
    write_report(model, tmp_path / "page.html")
    graph = reduce(DesignMatrix(X, y), GramProduct(np.eye(N_COLUMNS)), compute=False)
    seen = [cloudpickle.dumps(item) for item in (X, graph, dict(graph.dask))] + [pickle.dumps(model)]
    seen += [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    proxy.faults = [(lambda handler: True, 403)] * 9
    with pytest.raises(SourceError) as caught:
        nysstream.open(f"{s3}/a.zarr", "x")
    seen += [str(error).encode() for error in (caught.value, caught.value.__cause__)]
    seen += [repr(item).encode() for item in (X, X.__dict__, model)]
    seen += [caplog.text.encode(), "".join(capfd.readouterr()).encode()]
    assert len(seen) > 15
    for text in seen:
        assert SECRET.encode() not in text
        assert KEY.encode() not in text
    assert KEY in remote.os.environ["AWS_ACCESS_KEY_ID"]


@pytest.mark.parametrize("place", ["s3", "az"], indirect=True)
def test_buckets_that_are_not_there(place, rows):
    gone, model = f"{place}x/deep", Ridge(1.0, solver="nystrom", rank=5).fit(*rows)
    for wanted in (
        lambda: write(f"{gone}/a.zarr", *rows),
        lambda: write(f"{gone}/a.zarr", *rows, overwrite=True),
        lambda: model.save(f"{gone}/model.zarr"),
    ):
        with pytest.raises(SourceError, match=rf"cannot write.*{gone}.*no such bucket or container"):
            wanted()
    with (
        pytest.raises(CheckpointError, match=f"{gone}/c cannot be written.*no such bucket or container"),
        nysstream.checkpointing(f"{gone}/c"),
    ):
        pass
    for name in ("a.zarr", "a.h5"):
        with pytest.raises(SourceError, match=f"{gone}/{name}.*does not exist; check the bucket"):
            nysstream.open(f"{gone}/{name}", "x")
    with pytest.raises(SourceError, match=rf"{gone}/model\.zarr holds no Zarr group: check the path"):
        nysstream.load(f"{gone}/model.zarr")


def test_a_wrong_key_of_an_azure_account(az, rows, monkeypatch):
    X, y = rows
    write(f"{az}/a.zarr", X, y)
    source, secret = nysstream.open(f"{az}/a.zarr", "x"), base64.b64encode(SECRET.encode()).decode()
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", secret)
    for wanted in (
        lambda: nysstream.open(f"{az}/a.zarr", "x"),
        lambda: nysstream.open(f"{az}/a.h5", "x"),
        lambda: write(f"{az}/b.zarr", X, y),
        lambda: nysstream.load(f"{az}/model.zarr"),
        lambda: RowAppender(f"{az}/a.zarr"),
        lambda: nysstream.checkpointing(f"{az}/c").__enter__(),
    ):
        with pytest.raises(NysstreamError, match=f"{az}.*access is denied.*credentials") as caught:
            wanted()
        assert secret not in str(caught.value)
        assert secret not in str(caught.value.__cause__)
    assert ACCOUNT_KEY.encode() not in pickle.dumps(source)
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME")
    with pytest.raises(SourceError, match="AZURE_STORAGE_ACCOUNT_NAME is not set"):
        nysstream.open(f"{az}/a.zarr", "x")


def test_azure_as_its_emulator_and_with_the_account_in_the_url(az, rows, monkeypatch):
    X, y = rows
    write(f"{az}/a.zarr", X, y)
    monkeypatch.setenv(
        "AZURITE_BLOB_STORAGE_URL", remote.os.environ["AZURE_STORAGE_ENDPOINT"].rpartition("/")[0]
    )
    monkeypatch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
    for name in ("ENDPOINT", "ACCOUNT_NAME", "ACCOUNT_KEY"):
        monkeypatch.delenv(f"AZURE_STORAGE_{name}")
    full = f"abfss://{az.removeprefix('az://')}@{ACCOUNT}.dfs.core.windows.net/a.zarr"
    for url in (f"{az}/a.zarr", full):
        np.testing.assert_array_equal(nysstream.open(url, "x").read(slice(0, N_ROWS)), X)
        with pytest.raises(SourceError, match=r"\[z\] does not exist; its arrays are: x, y"):
            nysstream.open(url, "z")
    source = as_source(zarr.open_array(remote.remote_store(f"{az}/a.zarr"), path="x", mode="r"))
    assert source.name == f"{full}[x]"
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(source)).read(slice(0, 7)), X[:7])


def test_urls_with_secrets_are_refused(s3):
    with pytest.raises(InputError, match="carries credentials"):
        nysstream.open(s3.replace("s3://", "s3://user:word@"))


def test_the_next_blocks_are_fetched_ahead(proxy, s3, rows):
    write(f"{s3}/a.zarr", *rows)
    source = nysstream.open(f"{s3}/a.zarr", "x")
    proxy.seen.clear()
    runs = [slice(first, first + 500) for first in range(0, N_ROWS, 500)]
    reads = source.in_turn(runs)
    np.testing.assert_array_equal(reads.read(runs[0]), rows[0][:500])
    for _ in range(200):
        if len(proxy.seen) == 6:
            break
        time.sleep(0.01)
    assert len(proxy.seen) == 6  # all chunks were asked for when the first was read
    np.testing.assert_array_equal(reads.read(runs[4]), rows[0][2000:2500])
    reads.close()
    assert len(proxy.seen) == 6


def test_the_next_sparse_rows_are_fetched_ahead(proxy, s3, rows):
    X = sparse.csr_array(np.where(rows[0] > 0.5, rows[0], 0))
    with CSRWriter(f"{s3}/a.zarr", Layout(N_COLUMNS, X.dtype), chunk_entries=1000, chunk_rows=4000) as writer:
        writer.append(X)
    source = nysstream.open(f"{s3}/a.zarr", "x")
    n_chunks = 1 + 2 * -(-X.nnz // 1000)
    proxy.seen.clear()
    runs = [slice(first, first + 500) for first in range(0, N_ROWS, 500)]
    reads = source.in_turn(runs)
    np.testing.assert_array_equal(reads.read(runs[0]).toarray(), X[runs[0]].toarray())
    for _ in range(200):
        if len(proxy.seen) == n_chunks:
            break
        time.sleep(0.01)
    assert len(proxy.seen) == n_chunks
    for run in runs[1:]:
        np.testing.assert_array_equal(reads.read(run).toarray(), X[run].toarray())
    reads.close()
    assert len(proxy.seen) == n_chunks  # none was fetched twice
