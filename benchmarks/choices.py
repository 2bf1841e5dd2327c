"""Each method of ridge regression to the same tolerance on one problem, and what `auto` makes of it.

``python -m benchmarks.choices --features 4000`` does it for the problem of the demo;
``python -m benchmarks.yearmsd`` for one of the shape of YearPredictionMSD.

Every method runs in a process of its own, so that peaks of memory are its own. What is finished is
kept in ``results.json``: a later run goes on with what is missing. See README.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
import tempfile
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import isolation
from benchmarks.checks import blocks_of, check_ridge
from benchmarks.isolation import high_water
from benchmarks.listing import as_markdown, as_text, gibibytes, number
from benchmarks.measuring import MB, say

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

METHODS = ("nystrom", "subsampled", "gram", "cg", "auto")
#: What a user may write instead, where features are stored.
LOOP = "loop"
#: By how much `auto` may be slower than the best of them.
AUTO_GOAL = 1.3


@dataclass(frozen=True)
class Problem:
    """A ridge regression on random Fourier features of stored rows.

    Attributes
    ----------
    name : str
    store : str
        Zarr group with the arrays ``x`` and ``y``.
    n_rows, n_features : int
    length_scale : float or "median"
    alpha : float
    rank : int or "auto"
        For the Nyström method.
    memory : str, optional
        For the whole process.
    tol : float
    max_passes : int
    resident : bool
        Whether the features are made once, before the clock starts, and stay in memory.
    stored : bool
        Whether ``store`` holds the features themselves.
    check : bool
        Whether to recompute the residual outside, in float64.
    """

    name: str
    store: str
    n_rows: int
    n_features: int
    length_scale: float | str
    alpha: float
    rank: int | str
    memory: str | None
    tol: float
    max_passes: int
    resident: bool = False
    check: bool = True
    stored: bool = False


def fit(problem: Problem, method: str) -> dict[str, Any]:
    """Fit by one method in this process, and say how it went.

    A method that does not fit the memory is given what it asks for, and the row says so.
    """
    from nysstream import DesignMatrix, Ridge
    from nysstream import open as open_source
    from nysstream.errors import MemoryBudgetError
    from nysstream.features import Fourier, Identity

    rows = slice(0, problem.n_rows)
    if method == LOOP:
        return _loop(problem)
    X, y = (open_source(problem.store, name).restrict(rows) for name in ("x", "y"))
    features: Any = Fourier(problem.n_features, length_scale=problem.length_scale)
    if problem.stored:
        features = Identity()
    elif features.needs_sample:
        features = features.fit(DesignMatrix(X, features=features).sample_rows())
    memory: Any = problem.memory
    lifted = None
    if problem.resident:
        data = _featured(X, features)
        memory = memory or _all_memory()
    model = Ridge(
        problem.alpha,
        features=None if problem.resident or problem.stored else features,
        solver=method,
        rank=problem.rank if method == "nystrom" else "auto",
        tol=problem.tol,
        max_passes=problem.max_passes,
        memory=memory,
    )
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the limit on passes came first is in the results
        try:
            model.fit(data if problem.resident else X, y)
        except MemoryBudgetError as error:
            lifted = re.findall("memory='([^']+)'", str(error))[-1]
            began = time.perf_counter()
            model.set_params(memory=lifted).fit(data if problem.resident else X, y)
    seconds = time.perf_counter() - began
    peak = high_water()
    result = model.result_
    row = {
        "asked": method,
        "lifted_memory": lifted,
        **result.stats,
        "seconds": seconds,
        "peak_bytes": peak,
        "length_scale": problem.length_scale if problem.stored else features.length_scale,
        "curve": _curve(result, seconds),
        "pass_names": [record.name for record in result.passes],
        "pass_seconds": [record.seconds for record in result.passes],
    }
    if method == "auto":
        model.set_params(memory=_all_memory())  # the process has grown by now
        plan = model.plan(data if problem.resident else X, y)
        row["expected"] = {name: asdict(found) for name, found in plan.candidates.items()}
    if problem.check:
        target = np.asarray(y.read(slice(0, problem.n_rows)), np.float64).reshape(-1)
        blocks = blocks_of(data, target) if problem.resident else _doubled(X, target, features)
        found = check_ridge(blocks, model.coef_, problem.alpha, intercept=model.intercept_)
        row |= {"checked_residual": found.relative_residual, "checked_objective": found.objective}
    return row


def _loop(problem: Problem) -> dict[str, Any]:
    """Let the loop solve the problem, in whatever memory it takes."""
    import zarr

    from benchmarks import gram_loop

    began = time.perf_counter()
    coef, intercept = gram_loop.solve(problem.store, problem.n_rows, problem.alpha)
    row: dict[str, Any] = {
        "asked": LOOP,
        "method": "gram",
        "status": "done",
        "passes": 1,
        "seconds": time.perf_counter() - began,
        "peak_bytes": high_water(),
        "pass_names": ["set-up"],
    }
    if problem.check:
        group: Any = zarr.open_group(problem.store, mode="r")
        target = np.asarray(group["y"][: problem.n_rows], np.float64)
        found = check_ridge(_doubled(group["x"], target, None), coef, problem.alpha, intercept=intercept)
        row |= {"checked_residual": found.relative_residual, "checked_objective": found.objective}
    return row


def _all_memory() -> int:
    import psutil

    return int(0.95 * psutil.virtual_memory().available) + psutil.Process().memory_info().rss


def _featured(X: Any, features: Any, block_rows: int = 4096) -> Any:
    """Hold all features in memory."""
    n = X.shape[0]
    Z = np.empty((n, features.n_features), np.float32)
    for start in range(0, n, block_rows):
        stop = min(start + block_rows, n)
        Z[start:stop] = features(np.asarray(X.read(slice(start, stop)), np.float32))
    return Z


def _doubled(X: Any, target: Any, features: Any, block_rows: int = 2048) -> Iterator[tuple[Any, Any]]:
    for start in range(0, len(target), block_rows):
        rows = slice(start, min(start + block_rows, len(target)))
        block = np.asarray(X[rows] if features is None else X.read(rows), np.float64)
        yield block if features is None else features(block), target[rows]


def _curve(result: Any, seconds: float) -> list[dict[str, float]]:
    """List residuals against passes and seconds since the fit began."""
    passes = result.passes
    before = next(
        (i for i, record in enumerate(passes) if record.name not in ("set-up", "sample")), len(passes)
    )
    offset = passes[before].started if before < len(passes) else seconds
    start = {"passes": 0.0, "seconds": 0.0, "relative_residual": 1.0}  # of the coefficients zero
    return [start] + [
        {
            "passes": before + record["passes"],
            "seconds": offset + record["seconds"],
            "relative_residual": float(record["relative_residual"]),
        }
        for record in result.history
    ]


def limits(resident: bool) -> dict[str, float]:
    """Measure what arithmetic, cosines and memory allow on all cores."""
    from benchmarks import machine

    cores = len(os.sched_getaffinity(0))
    return {
        "cores": cores,
        "sgemm": machine.gemm_rate(2048, cores),
        "dgemm": machine.gemm_rate(2048, cores, dtype=np.float64),
        "cosine": machine.cosine_rate(cores),
        "reading": machine.read_rate(256 * MB, cores) if resident else math.inf,
    }


def ideal_seconds(problem: Problem, row: dict[str, Any], rates: dict[str, float], n_inputs: int) -> float:
    """Seconds that the method's arithmetic takes at the limits: what a perfect implementation needs.

    Features and cosines of every pass; two flops an entry and vector in products, of sketches too;
    half of the Gram matrix, as it is symmetric; factorisations at the rate of products in float64.
    Resident features are read once a pass instead.
    """
    n, p = problem.n_rows, problem.n_features
    kind = row["method"]

    def features(rows: int, gemm: float) -> float:
        if problem.stored:
            return 0.0
        if problem.resident:
            return 4 * rows * p / rates["reading"]
        return 2 * rows * n_inputs * p / gemm + rows * p / rates["cosine"]

    total = 0.0
    for name in row["pass_names"]:
        gemm = rates["dgemm" if name in ("residual", "objective") else "sgemm"]
        if name == "sample":
            continue
        total += features(n, gemm) + 4 * n * p / gemm
    factor = p**3 / 3 / rates["dgemm"]
    if kind == "nystrom":
        total += 4 * n * p * row["rank"] / rates["sgemm"]
    elif kind == "gram":
        total += n * p * p / rates["sgemm"] + factor
    elif kind == "subsampled":
        m = min(n, row.get("sample_rows") or 4 * p)
        small = min(m, p)
        total += (features(m, rates["sgemm"]) if not problem.resident else 0.0) + factor * (small / p) ** 3
        total += m * p * small / rates["sgemm"]
    return total


HEADER = ("method", "rank", "status", "seconds", "passes", "residual", "outside", "peak", "seen from outside",
          "arithmetic", "share", "")  # fmt: skip


def lines_of(rows: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    """Lay results out."""
    lines = []
    for name in [name for name in (*METHODS, LOOP) if name in rows]:
        row = rows[name]
        chose = f"auto ({row['method']})" if name == "auto" and "method" in row else name
        lines.append(
            (
                chose,
                str(row.get("rank") or ""),
                row["status"],
                number(row.get("seconds")),
                str(row.get("passes") or ""),
                f"{row['relative_residual']:.1e}" if "relative_residual" in row else "",
                f"{row['checked_residual']:.1e}" if "checked_residual" in row else "",
                gibibytes(row.get("peak_bytes")),
                gibibytes(row.get("process_peak_bytes")),
                number(row.get("ideal_seconds"), "s") if "ideal_seconds" in row else "",
                f"{row['share']:.0%}" if "share" in row else "",
                row.get("note", ""),
            )
        )
    return lines


def verdict(rows: dict[str, dict[str, Any]]) -> list[str]:
    """Compare `auto` with the best, and the iterations with the Gram matrix."""
    done = {name: row["seconds"] for name, row in rows.items() if row["status"] == "converged"}
    said = []
    others = {name: seconds for name, seconds in done.items() if name != "auto"}
    if "seconds" in rows.get(LOOP, {}):
        loop = rows[LOOP]["seconds"]
        said += [f"{name}: {loop / done[name]:.2f} times as fast as the loop" for name in done]
    fitting = {name: seconds for name, seconds in others.items() if not rows[name].get("lifted_memory")}
    if fitting:
        best = min(fitting, key=lambda name: others[name])
        said.append(f"best of those that fit the memory: {best}, {others[best]:.1f} s")
        if "auto" in done:
            ratio = done["auto"] / others[best]
            chose = rows["auto"]["method"]
            met = "met" if ratio <= AUTO_GOAL else "not met"
            said.append(f"auto chose {chose}: {ratio:.2f} of the best; goal at most {AUTO_GOAL}: {met}")
    if "gram" in others:
        said += [
            f"{name}: {others['gram'] / others[name]:.2f} times as fast as the Gram matrix"
            for name in ("nystrom", "subsampled")
            if name in others
        ]
    return said


def write(about: dict[str, Any], rows: dict[str, dict[str, Any]], folder: Path) -> None:
    """Write ``results.json``, ``table.md`` and ``curve.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / ".results.json"
    aside.write_text(json.dumps({"problem": about, "methods": rows}, indent=1))
    aside.replace(folder / "results.json")
    notes = "\n".join(f"- {line}" for line in verdict(rows))
    (folder / "table.md").write_text(f"{as_markdown(HEADER, lines_of(rows))}\n\n{notes}\n")
    draw(about["name"], rows, folder / "curve.png")


