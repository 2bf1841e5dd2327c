"""Measure from outside that a fit stays within its memory, whatever the format and the rows.

Writes a 4 GB Zarr store, its HDF5 twin, and a Zarr store of four times the rows, fits each with
``nysstream fit ridge --memory 1GiB`` in a process of its own, and prints that process's peak as the
kernel counts it. Run ``python -m benchmarks.memory --dir /some/disk`` (needs 25 GB there), or less
with ``--rows``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import h5py
import numpy as np

from nysstream.sources.layout import Layout
from nysstream.sources.writing import RowWriter

N_COLUMNS = 1000
BLOCK = 8192


def blocks(n_rows: int) -> object:
    """Give rows with a decaying spectrum, and targets, block by block."""
    rng = np.random.default_rng(0)
    scales = np.logspace(0, -1.5, N_COLUMNS, dtype=np.float32)
    coef = rng.standard_normal(N_COLUMNS).astype(np.float32)
    base = rng.standard_normal((2 * BLOCK, N_COLUMNS), dtype=np.float32) * scales
    for start in range(0, n_rows, BLOCK):
        offset = int(rng.integers(BLOCK))
        X = base[offset : offset + min(BLOCK, n_rows - start)] * np.float32(1 + 0.1 * rng.random())
        yield X, X @ coef + rng.standard_normal(len(X), dtype=np.float32)


def write_zarr(path: Path, n_rows: int) -> None:
    layouts = {"x": Layout(N_COLUMNS, np.dtype("f4")), "y": Layout(1, np.dtype("f4"), vector=True)}
    with RowWriter(str(path), layouts, n_rows=n_rows) as writer:
        for X, y in blocks(n_rows):
            writer.append(x=X, y=y)


def write_hdf5(path: Path, n_rows: int) -> None:
    with h5py.File(path, "w") as file:
        x = file.create_dataset("x", (n_rows, N_COLUMNS), "f4", chunks=(1024, N_COLUMNS))
        y = file.create_dataset("y", (n_rows,), "f4", chunks=(65536,))
        start = 0
        for X, targets in blocks(n_rows):
            x[start : start + len(X)] = X
            y[start : start + len(X)] = targets
            start += len(X)


def fit(store: Path, memory: str, *options: str) -> tuple[dict[str, object], int]:
    """Fit in a process of its own; return its statistics and its peak resident bytes."""
    command = [sys.executable, "-m", "nysstream", "fit", "ridge", str(store), "--data", "x", "--target", "y"]
    command += ["--memory", memory, "--json", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    # The child is reaped by wait4, which gives the kernel's account of this child alone.
    output: list[str] = []
    reader = threading.Thread(target=lambda: output.append(process.stdout.read()))
    reader.start()
    _, status, usage = os.wait4(process.pid, 0)
    reader.join()
    if os.waitstatus_to_exitcode(status):
        message = f"{' '.join(command)} exited with {os.waitstatus_to_exitcode(status)}"
        raise SystemExit(message)
    return json.loads(output[0]), usage.ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dir", default=tempfile.gettempdir())
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--memory", default="1GiB")
    arguments = parser.parse_args()
    directory, n = Path(arguments.dir), arguments.rows
    stores = [
        (directory / f"memory-{n}.zarr", write_zarr, n),
        (directory / f"memory-{n}.h5", write_hdf5, n),
        (directory / f"memory-{4 * n}.zarr", write_zarr, 4 * n),
    ]
    head = ("data", 8), ("peak", 10), ("limit", 10), ("passes", 6), ("residual", 9), ("s", 6)
    print(f"{'store':28} {'solver':8}", *(f"{name:>{width}}" for name, width in head))
    for path, write, rows in stores:
        if not path.exists():
            write(path, rows)
        for solver in ("gram", "nystrom"):
            stats, peak = fit(path, arguments.memory, "--solver", solver)
            print(
                f"{path.name:28} {solver:8} {4 * rows * N_COLUMNS / 1e9:6.1f}GB {peak / 2**20:7.0f}MiB "
                f"{stats['memory_limit_bytes'] / 2**20:7.0f}MiB {stats['passes']:6} "
                f"{stats['relative_residual']:9.1e} {stats['seconds']:6.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
