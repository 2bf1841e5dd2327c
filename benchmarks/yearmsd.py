"""The problem of the lecture: 463,715 songs, 15,000 random features, ``mu = alpha / n = 1e-5``, rank 500.

``python -m benchmarks.yearmsd --file YearPredictionMSD.txt`` on the real data; without ``--file`` on a
stand-in of the same shape. ``--resident`` keeps the features in memory, half of the rows by default.
Runs on where an earlier run with the same settings ended. See README.md.

The stand-in is made, not sampled: 90 columns whose correlation matrix has eigenvalues near ``18 / j``
(standardised audio features are correlated in this manner), from a mixture of twelve Gaussians that
share a covariance, with rows of log-normal size for the heavy tails; targets are a sum of 24 random
waves along the leading directions, and as much noise again, around the year 1998. Passes and seconds
on it say what data of this shape and of this kind of spectrum cost, not what the real songs do.
"""

from __future__ import annotations

import argparse
import io
import math
import sys
import zipfile
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.choices import Problem, common_options, methods_of, rank_of, run, write_store
from benchmarks.measuring import say

if TYPE_CHECKING:
    from collections.abc import Iterator

N_ROWS, N_COLUMNS = 463_715, 90
_SEED, _BLOCK = 20260, 8192
_CLUSTERS, _WAVES = 12, 24


class StandIn:
    """Rows of the stand-in, block by block; a block's number is its seed."""

    def __init__(self, n_rows: int) -> None:
        self.n_rows = n_rows
        rng = np.random.default_rng(_SEED)
        rotation = np.linalg.qr(rng.standard_normal((N_COLUMNS, N_COLUMNS)))[0]
        # 85 % of the variance is within clusters, the rest between them, in the same directions.
        self._deviations = 1 / np.sqrt(np.arange(1, N_COLUMNS + 1.0))
        self._rotation = rotation
        self._centers = np.sqrt(0.15) * rng.standard_normal((_CLUSTERS, N_COLUMNS)) * self._deviations
        leading = self._deviations**-1 * (np.arange(N_COLUMNS) < 12) / math.sqrt(12)
        self._waves = 1.5 * rng.standard_normal((N_COLUMNS, _WAVES)) * leading[:, None]
        self._phases = rng.uniform(0, 2 * np.pi, _WAVES)

    def raw(self, number: int) -> tuple[Any, Any]:
        """Make one block before its columns are standardised."""
        rows = min(_BLOCK, self.n_rows - number * _BLOCK)
        rng = np.random.default_rng([_SEED, number])
        size = np.exp(0.25 * rng.standard_normal((rows, 1)))
        cluster = rng.integers(0, _CLUSTERS, rows)
        latent = np.sqrt(0.85) * rng.standard_normal((rows, N_COLUMNS)) * self._deviations
        latent = size * (latent + self._centers[cluster])
        signal = np.cos(latent @ self._waves + self._phases).sum(axis=1) * math.sqrt(2 / _WAVES)
        return latent @ self._rotation.T, 1998 + 7 * (signal + rng.standard_normal(rows))

    @cached_property
    def standard(self) -> tuple[Any, Any]:
        """Means and deviations of the columns, from the first blocks."""
        sample = np.concatenate([self.raw(number)[0] for number in range(min(8, self.n_blocks))])
        return sample.mean(axis=0), sample.std(axis=0)

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return -(-self.n_rows // _BLOCK)

    def blocks(self) -> Iterator[tuple[Any, Any]]:
        """Yield standardised rows and targets."""
        mean, deviation = self.standard
        for number in range(self.n_blocks):
            rows, target = self.raw(number)
            yield ((rows - mean) / deviation).astype(np.float32), target.astype(np.float32)


def songs(path: Path) -> Iterator[tuple[Any, Any]]:
    """Read the training rows of the real file, text or zipped, and standardise their columns."""
    import pyarrow.csv

    file: Any = path
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            file = io.BytesIO(archive.read(archive.namelist()[0]))
    options = pyarrow.csv.ReadOptions(autogenerate_column_names=True)
    table = pyarrow.csv.read_csv(file, read_options=options).slice(0, N_ROWS)
    if table.num_columns != N_COLUMNS + 1:
        message = f"{path} has {table.num_columns} columns; the year and {N_COLUMNS} numbers are expected"
        raise SystemExit(message)
    X = np.column_stack([column.to_numpy().astype(np.float64) for column in table.columns[1:]])
    X -= X.mean(axis=0)
    X /= X.std(axis=0)
    y = table.columns[0].to_numpy().astype(np.float32)
    for start in range(0, len(X), _BLOCK):
        yield X[start : start + _BLOCK].astype(np.float32), y[start : start + _BLOCK]


def main(arguments: list[str] | None = None) -> Any:
    """Make the store unless it is there, and run every method."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.yearmsd", description=__doc__)
    parser.add_argument("--file", type=Path, help="YearPredictionMSD.txt, or the .zip that it comes in")
    parser.add_argument("--mu", type=float, default=1e-5, help="alpha / n")
    parser.add_argument("--length-scale", default="median", help="a number, or the median distance")
    common_options(parser, features=15_000, memory="4GiB", out="yearmsd")
    parser.set_defaults(rank="500")
    given = parser.parse_args(arguments)
    from nysstream import open as open_source

    if given.file is None:
        n_rows = given.rows or N_ROWS
        store = given.folder / f"yearmsd-like-{n_rows}.zarr"
        make, title = StandIn(n_rows).blocks, "Stand-in of the shape of YearPredictionMSD"
    else:
        store = given.folder / "yearmsd.zarr"
        make, title = (lambda: songs(given.file)), "YearPredictionMSD, training rows, standardised"
    if not store.exists():
        say(f"writing {store}")
        write_store(store, N_COLUMNS, make(), title)
    n = open_source(str(store), "x").shape[0]
    if given.rows:
        n = min(n, given.rows)
    elif given.resident:
        n //= 2
    scale = given.length_scale if given.length_scale == "median" else float(given.length_scale)
    kind = "stand-in for YearPredictionMSD" if given.file is None else "YearPredictionMSD"
    where = ", features in memory" if given.resident else ""
    problem = Problem(
        f"{kind}, {n:,} x {given.features:,} random features{where}",
        str(store),
        n,
        given.features,
        scale,
        given.mu * n,
        rank_of(given),
        None if given.resident else given.memory,
        given.tol,
        given.max_passes,
        given.resident,
        not given.no_check,
    )
    out = given.out.with_name(given.out.name + "-resident") if given.resident else given.out
    return run(problem, methods_of(parser, given), out, timeout=given.timeout, fresh=given.fresh)


if __name__ == "__main__":
    main()
    sys.exit(0)
