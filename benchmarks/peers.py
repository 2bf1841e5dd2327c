"""End to end against others: the same ridge regression, the same test outside, in memory.

``python -m benchmarks.peers --features 2000,4000 --rows 100000 --peer-python ENV/bin/python``

Problems are random Fourier features of the demo's flights, and data with a controlled spectrum.
Every contender runs in its own process and with native tolerances from loose to tight; its first
answer that passes the test outside counts. See README.md.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import signal
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import isolation, spectra
from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.contest import MISSING, ONLY, chosen, let_run
from benchmarks.listing import as_markdown, as_text, gibibytes, number
from benchmarks.measuring import say

ALPHA, LENGTH_SCALE = 1.0, 12.0  # the demo's
_DECAY_AND_SHIFT = "1:1e-4,2:1e-6"
#: What loading and the test outside may add to the attempts of a contender, in seconds.
_SLACK = 600.0


@dataclass(frozen=True)
class Problem:
    """Data on disk, to be loaded by each contender.

    Attributes
    ----------
    name : str
    folder : Path
        Holds ``X.npy`` and ``y.npy``.
    alpha : float
    about : dict
    solution : str, optional
        File, where the solution is known.
    """

    name: str
    folder: Path
    alpha: float
    about: dict[str, Any] = field(default_factory=dict)
    solution: str | None = None


def flights(folder: Path, n_rows: int | None, n_features: int) -> Problem:
    """Write random Fourier features of the demo's flights, in float32, and centred delays."""
    from nysstream.cli.flights import build_flights
    from nysstream.features import Fourier, to_json
    from nysstream.sources import open as open_source

    store = folder / "flights.zarr"
    if not store.exists():
        say("building the store of flights")
        build_flights(store)
    source, target = open_source(store, "x"), open_source(store, "y")
    n = source.shape[0] - source.shape[0] // 10
    n = min(n, n_rows or n)
    here = folder / f"flights-{n}x{n_features}"
    problem = Problem(f"flights {n:,} x {n_features:,}", here, ALPHA, {"rows": n, "columns": n_features})
    if (here / "done").exists():
        return problem
    say(f"writing {n:,} x {n_features:,} features of flights")
    here.mkdir(parents=True, exist_ok=True)
    features = Fourier(n_features, length_scale=LENGTH_SCALE)
    (here / "features.json").write_text(json.dumps(to_json(features)))
    X = np.lib.format.open_memmap(here / "X.npy", "w+", np.float32, (n, n_features))
    rows = np.lib.format.open_memmap(here / "rows.npy", "w+", np.float32, (n, source.shape[1]))
    for start in range(0, n, 4096):
        stop = min(start + 4096, n)
        rows[start:stop] = source.read(slice(start, stop))
        X[start:stop] = features(np.array(rows[start:stop]))
    X.flush()
    rows.flush()
    y = np.asarray(target.read(slice(0, n)), np.float64).reshape(-1)
    np.save(here / "y.npy", (y - y.mean()).astype(np.float32))
    (here / "done").touch()
    return problem


def spectrum(folder: Path, n_rows: int, n_columns: int, decay: float, alpha: float) -> Problem:
    """Write data with a controlled spectrum, in float64, and their exact solution."""
    here = folder / f"spectrum-{n_rows}x{n_columns}-{decay:g}"
    solution = here / f"solution-{alpha:g}.npy"
    index = np.arange(1.0, n_columns + 1) ** -decay
    about = {
        "rows": n_rows,
        "columns": n_columns,
        "effective_dimension": float(np.sum(index / (index + alpha))),
    }
    name = f"i^-{decay:g}, alpha {alpha:g}, {n_rows:,} x {n_columns:,}"
    problem = Problem(name, here, alpha, about, str(solution))
    if not (here / "done").exists() or not solution.exists():
        say(f"writing {name}")
        here.mkdir(parents=True, exist_ok=True)
        made = spectra.controlled(n_rows, n_columns, decay)
        np.save(here / "X.npy", made.X)
        np.save(here / "y.npy", made.y)
        np.save(solution, made.solution(alpha))
        (here / "done").touch()
    return problem


def measure(
    problem: Problem, name: str, tol: float, timeout: float, peer_python: list[str]
) -> dict[str, Any]:
    """Let one contender solve one problem, in this environment or in the first other one that has it."""
    contender = CONTENDERS[name]
    spec = {
        "contender": name,
        "folder": str(problem.folder),
        "alpha": problem.alpha,
        "tol": tol,
        "timeout": timeout,
        "solution": problem.solution,
    }
    row: dict[str, Any] = {"problem": problem.name, "contender": name, "label": contender.label}
    row |= {"group": contender.group, "dtype": contender.dtype}
    limit = len(contender.settings) * timeout + _SLACK
    done, row["attempts"] = let_run("benchmarks.contenders", spec, contender, peer_python, limit)
    row |= _verdict(row["attempts"], done, contender, tol, timeout)
    row["process_peak_bytes"] = done.peak_bytes
    return row


def _verdict(
    attempts: list[dict[str, Any]],
    done: isolation.Finished,
    contender: Contender,
    tol: float,
    timeout: float,
) -> dict[str, Any]:
    """Say what became of a contender."""
    if done.code == MISSING:
        return {"status": "not installed", "note": contender.install}
    passed = [attempt for attempt in attempts if attempt["relative_residual"] <= tol]
    if passed:
        return {"status": "passed", "note": "", **passed[0]}
    best = min(attempts, key=lambda attempt: attempt["relative_residual"], default={})
    reached = f"; best so far {best['relative_residual']:.1e}" if best else ""
    if done.timed_out or done.code == -signal.SIGALRM:
        return {**best, "status": "timed out", "note": f"after {timeout:g} s{reached}"}
    if done.code:
        return {**best, "status": "failed", "note": done.last_words() + reached}
    return {**best, "status": "not reached", "note": f"best {best['relative_residual']:.1e}"}