def draw(name: str, rows: dict[str, dict[str, Any]], path: Path) -> None:
    """Plot residuals against seconds and against passes."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    from nysstream.report.palette import SERIES

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for axis, (key, label) in zip(
        axes, (("seconds", "seconds"), ("passes", "passes over the data")), strict=True
    ):
        for method, colours in zip(METHODS, SERIES.values(), strict=False):
            curve = rows.get(method, {}).get("curve")
            if not curve:
                continue
            x = [point[key] for point in curve]
            y = [max(point["relative_residual"], 1e-16) for point in curve]
            label_of = f"auto ({rows[method]['method']})" if method == "auto" else method
            style = {"linestyle": "--"} if method == "auto" else {}
            axis.semilogy(x, y, marker=".", color=colours[0], label=label_of, **style)
        axis.set_xlabel(label)
        axis.grid(visible=True, alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("relative residual")
    axes[0].legend(frameon=False)
    figure.suptitle(name)
    figure.savefig(path, dpi=130)


def run(
    problem: Problem, methods: list[str], folder: Path, *, timeout: float | None = None, fresh: bool = False
) -> dict[str, dict[str, Any]]:
    """Run the methods that a folder has no results of, each in its own process."""
    from nysstream import open as open_source

    kept = folder / "results.json"
    about = asdict(problem)
    rows: dict[str, dict[str, Any]] = {}
    if kept.exists() and not fresh:
        found = json.loads(kept.read_text())
        different = sorted(key for key in about if found["problem"].get(key) != about[key])
        if different:
            what = ", ".join(different)
            message = f"{kept} is of another problem ({what} differ): choose another --out, or --fresh"
            raise SystemExit(message)
        rows = found["methods"]
    n_inputs = open_source(problem.store, "x").shape[1]
    for method in methods:
        if method in rows:
            say(f"{method}: kept from {kept}")
            continue
        say(f"{method}: running")
        measure = [sys.executable, "-m", "benchmarks.choices"]
        rates = json.loads(isolation.run([*measure, "--limits", json.dumps(problem.resident)]).output)
        done = isolation.run([*measure, "--fit", json.dumps([about, method])], timeout=timeout)
        row = _row(done, timeout)
        row |= {"limits": rates, "process_peak_bytes": done.peak_bytes, "process_seconds": done.seconds}
        rows[method] = row
        _compare(problem, rows, n_inputs)
        write(about, rows, folder)
    write(about, rows, folder)
    print(as_text(HEADER, lines_of(rows)))
    print("\n".join(verdict(rows)))
    return rows


def _compare(problem: Problem, rows: dict[str, dict[str, Any]], n_inputs: int) -> None:
    """Hold every method against the limits: the best seen in the run, for others only slow them down."""
    seen = [row["limits"] for row in rows.values()]
    rates = {name: max(each[name] for each in seen) for name in seen[0]}
    for row in rows.values():
        if "method" in row:
            row["ideal_seconds"] = ideal_seconds(problem, row, rates, n_inputs)
            row["share"] = row["ideal_seconds"] / row["seconds"]
            notes = [f"refused at {problem.memory}, given {row.get('lifted_memory')}"] * bool(
                row.get("lifted_memory")
            )
            notes += ["machine busy: limits too low"] * (row["share"] > 1.02)
            row["note"] = "; ".join(notes)


def _row(done: isolation.Finished, timeout: float | None) -> dict[str, Any]:
    if done.timed_out:
        return {"status": "timed out", "note": f"after {timeout:g} s"}
    if done.code:
        return {"status": "failed", "note": done.last_words()}
    found: dict[str, Any] = json.loads(done.output.splitlines()[-1])
    return found


def common_options(parser: argparse.ArgumentParser, *, features: int, memory: str, out: str) -> None:
    """Add the options that this command and that of YearPredictionMSD share."""
    parser.add_argument("--rows", type=int, default=0, help="rows to use; 0 for all")
    parser.add_argument("--features", type=int, default=features, help="random Fourier features")
    parser.add_argument("--rank", default="auto", help="of the sketch: a number, or auto")
    parser.add_argument("--memory", default=memory, help="limit for each process")
    parser.add_argument("--tol", type=float, default=1e-6)
    parser.add_argument("--methods", default=",".join(METHODS), help="comma-separated")
    parser.add_argument("--max-passes", type=int, default=100, help="limit for each method")
    parser.add_argument("--timeout", type=float, default=None, help="limit for each method, in seconds")
    parser.add_argument("--resident", action="store_true", help="features in memory, made before the clock")
    parser.add_argument("--no-check", action="store_true", help="leave out the test outside")
    parser.add_argument("--fresh", action="store_true", help="measure again what results.json has")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / out)
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()) / "nysstream-benchmarks", help="for data"
    )


def _featured_store(store: Path, n_rows: int, n_features: int, length_scale: float) -> Path:
    """Write the random features of the first rows of a store to another, unless it is there."""
    from nysstream import DesignMatrix
    from nysstream import open as open_source
    from nysstream.features import Fourier

    path = store.with_name(f"{store.stem}-{n_rows}x{n_features}.zarr")
    if path.exists():
        return path
    say(f"writing {path}")
    X, y = (open_source(str(store), name).restrict(slice(0, n_rows)) for name in ("x", "y"))
    features: Any = Fourier(n_features, length_scale=length_scale)
    if features.needs_sample:
        features = features.fit(DesignMatrix(X, features=features).sample_rows())
    runs = (slice(i, min(i + 4096, n_rows)) for i in range(0, n_rows, 4096))
    blocks = (
        (features(np.asarray(X.read(rows), np.float32)), np.asarray(y.read(rows), np.float32).reshape(-1))
        for rows in runs
    )
    write_store(path, n_features, blocks, "Random features of flights")
    return path


def write_store(path: Path, n_columns: int, blocks: Iterable[tuple[Any, Any]], title: str) -> None:
    """Write rows and targets as a Zarr group, in row chunks."""
    from nysstream.sources.layout import Layout
    from nysstream.sources.writing import RowWriter

    path.parent.mkdir(parents=True, exist_ok=True)
    number = np.dtype(np.float32)
    layouts = {"x": Layout(n_columns, number), "y": Layout(1, number, vector=True)}
    with RowWriter(path, layouts, attributes={"title": title}) as writer:
        for rows, target in blocks:
            writer.append(x=rows, y=target)


def methods_of(parser: argparse.ArgumentParser, given: argparse.Namespace) -> list[str]:
    """Read ``--methods``."""
    asked = [name for name in given.methods.split(",") if name]
    if getattr(given, "stored", False) and given.methods == ",".join(METHODS):
        asked.append(LOOP)
    unknown = sorted(set(asked) - {*METHODS, LOOP})
    if unknown:
        parser.error(f"--methods: {', '.join(unknown)} is not among {', '.join(METHODS)}")
    return asked


def rank_of(given: argparse.Namespace) -> int | str:
    """Read ``--rank``."""
    return "auto" if given.rank == "auto" else int(given.rank)


def main(arguments: list[str] | None = None) -> Any:
    """Run every method on the problem of the demo; or, in a child, fit once or measure the machine."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["--fit"]:
        about, method = json.loads(arguments[1])
        print(json.dumps(fit(Problem(**about), method), default=float))
        return None
    if arguments[:1] == ["--limits"]:
        print(json.dumps(limits(json.loads(arguments[1]))))
        return None
    parser = argparse.ArgumentParser(prog="python -m benchmarks.choices", description=__doc__)
    common_options(parser, features=4000, memory="1GiB", out="choices")
    parser.add_argument("--stored", action="store_true", help="features on disk, made before the clock")
    given = parser.parse_args(arguments)
    if given.stored and given.resident:
        parser.error("--stored and --resident exclude each other")
    from benchmarks.peers import ALPHA, LENGTH_SCALE
    from nysstream import open as open_source
    from nysstream.cli.flights import build_flights

    store = given.folder / "flights.zarr"
    if not store.exists():
        say("building the store of flights")
        given.folder.mkdir(parents=True, exist_ok=True)
        build_flights(store)
    total = open_source(str(store), "x").shape[0]
    n = min(total - total // 10, given.rows or total)
    if given.stored:
        store = _featured_store(store, n, given.features, LENGTH_SCALE)
    problem = Problem(
        f"flights, {n:,} x {given.features:,} random features{', stored' if given.stored else ''}",
        str(store),
        n,
        given.features,
        LENGTH_SCALE,
        ALPHA,
        rank_of(given),
        None if given.resident else given.memory,
        given.tol,
        given.max_passes,
        given.resident,
        not given.no_check,
        given.stored,
    )
    out = given.out.with_name(given.out.name + "-stored") if given.stored else given.out
    return run(problem, methods_of(parser, given), out, timeout=given.timeout, fresh=given.fresh)


if __name__ == "__main__":
    main()
