"""Conversions that are cut short and gone on with: the same bytes, and no row copied twice."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
import scipy.sparse
import zarr

import nysstream as ns
from nysstream.errors import CheckpointError, InputError, OutputExistsError, SourceError
from nysstream.sources import ArraySource, CSRSource, continuing, csr_converting, csr_writing, staging
from nysstream.sources.converting import convert
from tests.kills import Crash, crash_at

N_ROWS, CHUNK = 1000, 64


@pytest.fixture
def truth(rng):
    return rng.standard_normal((N_ROWS, 4)), rng.standard_normal(N_ROWS)


@pytest.fixture(autouse=True)
def noted_often(monkeypatch):
    """Small blocks, of which each is noted."""
    monkeypatch.setattr(continuing, "_SECONDS", 0.0)
    monkeypatch.setattr("nysstream.sources.converting.BLOCK_BYTES", 2000)
    monkeypatch.setattr(csr_converting, "BLOCK_ENTRIES", 300)
    monkeypatch.setattr(csr_writing, "CHUNK_BYTES", 1024)


def files_of(place):
    """Give what is stored, but for the name of the job that wrote it."""
    files = {path.relative_to(place): path.read_bytes() for path in place.rglob("*") if path.is_file()}
    root = json.loads((place / "zarr.json").read_text())
    root["attributes"].pop("written_by", None)
    return files | {Path("zarr.json"): root}


def inputs(kind, folder, x, y):
    """Give what is converted, and how."""
    if kind == "csv":
        pyarrow.csv.write_csv(pa.table({**{f"c{j}": x[:, j] for j in range(4)}, "y": y}), folder / "t.csv")
        return folder / "t.csv", {"target": "y"}
    if kind == "sparse":
        return scipy.sparse.csr_array(np.where(x > 0.3, x, 0.0)), {"target": y}
    return x, {"target": y, "weight": y**2, **({"shuffle": 3} if kind == "shuffled" else {})}


@pytest.mark.parametrize("kind", ["dense", "shuffled", "csv", "sparse"])
def test_a_conversion_in_pieces_has_the_bytes_of_a_whole_one(tmp_path, truth, kind, monkeypatch):
    monkeypatch.setattr("nysstream.sources.tables.CSV_BLOCK_BYTES", 4096)
    source, settings = inputs(kind, tmp_path, *truth)
    settings |= {"chunk_rows": CHUNK, "codec": "zstd"}
    whole = convert(source, tmp_path / "whole", **settings)
    target, place = tmp_path / "out", tmp_path / "c"
    for row in (1, 200, 201, 470, 900):
        with pytest.raises(Crash), ns.checkpointing(place, resume=True):
            convert(source, target, **settings, progress=crash_at(row))
        assert not target.exists()
    first = []
    with ns.checkpointing(place, resume=True) as checkpoint:
        made = convert(source, target, **settings, progress=lambda done, _: first.append(done))
    assert checkpoint.n_recalled == 2  # before it was the only writer, and after
    assert first[0] > 300  # much was there
    assert (made.n_rows, made.chunk_rows, made.nnz) == (whole.n_rows, whole.chunk_rows, whole.nnz)
    assert files_of(target) == files_of(tmp_path / "whole")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    # Once more: there is nothing to do.
    with ns.checkpointing(place, resume=True):
        again = convert(source, target, **settings, progress=crash_at(0))
    assert again == made


class Counting(ArraySource):
    """Rows that tell which of them were read."""

    reads: list[slice]

    def read(self, rows, out=None):
        if rows.stop - rows.start > 1:
            self.reads.append(rows)
        return super().read(rows, out)


def test_rows_that_were_written_are_not_read_again(tmp_path, truth):
    source = Counting(truth[0])
    source.reads = []
    with pytest.raises(Crash), ns.checkpointing(tmp_path / "c"):
        convert(source, tmp_path / "out", chunk_rows=CHUNK, progress=crash_at(500))
    source.reads.clear()
    with ns.checkpointing(tmp_path / "c", resume=True):
        assert source.fingerprint
        source.reads.clear()
        convert(source, tmp_path / "out", chunk_rows=CHUNK)
    copied = [rows for rows in source.reads if rows.stop - rows.start < 100]
    assert min(rows.start for rows in copied) >= 500 - 2 * CHUNK
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "out" / "x", mode="r")[:], truth[0])


def crash_as_it_appears(tmp_path, truth, monkeypatch, between):
    real = staging._publish

    def crash(partial, target, *args, **kwargs):
        if target.name != "out" or between == "after it appeared":
            real(partial, target, *args, **kwargs)
        if target.name == "out":
            raise Crash

    with monkeypatch.context() as patch:
        patch.setattr(staging, "_publish", crash)
        with pytest.raises(Crash), ns.checkpointing(tmp_path / "c"):
            convert(truth[0], tmp_path / "out", chunk_rows=CHUNK)


@pytest.mark.parametrize("between", ["before it appeared", "after it appeared"])
def test_a_crash_at_the_very_end(tmp_path, truth, between, monkeypatch):
    crash_as_it_appears(tmp_path, truth, monkeypatch, between)
    with ns.checkpointing(tmp_path / "c", resume=True):
        convert(truth[0], tmp_path / "out", chunk_rows=CHUNK)
    convert(truth[0], tmp_path / "whole", chunk_rows=CHUNK)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("exchanged", [True, False])
@pytest.mark.parametrize("overwrite", [True, False])
def test_killed_while_the_old_output_was_removed(tmp_path, truth, overwrite, exchanged, monkeypatch):
    convert(truth[0] + 1, tmp_path / "out", chunk_rows=CHUNK)
    with monkeypatch.context() as patch:
        if not exchanged:
            patch.setattr(staging, "_exchange", lambda *_: False)
        patch.setattr(staging, "shutil", Unable(tmp_path / "out"))
        with pytest.raises(Crash), ns.checkpointing(tmp_path / "c"):
            convert(truth[0], tmp_path / "out", chunk_rows=CHUNK, overwrite=True)
    assert [path for path in tmp_path.glob(".out.*") if path.is_dir()]
    before = files_of(tmp_path / "out")
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "out" / "x", mode="r")[:], truth[0])
    with ns.checkpointing(tmp_path / "c", resume=True):
        made = convert(
            truth[0], tmp_path / "out", chunk_rows=CHUNK, overwrite=overwrite, progress=crash_at(0)
        )
    assert (made.n_rows, files_of(tmp_path / "out")) == (N_ROWS, before)
    assert not list(tmp_path.glob(".out.*"))


class Unable:
    """Removes no store once the new one is in its place."""

    def __init__(self, target):
        self.target = target

    def rmtree(self, path, **options):
        if path.name.startswith(".out.") and "written_by" in (self.target / "zarr.json").read_text():
            raise Crash
        shutil.rmtree(path, **options)


def test_what_others_left_beside_an_output_is_not_published(tmp_path, truth):
    with pytest.raises(Crash), ns.checkpointing(tmp_path / "c"):
        convert(truth[0], tmp_path / "out", chunk_rows=CHUNK, progress=crash_at(500))
    (begun,) = tmp_path.glob(".out.partial-*")
    shutil.rmtree(begun)
    convert(truth[0] + 1, begun, chunk_rows=CHUNK)
    with ns.checkpointing(tmp_path / "c", resume=True):
        convert(truth[0], tmp_path / "out", chunk_rows=CHUNK)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "out" / "x", mode="r")[:], truth[0])


def test_an_output_that_others_replaced_is_not_taken_for_ours(tmp_path, truth, monkeypatch):
    crash_as_it_appears(tmp_path, truth, monkeypatch, "after it appeared")
    convert(truth[0] + 1, tmp_path / "out", chunk_rows=CHUNK, overwrite=True)
    with pytest.raises(OutputExistsError), ns.checkpointing(tmp_path / "c", resume=True):
        convert(truth[0], tmp_path / "out", chunk_rows=CHUNK)
    with ns.checkpointing(tmp_path / "c", resume=True):
        convert(truth[0], tmp_path / "out", chunk_rows=CHUNK, overwrite=True)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "out" / "x", mode="r")[:], truth[0])


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_a_place_at_a_url_that_others_have_written_to(tmp_path, truth, kind):
    source, settings = inputs(kind, tmp_path, *truth)
    url, settings = f"memory://{tmp_path.name}/out", settings | {"chunk_rows": CHUNK}
    with pytest.raises(Crash), ns.checkpointing(tmp_path / "c"):
        convert(source, url, **settings, progress=crash_at(500))
    convert(source * 2, url, **settings, overwrite=True)
    with (
        pytest.raises(CheckpointError, match=r"written by another job .* overwrite=True"),
        ns.checkpointing(tmp_path / "c", resume=True),
    ):
        convert(source, url, **settings)
    for _ in range(2):  # done already, it does nothing
        with ns.checkpointing(tmp_path / "c", resume=True):
            convert(source, url, **settings, overwrite=True)
        found = ns.open(url, "x").read(slice(0, N_ROWS))
        assert abs(found - source).max() == 0
    ns.append(
        url, source[:3], **{"y": truth[1][:3]}, **({} if kind == "sparse" else {"weight": truth[1][:3]})
    )
    with ns.checkpointing(tmp_path / "c", resume=True):
        convert(source, url, **settings)
    assert ns.open(url, "x").shape[0] == N_ROWS + 3


def test_what_was_begun_may_be_gone(tmp_path, truth):
    with pytest.raises(Crash), ns.checkpointing(tmp_path / "c"):
        convert(truth[0], tmp_path / "out", chunk_rows=CHUNK, progress=crash_at(500))
    (begun,) = tmp_path.glob(".out.partial-*")
    begun.rename(tmp_path / "elsewhere")
    with ns.checkpointing(tmp_path / "c", resume=True):
        convert(truth[0], tmp_path / "out", chunk_rows=CHUNK)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "out" / "x", mode="r")[:], truth[0])


def test_another_conversion_is_refused(tmp_path, truth):
    x, y = truth
    with pytest.raises(Crash), ns.checkpointing(tmp_path / "c"):
        convert(x, tmp_path / "out", chunk_rows=CHUNK, progress=crash_at(500))
    for other, settings, said in (
        (x + 1, {}, "source was"),
        (x, {"codec": "none"}, "codec was blosc-lz4, now none"),
        (x, {"target": y}, "arrays was"),
        (x, {"rows": slice(1, 900)}, "rows was"),
    ):
        with (
            pytest.raises(CheckpointError, match=said),
            ns.checkpointing(tmp_path / "c", resume=True),
        ):
            convert(other, tmp_path / "out", **{"chunk_rows": CHUNK, **settings})
    with (
        pytest.raises(CheckpointError, match="output was"),
        ns.checkpointing(tmp_path / "c", resume=True),
    ):
        convert(x, tmp_path / "other", chunk_rows=CHUNK)


def test_hdf5_and_a_taken_place_are_refused(tmp_path, truth):
    rows = CSRSource(scipy.sparse.csr_array(truth[0]))
    with (
        pytest.raises(InputError, match="HDF5 file cannot be gone on with"),
        ns.checkpointing(tmp_path / "c"),
    ):
        convert(rows, tmp_path / "out.h5")
    convert(truth[0], tmp_path / "out")
    with pytest.raises(OutputExistsError), ns.checkpointing(tmp_path / "d"):
        convert(truth[0], tmp_path / "out")


def test_two_writers_of_one_output(tmp_path, truth):
    def again(*_):
        with ns.checkpointing(tmp_path / "other", resume=True):
            convert(truth[0], tmp_path / "out", chunk_rows=CHUNK)

    with pytest.raises(SourceError, match="is being written by"), ns.checkpointing(tmp_path / "c"):
        convert(truth[0], tmp_path / "out", chunk_rows=CHUNK, progress=again)


@pytest.mark.parametrize("kind", ["dense", "sparse"])
@pytest.mark.parametrize("where", ["s3", "memory"])
def test_object_storage(request, tmp_path, truth, kind, where):
    base = f"memory://{tmp_path.name}" if where == "memory" else request.getfixturevalue("s3")
    source, settings = inputs(kind, tmp_path, *truth)
    for row in (1, 500):
        with pytest.raises(Crash), ns.checkpointing(tmp_path / "c", resume=True):
            convert(source, f"{base}/out", **settings, chunk_rows=CHUNK, progress=crash_at(row))
    assert ns.open(f"{base}/out", "x").shape[0] == 0
    first = []
    with ns.checkpointing(tmp_path / "c", resume=True):
        convert(
            source, f"{base}/out", **settings, chunk_rows=CHUNK, progress=lambda done, _: first.append(done)
        )
    assert first[0] > 300
    x, y = ns.open(f"{base}/out", "x"), ns.open(f"{base}/out", "y")
    found = x.read(slice(0, N_ROWS))
    if kind == "sparse":
        np.testing.assert_array_equal(found.toarray(), source.toarray())
    else:
        np.testing.assert_array_equal(found, source)
    np.testing.assert_array_equal(y.read(slice(0, N_ROWS))[:, 0], truth[1])


SLOW = """
import sys, time
import numpy as np
import nysstream as ns
from nysstream.sources import ArraySource, continuing, converting
continuing._SECONDS, converting.BLOCK_BYTES = 0.0, 8_000
class Slow(ArraySource):
    def read(self, rows, out=None):
        if 1 < rows.stop - rows.start <= 100:  # not what is sampled
            time.sleep(0.01)
            print(rows.start, flush=True)
        return super().read(rows, out)
with ns.checkpointing(sys.argv[1], resume=True):
    x = np.random.default_rng(0).standard_normal((10_000, 10))
    ns.convert(Slow(x), sys.argv[2], chunk_rows=120, codec="zstd")
"""


def test_kills(tmp_path):
    place, target = tmp_path / "c", tmp_path / "out"
    starts = []
    for n_reads in (20, 35):
        process = subprocess.Popen(
            [sys.executable, "-c", SLOW, place, target], stdout=subprocess.PIPE, text=True
        )
        lines = [int(process.stdout.readline()) for _ in range(n_reads)]
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=60) == -signal.SIGKILL
        process.stdout.close()
        starts.append(lines[0])
    assert starts[0] == 0 < starts[1]
    x = np.random.default_rng(0).standard_normal((10_000, 10))
    convert(x, tmp_path / "whole", chunk_rows=120, codec="zstd")
    with ns.checkpointing(place, resume=True):
        convert(x, target, chunk_rows=120, codec="zstd")
    assert files_of(target) == files_of(tmp_path / "whole")
    assert not list(tmp_path.glob(".out.partial*"))
