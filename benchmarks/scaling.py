"""How time and memory of a pass grow with rows, columns, vectors and workers, and what Dask costs.

Each point runs in a process of its own, whose peak memory is then its own too.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import numpy as np

from benchmarks import stores
from benchmarks.measuring import MB, Row, Settings, median, say
from nysstream import DesignMatrix, RowSource
from nysstream.operators.gram import GramOperator
from nysstream.sources import open as open_source
from nysstream.streaming import GramProduct, reduce

MEMORY_GOAL, TIME_GOAL, OVERHEAD_GOAL = 1.1, 1.2, 0.03


def measure(
    path: str, rows: int, columns: int, k: int, workers: int, device: str, repeats: int
) -> dict[str, Any]:
    """Time passes over the leading rows of a store, and take the peak of this process."""
    from nysstream.memory import peak_resident_bytes, resident_bytes

    source = Repeated(open_source(path), rows)
    operator = GramOperator(DesignMatrix(source, device=device))
    V = np.random.default_rng(0).standard_normal((columns, k))
    before, seconds = resident_bytes(), []
    with dask.config.set(scheduler="threads", num_workers=workers):
        for _ in range(repeats + 1):
            began = time.perf_counter()
            operator @ V
            seconds.append(time.perf_counter() - began)
    return {"seconds": seconds[1:], "peak_bytes": peak_resident_bytes(), "before_bytes": before}


def _point(settings: Settings, **given: Any) -> dict[str, Any]:
    scale = settings.scale
    if given["columns"] != scale.n_columns:
        scale = replace(scale, n_rows=given["rows"], n_columns=given["columns"])
    path = stores.STORES["zarr-lz4"].made(replace(settings, scale=scale))
    options = {"path": str(path), "device": settings.device, "repeats": settings.scale.repeats} | given
    answer = subprocess.run(
        [sys.executable, "-m", "benchmarks.scaling", json.dumps(options)],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    return json.loads(answer.stdout.splitlines()[-1])


def run(settings: Settings) -> list[Row]:
    """Measure along each axis in turn, and the cost of an empty pass."""
    scale, cores = settings.scale, settings.cores
    n, p = scale.n_rows, scale.n_columns
    base = {"rows": n // 4, "columns": p, "k": 1, "workers": cores}
    axes: dict[str, list[int]] = {
        "rows": [n // 4, n, 4 * n],  # fewer would not fill the buffers
        "k": [1, 8, 64, min(p, 512)],
        "workers": sorted({1, cores, 2 * cores}),
        "columns": [p // 4, p, 4 * p],
    }
    rows, known = [], {}
    for axis, values in axes.items():
        chosen = values[:2] if scale.repeats == 1 else values
        found = []
        for value in chosen:
            say(f"scaling: {axis} = {value}")
            given = base | {axis: value}
            if axis == "columns":  # as many bytes, in rows of another length
                given["rows"] = base["rows"] * p // value
            point = tuple(given.items())
            if point not in known:
                known[point] = _point(settings, **given)
            found.append(known[point])
        rows += _rows(axis, chosen, found)
    rows.append(overhead(settings))
    return rows


def _rows(axis: str, values: list[int], found: list[dict[str, Any]]) -> list[Row]:
    """Hold each point against the first: time per row, peak memory."""
    first, rows = found[0], []
    for value, point in zip(values, found, strict=True):
        seconds, growth = median(point["seconds"]), value / values[0]
        details = point | {"axis": axis, "x": value}
        if axis != "rows":
            ratio = seconds / median(first["seconds"])
            note = f"peak {point['peak_bytes'] / MB:.0f} MiB; limit: the first point"
            rows.append(
                Row(
                    "scaling",
                    f"{axis} {value}",
                    seconds,
                    median(first["seconds"]),
                    ratio,
                    note=note,
                    details=details,
                )
            )
            continue
        expected = growth * median(first["seconds"])
        note = "to linear growth from the first"
        ratio = seconds / expected
        rows.append(
            Row(
                "scaling",
                f"rows {value}, time",
                seconds,
                expected,
                ratio,
                TIME_GOAL,
                True,
                note=note,
                details=details,
            )
        )
        peak, least = point["peak_bytes"], first["peak_bytes"]
        memory = {"peak_bytes": peak, "before_bytes": point["before_bytes"]}
        rows.append(
            Row(
                "scaling",
                f"rows {value}, memory",
                peak / MB,
                least / MB,
                peak / least,
                MEMORY_GOAL,
                at_most=True,
                unit="MiB",
                note="to the first",
                details=memory,
            )
        )
    return rows


class Repeated(RowSource):
    """The rows of a source, over and over: many more than the disk need hold."""

    def __init__(self, source: RowSource, n_rows: int) -> None:
        self.source, self.name = source, source.name
        self.shape, self.dtype = (n_rows, source.shape[1]), source.dtype
        self.chunk_rows = source.chunk_rows

    @property
    def fingerprint(self) -> str:
        """Add the number of rows to the source's own."""
        return f"{self.source.fingerprint}-{self.shape[0]}"

    @property
    def decode_bytes(self) -> int:
        """As the source."""
        return self.source.decode_bytes

    def read(self, rows: slice, out: Any = None) -> Any:
        """Read from wherever the rows begin in the source, as often as it ends."""
        out = np.empty((rows.stop - rows.start, self.shape[1]), self.dtype) if out is None else out
        done, total = 0, self.source.shape[0]
        while done < len(out):
            first = (rows.start + done) % total
            count = min(total - first, len(out) - done)
            self.source.read(slice(first, first + count), out[done : done + count])
            done += count
        return out


class Hollow(RowSource):
    """Rows that cost nothing, cut into as many blocks as a real source's."""

    def __init__(self, n_blocks: int) -> None:
        self.name, self.shape, self.dtype = "hollow", (n_blocks, 4), np.dtype(np.float32)

    @property
    def row_bytes(self) -> float:
        """Claim a block's worth, so that each row becomes one."""
        return float(8 << 20)

    @property
    def fingerprint(self) -> str:
        """Give some name: nothing is cached."""
        return "hollow"

    def read(self, rows: slice, out: Any = None) -> Any:
        """Fill in ones."""
        out = np.empty((rows.stop - rows.start, 4), np.float32) if out is None else out
        out[...] = 1
        return out


def overhead(settings: Settings) -> Row:
    """Time a pass that has the blocks and partitions of a real one but nothing to read or multiply."""
    scale = settings.scale
    path = stores.STORES["zarr-lz4"].made(settings)
    real = GramOperator(DesignMatrix(open_source(str(path)), device=settings.device))
    hollow = DesignMatrix(Hollow(sum(len(part.blocks) for part in real.design.partitions)), device="cpu")
    whole, empty = [], []
    for _ in range(max(2, scale.repeats)):
        began = time.perf_counter()
        real @ np.ones((scale.n_columns, 1))
        whole.append(time.perf_counter() - began)
        began = time.perf_counter()
        reduce(hollow, GramProduct(np.ones((4, 1))))
        empty.append(time.perf_counter() - began)
    share = median([e / w for e, w in zip(empty[1:], whole[1:], strict=True)])
    return Row(
        "overhead",
        f"{len(hollow.partitions)} tasks of {hollow.shape[0]} blocks",
        median(empty[1:]),
        median(whole[1:]),
        share,
        OVERHEAD_GOAL,
        at_most=True,
        note="Dask, threads and queues: an empty pass, to a pass over zarr-lz4 in the page cache",
        details={"empty_seconds": empty, "pass_seconds": whole},
    )


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))
