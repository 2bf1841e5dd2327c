"""Checkpoints: what is recalled has the same bits, what cannot be used is refused, nothing is lost."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numcodecs
import numpy as np
import psutil
import pytest
import scipy.sparse
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from typer.testing import CliRunner
from zarr.codecs import Crc32cCodec, GzipCodec, TransposeCodec

import nysstream as ns
from nysstream.checkpoint import lasting_settings
from nysstream.cli.main import app
from nysstream.errors import CheckpointError, InputError, OutputExistsError
from nysstream.estimators import stochastic
from nysstream.journal import current_journal, journaling, key_of, unrecorded
from nysstream.sources.bundle import read_bundle, write_bundle
from nysstream.streaming import DesignMatrix, GramProduct, RowSample, reduce
from nysstream.trace import Trace, tracing
from tests.kills import is_killed


class Crash(Exception):
    """Raised by a callback in place of a power failure."""


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((3000, 30)) / np.arange(1, 31)
    y = X @ rng.standard_normal(30) + rng.standard_normal(3000)
    return X, y


def crash_after(number):
    def callback(progress):
        if progress.number > number:
            raise Crash

    return callback


def fit_in_pieces(make, X, y, place, **options):
    """Fit, crashing in the second pass, the fourth, and so on, until it comes to its end."""
    for number in range(1, 200, 2):
        model = make()
        model.callback = crash_after(number)
        try:
            with ns.checkpointing(place, resume=True, **options):
                return model.fit(X, y), number // 2
        except Crash:
            continue
    raise AssertionError


@pytest.mark.parametrize("every", [0.0, 3600.0])
def test_a_fit_in_pieces_has_the_bits_of_a_whole_one(tmp_path, data, every):
    def make():
        return ns.Ridge(1e-2, solver="nystrom", rank=10, tol=1e-10)

    whole = make().fit(*data)
    model, crashes = fit_in_pieces(make, *data, tmp_path / "c", every=every)
    assert crashes > 3
    np.testing.assert_array_equal(model.coef_, whole.coef_)
    assert model.intercept_ == whole.intercept_
    stats, expected = model.result_.stats, whole.result_.stats
    assert stats["passes"] == expected["passes"]
    assert stats["bytes_read"] == expected["bytes_read"]
    assert stats["passes_recalled"] >= stats["passes"] - 3
    assert expected["passes_recalled"] == 0


@pytest.mark.parametrize("settings", [{}, {"early_stopping": True}, {"solver": "sgd", "penalty": "l1"}])
def test_epochs_whose_losses_are_watched_are_recalled(tmp_path, data, settings):
    def make():
        return ns.SketchySGDRegressor(random_state=0, **settings)

    whole = make().fit(*data)
    model, crashes = fit_in_pieces(make, *data, tmp_path / "c")
    assert crashes > 1
    np.testing.assert_array_equal(model.coef_, whole.coef_)
    assert [h["loss"] for h in model.result_.history] == [h["loss"] for h in whole.result_.history]
    found, expected = model.result_.passes, whole.result_.passes
    assert [record.name for record in found] == [record.name for record in expected]
    assert sum(not record.recalled for record in found) <= 3


def test_a_finished_fit_is_recalled_without_a_read(tmp_path, data):
    class Counting(ns.RowSource):
        vector = sparse = False
        chunk_rows, name, fingerprint, dtype = 500, "counted", "0123", np.dtype(np.float64)
        shape = data[0].shape
        reads = 0

        def read(self, rows, out=None):
            type(self).reads += 1
            if out is None:
                return data[0][rows].copy()
            out[...] = data[0][rows]
            return out

    models = []
    reads = []
    for _ in range(2):
        with ns.checkpointing(tmp_path / "c", resume=True):
            models.append(ns.Ridge(1e-2, solver="nystrom", rank=10).fit(Counting(), data[1]))
        reads.append(Counting.reads)
    assert reads[1] == reads[0] > 0
    np.testing.assert_array_equal(models[0].coef_, models[1].coef_)


def test_a_limit_stops_a_run_and_the_next_goes_on(tmp_path, data):
    def make(limit):
        return ns.Ridge(1e-2, solver="nystrom", rank=10, tol=1e-10, max_passes=limit)

    place = tmp_path / "c"
    with ns.checkpointing(place), pytest.warns(Warning, match="pass limit"):
        make(4).fit(*data)
    with ns.checkpointing(place, resume=True):
        model = make(None).fit(*data)
    assert model.result_.stats["passes_recalled"] >= 3
    np.testing.assert_array_equal(model.coef_, make(None).fit(*data).coef_)


def test_the_method_does_not_change_with_the_memory(tmp_path, data):
    X, y = data
    place = tmp_path / "c"
    wide = "fourier:1200,length_scale=3"

    def make(memory):
        return ns.Ridge(1.0, features=wide, memory=memory, max_passes=40, tol=1e-4)

    first = make("2GiB")
    first.callback = crash_after(1)
    with pytest.raises(Crash), ns.checkpointing(place):
        first.fit(X, y)
    with ns.checkpointing(place, resume=True):
        second = make("3GiB").fit(X, y)
    chosen = json.loads((place / "entries" / "plan-0" / "zarr.json").read_text())["attributes"]["facts"]
    assert second.result_.stats["method"] == chosen["method"]
    assert second.result_.stats["passes_recalled"] == 1


@pytest.mark.parametrize("rank", ["auto", 7])
def test_sampled_rows_do_not_change_with_the_memory(tmp_path, data, monkeypatch, rank):
    X, labels = data[0], data[1] > 0

    def make():
        return ns.LogisticRegression(solver="sketchysvrg", rank=rank, random_state=0)

    def fit(sizes):
        # The memory decides how many of these numbers of rows are tried.
        monkeypatch.setattr(stochastic, "_sample_sizes", lambda design, rank: iter(sizes))
        with ns.checkpointing(tmp_path / "c", resume=True):
            return make().fit(X, labels)

    first, second = fit([900, 450]), fit([450])
    assert second.result_.stats["passes_recalled"] == second.result_.stats["passes"]
    np.testing.assert_array_equal(first.coef_, second.coef_)


def test_a_start_from_sampled_rows_does_not_change_with_the_memory(tmp_path, rng):
    zarr.save_array(tmp_path / "x.zarr", rng.standard_normal((8000, 300), dtype=np.float32))
    X = ns.open(str(tmp_path / "x.zarr"))
    y = X.read(slice(0, 8000))[:, 0] + rng.standard_normal(8000)

    def fit(memory):
        with ns.checkpointing(tmp_path / "c", resume=True):
            return ns.HuberRegressor(memory=memory).fit(X, y)

    first = fit("8GiB")
    # A little above the peak no memory is left for the sample.
    second = fit(ns.HuberRegressor().plan(X, y).budget.peak + (8 << 20))
    assert second.result_.stats["passes_recalled"] == second.result_.stats["passes"]
    np.testing.assert_array_equal(first.coef_, second.coef_)


def test_functions_remember_their_passes_too(tmp_path, data):
    X, y = data
    place = tmp_path / "c"
    records = []
    for _ in range(2):
        trace = Trace()
        with ns.checkpointing(place, resume=True), tracing(trace):
            found = ns.pcg(ns.gram(X), X.T @ y, shift=1.0, rtol=1e-10)
        records.append((found.value, [record.recalled for record in trace.passes]))
    np.testing.assert_array_equal(records[0][0], records[1][0])
    assert not any(records[0][1])
    assert all(records[1][1])


def test_sampled_sparse_rows_come_back(tmp_path):
    X = scipy.sparse.random_array((400, 30), density=0.1, rng=np.random.default_rng(0), format="csr")
    design = DesignMatrix(X)
    rows = np.arange(0, 400, 7)
    results = []
    for _ in range(2):
        with ns.checkpointing(tmp_path / "c", resume=True):
            results.append(reduce(design, RowSample(rows), GramProduct(np.eye(30))))
    for (sample, weight), product in results:
        np.testing.assert_array_equal(sample.toarray(), X[rows].toarray())
        np.testing.assert_array_equal(weight, np.ones(rows.size))
        np.testing.assert_array_equal(product, results[0][1])


def test_rows_in_memory_are_not_recorded(tmp_path, data):
    with ns.checkpointing(tmp_path / "c") as checkpoint, unrecorded():
        reduce(DesignMatrix(data[0]), GramProduct(np.eye(30)))
        assert current_journal() is None
    assert checkpoint.n_kept == 0


def test_an_interrupt_writes_what_was_waiting(tmp_path, data):
    model = ns.Ridge(1e-2, solver="nystrom", rank=10)
    model.callback = crash_after(3)
    with pytest.raises(Crash), ns.checkpointing(tmp_path / "c", every=3600.0):
        model.fit(*data)
    names = {
        json.loads((path / "zarr.json").read_text())["attributes"]["name"]
        for path in (tmp_path / "c" / "entries").iterdir()
    }
    assert {"plan", "set-up"} < names


SIGNALLED = """
import os, signal, sys, time
import nysstream.cli.running as running
from nysstream.checkpoint import Checkpoint
from nysstream.journal import Entry

