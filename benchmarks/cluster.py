"""What a Dask cluster adds to a pass: ``python -m benchmarks.cluster``.

Two measurements with worker processes of one thread each on this machine:

* A pass whose tasks only wait, each for the same time, so that without any overhead it takes
  ``--seconds``, however busy the machine is. Its partial sums are as large as those of ``--columns``
  products with ``p`` coefficients. What it takes beyond is what scheduling, shipping the vectors and
  adding the partial sums cost.
* A pass over resident rows that computes, on the cluster and on as many threads of one process, in
  turn; and what the second and later passes take from the workers' caches.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import dask
import numpy as np
from distributed import Client, LocalCluster

import nysstream
from nysstream.streaming import DesignMatrix, GramProduct, Reduction, reduce
from nysstream.streaming.cache import clear_cache
from nysstream.trace import Trace, tracing


class Wait(Reduction):
    """Wait for so many seconds in every partition, and give a part of p x k zeros."""

    def __init__(self, seconds: float, vectors: Any) -> None:
        self.seconds, self.vectors = seconds, vectors

    def start(self, design, device):
        time.sleep(self.seconds)
        return {"sum": np.zeros(self.vectors.shape)}

    def add(self, part, tile, prepared):
        return part

    def n_columns(self, design):
        return self.vectors.shape[1]

    def part_bytes(self, design):
        return self.vectors.nbytes


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Measure, print, and give the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cluster", description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10.0, help="of a pass without overhead")
    parser.add_argument("--p", type=int, default=15_000)
    parser.add_argument("--columns", type=int, default=10)
    parser.add_argument("--mib", type=int, default=512, help="of the rows of the pass that computes")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args(arguments)
    found: dict[str, float] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        dask.config.set({"distributed.worker.daemon": True}),
        LocalCluster(
            n_workers=given.workers,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            memory_limit=0,
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(given.workers)
        path = Path(folder, "rows.npy")
        n_columns = 500
        n_rows = given.mib * (1 << 20) // (4 * n_columns)
        np.save(path, np.random.default_rng(0).standard_normal((n_rows, n_columns), dtype=np.float32))
        rows = DesignMatrix(nysstream.open(path), cache_bytes=2 * given.mib << 20)
        count = len(rows.partitions)
        # Reading is left out: what waits sees rows that are cached.
        each = given.seconds * given.workers / count
        vectors = np.random.default_rng(1).standard_normal((given.p, given.columns))
        reduce(rows, GramProduct(np.ones((n_columns, 1))))
        reduce(rows, GramProduct(np.ones((n_columns, 1))))
        waits = []
        for _ in range(given.repeats):
            began = time.perf_counter()
            reduce(rows, Wait(each, vectors))
            waits.append(time.perf_counter() - began)
        found["overhead"] = statistics.median(waits) / given.seconds - 1
        print(
            f"{count} tasks that wait {each:.2f} s on {given.workers} workers, "
            f"parts of {vectors.nbytes / 1e6:.1f} MB"
        )
        print(
            f"pass {statistics.median(waits):.2f} s instead of {given.seconds:.2f}: "
            f"{found['overhead']:.1%} more"
        )
        product = GramProduct(np.random.default_rng(2).standard_normal((n_columns, given.columns)))
        there, here, shares = [], [], []
        for _ in range(given.repeats):
            with tracing(Trace()) as trace:
                reduce(rows, product)
            there.append(trace.passes[0].seconds)
            cost = trace.passes[0].cost
            shares.append(cost.bytes_from_cache / (cost.bytes_from_cache + cost.bytes_read))
            with dask.config.set(scheduler="threads", num_workers=given.workers):
                reduce(rows, product)
                began = time.perf_counter()
                reduce(rows, product)
                here.append(time.perf_counter() - began)
        clear_cache()
        found["ratio"] = statistics.median(there) / statistics.median(here)
        found["from_cache"] = min(shares)
        print(
            f"a resident pass over {given.mib} MiB: {statistics.median(there):.3f} s on the cluster, "
            f"{statistics.median(here):.3f} s on threads; {min(shares):.0%} from the workers' caches"
        )
    return found


if __name__ == "__main__":
    main()
