"""Penalised regressions on a store four times the memory limit: passes, peak, seconds.

``python -m benchmarks.composite_streaming --dir /some/disk`` writes a Zarr store and fits each model
with ``nysstream fit`` in a process of its own, whose peak is seen from outside.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import isolation
from benchmarks.listing import as_text
from benchmarks.measuring import MB, say
from benchmarks.memory import N_COLUMNS, blocks

#: Command, its options given the strongest useful penalty and the rows, and the passes aimed at.
FITS: dict[str, tuple[str, Any, int]] = {
    "lasso, admm": (
        "lasso", lambda most, n: ["--target", "y", "--solver", "admm", "--alpha", most / 100], 60
    ),
    "lasso, auto": ("lasso", lambda most, n: ["--target", "y", "--alpha", most / 100], 3),
    "l1 logistic, admm": (
        "logistic",
        lambda most, n: ["--target", "label", "--solver", "admm", "--l1-ratio", 1, "--C", 100 / (most * n)],
        100,
    ),
    "l1 logistic, auto": (
        "logistic", lambda most, n: ["--target", "label", "--l1-ratio", 1, "--C", 100 / (most * n)], 100
    ),
}  # fmt: skip
HEADER = ("fit", "data", "limit", "peak", "gap", "passes", "goal", "seconds", "")


def write_store(path: Path, n_rows: int) -> None:
    """Write rows with a decaying spectrum, targets, labels, and the least penalties without coefficients."""
    from nysstream.sources.layout import Layout
    from nysstream.sources.writing import RowWriter

    narrow = {name: Layout(1, np.dtype("f4"), vector=True) for name in ("y", "label")}
    layouts = {"x": Layout(N_COLUMNS, np.dtype("f4")), **narrow}
    sums = {name: np.zeros(N_COLUMNS) for name in narrow}
    with RowWriter(str(path), layouts, n_rows=n_rows) as writer:
        for X, y in blocks(n_rows):
            label = np.where(y > 0, np.float32(1), np.float32(-1))
            writer.append(x=X, y=y, label=label)
            sums["y"] += X.T @ y
            sums["label"] += X.T @ label / 2
    most = {name: float(np.abs(total).max()) / n_rows for name, total in sums.items()}
    path.with_suffix(".json").write_text(json.dumps(most))


def fit(name: str, store: Path, n_rows: int, limit: int, tol: float, timeout: float) -> tuple[str, ...]:
    """Fit one model, and lay out what it took."""
    command, options, goal = FITS[name]
    most = json.loads(store.with_suffix(".json").read_text())
    chosen = [str(one) for one in options(most["y" if command == "lasso" else "label"], n_rows)]
    call = [sys.executable, "-m", "nysstream", "fit", command, str(store), "--data", "x", *chosen]
    call += ["--tol", str(tol), "--memory", f"{limit // MB}MiB", "--json"]
    call += ["--time-limit", str(timeout)]
    done = isolation.run(call, timeout=timeout + 60)
    size = f"{4 * n_rows * N_COLUMNS / MB:.0f} MiB"
    head = (name, size, f"{limit // MB} MiB", f"{done.peak_bytes / MB:.0f} MiB")
    if done.timed_out or not done.output.strip():
        why = f"timed out after {timeout:g} s" if done.timed_out else done.last_words()
        return (*head, "", "", str(goal), "", why)
    stats = json.loads(done.output)
    over = "over the limit" if done.peak_bytes > limit else ""
    over = over or ("" if done.code == 0 else "not reached in time")
    gap, passes = f"{stats['duality_gap']:.1e}", str(stats["passes"])
    return (*head, gap, passes, str(goal), f"{stats['seconds']:.1f}", over)


def main(arguments: list[str] | None = None) -> list[tuple[str, ...]]:
    """Fit every model, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.composite_streaming", description=__doc__)
    parser.add_argument("--dir", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--memory", type=int, default=512, help="limit in MiB; the store is four times that")
    parser.add_argument("--rows", type=int, default=0, help="0 for four times the limit")
    parser.add_argument("--tol", type=float, default=1e-4, help="relative duality gap")
    parser.add_argument("--timeout", type=float, default=300.0)
    parser.add_argument("--only", default=",".join(FITS).replace(", ", " "), help="comma-separated fits")
    given = parser.parse_args(arguments)
    limit = given.memory * MB
    n_rows = given.rows or 4 * limit // (4 * N_COLUMNS)
    store = given.dir / f"composite-{n_rows}.zarr"
    if not store.with_suffix(".json").exists():
        say(f"writing {store}")
        write_store(store, n_rows)
    asked = given.only.split(",")
    lines = []
    for name in FITS:
        if name.replace(", ", " ") in asked:
            lines.append(fit(name, store, n_rows, limit, given.tol, given.timeout))
            say("  ".join(lines[-1]))
    print(as_text(HEADER, lines))
    return lines


if __name__ == "__main__":
    main()
