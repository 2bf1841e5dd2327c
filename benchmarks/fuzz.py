"""Damage stores and models at random, and see what opening and reading them does.

``python -m benchmarks.fuzz --cases 100000`` changes one file of a small store in each case: bits, runs
of bytes and lengths of any file; values, keys and types in JSON metadata; or the file is gone. What
must come of it is one of the package's own errors, or the right answer. A crash of the process, a hang,
any other exception, a peak of memory beyond the budget, and a wrong answer though the changed bytes
were under a checksum are failures, printed with the number of the case, which repeats it: ``--first N
--cases 1``.

Cases run in child processes, so that a crash is survived and counted. The HDF5 library itself loops
for ever on some damaged files; no caller can prevent that, and such cases are counted apart. With
``--guided`` and the package ``atheris`` (Python 3.11 wheels exist), changes are chosen by the lines of
nysstream that they reach.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from pathlib import Path
from typing import Any

import dask
import h5py
import numpy as np
import zarr
from scipy import sparse

import nysstream
from nysstream.errors import NysstreamError
from nysstream.memory import peak_resident_bytes, resident_bytes

N_ROWS, N_COLUMNS = 300, 6
LIMIT = 1 << 30
#: Bytes by which the process may grow; its limit is for all of it.
GROWTH = 600 << 20
ODD = (-1, 0, 1, 7, 255, 2**31 - 1, 2**32, 2**53, 2**63 - 1, 2**64, 10**30, -(2**63), 1e308, 0.5)
ODD_VALUES = (*ODD, None, True, "", "pickle", "NaN", "../../../etc/passwd", [], {}, [[]], "x" * 5000)


#: What is to be watched has to be watched while it is imported.
_GUIDED = """
import atheris
with atheris.instrument_imports(include=["nysstream.sources"]):
    import benchmarks.fuzz
benchmarks.fuzz.guided({})
"""


class Hang(BaseException):
    """A case took too long."""


def make_corpus(folder: Path) -> dict[str, Any]:
    """Write one small store of each kind, and give what reading each of them answers."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N_ROWS, N_COLUMNS)).astype(np.float32)
    y = X @ rng.standard_normal(N_COLUMNS)
    for codec in ("blosc-lz4", "zstd", "gzip", "none"):
        nysstream.convert(X, folder / f"{codec}.zarr", chunk_rows=100, codec=codec, memory="8GiB")
    sparse_rows = sparse.csr_array(np.where(X > 0.5, X, 0))
    nysstream.convert(sparse_rows, folder / "csr.zarr", memory="8GiB")
    nysstream.convert(sparse_rows, folder / "csr.h5", codec="gzip", memory="8GiB")
    group = zarr.open_group(folder / "shards.zarr", mode="w")
    inner = {"chunks": (25, N_COLUMNS), "shards": (100, N_COLUMNS)}
    group.create_array("x", data=X, compressors=[zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()], **inner)
    zarr.open_group(folder / "old.zarr", mode="w", zarr_format=2).create_array("x", data=X, chunks=(100, 4))
    layouts: dict[str, dict[str, Any]] = {
        "gzip": {"chunks": (100, N_COLUMNS), "compression": "gzip", "shuffle": True, "fletcher32": True},
        "lzf": {"chunks": (70, 4), "compression": "lzf"},
        "plain": {},
    }
    for name, layout in layouts.items():
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file.create_dataset("x", data=X, **layout)
    np.save(folder / "rows.npy", X)
    nysstream.Ridge(1.0, features="relu:8").fit(X, y).save(folder / "model.zarr")
    names = sorted(path.name for path in folder.iterdir())
    return {name: answer(folder / name) for name in names}


def checked(name: str, file: str) -> bool:
    """Whether every byte of a file is under a checksum."""
    if name in ("blosc-lz4.zarr", "zstd.zarr", "gzip.zarr", "none.zarr", "csr.zarr", "shards.zarr"):
        return "/c/" in file or file.endswith("/c")
    return False


def answer(path: Path) -> Any:
    """Open and read what is at a path, within the limit; give bits that tell right from wrong."""
    rng = np.random.default_rng(1)
    if path.name == "model.zarr":
        model = nysstream.load(path)
        if model.n_features_in_ != N_COLUMNS:
            return None  # made for other rows, for all that the file says
        return np.ascontiguousarray(model.predict(rng.standard_normal((5, N_COLUMNS)))).tobytes()
    inside = None if path.suffix == ".npy" else "x"
    source = nysstream.open(path, inside, missing_chunks="fill")
    product = nysstream.gram(source, memory=resident_bytes() + LIMIT) @ np.ones((source.shape[1], 1))
    return source.shape, np.ascontiguousarray(product).tobytes()


