"""Conversion to Zarr end to end: every input, every way to fail, and the memory it takes."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import scipy.sparse
import zarr
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import dump_svmlight_file

from nysstream.errors import InputError, MemoryBudgetError, OutputExistsError, SourceError
from nysstream.sources import ArraySource
from nysstream.sources import open as open_source
from nysstream.sources.converting import convert
from tests.strategies import layouts, matrices, row_slices, stored_dtypes

N_ROWS, COLUMNS = 300, ("a", "b", "c", "d")


@pytest.fixture
def truth(rng):
    return rng.standard_normal((N_ROWS, len(COLUMNS))), rng.standard_normal(N_ROWS)


def read(path):
    group = zarr.open_group(path, mode="r")
    assert group.attrs["committed_rows"] == group["x"].shape[0]
    return {name: array[:] for name, array in group.arrays()}


def files(folder, x, y):
    """Write the same data in every format and say how to convert each."""
    table = pa.table({**dict(zip(COLUMNS, x.T, strict=True)), "y": y})
    pyarrow.csv.write_csv(table, folder / "t.csv")
    pyarrow.parquet.write_table(table, folder / "t.parquet", row_group_size=70)
    (folder / "parts").mkdir()
    for i, start in enumerate(range(0, len(x), 100)):
        pyarrow.parquet.write_table(table.slice(start, 100), folder / "parts" / f"{i}.parquet")
    dump_svmlight_file(x, y, str(folder / "t.svm"), zero_based=False)
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    with h5py.File(folder / "t.h5", "w") as file:
        file.create_dataset("train/x", data=x, chunks=(64, 2))
        file["train/y"] = y
    group = zarr.open_group(folder / "t.zarr", mode="w")
    group.create_array("x", data=x, chunks=(33, 3))
    group.create_array("y", data=y, chunks=(50,))
    return {
        "csv": (folder / "t.csv", {"target": "y"}),
        "parquet": (folder / "t.parquet", {"target": "y"}),
        "parquet directory": (folder / "parts", {"target": "y"}),
        "parquet glob": (f"{folder}/parts/*.parquet", {"target": "y", "columns": COLUMNS}),
        "libsvm": (folder / "t.svm", {}),
        "npy": (str(folder / "x.npy"), {"target": open_source(folder / "y.npy")}),
        "hdf5": (folder / "t.h5", {"name": "train/x", "target": "train/y"}),
        "zarr": (folder / "t.zarr", {"name": "x", "target": "y"}),
        "array": (x, {"target": y}),
        "csr": (scipy.sparse.csr_array(x), {"target": y, "dense": True}),
        "source": (ArraySource(x), {"target": ArraySource(y)}),
    }


FORMATS = ("csv", "parquet", "parquet directory", "parquet glob", "libsvm", "npy", "hdf5", "zarr", "array")


@pytest.mark.parametrize("shuffle", [None, 3])
@pytest.mark.parametrize("kind", [*FORMATS, "csr", "source"])
def test_every_format(tmp_path, truth, kind, shuffle):
    x, y = truth
    source, settings = files(tmp_path, x, y)[kind]
    made = convert(source, tmp_path / "out.zarr", **settings, shuffle=shuffle, chunk_rows=32)
    found = read(tmp_path / "out.zarr")
    order = np.arange(N_ROWS)
    if shuffle is not None:
        order = np.argsort(np.random.Philox(key=shuffle).random_raw(N_ROWS), kind="stable")
    # The 16 significant digits of LIBSVM text do not quite hold a float64.
    rtol = 1e-14 if kind == "libsvm" else 0
    np.testing.assert_allclose(found["x"], x[order], rtol=rtol, strict=True)
    np.testing.assert_allclose(found["y"], y[order], rtol=rtol, strict=True)
    assert (made.n_rows, made.chunk_rows, made.layouts["x"].n_columns) == (N_ROWS, 32, 4)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    # What was written is a source like any other, and complete.
    again = open_source(tmp_path / "out.zarr", "x", missing_chunks="error")
    np.testing.assert_array_equal(again.read(slice(30, 70)), found["x"][30:70])


@given(st.data())
def test_any_source_any_rows_any_chunks(data):
    shape = data.draw(layouts(max_rows=60, max_columns=4))
    x = data.draw(matrices(shape, data.draw(stored_dtypes())))
    rows = data.draw(row_slices(shape.n_rows).filter(lambda rows: rows.stop > rows.start))
    weight = np.arange(shape.n_rows) / 4
    with tempfile.TemporaryDirectory() as folder:
        convert(x, f"{folder}/out", weight=weight, rows=rows, chunk_rows=shape.chunk_rows)
        found = read(f"{folder}/out")
    np.testing.assert_array_equal(found["x"], x[rows])
    np.testing.assert_array_equal(found["weight"], weight[rows])
    assert found["x"].dtype == (np.uint8 if x.dtype == np.bool_ else x.dtype.newbyteorder("="))


@pytest.mark.parametrize("kind", ["csv", "parquet", "libsvm"])
def test_a_run_of_rows_of_a_stream(tmp_path, truth, kind):
    source, settings = files(tmp_path, *truth)[kind]
    convert(source, tmp_path / "out", **settings, rows=slice(70, 203))
    np.testing.assert_allclose(read(tmp_path / "out")["x"], truth[0][70:203], rtol=1e-14)


def test_columns_keep_their_names(tmp_path, truth):
    source, _ = files(tmp_path, *truth)["csv"]
    convert(source, tmp_path / "out", columns=["c", "a"], target="y", weight="d")
    group = zarr.open_group(tmp_path / "out", mode="r")
    assert group["x"].attrs["columns"] == ["c", "a"]
    assert group["y"].attrs["columns"] == ["y"]
    np.testing.assert_array_equal(group["weight"][:], truth[0][:, 3])


def test_dtype_and_progress(tmp_path, truth):
    seen = []
    convert(truth[0], tmp_path / "out", dtype="f4", progress=lambda done, total: seen.append((done, total)))
    np.testing.assert_array_equal(read(tmp_path / "out")["x"], truth[0].astype("f4"), strict=True)
    assert seen[-1] == (N_ROWS, N_ROWS)
    with pytest.raises(InputError, match="float64 values do not fit int32"):
        convert(truth[0], tmp_path / "int", dtype="i4")


@pytest.mark.parametrize(
    ("bad", "dtype", "message"),
    [
        (np.nan, None, "row 123 of array: column 2 of x is nan as float64. Fill or drop"),
        (-np.inf, None, "column 2 of x is -inf"),
        (1e300, "f4", "column 2 of x is inf as float32.* wider dtype"),
    ],
)
def test_values_that_are_not_finite(tmp_path, truth, bad, dtype, message):
    truth[0][123, 2] = bad
    with pytest.raises(InputError, match=message):
        convert(truth[0], tmp_path / "out", dtype=dtype, shuffle=1)
    assert not list(tmp_path.iterdir())


def test_values_of_a_table_that_are_not_finite(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n1,inf\n")
    with pytest.raises(InputError, match=r"t.csv, row 1 \(counted from 0\): column 'b' is inf"):
        convert(tmp_path / "t.csv", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_large_values_are_finite(tmp_path):
    """Their sum overflows; none of them does."""
    convert(np.full((20, 2), 1e308), tmp_path / "out")
    assert read(tmp_path / "out")["x"].min() == 1e308


class Failing(ArraySource):
    """Fails at row 200."""

    error: type[BaseException] = SourceError

    def read(self, rows, out=None):
        if rows.stop > 200:
            message = "chunk 20 of failing cannot be decoded"
            raise self.error(message)
        return super().read(rows, out)


@pytest.mark.parametrize("shuffle", [None, 1])
@pytest.mark.parametrize("error", [SourceError, KeyboardInterrupt])
def test_a_failing_source_leaves_nothing_and_keeps_the_old(tmp_path, truth, monkeypatch, error, shuffle):
    monkeypatch.setattr("nysstream.sources.converting.BLOCK_BYTES", 1000)
    monkeypatch.setattr(Failing, "error", error)
    source = Failing(truth[0])
    with pytest.raises(error, match="chunk 20 of failing"):
        convert(source, tmp_path / "out", shuffle=shuffle, chunk_rows=5)
    assert not list(tmp_path.iterdir())
    convert(truth[0][:7], tmp_path / "out")
    with pytest.raises(error, match="chunk 20 of failing"):
        convert(source, tmp_path / "out", shuffle=shuffle, chunk_rows=5, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    np.testing.assert_array_equal(read(tmp_path / "out")["x"], truth[0][:7])
    convert(truth[0], tmp_path / "out", overwrite=True)
    np.testing.assert_array_equal(read(tmp_path / "out")["x"], truth[0])


def test_a_taken_target_is_refused_before_any_work(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputExistsError, match="overwrite=True"):
        convert(tmp_path / "there is no such file.csv", tmp_path / "out")


def test_sparse_rows_are_dense_only_where_that_is_asked_for(tmp_path):
    narrow = scipy.sparse.random_array((100, 50), density=0.01, format="csr", rng=0)
    convert(narrow, tmp_path / "out", dense=True)
    np.testing.assert_array_equal(read(tmp_path / "out")["x"], narrow.toarray())
    with pytest.raises(InputError, match=r"out.h5: dense rows are written as Zarr"):
        convert(narrow, tmp_path / "out.h5", dense=True)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"shuffle": -1}, InputError, "shuffle=-1"),
        ({"shuffle": True}, InputError, "give a non-negative seed"),
        ({"columns": ["a"]}, InputError, "columns= cannot be used here: only CSV and Parquet"),
        ({"name": "x"}, InputError, "only files have named arrays"),
        ({"target": "y"}, InputError, "'y' names an array, but the source is not a file"),
        ({"target": np.ones(3)}, InputError, "y array has 3 rows, but x array has 300"),
        ({"rows": slice(0, 10, 2)}, InputError, "step 1"),
        ({"rows": slice(5, 5)}, InputError, "holds no rows"),
        ({"dtype": "U3"}, InputError, "cannot be stored"),
        ({"memory": "1MiB"}, MemoryBudgetError, "chunks being written"),
        ({"memory": "much"}, InputError, "memory='much'"),
    ],
)
def test_settings_that_make_no_sense(tmp_path, truth, settings, error, message):
    with pytest.raises(error, match=message):
        convert(truth[0], tmp_path / "out", **settings)
    assert not list(tmp_path.iterdir())


def test_settings_of_files_that_make_no_sense(tmp_path, truth):
    files(tmp_path, *truth)
    for name, settings, message in [
        ("t.csv", {"name": "x"}, "name= cannot be used here: a csv table has columns"),
        ("t.svm", {"target": "y"}, "target= cannot be used here: labels are the target"),
        ("t.csv", {"format": "xlsx"}, "format 'xlsx' is unknown: choose one of csv, parquet, libsvm"),
        ("t.csv", {"rows": slice(-5, None)}, "count from the first"),
    ]:
        with pytest.raises(InputError, match=message):
            convert(tmp_path / name, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


SLOW = """
import sys, time
import numpy as np
from nysstream.sources import ArraySource
from nysstream.sources.converting import convert

