"""Sparse matrices at rest, written here by h5py and Zarr as AnnData lays them out, against SciPy."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

import nysstream
from nysstream.errors import DataWarning, InputError, MissingChunksError, NysstreamError, SourceError
from nysstream.sources import CSRSource, StoredCSR, as_source
from nysstream.streaming.partition import cut_blocks
from tests.strategies import row_slices, stored_dtypes

PARTS = ("data", "indices", "indptr")
FORMATS = ("zarr", "zarr2", "h5")


def random_csr(n, p, density=0.1, seed=0, dtype=np.float64):
    return sparse.random_array((n, p), density=density, format="csr", rng=seed, dtype=dtype)


def write(folder, form, arrays, *, shape, name="x", chunk=7, others=None, **attributes):
    """Write arrays as a group of AnnData's and return the store's path."""
    path = f"{folder}/store.{form}"
    said = {"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": list(shape), **attributes}
    if form == "h5":
        with h5py.File(path, "w") as file:
            group = file.create_group(name)
            group.attrs.update({key: value for key, value in said.items() if value is not None})
            for part, values in arrays.items():
                length = min(chunk or 0, len(values))
                options = {"chunks": (length,), "compression": "gzip"} if length else {}
                group.create_dataset(part, data=values, **options)
            for other, values in (others or {}).items():
                file[other] = values
        return path
    root = zarr.open_group(path, mode="w", zarr_format=2 if form == "zarr2" else 3)
    group = root.create_group(name) if name else root
    group.update_attributes({key: value for key, value in said.items() if value is not None})
    for part, values in arrays.items():
        chunks = (chunk or max(1, len(values)),)
        group.create_array(part, data=values, chunks=chunks, config={"write_empty_chunks": True})
    for other, values in (others or {}).items():
        root.create_array(other, data=values)
    return path


def parts_of(matrix):
    return {part: getattr(matrix, part) for part in PARTS}


# --- reading --------------------------------------------------------------------------------------


@given(data=st.data(), n=st.integers(1, 25), p=st.integers(1, 20), seed=st.integers(0, 999))
def test_any_rows_of_any_matrix_equal_scipy(data, n, p, seed):
    rng = np.random.default_rng(seed)
    kept = rng.random((n, p)) < data.draw(st.sampled_from([0.0, 0.05, 0.5, 1.0]))
    kept[rng.random(n) < 0.3] = False  # empty rows
    kept[:, rng.random(p) < 0.3] = False  # empty columns
    values = rng.integers(1, 100, (n, p)) * kept
    dtype = data.draw(stored_dtypes())
    held = dtype.newbyteorder("=")
    held = np.dtype(np.float32) if held == np.float16 else held  # SciPy has no float16
    matrix = sparse.csr_array(values.astype(held))
    arrays = parts_of(matrix)
    arrays["data"] = arrays["data"].astype(dtype)
    for part in ("indices", "indptr"):
        wanted = data.draw(st.sampled_from(["<i4", "<i8", ">i8", "<u4", "<u8"]))
        arrays[part] = arrays[part].astype(wanted)
    form = data.draw(st.sampled_from(["zarr", "h5"]))
    chunk = data.draw(st.sampled_from([3, 50, None]))
    rows = data.draw(row_slices(n))
    with tempfile.TemporaryDirectory() as folder:
        source = nysstream.open(write(folder, form, arrays, shape=(n, p), chunk=chunk), "x")
        block = source.read(rows)
        again = pickle.loads(pickle.dumps(source))
        assert isinstance(source, StoredCSR)
        assert source.sparse
        assert not source.resident
        assert isinstance(block, sparse.csr_array)
        assert block.has_canonical_format
        assert block.dtype == source.dtype == matrix.dtype
        np.testing.assert_array_equal(block.toarray(), matrix.toarray()[rows], strict=True)
        np.testing.assert_array_equal(again.read(rows).toarray(), block.toarray())
        assert source.fingerprint == again.fingerprint == CSRSource(matrix).fingerprint
        assert source.row_bytes == CSRSource(matrix).row_bytes
        part = source.restrict(rows)
        assert part.sparse
        np.testing.assert_array_equal(part.read(slice(0, part.shape[0])).toarray(), block.toarray())


@pytest.mark.parametrize("form", FORMATS)
def test_it_is_found_by_name_alone_or_as_an_object(tmp_path, form):
    matrix = random_csr(30, 8)
    path = write(tmp_path, form, parts_of(matrix), shape=(30, 8), others={"y": np.arange(30.0)})
    assert nysstream.open(path).name == nysstream.open(path, "x").name == f"{path}[x]"
    file = h5py.File(path) if form == "h5" else zarr.open_group(path, mode="r")
    source = as_source(file["x"])
    if form == "h5":
        file.close()
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy.read(slice(3, 20)).toarray(), matrix.toarray()[3:20])
    # Each array on its own is a vector, for those who ask.
    assert nysstream.open(path, "x/data").shape == (matrix.nnz, 1)


def test_a_group_at_the_root(tmp_path):
    matrix = random_csr(10, 4)
    path = write(tmp_path, "zarr", parts_of(matrix), shape=(10, 4), name="")
    np.testing.assert_array_equal(nysstream.open(path).read(slice(0, 10)).toarray(), matrix.toarray())


def test_unsorted_and_repeated_entries_come_out_as_scipy_adds_them(tmp_path):
    arrays = {
        "data": np.array([1.0, 2, 4, 8, 16]),
        "indices": np.array([2, 0, 2, 1, 1]),
        "indptr": np.array([0, 3, 5]),
    }
    source = nysstream.open(write(tmp_path, "zarr", arrays, shape=(2, 3)), "x")
    block = source.read(slice(0, 2))
    assert block.has_canonical_format
    np.testing.assert_array_equal(block.toarray(), [[2, 0, 5], [0, 24, 0]])
    assert block.nnz == 3


def test_several_matrices_have_to_be_named(tmp_path):
    matrix = random_csr(5, 4)
    for form in ("zarr", "h5"):
        path = write(tmp_path, form, parts_of(matrix), shape=(5, 4), others={"z": np.ones((5, 2))})
        with pytest.raises(InputError, match=r"exactly one matrix.*x \(a sparse matrix\)"):
            nysstream.open(path)


def test_blocks_hold_about_8_mib_and_whole_chunks_of_foreign_stores():
    class Part:
        vector, dtype = True, np.dtype(np.float32)

        def __init__(self, length, chunk_rows, dtype="f4"):
            self.shape, self.chunk_rows, self.dtype = (length, 1), chunk_rows, np.dtype(dtype)
            self.name = "part"

    def made(chunk):
        n, nnz = 1_000_000, 150_000_000
        parts = {"data": Part(nnz, chunk), "indices": Part(nnz, chunk, "i4"), "indptr": Part(n + 1, 1, "i8")}
        return StoredCSR(parts, {"encoding-type": "csr_matrix", "shape": [n, 150_000]}, name="x")

    small, large = made(1 << 18), made(1 << 24)
    step = cut_blocks(small)[0][1]
    assert small.chunk_rows == 1
    assert 7 << 20 < step * small.row_bytes <= 8 << 20
    assert (1 << 24) - 150 < cut_blocks(large)[0][1] * 150 <= 1 << 24


# --- what is wrong with a store -------------------------------------------------------------------

GOOD = {
    "data": np.arange(1.0, 7),
    "indices": np.array([0, 1, 2, 0, 1, 2]),
    "indptr": np.array([0, 3, 3, 5, 6]),
}


def damaged(part, place, value):
    arrays = {name: values.copy() for name, values in GOOD.items()}
    arrays[part][place] = value
    return arrays


@pytest.mark.parametrize("form", ["zarr", "h5"])
@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (damaged("indptr", 2, 2), r"x/indptr\]: pointer 2 is 2, less than the one before, 3"),
        (damaged("indptr", 4, 7), r"x/indptr\]: pointer 4 is 7, outside 0\.\.6"),
        (damaged("indptr", 1, -1), r"x/indptr\]: pointer 1 is -1, outside 0\.\.6"),
        (damaged("indptr", 0, 1), r"x/indptr\]: pointer 0 is 1, not 0"),
        (damaged("indices", 4, 3), r"x/indices\]: entry 4 is column 3, but there are columns 0\.\.2"),
        (damaged("indices", 5, -1), r"x/indices\]: entry 5 is column -1"),
        (damaged("indices", 1, 2**40), r"x/indices\]: entry 1 is column 1099511627776"),
        ({**GOOD, "indptr": GOOD["indptr"].astype(float)}, r"x/indptr\] has dtype float64; .* whole numbers"),
        ({**GOOD, "indices": GOOD["indices"].astype(bool)}, r"x/indices\] has dtype bool"),
        ({**GOOD, "data": np.ones((6, 1))}, r"x/data\] has shape \(6, 1\)"),
        ({**GOOD, "data": np.ones(5)}, r"arrays differ in length, .*x/data\]': 5, .*x/indices\]': 6"),
        ({**GOOD, "indptr": GOOD["indptr"][:4]}, r"declares 4 rows, and .*x/indptr\] has entries for 3"),
        ({"data": GOOD["data"], "indices": GOOD["indices"]}, r"x/indptr\] does not exist"),
        ({**GOOD, "data": np.ones(6, complex)}, r"complex128"),
    ],
)
def test_damage_is_named_with_its_place(tmp_path, form, arrays, message):
    if arrays["data"].ndim == 2 and form == "zarr":
        path = write(tmp_path, form, {**arrays, "data": np.ones(6)}, shape=(4, 3))
        zarr.open_group(path)["x"].create_array("data", data=np.ones((6, 1)), overwrite=True)
    else:
        path = write(tmp_path, form, arrays, shape=(4, 3), chunk=None)
    with pytest.raises(NysstreamError, match=message):
        nysstream.open(path, "x").read(slice(0, 4))


@given(st.data())
def test_no_damage_gives_anything_but_an_error_or_rows(data):
    part = data.draw(st.sampled_from(PARTS))
    value = data.draw(st.sampled_from([-(2**63), -1, 0, 1, 2, 3, 6, 7, 2**31, 2**62]))
    arrays = damaged(part, data.draw(st.integers(0, len(GOOD[part]) - 1)), value)
    rows = data.draw(row_slices(4))
    with tempfile.TemporaryDirectory() as folder:
        source = nysstream.open(write(folder, "h5", arrays, shape=(4, 3), chunk=None), "x")
        try:
            block = source.read(rows)
        except SourceError as error:
            named = str(error)
        else:
            block.check_format(full_check=True)
            named = f"x/{part}]"
        assert f"x/{part}]" in named


@pytest.mark.parametrize("form", ["zarr", "h5"])
@pytest.mark.parametrize(
    "shape", [None, [4], [4, 3, 1], [-4, 3], ["4", "3"], [4.0, 3.0], [4, 2**62], [[4], [3]]]
)
def test_shapes_that_are_none(tmp_path, form, shape):
    path = write(tmp_path, form, GOOD, shape=(4, 3), chunk=None)
    if form == "h5":
        with h5py.File(path, "a") as file:
            del file["x"].attrs["shape"]
            if shape is not None:
                file["x"].attrs["shape"] = shape
    else:
        zarr.open_group(path)["x"].attrs["shape"] = shape
    with pytest.raises(SourceError, match="its attribute shape is"):
        nysstream.open(path, "x")


def test_more_columns_than_memory_could_hold_coefficients_for(tmp_path):
    path = write(tmp_path, "zarr", GOOD, shape=(4, 2**45))
    with pytest.raises(SourceError, match=r"35184372088832 columns: .* 256.00 TiB"):
        nysstream.open(path, "x")


@pytest.mark.parametrize("form", ["zarr", "h5"])
def test_matrices_by_columns_are_refused_with_the_remedy(tmp_path, form):
    path = write(tmp_path, form, GOOD, shape=(4, 3), **{"encoding-type": "csc_matrix"})
    for name in ("x", None):
        with pytest.raises(
            InputError, match=r"\[x\] is stored by columns \(csc_matrix\).*tocsr\(\).*convert"
        ):
            nysstream.open(path, name)
    with pytest.raises(InputError, match="by columns"):
        as_source(zarr.open_group(path)["x"] if form == "zarr" else h5py.File(path)["x"])


def test_absent_chunks_are_announced_or_refused_as_those_of_any_array(tmp_path):
    path = write(tmp_path, "zarr", GOOD, shape=(4, 3), chunk=2)
    (tmp_path / "store.zarr/x/data/c/1").unlink()
    with pytest.warns(DataWarning, match=r"x/data\]: 1 of 3 chunks are absent"):
        nysstream.open(path, "x")
    with pytest.raises(MissingChunksError, match=r"x/data\]"):
        nysstream.open(path, "x", missing_chunks="error")
    filled = nysstream.open(path, "x", missing_chunks="fill").read(slice(0, 4))
    np.testing.assert_array_equal(filled.data, [1, 2, 0, 0, 5, 6])


def test_links_to_other_files_are_not_followed_unasked(tmp_path):
    other = write(tmp_path, "h5", GOOD, shape=(4, 3))
    path = tmp_path / "link.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("x")
        group.attrs.update({"encoding-type": "csr_matrix", "shape": [4, 3]})
        for part in PARTS:
            group[part] = h5py.ExternalLink(other, f"x/{part}")
    with pytest.raises(SourceError, match="allow_external"):
        nysstream.open(path, "x")
    with h5py.File(path) as file, pytest.raises(SourceError, match="is a link to another file"):
        as_source(file["x"])
    assert nysstream.open(path, "x", allow_external=True).read(slice(0, 4)).nnz == 6


# --- rows that are published ----------------------------------------------------------------------


@pytest.mark.parametrize("form", ["zarr", "h5"])
def test_published_rows_are_all_there_are(tmp_path, form):
    path = write(tmp_path, form, GOOD, shape=(4, 3), committed_rows=3)
    source = nysstream.open(path, "x")
    assert source.shape == (3, 3)
    assert source.read(slice(0, 3)).nnz == 5
    for wrong in (5, -1, True, "3"):
        path = write(tmp_path, form, GOOD, shape=(4, 3), committed_rows=wrong)
        with pytest.raises(SourceError, match="publishes committed_rows"):
            nysstream.open(path, "x")


def test_rows_published_by_a_group_above_are_not_entries(tmp_path):
    path = write(tmp_path, "zarr", GOOD, shape=(4, 3))
    zarr.open_group(path).attrs["committed_rows"] = 2
    assert nysstream.open(path, "x").shape == (2, 3)
    assert as_source(zarr.open_group(path)["x"]).shape == (2, 3)


# --- the longest block, and memory ----------------------------------------------------------------


def test_what_the_longest_block_takes_is_counted(tmp_path):
    """All entries are in the last rows: blocks are cut by the average."""
    n, p, long = 40_000, 1000, 3000
    dense = np.concatenate([np.zeros(n - long, np.int64), np.full(long, p)])
    pointers = np.concatenate([[0], np.cumsum(dense)])
    arrays = {
        "data": np.ones(pointers[-1], np.float32),
        "indices": np.tile(np.arange(p, dtype=np.int32), long),
        "indptr": pointers,
    }
    source = nysstream.open(write(tmp_path, "h5", arrays, shape=(n, p), chunk=1 << 17), "x")
    blocks = cut_blocks(source)
    largest = max(source.read(slice(a, b)).nnz for a, b in blocks)
    assert largest * 8 > 20 << 20
    assert source.decode_bytes > 5 * (largest * 8 - (8 << 20))
    even = nysstream.open(write(tmp_path, "h5", parts_of(random_csr(4000, p)), shape=(4000, p)), "x")
    assert even.decode_bytes < 16 << 20


WIDE = """
import re, sys
import dask, numpy as np, scipy.sparse as sparse
import nysstream
from nysstream.errors import MemoryBudgetError
from nysstream.memory import parse_memory, peak_resident_bytes