write = Checkpoint._write

def slowly(self, *arguments):
    Checkpoint._write = write
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.1)
    write(self, *arguments)

def job():
    with running.checkpointed(sys.argv[1], 3600.0, resume=False, overwrite=False) as outputs:
        outputs.journal.keep("k", "n", Entry(facts={"a": 1}))
        Checkpoint._write = slowly
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

try:
    running.command(job)()
except running.typer.Exit as end:
    sys.exit(end.exit_code)
"""


def test_a_second_signal_waits_for_what_the_first_left_to_be_written(tmp_path):
    place = tmp_path / "c"
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, str(place)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.count("go on with --resume")) == (3, 1), done.stderr
    assert (place / "entries" / "k").exists()


# What is refused.


def test_a_checkpoint_is_not_overwritten_by_accident(tmp_path, data):
    place = tmp_path / "c"
    with ns.checkpointing(place):
        ns.Ridge().fit(*data)
    with pytest.raises(OutputExistsError, match="resume=True goes on"), ns.checkpointing(place):
        pass
    with ns.checkpointing(place, overwrite=True) as checkpoint:
        assert not checkpoint.resumed
    assert not (place / "entries").exists()
    with ns.checkpointing(place, resume=True):
        ns.Ridge().fit(*data)
    with ns.checkpointing(place, resume=True, overwrite=True) as checkpoint:
        assert checkpoint.resumed
    assert (place / "entries").exists()


def test_what_is_no_checkpoint_is_left_alone(tmp_path, data):
    folder = tmp_path / "holiday"
    folder.mkdir()
    (folder / "photo.jpg").write_bytes(b"sea")
    model = tmp_path / "model.zarr"
    ns.Ridge().fit(*data).save(model)
    for place in (folder, model):
        for option in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(OutputExistsError, match="no checkpoint"), ns.checkpointing(place, **option):
                pass
    assert (folder / "photo.jpg").read_bytes() == b"sea"
    assert ns.load(model).coef_.shape == (30,)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"alpha": 2.0}, "alpha was 1.0, now 2.0"),
        ({"random_state": 1}, "random_state was 0, now 1"),
        ({"precision": "double"}, "precision"),
        ({"features": "fourier:20"}, "features"),
    ],
)
def test_other_settings_are_refused(tmp_path, data, change, named):
    place = tmp_path / "c"
    with ns.checkpointing(place):
        ns.Ridge().fit(*data)
    before = sorted((place / "entries").iterdir())
    model = ns.Ridge().set_params(**change)
    with pytest.raises(CheckpointError, match=named), ns.checkpointing(place, resume=True):
        model.fit(*data)
    assert sorted((place / "entries").iterdir()) == before


def test_another_estimator_or_other_data_are_refused(tmp_path, data):
    X, y = data
    place = tmp_path / "c"
    with ns.checkpointing(place):
        ns.Ridge().fit(X, y)
    with (
        pytest.raises(CheckpointError, match="estimator was Ridge, now Lasso"),
        ns.checkpointing(place, resume=True),
    ):
        ns.Lasso().fit(X, y)
    other = X.copy()
    other[0] += 1
    with pytest.raises(CheckpointError, match="X was"), ns.checkpointing(place, resume=True):
        ns.Ridge().fit(other, y)
    with pytest.raises(CheckpointError, match="y was"), ns.checkpointing(place, resume=True):
        ns.Ridge().fit(X, y + 1)


def test_random_numbers_must_be_fixed(tmp_path, data):
    with pytest.raises(InputError, match="random_state=None"), ns.checkpointing(tmp_path / "c"):
        ns.Ridge(random_state=None).fit(*data)


def entry_of(place, name):
    for path in sorted((place / "entries").iterdir()):
        if json.loads((path / "zarr.json").read_text())["attributes"].get("name") == name:
            return path
    raise AssertionError(name)


@pytest.mark.parametrize("damage", ["truncated", "edited", "missing", "metadata", "facts"])
def test_damage_is_noticed_and_named(tmp_path, data, damage):
    place = tmp_path / "c"
    make = ns.Ridge
    with ns.checkpointing(place):
        whole = make().fit(*data)
    entry = entry_of(place, "set-up")
    chunk, metadata = entry / "c" / "0", entry / "zarr.json"
    content = chunk.read_bytes()
    if damage == "truncated":
        chunk.write_bytes(content[:-1])
    elif damage == "edited":
        chunk.write_bytes(content[:99] + bytes([content[99] ^ 1]) + content[100:])
    elif damage == "missing":
        chunk.unlink()
    elif damage == "metadata":
        metadata.write_text(metadata.read_text()[:-20])
    else:
        metadata.write_text(metadata.read_text().replace('"rows": 3000', '"rows": 3001'))
    with (
        pytest.raises(CheckpointError, match=f"{entry}.*begin anew"),
        ns.checkpointing(place, resume=True),
    ):
        make().fit(*data)
    for path in sorted(entry.rglob("*"), reverse=True):  # as the message advises
        path.rmdir() if path.is_dir() else path.unlink()
    entry.rmdir()
    with ns.checkpointing(place, resume=True):
        np.testing.assert_array_equal(make().fit(*data).coef_, whole.coef_)


@pytest.mark.parametrize(
    "error",
    [MemoryError("Unable to allocate 8 GiB"), ConnectionError("reset"), PermissionError(13, "denied")],
)
def test_what_cannot_be_read_is_not_called_damaged(tmp_path, data, error, monkeypatch):
    place = tmp_path / "c"
    with ns.checkpointing(place):
        ns.Ridge().fit(*data)

    def read(_):
        raise error

    monkeypatch.setattr("nysstream.checkpoint.read_bundle", read)
    with (
        pytest.raises(CheckpointError, match=r"cannot be read: (?!.*Remove)"),
        ns.checkpointing(place, resume=True),
    ):
        ns.Ridge().fit(*data)


def test_settings_that_are_arrays_are_told_apart():
    lower = np.arange(2000.0)
    described = []
    for change in (0.0, 0.0, 1e-12):
        other = lower.copy()
        other[1000] += change
        described.append(lasting_settings(ns.BoundedRegression(lower=other))["lower"])
    assert described[0] == described[1] != described[2]
    assert len(described[0]) < 200
    assert lasting_settings(ns.Ridge(alpha=2.0))["alpha"] == "2.0"


def test_an_entry_whose_last_write_did_not_happen_is_made_again(tmp_path, data):
    place = tmp_path / "c"
    with ns.checkpointing(place):
        whole = ns.Ridge().fit(*data)
    metadata = entry_of(place, "set-up") / "zarr.json"
    content = json.loads(metadata.read_text())
    content["attributes"] = {}
    metadata.write_text(json.dumps(content))
    with ns.checkpointing(place, resume=True):
        model = ns.Ridge().fit(*data)
    np.testing.assert_array_equal(model.coef_, whole.coef_)
    assert model.result_.stats["passes_recalled"] == model.result_.stats["passes"] - 1


def test_a_place_that_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(CheckpointError, match="cannot be written"),
        ns.checkpointing(tmp_path / "file" / "c"),
    ):
        pass
    if os.getuid():  # nothing is read-only for root
        folder = tmp_path / "locked"
        folder.mkdir(mode=0o500)
        with pytest.raises(CheckpointError, match="cannot be written"), ns.checkpointing(folder / "c"):
            pass


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, data):
    place = tmp_path / "c"

    def make():
        return ns.Ridge(1e-2, solver="nystrom", rank=10, tol=1e-10)

    model = make()
    model.callback = crash_after(4)
    with pytest.raises(Crash), ns.checkpointing(place):
        model.fit(*data)
    before = sorted(path.name for path in (place / "entries").iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, limits[1]))  # no file may grow beyond it
    try:
        with (
            pytest.raises(CheckpointError, match="What was written before is whole"),
            ns.checkpointing(place, resume=True),
        ):
            make().fit(*data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert sorted(path.name for path in (place / "entries").iterdir()) == before
    with ns.checkpointing(place, resume=True):
        resumed = make().fit(*data)
    np.testing.assert_array_equal(resumed.coef_, make().fit(*data).coef_)


# Who may use it.

HOLDER = """
import os, sys, time
import nysstream
with nysstream.checkpointing(sys.argv[1], resume=True):
    if sys.argv[2] == "fork" and os.fork() == 0:
        print("child", flush=True)
        time.sleep(60)
    print("open", flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def holding(place, how="alone"):
    command = [sys.executable, "-c", HOLDER, str(place), how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for _ in range(2 if how == "fork" else 1):
            assert process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()
            process.stdout.close()


def test_a_checkpoint_is_used_by_one_process(tmp_path):
    place = tmp_path / "c"
    with holding(place) as process:
        for options in ({}, {"resume": True}, {"overwrite": True}):
            with (
                pytest.raises(CheckpointError, match=f"is being written by process {process.pid} on"),
                ns.checkpointing(place, **options),
            ):
                pass
    with ns.checkpointing(place, resume=True) as checkpoint:
        assert checkpoint.resumed
        with pytest.raises(CheckpointError, match="is being written"), ns.checkpointing(place, resume=True):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_jobs_go_on_on_another_machine(tmp_path):
    (tmp_path / ".c.running").write_text(json.dumps({"pid": 1, "host": "node17"}))
    with ns.checkpointing(tmp_path / "c", resume=True):
        pass


def test_forked_children_do_not_hold_what_their_parent_held(tmp_path):
    place = tmp_path / "c"
    with holding(place, "fork") as process:
        (child,) = psutil.Process(process.pid).children()
        try:
            process.kill()
            process.wait()
            with ns.checkpointing(place, resume=True):
                pass
            assert child.is_running()
        finally:
            child.kill()


def test_a_child_that_leaves_the_block_leaves_the_lock(tmp_path):
    place = tmp_path / "c"
    code = (
        "import os, sys, nysstream\n"
        "with nysstream.checkpointing(sys.argv[1]):\n"
        "    child = os.fork()\n"
        "    if child:\n"
        "        os.waitpid(child, 0)\n"
        "        assert os.path.exists(sys.argv[2])\n"
    )
    subprocess.run([sys.executable, "-c", code, str(place), str(tmp_path / ".c.running")], check=True)


def test_file_systems_without_locks_keep_checkpoints(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("nysstream.sources.locking.fcntl.flock", flock)
    with ns.checkpointing(tmp_path / "c"):
        pass


def test_a_run_that_began_at_the_same_time_is_compared_with(data):
    place = "memory://checkpoints/twice"
    with ns.checkpointing(place) as one, ns.checkpointing(place, resume=True):
        with journaling(one):
            ns.Ridge(alpha=1.0).fit(*data)
        with pytest.raises(CheckpointError, match=r"alpha was 1\.0, now 5\.0"):
            ns.Ridge(alpha=5.0).fit(*data)


def test_beginning_anew_leaves_a_checkpoint_when_it_is_killed(tmp_path, data, monkeypatch):
    place = tmp_path / "c"
    with ns.checkpointing(place):
        ns.Ridge().fit(*data)

    class Killed(BaseException):
        pass

    def rmtree(path, **_):
        (Path(path) / "zarr.json").unlink(missing_ok=True)
        raise Killed

    monkeypatch.setattr("shutil.rmtree", rmtree)
    with pytest.raises(Killed), ns.checkpointing(place, overwrite=True):
        pass
    monkeypatch.undo()
    with ns.checkpointing(place, resume=True) as checkpoint:
        assert checkpoint.resumed


# Entries at rest.

_DTYPES = ["f8", "f4", "i8", "i4", "u1", "?"]


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_bundles_give_back_what_they_were_given(tmp_path_factory, data):
    arrays = {
        f"a{i}": data.draw(
            hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5))
        )
        for i, dtype in enumerate(data.draw(st.lists(st.sampled_from(_DTYPES), max_size=4)))
    }
    dense = data.draw(hnp.arrays(np.int64, (3, 4), elements=st.integers(0, 1)))
    arrays["sparse"] = scipy.sparse.csr_array(dense)
    place = str(tmp_path_factory.mktemp("bundle") / "b")
    write_bundle(place, None, arrays, {"n": 1, "x": [None, 0.1]}, name="test")
    found = read_bundle(zarr.open_array(place, mode="r"))
    assert found is not None
    assert found[1] == {"n": 1, "x": [None, 0.1]}
    np.testing.assert_array_equal(found[0].pop("sparse").toarray(), dense)
    del arrays["sparse"]
    assert found[0].keys() == arrays.keys()
    for name, expected in arrays.items():
        np.testing.assert_array_equal(found[0][name], expected)
        assert np.asarray(found[0][name]).dtype == expected.dtype


def test_bundles_larger_than_a_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr("nysstream.sources.bundle._CHUNK", 256)
    arrays = {"a": np.arange(1001.0), "b": np.arange(7, dtype=np.int8), "c": np.arange(333.0)}
    write_bundle(str(tmp_path / "b"), None, arrays, {}, name="test")
    found = read_bundle(zarr.open_array(str(tmp_path / "b"), mode="r"))
    assert found is not None
    for name, expected in arrays.items():
        np.testing.assert_array_equal(found[0][name], expected)


@pytest.mark.parametrize(
    "stored",
    [
        {"compressors": [GzipCodec()]},
        {"compressors": [Crc32cCodec()]},
        {"filters": [TransposeCodec(order=(0,))]},
        {"chunks": (1 << 22,)},
        {"chunks": (64,), "shards": (1024,)},
        {"zarr_format": 2, "filters": [numcodecs.Pickle()]},
        {"zarr_format": 2, "compressors": numcodecs.GZip()},
    ],
)
def test_a_bundle_is_stored_as_it_is(tmp_path, stored, monkeypatch):
    write_bundle(str(tmp_path / "b"), None, {"a": np.arange(128.0)}, {}, name="test")
    bundle = zarr.open_array(str(tmp_path / "b"), mode="r")
    options = {"shape": (1024,), "dtype": "u1", "chunks": (1024,), "compressors": None, "zarr_format": 3}
    other = zarr.create_array(tmp_path / "c", **(options | stored))
    other.update_attributes(dict(bundle.attrs))
    for i in range(9):
        (tmp_path / "c" / f"pad{i}").write_bytes(bytes(1024))  # it takes as much as it should

    def decode(*_):
        pytest.fail("it was read")

    monkeypatch.setattr(zarr.Array, "__getitem__", decode)
    with pytest.raises(ValueError, match="compressed or cut up"):
        read_bundle(other)


def test_keys_are_the_same_in_another_process(data):
    code = (
        "import numpy as np; from nysstream.journal import key_of; from nysstream.losses import Logistic;"
        "from nysstream.streaming import LossSums, Outcome;"
        "print(key_of(LossSums(Outcome(Logistic(), np.arange(2)), np.ones((4, 2)), np.zeros(2)), 'x', 1.5))"
    )
    keys = {
        subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        ).stdout.strip()
        for _ in range(2)
    }
    assert len(keys) == 1
    assert key_of(np.arange(3)) != key_of(np.arange(3.0))