class Slow(ArraySource):
    chunk_rows = 8192

    def read(self, rows, out=None):
        print(rows.start, flush=True)
        time.sleep(0.01)
        return super().read(rows, out)

source = Slow(np.random.default_rng(0).random((1_000_000, 4)))
settings = {"memory": "400MiB", "shuffle": 1} if sys.argv[2] == "shuffle" else {}
import nysstream.sources.converting as converting
converting.BLOCK_BYTES = 8192 * 32
convert(source, sys.argv[1], chunk_rows=1000, **settings)
"""


@pytest.mark.parametrize("order", ["plain", "shuffle"])
def test_ctrl_c_leaves_nothing(tmp_path, order):
    command = [sys.executable, "-c", SLOW, str(tmp_path / "out"), order]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(60):
            assert process.stdout.readline(), process.stderr.read()
        during = [path.name for path in tmp_path.iterdir()]
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert process.returncode != 0
    assert any(name.startswith(".out.partial-") for name in during)
    assert not list(tmp_path.iterdir())


PEAK = """
import sys
import numpy as np
from nysstream.memory import peak_resident_bytes
from nysstream.sources.base import RowSource
from nysstream.sources.converting import convert

class Generated(RowSource):
    name, dtype, chunk_rows = "generated", np.dtype("f4"), 1000
    fingerprint = "0"

    def read(self, rows, out=None):
        i = np.arange(rows.start, rows.stop, dtype="f4")[:, None]
        out[:] = i + np.arange(100)
        return out

source = Generated()
source.shape = (int(sys.argv[2]), 100)
for name, settings in (("plain", {}), ("shuffled", {"shuffle": 1})):
    convert(source, f"{sys.argv[1]}/{name}-{source.shape[0]}", memory="450MiB", **settings)
    print(peak_resident_bytes() >> 20)
"""


def test_memory_does_not_grow_with_rows(tmp_path):
    """120 and 480 MB of rows under a limit of 450 MiB for the whole process."""
    peaks = []
    for n_rows in (300_000, 1_200_000):
        command = [sys.executable, "-c", PEAK, str(tmp_path), str(n_rows)]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        peaks.append([int(line) for line in run.stdout.split()])
    (small_plain, small_shuffled), (large_plain, large_shuffled) = peaks
    assert large_shuffled <= 450
    assert large_plain - small_plain < 40
    assert large_shuffled - small_shuffled < 40