class Choices:
    """Draw decisions from a seed; or, guided, from the bytes that a fuzzer gives."""

    def __init__(self, seed: int | None = None, provider: Any = None) -> None:
        self._random, self._provider = random.Random(seed), provider

    def integer(self, low: int, high: int) -> int:
        """Draw a whole number, both ends included."""
        if self._provider is not None:
            return int(self._provider.ConsumeIntInRange(low, high))
        return self._random.randint(low, high)

    def of(self, items: Any) -> Any:
        """Draw an item."""
        items = list(items)
        return items[self.integer(0, len(items) - 1)]


def damage(choices: Choices, content: bytes, *, is_json: bool) -> bytes | None:
    """Change the content of a file; None removes it."""
    kind = choices.integer(0, 9)
    if kind == 0 and choices.integer(0, 3) == 0:
        return None
    if is_json and kind < 8:
        try:
            return json.dumps(_damaged_json(choices, json.loads(content))).encode()
        except (ValueError, RecursionError):
            pass
    data = bytearray(content)
    for _ in range(choices.integer(1, 3)):
        place = choices.integer(0, max(0, len(data) - 1))
        match choices.integer(0, 6):
            case 0 | 1 if data:
                data[place] ^= 1 << choices.integer(0, 7)
            case 2 if data:
                data[place] = choices.of((0, 1, 127, 128, 255))
            case 3:
                number = choices.of((0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, 10**10))
                width = choices.of((2, 4, 8))
                data[place : place + width] = (number & (2 ** (8 * width) - 1)).to_bytes(width, "little")
            case 4:
                del data[place:]
            case 5:
                data[place:place] = bytes(choices.integer(0, 255) for _ in range(choices.integer(1, 9)))
            case _:
                stop = min(len(data), place + choices.integer(1, 64))
                data[place:stop] = bytes([choices.of((0, 255))]) * (stop - place)
    return bytes(data)


def _damaged_json(choices: Choices, value: Any) -> Any:
    """Change one thing somewhere in a JSON value."""
    if isinstance(value, dict) and value and choices.integer(0, 9):
        key = choices.of(sorted(value))
        if choices.integer(0, 7) == 0:
            return {k: v for k, v in value.items() if k != key}
        if choices.integer(0, 9) == 0:
            return value | {choices.of(("x", "attributes", "codecs", "shape", "")): value[key]}
        return value | {key: _damaged_json(choices, value[key])}
    if isinstance(value, list) and value and choices.integer(0, 9):
        place = choices.integer(0, len(value) - 1)
        match choices.integer(0, 5):
            case 0:
                return value[:place] + value[place + 1 :]
            case 1:
                return [*value, value[place]]
        return [*value[:place], _damaged_json(choices, value[place]), *value[place + 1 :]]
    if isinstance(value, int) and choices.integer(0, 1):
        return value + choices.of((-1, 1, 100)) if choices.integer(0, 1) else choices.of(ODD)
    return choices.of(ODD_VALUES)


class Bench:
    """A corpus, and a place in which one damaged store at a time is tried."""

    def __init__(self, folder: Path) -> None:
        self.corpus, self.trial = folder / "corpus", folder / "trial"
        self.corpus.mkdir()
        self.answers = make_corpus(self.corpus)
        self.files = {
            name: sorted(
                str(path.relative_to(self.corpus / name))
                for path in ((self.corpus / name).rglob("*") if (self.corpus / name).is_dir() else ())
                if path.is_file()
            )
            for name in self.answers
        }
        self.peak = peak_resident_bytes()

    def try_one(self, choices: Choices) -> tuple[str, str]:
        """Damage a store and read it; gives what came of it, and what was done."""
        name = choices.of(sorted(self.answers))
        shutil.rmtree(self.trial, ignore_errors=True)
        self.trial.mkdir()
        place = self.trial / name
        if self.files[name]:
            shutil.copytree(self.corpus / name, place)
            metadata = [file for file in self.files[name] if Path(file).name.startswith((".z", "zarr"))]
            file = choices.of(metadata if choices.integer(0, 1) else self.files[name])
            victim = place / file
        else:
            shutil.copy(self.corpus / name, place)
            file, victim = "", place
        content = damage(choices, victim.read_bytes(), is_json=victim.name.startswith((".z", "zarr.json")))
        what = f"{name}/{file}"
        if content is None:
            victim.unlink()
        elif content == victim.read_bytes():
            return "unchanged", what
        else:
            victim.write_bytes(content)
        signal.alarm(20)
        try:
            found = answer(place)
        except NysstreamError as error:
            return f"{type(error).__name__}", what
        except Hang:
            return "FAILED: hang", what
        except Exception as error:
            return f"FAILED: {type(error).__name__}: {str(error)[:200]}", what
        finally:
            signal.alarm(0)
        if peak_resident_bytes() > self.peak + GROWTH:
            return "FAILED: memory", what
        if found == self.answers[name]:
            return "right", what
        # An absent chunk reads as the fill value where the writer publishes no committed rows.
        known = content is not None and checked(name, f"/{file}")
        return "FAILED: wrong though there is a checksum" if known else "other data", what


