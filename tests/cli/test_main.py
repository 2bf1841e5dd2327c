"""What only a real process shows: interrupts, terminals, start-up."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import nysstream
from nysstream.sources.converting import convert
from tests.cli.conftest import COMMAND, ENVIRONMENT

#: Slow enough to be interrupted: a pass takes a second or so, and the tolerance is never met.
ENDLESS = [
    "--features", "fourier:400,length_scale=3", "--solver", "cg", "--tol", "0", "--alpha", "1e-9",
    "--precision", "double",
]  # fmt: skip


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """Write a store that takes a while to work through."""
    rng = np.random.default_rng(5)
    X = rng.standard_normal((40_000, 10)).astype(np.float32)
    path = tmp_path_factory.mktemp("big") / "big.zarr"
    convert(X, path, target=X[:, 0] * X[:, 1], chunk_rows=1000)
    return path


class Terminal:
    """A process whose stderr is a terminal and whose stdout is a file, as in ``nysstream ... > out``."""

    def __init__(self, command, arguments, cwd, environment):
        self.screen = ""
        self._master, slave = pty.openpty()
        self._out = open(cwd / "stdout", "w+")  # noqa: SIM115 - closed with the process
        self.process = subprocess.Popen(
            [*command, *map(str, arguments)], cwd=cwd, env=environment, stdout=self._out, stderr=slave
        )
        os.close(slave)

    def wait_for(self, text, seconds=60):
        """Read the screen until ``text`` appears."""
        end = time.monotonic() + seconds
        while text not in self.screen:
            assert time.monotonic() < end, f"{text!r} did not appear: {self.screen!r}"
            if not self._read():
                pytest.fail(f"ended before {text!r} appeared: {self.screen!r}")

    def finish(self, seconds=60):
        """Wait for the end; give exit code and stdout."""
        end = time.monotonic() + seconds
        while self._read():
            assert time.monotonic() < end, f"does not end: {self.screen!r}"
        code = self.process.wait(10)
        self._out.seek(0)
        with self._out as out:
            return code, out.read()

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)

    def _read(self):
        if not select.select([self._master], [], [], 1)[0]:
            return True
        try:
            data = os.read(self._master, 1 << 16)
        except OSError:  # the other end was closed
            return False
        self.screen += data.decode(errors="replace")
        return bool(data)


@pytest.fixture
def terminal(tmp_path):
    started = []

    def start(*arguments):
        environment = ENVIRONMENT | {"TERM": "xterm", "COLUMNS": "150"}
        started.append(Terminal(COMMAND, arguments, tmp_path, environment))
        return started[-1]

    yield start
    for one in started:
        one.close()


def test_interrupting_the_solve_saves_the_best_and_exits_with_3(terminal, big, tmp_path):
    run = terminal("fit", "ridge", big, *ENDLESS, "--out", "m.zarr", "--json")
    run.wait_for("(product)")
    run.wait_for("residual")
    run.process.send_signal(signal.SIGINT)
    code, out = run.finish()
    assert code == 3, run.screen
    assert json.loads(out)["status"] == "interrupted"
    assert json.loads(out)["objective"] is None
    model = nysstream.load(tmp_path / "m.zarr")
    assert model.result_.status == "interrupted"
    assert np.isfinite(model.coef_).all()
    assert {path.name for path in tmp_path.iterdir()} == {"m.zarr", "stdout"}
    assert re.search(r"pass \d+ \(product\)", run.screen)  # short ones may not be shown
    assert "GB/s" in run.screen
    assert "interrupted" in run.screen


def test_interrupting_the_set_up_leaves_nothing_and_exits_with_130(terminal, big, tmp_path):
    features = ["--features", "fourier:1000,length_scale=3", "--precision", "double"]
    run = terminal("fit", "ridge", big, *features, "--out", "m.zarr", "--report", "page.html")
    run.wait_for("(set-up)")
    run.process.send_signal(signal.SIGINT)
    code, out = run.finish()
    assert code == 130, run.screen
    assert out == ""
    assert "interrupted; nothing was written" in run.screen
    assert [path.name for path in tmp_path.iterdir()] == ["stdout"]


def test_interrupting_a_prediction_leaves_nothing(terminal, big, tmp_path):
    X = np.random.default_rng(0).standard_normal((200, 10))
    slow = nysstream.features.Fourier(3000, length_scale=3.0)
    nysstream.Ridge(features=slow, precision="double", rank=8, tol=0.1).fit(X, X[:, 0]).save(
        tmp_path / "m.zarr"
    )
    run = terminal("predict", "m.zarr", big, "--out", "p.zarr", "--threads", 1)
    run.wait_for("predicting")
    run.process.send_signal(signal.SIGINT)
    code, _ = run.finish()
    assert code == 130, run.screen
    assert {path.name for path in tmp_path.iterdir()} == {"m.zarr", "stdout"}


def test_progress_is_on_stderr_and_stdout_stays_clean(terminal, big, tmp_path):
    run = terminal(
        "fit",
        "ridge",
        big,
        "--features",
        "fourier:200,length_scale=3",
        "--rank",
        100,
        "--alpha",
        1000,
        "--json",
    )
    code, out = run.finish()
    assert code == 0, run.screen
    assert len(out.splitlines()) == 1
    assert json.loads(out)["status"] == "converged"
    assert re.search(r"pass \d+ of about \d+ \(\w+\)", run.screen), run.screen
    assert re.search(r"residual \d", run.screen)
    assert re.search(r"\d+ m?s left", run.screen)


def test_version_and_help(process):
    done = process("--version")
    assert (done.code, done.out) == (0, f"nysstream {nysstream.__version__}\n")
    done = process("-h")
    assert done.code == 0
    for command in ("info", "convert", "plan", "sketch", "fit", "predict", "score", "report"):
        assert re.search(rf"\b{command}\b", done.out)


def test_a_reader_that_stops_is_no_reason_for_a_traceback(store, tmp_path):
    done = subprocess.run(
        ["sh", "-c", '"$@" | true', "sh", *COMMAND, "info", str(store)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert "Error" not in done.stderr


def test_importing_the_command_line_does_not_import_plots_or_clusters():
    heavy = "{'matplotlib', 'distributed'}"
    code = f"import sys, nysstream.cli.main; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
