"""Sparse rows written as CSR: from LIBSVM text, SciPy's files and other stores, to Zarr and to HDF5."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import zipfile

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.datasets import dump_svmlight_file, load_svmlight_file

import nysstream
from nysstream.errors import InputError, MemoryBudgetError, OutputExistsError, SourceError
from nysstream.sources import CSRSource, csr_converting, csr_npz, csr_writing, libsvm
from nysstream.sources.converting import convert
from nysstream.sources.csr_writing import CSRWriter
from nysstream.sources.layout import Layout
from tests.strategies import row_slices

PLACES = ("out.zarr", "out.h5")


def random_csr(n, p, density=0.02, seed=0, dtype=np.float64):
    return sparse.random_array((n, p), density=density, format="csr", rng=seed, dtype=dtype)


def read(path, name="x"):
    source = nysstream.open(path, name, missing_chunks="error")
    return source.read(slice(0, source.shape[0]))


def assert_same(found, expected):
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found.indptr, expected.indptr)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_array_equal(found.data, expected.data)


@pytest.fixture
def data():
    X = random_csr(500, 300)
    return X, np.linspace(-1, 1, 500)


# --- what goes in ---------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("form", ["csr", "csc", "coo", "bsr"])
@pytest.mark.parametrize("compressed", [True, False])
def test_files_of_scipy(tmp_path, data, place, form, compressed):
    X, y = data
    sparse.save_npz(tmp_path / "a.npz", X.asformat(form), compressed=compressed)
    made = convert(tmp_path / "a.npz", tmp_path / place, target=y, weight=np.ones(500))
    assert_same(read(tmp_path / place), X)
    np.testing.assert_array_equal(read(tmp_path / place, "y")[:, 0], y)
    np.testing.assert_array_equal(read(tmp_path / place, "weight")[:, 0], np.ones(500))
    assert (made.n_rows, made.nnz, made.layouts["x"].dtype) == (500, X.nnz, np.float64)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("zero_based", [True, False])
def test_libsvm_text(tmp_path, data, place, zero_based):
    X, y = data
    X.data = np.round(X.data * 8) + 0.25
    X = X.tolil()
    X[0, 0] = X[3, 299] = 2.5  # the first and the last column are there
    X = X.tocsr()
    dump_svmlight_file(X, y, str(tmp_path / "a.svm"), zero_based=zero_based)
    truth, labels = load_svmlight_file(str(tmp_path / "a.svm"))
    convert(tmp_path / "a.svm", tmp_path / place)
    assert_same(read(tmp_path / place), truth)
    np.testing.assert_array_equal(read(tmp_path / place, "y")[:, 0], labels)
    assert nysstream.open(tmp_path / place, "x").dtype == np.float32
    convert(tmp_path / "a.svm", tmp_path / place, overwrite=True, n_features=400, dtype="f8")
    source = nysstream.open(tmp_path / place, "x")
    assert source.shape == (500, 400)
    assert source.dtype == np.float64


def test_text_that_float32_does_not_hold_stays_as_it_is(tmp_path):
    (tmp_path / "a.svm").write_text("1 1:0.1 100:1\n" + "2 7:1\n" * 30)
    convert(tmp_path / "a.svm", tmp_path / "out")
    assert read(tmp_path / "out").dtype == np.float64
    (tmp_path / "a.svm").write_text("1 1:1e300 100:1\n" + "2 7:1\n" * 30)
    settings = {"n_features": 100, "zero_based": False, "dense": False, "overwrite": True}
    convert(tmp_path / "a.svm", tmp_path / "out", **settings)
    assert read(tmp_path / "out").data[0] == 1e300


def test_text_becomes_sparse_where_it_is_and_where_that_is_asked_for(tmp_path, data):
    X, y = data
    dump_svmlight_file(X, y, str(tmp_path / "thin.svm"))
    dump_svmlight_file(random_csr(500, 20, 0.5), y, str(tmp_path / "thick.svm"))
    for name, dense, expected in [
        ("thin", None, True),
        ("thin", True, False),
        ("thick", None, False),
        ("thick", False, True),
    ]:
        convert(tmp_path / f"{name}.svm", tmp_path / "out", dense=dense, overwrite=True)
        assert nysstream.open(tmp_path / "out", "x").sparse == expected


def test_rows_of_text_out_of_order_are_refused_as_by_scikit_learn(tmp_path):
    for line in ("1 5:1 2:1\n", "1 2:1 2:1\n"):
        (tmp_path / "a.svm").write_text("1 1:1 100:2\n" * 40 + line)
        with pytest.raises(ValueError, match="sorted"):
            load_svmlight_file(str(tmp_path / "a.svm"))
        with pytest.raises(InputError, match=r"a.svm, line 41: .*growing indices"):
            convert(tmp_path / "a.svm", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.svm"]


def test_the_other_format_and_back(tmp_path, data):
    X, y = data
    convert(X, tmp_path / "a.h5", target=y, dtype="f4")
    convert(tmp_path / "a.h5", tmp_path / "b.zarr", name="x", target="y")
    convert(tmp_path / "b.zarr", tmp_path / "c.h5", target="y")
    assert_same(read(tmp_path / "c.h5"), X.astype(np.float32))
    fingerprints = {nysstream.open(tmp_path / name, "x").fingerprint for name in ("a.h5", "b.zarr", "c.h5")}
    assert len(fingerprints) == 1
    assert {CSRSource(X.astype(np.float32)).fingerprint} == fingerprints
    convert(tmp_path / "c.h5", tmp_path / "dense.zarr", name="x", dense=True)
    np.testing.assert_array_equal(read(tmp_path / "dense.zarr"), X.toarray().astype(np.float32))


def test_the_layout_is_that_of_anndata(tmp_path, data):
    """As its documentation has it, and as SciPy takes it."""
    X, y = data
    for place in PLACES:
        convert(X, tmp_path / place, target=y)
    with h5py.File(tmp_path / "out.h5") as file:
        for group in (zarr.open_group(tmp_path / "out.zarr", mode="r")["x"], file["x"]):
            assert group.attrs["encoding-type"] == "csr_matrix"
            assert group.attrs["encoding-version"] == "0.1.0"
            assert list(group.attrs["shape"]) == [500, 300]
            assert set(group) == {"data", "indices", "indptr"}
            arrays = (group["data"][:], group["indices"][:], group["indptr"][:])
            assert [array.dtype for array in arrays] == [np.float64, np.int32, np.int64]
            assert_same(sparse.csr_array(arrays, shape=(500, 300)), X)
    root = zarr.open_group(tmp_path / "out.zarr", mode="r")
    assert root.attrs["committed_rows"] == root["x"].attrs["committed_rows"] == 500
    assert root["x/data"].attrs["committed_rows"] == X.nnz
    assert root["x/indptr"].attrs["committed_rows"] == 501


@given(data=st.data(), n=st.integers(1, 60), p=st.integers(1, 25), seed=st.integers(0, 999))
def test_any_matrix_any_run_of_rows_any_blocks(data, n, p, seed):
    rng = np.random.default_rng(seed)
    kept = rng.random((n, p)) < data.draw(st.sampled_from([0.0, 0.1, 0.9]))
    kept[rng.random(n) < 0.4] = False
    dtype = data.draw(st.sampled_from([np.float32, np.float64, np.int16, np.uint8, np.bool_]))
    X = sparse.csr_array((rng.integers(1, 9, (n, p)) * kept).astype(dtype))
    rows = data.draw(row_slices(n).filter(lambda rows: rows.stop > rows.start))
    chunk_rows = data.draw(st.integers(1, 40))
    place = data.draw(st.sampled_from(PLACES))
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(csr_converting, "BLOCK_ENTRIES", data.draw(st.sampled_from([1, 7, 100])))
        patch.setattr(csr_writing, "CHUNK_BYTES", data.draw(st.sampled_from([64, 400])))
        patch.setattr(csr_npz, "_POINTERS", data.draw(st.sampled_from([1, 3, 100])))
        source = X
        if data.draw(st.booleans()):
            sparse.save_npz(f"{folder}/a.npz", X)
            source = f"{folder}/a.npz"
        convert(source, f"{folder}/{place}", target=np.arange(n), rows=rows, chunk_rows=chunk_rows)
        found, y = read(f"{folder}/{place}"), read(f"{folder}/{place}", "y")
    assert_same(found, X[rows])
    assert found.dtype == (np.uint8 if dtype == np.bool_ else dtype)
    np.testing.assert_array_equal(y[:, 0], np.arange(n)[rows])


@given(seed=st.integers(0, 999), text_bytes=st.integers(1, 600), place=st.sampled_from(PLACES))
def test_any_text_agrees_with_scikit_learn(seed, text_bytes, place):
    rng = np.random.default_rng(seed)
    X = random_csr(rng.integers(1, 40), rng.integers(1, 500), 0.02, seed)
    X.data = np.round(X.data, 3) + 1
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(libsvm, "TEXT_BYTES", text_bytes)
        dump_svmlight_file(X, rng.integers(0, 2, X.shape[0]), f"{folder}/a.svm", zero_based=False)
        truth, labels = load_svmlight_file(f"{folder}/a.svm", n_features=X.shape[1])
        convert(f"{folder}/a.svm", f"{folder}/{place}", n_features=X.shape[1], dense=False)
        assert_same(read(f"{folder}/{place}"), truth.astype(read(f"{folder}/{place}").dtype))
        np.testing.assert_array_equal(read(f"{folder}/{place}", "y")[:, 0], labels)


def test_unsorted_and_repeated_entries_are_written_as_scipy_adds_them(tmp_path):
    arrays = (np.array([1.0, 2, 4, 8]), np.array([2, 0, 2, 1]), np.array([0, 3, 4]))
    X = sparse.csr_array(arrays, shape=(2, 3))
    sparse.save_npz(tmp_path / "a.npz", X)
    convert(tmp_path / "a.npz", tmp_path / "out")
    np.testing.assert_array_equal(read(tmp_path / "out").toarray(), [[2, 0, 5], [0, 8, 0]])
    assert zarr.open_group(tmp_path / "out")["x/data"].shape == (3,)


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("bad", "settings", "message"),
    [
        (np.nan, {}, r"row 123 of .*: column \d+ of x is nan as float64. Fill or drop"),
        (np.inf, {}, r"row 123 of .*: column \d+ of x is inf as float64"),
        (1e300, {"dtype": "f4"}, r"row 123 of .* is inf as float32.* wider dtype"),
        (1.0, {"dtype": "f2"}, "float16"),
        (1.0, {"dtype": "i4"}, "float64 values do not fit int32"),
        (1.0, {"shuffle": 1}, "shuffle= reorders dense rows only"),
        (1.0, {"target": np.ones(7)}, "y array has 7 rows"),
        (1.0, {"rows": slice(3, 3)}, "holds no rows"),
    ],
)
def test_what_cannot_be_written_leaves_nothing(tmp_path, data, place, bad, settings, message):
    X, _ = data
    X.data[X.indptr[123]] = bad
    with pytest.raises(InputError, match=message):
        convert(X, tmp_path / place, **settings)
    assert not list(tmp_path.iterdir())


def test_files_that_hold_no_matrix(tmp_path, data):
    X, _ = data
    np.savez(tmp_path / "dense.npz", x=np.eye(3))
    (tmp_path / "text.npz").write_text("no archive")
    np.savez(tmp_path / "pickled.npz", format="csr", shape=[2, 2], data=np.array([{}, {}], object))
    sparse.save_npz(tmp_path / "whole.npz", X)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:2000])
    for name, message in [
        ("dense", "holds no sparse matrix: write it with scipy.sparse.save_npz"),
        ("text", "cannot be read as a matrix"),
        ("pickled", "dtype object; a vector of numbers is needed"),
        ("cut", "cannot be read as a matrix"),
        ("absent", "No such file"),
    ]:
        with pytest.raises((InputError, SourceError), match=message):
            convert(tmp_path / f"{name}.npz", tmp_path / "out")
    with pytest.raises(InputError, match=r"'y' names an array, but a \.npz file holds one matrix"):
        convert(tmp_path / "whole.npz", tmp_path / "out", target="y")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("part", ["data", "indices", "indptr", "shape"])
def test_damaged_files_of_scipy_are_errors(tmp_path, data, part):
    X, _ = data
    for number, value in enumerate([-1, 2**31 - 1, 2]):
        arrays = {"data": X.data, "indices": X.indices, "indptr": X.indptr, "shape": np.array(X.shape)}
        arrays[part] = arrays[part].copy()
        if part == "data":
            arrays[part] = arrays[part][: -1 - number]
        else:
            arrays[part][-1] = value
        np.savez(tmp_path / "a.npz", format=b"csr", **arrays)
        if part == "indices" and value == 2:
            convert(tmp_path / "a.npz", tmp_path / f"out-{number}")
            read(tmp_path / f"out-{number}").check_format(full_check=True)
            continue
        if part == "shape" and value == 2**31 - 1:
            continue  # very wide, but it makes sense
        with pytest.raises((InputError, SourceError), match=r"a\.npz"):
            convert(tmp_path / "a.npz", tmp_path / "out")


def test_values_that_were_tampered_with_fail_their_checksum(tmp_path):
    sparse.save_npz(tmp_path / "a.npz", random_csr(2000, 2000), compressed=False)
    with zipfile.ZipFile(tmp_path / "a.npz") as file:
        start = file.getinfo("data.npy").header_offset + 5000
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[start] ^= 255
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(SourceError, match="CRC"):
        convert(tmp_path / "a.npz", tmp_path / "out")


def test_codecs_of_each_format(tmp_path, data):
    X, _ = data
    for codec in ("blosc-lz4", "zstd", "gzip", "none"):
        convert(X, tmp_path / "out.zarr", codec=codec, checksum=True, overwrite=True)
        assert_same(read(tmp_path / "out.zarr"), X)
    for codec in ("blosc-lz4", "gzip", "none"):
        convert(X, tmp_path / "out.h5", codec=codec, checksum=True, overwrite=True)
        assert_same(read(tmp_path / "out.h5"), X)
    with pytest.raises(InputError, match="codec 'zstd' is not written to HDF5"):
        convert(X, tmp_path / "new.h5", codec="zstd")
    with pytest.raises(InputError, match="codec 'zip' is unknown"):
        convert(X, tmp_path / "new.zarr", codec="zip")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.h5", "out.zarr"]


def test_memory_stores_are_refused(data):
    with pytest.raises(InputError, match="to a path or a URL, not to a MemoryStore"):
        convert(data[0], zarr.storage.MemoryStore())


def test_blocks_that_do_not_fit(tmp_path, data):
    X, y = data
    layout = Layout(300, np.dtype("f8"))
    target = Layout(1, np.dtype("f8"), vector=True)
    for arguments, message in [
        ((X, {}), "append takes x and"),
        ((X[:, :5], {"y": y}), "does not fit"),
        ((X, {"y": y[:3]}), "does not fit"),
    ]:
        with pytest.raises(InputError, match=message), CSRWriter(tmp_path / "a", layout, {"y": target}) as w:
            w.append(arguments[0], **arguments[1])
    assert not list(tmp_path.iterdir())


# --- what is left, and when -----------------------------------------------------------------------


class Failing(CSRSource):
    """Fails at row 300."""

    error: type[BaseException] = SourceError

    def read(self, rows, out=None):
        if rows.stop > 300:
            message = "chunk 20 of failing cannot be decoded"
            raise self.error(message)
        return super().read(rows, out)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("error", [SourceError, KeyboardInterrupt])
def test_a_failing_source_leaves_nothing_and_keeps_the_old(tmp_path, data, monkeypatch, place, error):
    X, _ = data
    monkeypatch.setattr(csr_converting, "BLOCK_ENTRIES", 100)
    monkeypatch.setattr(csr_writing, "CHUNK_BYTES", 256)
    monkeypatch.setattr(Failing, "error", error)
    with pytest.raises(error, match="chunk 20 of failing"):
        convert(Failing(X), tmp_path / place)
    assert not list(tmp_path.iterdir())
    convert(X[:7], tmp_path / place)
    with pytest.raises(OutputExistsError, match="overwrite=True"):
        convert(X, tmp_path / place)
    with pytest.raises(error, match="chunk 20 of failing"):
        convert(Failing(X), tmp_path / place, overwrite=True)
    assert_same(read(tmp_path / place), X[:7])
    seen = []
    convert(X, tmp_path / place, overwrite=True, progress=lambda *counts: seen.append(counts))
    assert_same(read(tmp_path / place), X)
    assert seen[-1] == (500, 500)
    assert [path.name for path in tmp_path.iterdir()] == [place]


def test_a_directory_is_not_replaced_by_a_file(tmp_path, data):
    convert(data[0], tmp_path / "out.zarr")
    (tmp_path / "out.zarr").rename(tmp_path / "out.h5")
    with pytest.raises(SourceError, match="is a directory"):
        convert(data[0], tmp_path / "out.h5", overwrite=True)
    assert (tmp_path / "out.h5/zarr.json").exists()


def test_at_a_url_rows_are_published_last(tmp_path, data, monkeypatch):
    X, y = data

    def bucket(url, *, read_only):
        return zarr.storage.LocalStore(tmp_path / url.removeprefix("s3://bucket/"), read_only=read_only)

    monkeypatch.setattr("nysstream.sources.targets.remote_store", bucket)
    monkeypatch.setattr(csr_converting, "BLOCK_ENTRIES", 100)
    monkeypatch.setattr(csr_writing, "CHUNK_BYTES", 256)
    monkeypatch.setattr(Failing, "error", KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        convert(Failing(X), "s3://bucket/out", target=y, chunk_rows=16)
    assert nysstream.open(tmp_path / "out", "x").shape[0] == 0
    with pytest.raises(OutputExistsError):
        convert(X, "s3://bucket/out", target=y)
    convert(X, "s3://bucket/out", target=y, overwrite=True)
    assert_same(read(tmp_path / "out"), X)


SLOW = """
import sys, time
import scipy.sparse as sparse
from nysstream.sources import CSRSource
from nysstream.sources import csr_converting
from nysstream.sources.converting import convert

