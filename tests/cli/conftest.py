"""Running the command line: in this process for most tests, in one of its own where that matters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import nysstream
from nysstream.cli.main import app
from nysstream.sources.converting import convert

COMMAND = [sys.executable, "-c", "import sys; from nysstream.cli.main import main; sys.exit(main())"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(nysstream.__file__).parents[1]), "COLUMNS": "100"}


@dataclass
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        """The one object on stdout."""
        (line,) = self.out.splitlines()
        return json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))


@pytest.fixture
def cli(monkeypatch, tmp_path):
    """Run a command in this process, in ``tmp_path``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return run


@pytest.fixture
def process(tmp_path):
    """Run a command in a process of its own, in ``tmp_path``."""

    def run(*arguments, **environment):
        done = subprocess.run(
            [*COMMAND, *map(str, arguments)],
            cwd=tmp_path,
            env=ENVIRONMENT | environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def data(rng):
    """Make rows and targets that a linear model explains well."""
    X = rng.standard_normal((600, 12)).astype(np.float32)
    return X, X @ rng.standard_normal(12) + 3 + 0.1 * rng.standard_normal(600)


@pytest.fixture
def store(data, tmp_path):
    """Write the data as our own converter does: arrays ``x``, ``y`` and ``weight``."""
    X, y = data
    path = tmp_path / "data.zarr"
    convert(X, path, target=y, weight=np.linspace(0.5, 2, len(y)), chunk_rows=100)
    return path


@pytest.fixture
def model(cli, store):
    """Fit a model, and give its path."""
    assert cli("fit", "ridge", store, "--alpha", 2, "--out", "model.zarr").code == 0
    return store.parent / "model.zarr"
