"""What one pass costs on many machines, from rates measured on this one: ``python -m benchmarks.cost_model``.

The rates come from passes of nysstream on one core, and from a cluster of two processes. The model
multiplies and divides them; every assumption about machines that are not here is an option, and is printed.
``--rates FILE`` takes rates that were measured before, and measures nothing; ``--save FILE`` keeps them.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import dask
import numpy as np

import nysstream
from benchmarks.cluster import Wait
from nysstream.features import Fourier
from nysstream.streaming import DesignMatrix, GramProduct, partition, reduce


@dataclass(frozen=True)
class Rates:
    """What one core does, and what a cluster costs.

    Attributes
    ----------
    stored : float
        Decoded bytes per second of a pass with one column over Blosc LZ4 chunks in the page cache.
    streamed : float
        Bytes per second of the same pass over rows in memory.
    flops : float
        Floating-point operations per second of the product with many columns.
    mapped : float
        Numbers per second that random Fourier features of 100 columns make, the product with one
        column included.
    task : float
        Seconds per task of a pass in which no task does anything.
    added : float
        Bytes per second at which parts are added.
    """

    stored: float
    streamed: float
    flops: float
    mapped: float
    task: float
    added: float


def measure() -> Rates:
    """Measure the rates; takes a minute and 2 GiB of memory.

    Those of a core are by its processor time, so that a busy machine does not count.
    """
    from distributed import Client, LocalCluster

    rng = np.random.default_rng(0)
    n_rows, p, many = 200_000, 500, 256
    X = (rng.integers(-2048, 2048, (n_rows, p)) / 256).astype(np.float32)

    def seconds(source: Any, columns: int, features: Any = None) -> float:
        design = DesignMatrix(source, **({} if features is None else {"features": features}))
        reduction = GramProduct(rng.standard_normal((design.shape[1], columns)))
        best = math.inf
        with dask.config.set(scheduler="synchronous"):
            for _ in range(3):
                began = time.process_time()
                reduce(design, reduction)
                best = min(best, time.process_time() - began)
        return best

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "rows.zarr")
        nysstream.convert(X, path)
        stored = X.nbytes / seconds(nysstream.open(path, "x"), 1)
    streamed = X.nbytes / seconds(X, 1)
    flops = 4.0 * n_rows * p * many / seconds(X, many)
    narrow = np.ascontiguousarray(X[:20_000, :100])
    mapped = 20_000 * 15_000 / seconds(narrow, 1, Fourier(15_000, length_scale=10.0))
    parts = [rng.standard_normal((15_000, 20)) for _ in range(8)]
    began = time.process_time()
    for _ in range(20):
        sum(parts[1:], parts[0])
    added = 20 * 7 * parts[0].nbytes / (time.process_time() - began)
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            memory_limit=0,
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster),
        tempfile.TemporaryDirectory() as folder,
    ):
        np.save(Path(folder, "rows.npy"), X)
        partition.BLOCK_BYTES = partition.PARTITION_BYTES = 1 << 20  # as many tasks as a large store has
        design = DesignMatrix(nysstream.open(Path(folder, "rows.npy")), cache_bytes=1 << 30)
        times = []
        for _ in range(6):
            began = time.perf_counter()
            reduce(design, Wait(0.0, np.zeros((p, 1))))
            times.append(time.perf_counter() - began)
        task = min(times) / len(design.partitions)
    return Rates(stored, streamed, flops, mapped, task, added)


@dataclass(frozen=True)
class Machine:
    """A worker: what it has, as bytes and operations per second.

    Attributes
    ----------
    name : str
    cores : int
    line : float
        Bytes per second that it gets from object storage, or exchanges with others.
    stored, streamed, flops, mapped : float
        Rates of the whole machine.
    """

    name: str
    cores: int
    line: float
    stored: float
    streamed: float
    flops: float
    mapped: float


def of_cores(rates: Rates, cores: int, line: float, efficiency: float) -> Machine:
    """Make a machine of so many cores of this kind."""
    scale = cores * efficiency
    many = (rates.stored * scale, rates.streamed * scale, rates.flops * scale, rates.mapped * scale)
    return Machine(f"{cores} cores", cores, line, *many)


def pass_seconds(
    machine: Machine,
    rates: Rates,
    workers: int,
    *,
    n: float,
    d: int,
    p: int,
    columns: int,
    ratio: float,
    cached: bool,
) -> dict[str, float]:
    """Say what a pass takes.

    Parameters
    ----------
    machine : Machine
        Each worker.
    rates : Rates
    workers : int
    n, d, p : float, int, int
        Rows, stored columns, columns after the feature map.
    columns : int
        Vectors in the product.
    ratio : float
        Stored bytes to decoded bytes.
    cached : bool
        Whether all rows are in the workers' memory.

    Returns
    -------
    dict of str to float
        Seconds by what takes them, and ``total``: reading and computing overlap, the rest does not.
    """
    nbytes = 4.0 * n * d
    partitions = partition.MAX_PARTITIONS
    slots = workers * machine.cores
    # Tasks that do not come out even, or cores for which there is no task.
    idle = math.ceil(partitions / slots) * slots / partitions
    arithmetic = 4.0 * n * p * columns / machine.flops if columns > 1 else 0.0
    rows = n * p / machine.mapped if p != d else nbytes / (machine.streamed if cached else machine.stored)
    compute = (rows + arithmetic) / workers * idle
    read = 0.0 if cached else nbytes * ratio / machine.line / workers
    vector = 8.0 * p * columns
    levels = math.ceil(math.log(partitions, 8 if vector <= 8 << 20 else 2))
    fan = 8 if vector <= 8 << 20 else 2
    broadcast = vector / machine.line * (1 + math.log2(workers))
    # Parts of a worker's own partitions are added without a transfer, but for the last levels.
    tree = levels * (fan - 1) * vector * (1 / rates.added + 1 / machine.line)
    inner = partitions / workers * vector / rates.added / machine.cores
    scheduling = partitions * rates.task
    found = {"read": read, "compute": compute, "vectors": broadcast, "sums": tree + inner}
    # Tasks are handed out while others run: what cannot be hidden is what the last worker waits for.
    first = min(slots, partitions) * rates.task
    found["scheduling"] = max(0.0, scheduling - max(read, compute)) + first
    found["total"] = max(read, compute) + found["vectors"] + found["sums"] + found["scheduling"]
    return found


def table(title: str, machines: list[tuple[Machine, int]], rates: Rates, **problem: Any) -> None:
    """Print the seconds of passes for several sizes of cluster."""
    print(f"\n**{title}**\n")
    print("| workers | pass | read | compute | vectors | sums | scheduling | total |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for machine, workers in machines:
        for name, columns in (("product, 1 vector", 1), ("sketch, 500 vectors", 500)):
            found = pass_seconds(machine, rates, workers, columns=columns, **problem)
            shown = " | ".join(f"{value:,.0f}" if value >= 10 else f"{value:.1f}" for value in found.values())
            print(f"| {workers} x {machine.name} | {name} | {shown} |")


def main(arguments: list[str] | None = None) -> None:
    """Measure, or read, the rates; print what they predict."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cost_model", description=__doc__)
    parser.add_argument("--rates", type=Path)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--cores", type=int, default=16, help="of a worker")
    parser.add_argument("--efficiency", type=float, default=0.7, help="of all cores together, to one alone")
    parser.add_argument("--line", type=float, default=1.25e9, help="bytes per second of a worker's line")
    given = parser.parse_args(arguments)
    rates = Rates(**json.loads(given.rates.read_text())) if given.rates else measure()
    if given.save:
        given.save.write_text(json.dumps(asdict(rates), indent=1) + "\n")
    print("Measured here, per core:")
    for name, value in asdict(rates).items():
        print(f"  {name:9} {value:.3g}")
    worker = of_cores(rates, given.cores, given.line, given.efficiency)
    # From data sheets, at 0.7 of what they say; nothing of this was measured.
    gpu = Machine("GPU", 1, 12e9, 40e9, 0.7 * 3.3e12, 0.7 * 60e12, 0.7 * 3.3e12 / 16)
    clusters = [(worker, 8), (worker, 64), (worker, 512), (gpu, 8)]
    n = 1e9
    table("15,000 stored columns, read in every pass", clusters, rates, n=n, d=15_000, p=15_000, ratio=0.56,
          cached=False)  # fmt: skip
    table("100 stored columns, 15,000 random Fourier features", clusters, rates, n=n, d=100, p=15_000,
          ratio=0.56, cached=False)  # fmt: skip


if __name__ == "__main__":
    main()