class Slow(CSRSource):
    def read(self, rows, out=None):
        print(rows.start, flush=True)
        time.sleep(0.01)
        return super().read(rows, out)

csr_converting.BLOCK_ENTRIES = 500
convert(Slow(sparse.random_array((200_000, 100), density=0.02, format="csr", rng=0)), sys.argv[1])
"""


@pytest.mark.parametrize("place", PLACES)
def test_ctrl_c_leaves_nothing(tmp_path, place):
    command = [sys.executable, "-c", SLOW, str(tmp_path / place)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(40):
            assert process.stdout.readline(), process.stderr.read()
        during = [path.name for path in tmp_path.iterdir()]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert any(name.startswith(f".{place}.partial-") for name in during)
    assert not list(tmp_path.iterdir())


# --- memory ---------------------------------------------------------------------------------------

PEAK = """
import re, sys
from nysstream.errors import MemoryBudgetError
from nysstream.memory import parse_memory, peak_resident_bytes
from nysstream.sources.converting import convert

source, out = sys.argv[1:]
try:
    convert(source, out, memory="1MiB", dense=False)
except MemoryBudgetError as error:
    (smallest,) = re.findall(r"memory='(.*?)'", str(error))
limit = parse_memory(smallest) + (16 << 20)  # the process has grown by the first try
convert(source, out, memory=limit, dense=False)
print(limit, peak_resident_bytes())
"""


@pytest.mark.parametrize(("form", "place"), [("svm", "out.zarr"), ("npz", "out.h5")])
def test_memory_does_not_grow_with_the_rows(tmp_path, form, place):
    """The matrices take 40 and 240 MB in memory."""
    source = tmp_path / f"a.{form}"
    if form == "npz":
        n, width = 400_000, 50
        arrays = {
            "data": np.ones(n * width),
            "indices": np.tile(np.arange(0, 5000, 100, dtype=np.int32), n),
            "indptr": np.arange(n + 1, dtype=np.int32) * width,
        }
        np.savez(source, format=b"csr", shape=(n, 5000), **arrays)
        del arrays
    else:
        row = "1 " + " ".join(f"{i}:1" for i in range(1, 5000, 100)) + "\n"
        source.write_text(row * 70_000)
    command = [sys.executable, "-c", PEAK, str(source), str(tmp_path / place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    limit, peak = map(int, done.stdout.split())
    assert peak <= limit
    assert limit < 460 << 20


def test_ordering_by_rows_in_memory_has_its_limit(tmp_path):
    sparse.save_npz(tmp_path / "a.npz", random_csr(20_000, 1000, 0.05).tocsc(), compressed=False)
    with pytest.raises(
        MemoryBudgetError, match=r"is not stored by rows, and ordering it takes some 34.\d+ MiB"
    ):
        convert(tmp_path / "a.npz", tmp_path / "out", memory="30MiB")
