"""``append``, ``update`` and ``watch``: stores that grow, and models that follow them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import nysstream
from nysstream.cli.main import main
from tests.cli.conftest import COMMAND, ENVIRONMENT
from tests.kills import is_killed


@pytest.fixture
def rows(tmp_path):
    """Write 300 rows as arrays: the first 240 become a store, 30 and 30 come later."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 6)).astype("f4")
    y = (X @ np.arange(6.0) + 0.1 * rng.standard_normal(300)).astype("f4")
    for name, part in (("a", slice(0, 240)), ("b", slice(240, 270)), ("c", slice(270, 300))):
        np.save(tmp_path / f"X{name}.npy", X[part])
        np.save(tmp_path / f"y{name}.npy", y[part])
    nysstream.convert(X[:240], str(tmp_path / "s.zarr"), target=y[:240], chunk_rows=32)
    return X, y


FITS = [("--solver", "gram"), ("--solver", "nystrom", "--rank", 4), ("--solver", "cg")]


@pytest.mark.parametrize("method", FITS, ids=lambda m: m[1])
def test_a_model_follows_its_store(cli, rows, method):
    X, y = rows
    done = cli("fit", "ridge", "s.zarr", *method, "--tol", "1e-9", "--keep-statistics", "--out", "m")
    assert done.code == 0, done.err
    done = cli("append", "s.zarr", "Xb.npy", "--target", "yb.npy", "--json")
    assert (done.code, done.json) == (0, {"store": "s.zarr", "n_rows": 270, "new_rows": 30})
    done = cli("update", "m", "s.zarr", "--json")
    assert done.code == 0, done.err
    assert (done.json["new_rows"], done.json["n_rows"], done.json["model"]) == (30, 270, "m")
    expected = nysstream.Ridge(tol=1e-9).fit(X[:270], y[:270])
    np.testing.assert_allclose(nysstream.load("m").coef_, expected.coef_, rtol=0, atol=1e-4)
    if "gram" in method:
        assert done.json["passes"] == pytest.approx(30 / 270)
    assert cli("append", "s.zarr", "Xc.npy", "--target", "yc.npy").code == 0
    done = cli("update", "m", "s.zarr", "--out", "n")
    assert "New rows" in done.out
    assert cli("update", "m", "s.zarr", "--out", "n").code == 2  # it is there
    assert nysstream.load("m").result_.stats["n_rows"] == 270
    assert nysstream.load("n").result_.stats["n_rows"] == 300


def test_updates_that_make_no_sense_are_refused(cli, rows):
    X, y = rows
    assert cli("fit", "ridge", "s.zarr", "--out", "plain").code == 0
    done = cli("update", "plain", "s.zarr")
    assert (done.code, "keeping them" in done.err) == (2, True)
    done = cli("fit", "ridge", "s.zarr", "--keep-statistics", "--cv", 3)
    assert (done.code, "leave out --cv" in done.err) == (2, True)
    assert cli("fit", "ridge", "s.zarr", "--keep-statistics", "--out", "m").code == 0
    nysstream.convert(X[:200], "other.zarr", target=y[:200])
    done = cli("update", "m", "other.zarr")
    assert (done.code, "fewer than the 240" in done.err) == (2, True)
    done = cli("append", "s.zarr", "Xb.npy")
    assert (done.code, "has an array y" in done.err) == (2, True)
    done = cli("append", "nowhere", "Xb.npy")
    assert (done.code, "holds no Zarr" in done.err) == (2, True)
    for options in (("--every", "0"), ("--until-rows", "0"), ("--for", "soon")):
        assert cli("watch", "m", "s.zarr", *options).code == 2


def test_watching_ends_where_it_is_told_to(cli, rows):
    assert cli("fit", "ridge", "s.zarr", "--keep-statistics", "--out", "m").code == 0
    done = cli("watch", "m", "s.zarr", "--for", "0.01", "--json")
    assert (done.code, done.json["updates"], done.json["n_rows"]) == (0, 0, 240)
    assert cli("append", "s.zarr", "Xb.npy", "--target", "yb.npy").code == 0
    done = cli("watch", "m", "s.zarr", "--until-rows", "270", "--every", "0.1s")
    assert done.code == 0
    assert done.out.startswith("270 rows, 30 of them new: 0.111 passes")
    assert nysstream.load("m").result_.stats["n_rows"] == 270