# The command line.


def run(*arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "nysstream", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


def run_here(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Write a store whose passes take a moment."""
    from benchmarks.soak import write_data

    folder = tmp_path_factory.mktemp("soak")
    write_data(folder, n_rows=100_000)
    return folder / "data.zarr"


def fit_arguments(store):
    return ["fit", "ridge", store, "--data", "x", "--solver", "cg", "--alpha", "1e-3", "--tol", "1e-10",
            "--threads", "1", "--json"]  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(store):
    """Fit without a checkpoint."""
    process = run(*fit_arguments(store), "--out", store.with_name("whole.zarr"))
    process.communicate(timeout=120)
    assert process.returncode == 0
    return ns.load(store.with_name("whole.zarr"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, None], ids=["SIGTERM", "Ctrl-C", "job"])
def test_a_signal_leaves_a_checkpoint_and_exit_code_3(tmp_path, store, undisturbed, number):
    place = tmp_path / "c"
    arguments = [*fit_arguments(store), "--checkpoint", place, "--resume", "--out", tmp_path / "m.zarr"]
    if number is None:  # scripts run what they put in the background with Ctrl-C ignored
        number, ignoring = signal.SIGTERM, partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
        process = run(*arguments, preexec_fn=ignoring)
    else:
        process = run(*arguments)
    until = time.monotonic() + 60
    while time.monotonic() < until and len(list(place.glob("entries/[!.]*"))) < 4:
        time.sleep(0.01)
    process.send_signal(number)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 3, complaint
    resumed, complaint = (again := run(*arguments)).communicate(timeout=120)
    assert again.returncode == 0, complaint
    assert json.loads(resumed)["passes_recalled"] > 0
    np.testing.assert_array_equal(ns.load(tmp_path / "m.zarr").coef_, undisturbed.coef_)


def fit_on_the_command_line(*arguments):
    """Run in this process; for processes that are killed."""
    from nysstream.cli.main import main

    sys.argv = ["nysstream", *map(str, arguments)]
    main()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_run_killed_as_it_saves_its_model_is_gone_on_with(tmp_path, store, moment):
    arguments = [*fit_arguments(store), "--checkpoint", tmp_path / "c", "--resume",
                 "--out", tmp_path / "m.zarr"]  # fmt: skip
    saving = ("nysstream.estimators.ridge:Ridge.save", 1, moment)
    assert is_killed(saving, fit_on_the_command_line, *arguments)
    assert (tmp_path / "m.zarr").exists() == (moment == "after")
    again = run(*arguments)
    resumed, complaint = again.communicate(timeout=120)
    assert again.returncode == 0, complaint
    assert json.loads(resumed)["passes_recalled"] > 0


def test_time_limited_jobs_chain(tmp_path, store):
    arguments = [*fit_arguments(store), "--out", tmp_path / "m.zarr",
                 "--checkpoint", tmp_path / "c", "--resume"]  # fmt: skip
    found = []
    for limit, code in (("0.3", 3), ("60", 0)):
        process = run(*arguments, "--time-limit", limit)
        output, complaint = process.communicate(timeout=120)
        assert process.returncode == code, complaint
        found.append(json.loads(output))
    assert [stats["status"] for stats in found] == ["time_limit", "converged"]
    assert found[0]["passes_recalled"] == 0 < found[1]["passes_recalled"]


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--resume"], "give --checkpoint DIR"), (["--checkpoint-every", "5min"], "give --checkpoint DIR")],
)
def test_options_that_need_a_checkpoint(tmp_path, store, options, said):
    result = run_here("fit", "ridge", store, "--data", "x", *options)
    assert result.exit_code == 2
    assert said in result.stderr


def test_changed_options_are_refused_in_their_spelling(tmp_path, store):
    place = tmp_path / "c"
    base = ["fit", "ridge", store, "--data", "x", "--checkpoint", place]
    assert run_here(*base).exit_code == 0
    for options, said in (
        ([], "--resume goes on from it, --overwrite begins anew"),
        (["--resume", "--alpha", "5"], "alpha was"),
    ):
        result = run_here(*base, *options)
        assert result.exit_code in (1, 2)
        assert said in result.stderr
        assert Path(place).exists()


def test_nothing_differs_after_kills_at_random_moments():
    """Every solver, a few kills each: the short form of ``make soak``."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", "--kills", "2"],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=290,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads(done.stdout)
    assert found["kills"] >= 50
    assert found["different"] == []
    assert found["passes_recalled"] > 0


@pytest.mark.parametrize("kind", ["s3", "memory"])
def test_a_checkpoint_in_object_storage(request, data, kind):
    place = f"{request.getfixturevalue('s3')}/c" if kind == "s3" else "memory://checkpoints/c"
    make = partial(ns.Ridge, 1e-2, solver="nystrom", rank=10)
    whole = make().fit(*data)
    model, crashes = fit_in_pieces(make, *data, place)
    assert crashes > 1
    np.testing.assert_array_equal(model.coef_, whole.coef_)
    with pytest.raises(OutputExistsError), ns.checkpointing(place):
        pass
    with ns.checkpointing(place, overwrite=True) as checkpoint:
        make().fit(*data)
    assert checkpoint.n_recalled == 0 < checkpoint.n_kept