path, solver = sys.argv[1:]
dask.config.set(scheduler="threads", num_workers=2)
X, y = nysstream.open(path, "x"), nysstream.open(path, "y")
model = nysstream.Ridge(alpha=1.0, solver=solver, memory="1MiB", tol=1e-3, max_passes=12)
try:
    model.fit(X, y)
except MemoryBudgetError as error:
    (smallest,) = re.findall(r"memory='(.*?)'", str(error))
limit = parse_memory(smallest)
model.set_params(memory=limit).fit(X, y)
limit += 32 << 20  # the process has grown by what it keeps for itself
model.set_params(memory=limit).score(X, y)
model.predict(X)
print(limit, peak_resident_bytes(), model.result_.stats["method"])
"""


@pytest.mark.parametrize("solver", ["cg", "nystrom", "auto"])
def test_a_wide_fit_stays_within_its_limit(tmp_path, solver):
    """With 150,000 columns a p x p array would take 180 GB, dense rows 2.4 GB."""
    n, p = 4000, 150_000
    X = random_csr(n, p, 1e-3, dtype=np.float32)
    y = np.asarray(X.sum(axis=1)).ravel()
    path = write(tmp_path, "zarr", parts_of(X), shape=(n, p), chunk=1 << 18, others={"y": y})
    command = [sys.executable, "-W", "ignore", "-c", WIDE, path, solver]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    limit, peak, method = done.stdout.split()
    assert int(peak) <= int(limit)
    assert method != "gram"


@pytest.mark.parametrize("form", ["zarr", "h5"])
@pytest.mark.parametrize("solver", ["cg", "nystrom"])
def test_ridge_on_a_store_is_ridge_in_memory_and_in_dense_algebra(tmp_path, form, solver):
    n, p, alpha = 600, 80, 2.0
    rng = np.random.default_rng(3)
    X = random_csr(n, p, 0.1)
    X.data += 0.5
    y = X @ rng.standard_normal(p) + rng.standard_normal(n) + 3
    path = write(tmp_path, form, parts_of(X), shape=(n, p), chunk=500, others={"y": y})
    settings = {"alpha": alpha, "solver": solver, "tol": 1e-10, "rank": 20 if solver == "nystrom" else "auto"}
    stored = nysstream.Ridge(**settings).fit(nysstream.open(path, "x"), nysstream.open(path, "y"))
    held = nysstream.Ridge(**settings).fit(X, y)
    dense = X.toarray() - X.toarray().mean(axis=0)
    truth = np.linalg.solve(dense.T @ dense + alpha * np.eye(p), dense.T @ (y - y.mean()))
    np.testing.assert_array_equal(stored.coef_, held.coef_)
    np.testing.assert_allclose(stored.coef_, truth, rtol=1e-6, atol=1e-6 * np.abs(truth).max())
    np.testing.assert_allclose(stored.intercept_, y.mean() - X.toarray().mean(axis=0) @ truth, rtol=1e-6)
    np.testing.assert_array_equal(stored.predict(nysstream.open(path, "x")), held.predict(X))