HEADER = ("problem", "solver", "dtype", "tolerance", "seconds", "to the best", "residual", "iterations",
          "error", "peak", "")  # fmt: skip


def lines_of(rows: list[dict[str, Any]], *, best_only: bool) -> list[tuple[str, ...]]:
    """Lay results out, those of one problem together and the fastest first."""
    lines = []
    for problem in dict.fromkeys(row["problem"] for row in rows):
        mine = [row for row in rows if row["problem"] == problem]
        mine.sort(key=lambda row: row["seconds"] if row["status"] == "passed" else math.inf)
        first = mine[0]["seconds"] if mine[0]["status"] == "passed" else math.nan
        seen = set()
        for row in mine:
            if best_only and row["group"] in seen:
                continue
            seen.add(row["group"])
            passed = row["status"] == "passed"
            tolerance = row.get("setting")
            lines.append(
                (
                    problem,
                    _label(row),
                    row["dtype"],
                    number(tolerance) if passed else "",
                    number(row["seconds"]) if passed else row["status"],
                    f"{row['seconds'] / first:.1f}" if passed else "",
                    f"{row['relative_residual']:.1e}" if row.get("relative_residual") is not None else "",
                    str(row.get("iterations") or ""),
                    f"{row['error']:.1e}" if row.get("error") is not None else "",
                    gibibytes(row.get("peak_bytes")),
                    row["note"],
                )
            )  # fmt: skip
    return lines


def _label(row: dict[str, Any]) -> str:
    """Say who it is, and what it chose where that was left to it."""
    return (
        f"{row['label']} ({row['method']})" if " auto" in row["label"] and row.get("method") else row["label"]
    )


def write(rows: list[dict[str, Any]], about: dict[str, Any], folder: Path) -> None:
    """Write ``peers.json``, from which a later run goes on, and two tables."""
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / ".peers.json"
    aside.write_text(json.dumps({"about": about, "rows": rows}, indent=1))
    aside.replace(folder / "peers.json")
    (folder / "peers.md").write_text(as_markdown(HEADER, lines_of(rows, best_only=True)) + "\n")
    (folder / "peers-all.md").write_text(as_markdown(HEADER, lines_of(rows, best_only=False)) + "\n")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--only", default="", help=ONLY)
    parser.add_argument("--problems", default="flights,spectrum", help="comma-separated: flights, spectrum")
    parser.add_argument("--features", default="2000,4000,8000", help="comma-separated numbers of features")
    parser.add_argument("--rows", type=int, default=100_000, help="rows of the flights; 0 for all")
    parser.add_argument("--spectra", default=_DECAY_AND_SHIFT, help="comma-separated decay:alpha")
    parser.add_argument("--spectrum-shape", default="50000x2000", help="rows x columns")
    parser.add_argument("--tol", type=float, default=1e-6, help="relative residual of the test outside")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for one attempt")
    parser.add_argument(
        "--peer-python", action="append", default=[], help="another environment's; repeatable"
    )
    parser.add_argument("--fresh", action="store_true", help="measure again what peers.json has")
    parser.add_argument("--keep", action="store_true", help="leave the problems' data on disk")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "nysstream-benchmarks", help="for data"
    )
    given = parser.parse_args(arguments)
    given.contenders = chosen(parser, given.only, CONTENDERS)
    return given


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Run every contender on every problem, and write the tables as results come in."""
    given = parse(arguments)
    kept = given.out / "peers.json"
    rows: list[dict[str, Any]] = []
    if kept.exists() and not given.fresh:
        rows = json.loads(kept.read_text())["rows"]
    about: dict[str, Any] = {"tol": given.tol, "timeout": given.timeout, "problems": {}}
    for problem in problems(given):
        about["problems"][problem.name] = asdict(problem) | {"folder": str(problem.folder)}
        for name in given.contenders:
            if CONTENDERS[name].rows and not (problem.folder / "rows.npy").exists():
                continue
            old = [row for row in rows if (row["problem"], row["contender"]) == (problem.name, name)]
            if old and old[0]["status"] != "not installed":
                continue
            row = measure(problem, name, given.tol, given.timeout, given.peer_python)
            say(f"{problem.name}: {name}: {row['status']} {number(row.get('seconds'), 's')} {row['note']}")
            rows = [other for other in rows if other not in old] + [row]
            write(rows, about, given.out)
        if not given.keep:
            shutil.rmtree(problem.folder, ignore_errors=True)
    print(as_text(HEADER, lines_of(rows, best_only=True)))
    say(f"every setting is in {given.out / 'peers-all.md'}")
    return rows


def problems(given: argparse.Namespace) -> Any:
    """Make the problems that were asked for, one at a time."""
    given.folder.mkdir(parents=True, exist_ok=True)
    if "flights" in given.problems.split(","):
        for n_features in map(int, given.features.split(",")):
            yield flights(given.folder, given.rows or None, n_features)
    if "spectrum" in given.problems.split(","):
        n, p = map(int, given.spectrum_shape.split("x"))
        for pair in given.spectra.split(","):
            decay, alpha = map(float, pair.split(":"))
            yield spectrum(given.folder, n, p, decay, alpha)


if __name__ == "__main__":
    main()