def _prepare() -> None:
    warnings.simplefilter("ignore")
    dask.config.set(scheduler="synchronous")

    def stop(*_: Any) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, stop)
    # What is allocated and never touched shows in no peak.
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, 16 << 30))


def child(first: int, count: int) -> None:
    """Run cases, saying of each that it begins, and what came of it."""
    _prepare()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        bench = Bench(Path(folder))
        for case in range(first, first + count):
            print(json.dumps([case, Choices(case).of(sorted(bench.answers))]), flush=True)
            print(json.dumps([case, *bench.try_one(Choices(case))]), flush=True)


def run(first: int, count: int, *, batch: int = 2000, say: Any = print) -> collections.Counter[str]:
    """Run cases in child processes; gives how often each outcome came, failures with their cases."""
    outcomes: collections.Counter[str] = collections.Counter()
    case, end = first, first + count
    while case < end:
        command = [sys.executable, "-m", "benchmarks.fuzz", "--child", "--first", str(case)]
        command += ["--cases", str(min(batch, end - case))]
        begun, name, patience = case - 1, "", 120.0  # in which it starts and writes its stores
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, **pipes) as process:
            while True:
                watchdog = threading.Timer(patience, process.kill)
                watchdog.start()
                line = process.stdout.readline()
                watchdog.cancel()
                if not line:
                    break
                begun, name, *result = json.loads(line)
                patience = 10.0
                if result:
                    outcome, what = name, result[0]
                    failed = outcome.startswith("FAILED")
                    outcomes["FAILED" if failed else outcome] += 1
                    if failed:
                        say(f"case {begun}: {what}: {outcome}")
            said = process.stderr.read()
        code = process.returncode
        if code != 0:
            inside = name.endswith(".h5")
            outcomes["ended within HDF5" if inside else "FAILED"] += 1
            say(f"case {begun}: {name}: the process ended with {code}: {said[-400:]}")
        case = begun + 1 if code != 0 else min(end, case + batch)
        say(f"{case - first} of {count}: {dict(outcomes.most_common())}")
    return outcomes


def guided(count: int) -> None:
    """Let atheris choose, by the lines of nysstream that cases reach; stops at the first failure."""
    import atheris

    _prepare()
    signal.alarm(0)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as folder:
        bench = Bench(Path(folder))
        outcomes: collections.Counter[str] = collections.Counter()

        def once(data: bytes) -> None:
            outcome, what = bench.try_one(Choices(provider=atheris.FuzzedDataProvider(data)))
            outcomes[outcome] += 1
            if sum(outcomes.values()) % 1000 == 0:
                print(f"{sum(outcomes.values())}: {dict(outcomes.most_common())}", flush=True)
            if outcome.startswith("FAILED"):
                message = f"{what}: {outcome}"
                raise AssertionError(message)

        atheris.Setup(
            [sys.argv[0], f"-runs={count}", "-max_len=512", "-timeout=60", "-rss_limit_mb=4096"], once
        )
        atheris.Fuzz()


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; gives the number of failures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--guided", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        child(given.first, given.cases)
        return 0
    if given.guided:
        return subprocess.run([sys.executable, "-c", _GUIDED.format(given.cases)], check=False).returncode
    outcomes = run(given.first, given.cases)
    print(f"{sum(outcomes.values())} cases, {outcomes['FAILED']} failures")
    return outcomes["FAILED"]


if __name__ == "__main__":
    sys.exit(min(1, main()))