def test_a_watched_model_is_fresh_and_whole_until_the_interrupt(cli, rows, tmp_path):
    X, y = rows
    assert cli("fit", "ridge", "s.zarr", "--keep-statistics", "--out", "m").code == 0
    command = [*COMMAND, "watch", "m", "s.zarr", "--every", "0.05s", "--json"]
    settings = {"cwd": tmp_path, "env": ENVIRONMENT, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **settings) as watcher:
        for name, n_rows in (("b", 270), ("c", 300)):
            assert cli("append", "s.zarr", f"X{name}.npy", "--target", f"y{name}.npy").code == 0
            ends = time.monotonic() + 60
            while nysstream.load("m").result_.stats["n_rows"] < n_rows:
                assert time.monotonic() < ends
                assert watcher.poll() is None
        watcher.send_signal(signal.SIGINT)
        out, _ = watcher.communicate(timeout=60)
    assert watcher.returncode == 0
    assert '"updates": 2' in out
    expected = nysstream.Ridge().fit(X, y)
    np.testing.assert_allclose(nysstream.load("m").coef_, expected.coef_, rtol=0, atol=1e-5)


def test_a_model_that_was_saved_before_the_interrupt_counts(cli, rows, monkeypatch):
    assert cli("fit", "ridge", "s.zarr", "--keep-statistics", "--out", "m").code == 0
    assert cli("append", "s.zarr", "Xb.npy", "--target", "yb.npy").code == 0
    save = nysstream.Ridge.save

    def interrupted(model, *args, **kwargs):
        save(model, *args, **kwargs)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(nysstream.Ridge, "save", interrupted)
    ran = cli("watch", "m", "s.zarr", "--json")
    assert ran.code == 0
    assert (ran.json["updates"], ran.json["n_rows"]) == (1, 270)


def test_a_sketch_is_one_that_can_be_updated(cli, rows):
    X, _ = rows
    assert cli("sketch", "s.zarr", "--rank", 4, "--out", "k").code == 0
    sketch = nysstream.NystromSketch.load("k")
    assert (sketch.n_rows, sketch.watermark) == (240, 240)
    assert cli("append", "s.zarr", "Xb.npy", "--target", "yb.npy").code == 0
    assert sketch.update_from(nysstream.open("s.zarr", "x")) == 30
    whole = nysstream.NystromSketch(4)
    whole.update(X[:270])
    np.testing.assert_allclose(
        sketch.statistics.sketch,
        whole.statistics.sketch,
        rtol=0,
        atol=1e-4 * np.abs(whole.statistics.sketch).max(),
    )


def run(folder, *arguments):
    """Run a command in this process."""
    os.chdir(folder)
    sys.argv = ["nysstream", *arguments]
    assert main() in (None, 0)


def test_an_append_that_is_killed_and_begun_again(cli, rows, tmp_path):
    arguments = ["append", "s.zarr", "Xb.npy", "--target", "yb.npy", "--checkpoint", "c", "--resume"]
    for moment in (("begin", "after"), ("complete", "after"), ("finish", "before")):
        name = f"nysstream.sources.continuing:Continued.{moment[0]}"
        assert is_killed((name, 1, moment[1]), run, tmp_path, *arguments)
    assert nysstream.open("s.zarr", "x").shape[0] == 270  # published, and not known to be
    for _ in range(2):
        done = cli(*arguments, "--json")
        assert (done.code, done.json) == (0, {"store": "s.zarr", "n_rows": 270, "new_rows": 30})
    np.testing.assert_array_equal(nysstream.open("s.zarr", "x").read(slice(0, 270)), rows[0][:270])
    done = cli(*arguments[:-1])
    assert (done.code, "--resume goes on from it, --overwrite begins anew" in done.err) == (2, True)
    changed = cli("append", "s.zarr", "Xc.npy", "--target", "yc.npy", *arguments[-3:])
    assert (changed.code, "source was" in changed.err) == (1, True)
    done = cli(
        "append", "s.zarr", "Xc.npy", "--target", "yc.npy", "--checkpoint", "c", "--overwrite", "--json"
    )
    assert done.json["n_rows"] == 300
    done = cli(*arguments[:5], "--resume")
    assert (done.code, "give --checkpoint DIR" in done.err) == (2, True)
