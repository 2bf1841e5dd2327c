"""One pass: a Dask graph of partition tasks and a fixed tree of additions."""

from __future__ import annotations

import itertools
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dask.base
import dask.config
import dask.local
import dask.threaded
import numpy as np
from dask.delayed import delayed
from dask.system import CPU_COUNT

from nysstream.arrays import single_threaded_blas, to_host
from nysstream.errors import InputError
from nysstream.memory import resident_bytes
from nysstream.streaming.partition import MAX_PARTITIONS
from nysstream.streaming.prefetch import N_SLOTS, read_blocks
from nysstream.streaming.reduction import Part, Reduction, Tile
from nysstream.trace import Cost, PassRecord, current_trace, listening, report_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nysstream.arrays import Device
    from nysstream.streaming.design import DesignMatrix
    from nysstream.streaming.partition import Partition

#: Parts up to this size are added eight at a time. Larger ones two at a time: then only about
#: log2(partitions) sums wait for their siblings at once.
_WIDE_TREE_BYTES = 8 << 20

_numbers = itertools.count(1)


def reduce(design: DesignMatrix, *reductions: Reduction, compute: bool = True, name: str = "pass") -> Any:
    """Read the data once and run the reductions on every tile.

    Parameters
    ----------
    design : DesignMatrix
    *reductions : Reduction
        All of them see each tile while it is in cache or on the device.
    compute : bool
        False gives the lazy Dask object instead, whose ``compute()`` gives the same results.
    name : str
        What the pass is for, in traces and on Dask's dashboard.

    Returns
    -------
    tuple
        One result per reduction, in order.

    Raises
    ------
    InputError
        If there is no reduction, or one needs targets and the design has none; before any read.

    Notes
    -----
    Cost: exactly one pass, ``n`` rows of the source. Runs on the current Dask scheduler. Partition
    boundaries and the tree depend on the data alone, so results are the same bits on every
    scheduler of one kind of machine.
    """
    if not reductions:
        message = "reduce() needs at least one reduction"
        raise InputError(message)
    if design.target is None and any(reduction.needs_target for reduction in reductions):
        message = f"this pass needs targets, and the design over {design.source.name} has none: give target="
        raise InputError(message)
    token = f"nysstream-{next(_numbers)}-{uuid.uuid4().hex[:8]}"
    job = delayed(_Job(design, reductions, token), name=f"{name}-job-{token}", traverse=False)
    root = _tree(design, reductions, job, f"{name}-{{}}{token}")
    if not compute:
        return delayed(_finish)(job, root, dask_key_name=f"{name}-result-{token}")
    began = time.perf_counter()
    trace = current_trace()
    started = trace.seconds if trace is not None else 0.0
    kind, tasks = scheduler()
    limits = {"num_workers": min(tasks, design.max_tasks)} if kind == "threads" and design.max_tasks else {}
    with listening(token, name, design.shape[0]):
        parts, cost = root.compute(**limits)
    if trace is not None:
        trace.passes.append(PassRecord(name, started, time.perf_counter() - began, cost))
    return tuple(r.finish(design, part) for r, part in zip(reductions, parts, strict=True))


def _tree(design: DesignMatrix, reductions: Sequence[Reduction], job: Any, key: str) -> Any:
    """Build the lazy ``(parts, cost)`` over all rows."""
    run, add = delayed(_run_partition, pure=False), delayed(_add_parts, pure=False)
    level = [run(job, i, dask_key_name=f"{key.format('')}-{i}") for i in range(len(design.partitions))]
    arity = _arity(design, reductions)
    for depth in itertools.count(1):
        if len(level) == 1:
            break
        level = [
            add(job, level[i : i + arity], dask_key_name=f"{key.format('sum-')}-{depth}-{i // arity}")
            for i in range(0, len(level), arity)
        ]
    return level[0]


@dataclass(frozen=True)
class _Job:
    """Design and reductions: the one input that all tasks of a pass share."""

    design: DesignMatrix
    reductions: tuple[Reduction, ...]
    token: str


def _run_partition(job: _Job, index: int) -> tuple[list[Part], Cost]:
    """Read one partition and reduce its tiles, in order."""
    design, reductions = job.design, job.reductions
    partition = design.partitions[index]
    device = design.get_device()
    cost = Cost(rows=partition.rows.stop - partition.rows.start)
    # Overflow and NaN are looked for by the reductions, which say where they are.
    with single_threaded_blas(), np.errstate(over="ignore", invalid="ignore"):
        prepared = [reduction.prepare(design, device) for reduction in reductions]
        parts = [reduction.start(design, device) for reduction in reductions]
        for tile in _tiles(job, partition, device, cost):
            began = time.perf_counter()
            parts = [r.add(part, tile, x) for r, part, x in zip(reductions, parts, prepared, strict=True)]
            cost.product_seconds += time.perf_counter() - began
        host = [{key: to_host(value) for key, value in part.items()} for part in parts]
    cost.peak_bytes = resident_bytes()
    return host, cost


def _tiles(job: _Job, partition: Partition, device: Device, cost: Cost) -> Iterator[Tile]:
    design = job.design
    xp = device.xp
    first = partition.rows.start
    target = weight = None
    if design.target is not None and any(r.reads_target for r in job.reductions):
        target = device.put(_read_float64(design.target, partition.rows))
    if design.weight is not None:
        weight = device.put(_read_float64(design.weight, partition.rows)[:, 0])
    shift = None
    if design.centering is not None and design.centering.shift is not None:
        shift = device.put(design.centering.shift.astype(design.dtype))
    step = design.tile_rows(*job.reductions)
    dtype = getattr(xp, design.dtype.name)
    for a, b, block in read_blocks(design, partition.blocks, device, cost):
        for i in range(0, b - a, step):
            j = min(i + step, b - a)
            raw = block if j - i == b - a else block[i:j, ...]
            began = time.perf_counter()
            Z = design.features(
                raw.astype(design.dtype) if design.source.sparse else xp.astype(raw, dtype, copy=False)
            )
            if shift is not None:
                Z = Z - shift
            cost.feature_seconds += time.perf_counter() - began
            rows = slice(a + i - first, a + j - first)
            yield Tile(
                a + i,
                raw,
                Z,
                None if target is None else target[rows, ...],
                None if weight is None else weight[rows],
            )
        report_rows(job.token, b - a, int((b - a) * design.row_bytes))


def _read_float64(source: Any, rows: slice) -> Any:
    return source.read(rows, np.empty((rows.stop - rows.start, source.shape[1])))


def _add_parts(job: _Job, results: list[tuple[list[Part], Cost]]) -> tuple[list[Part], Cost]:
    """Add the results of consecutive partitions, left to right."""
    parts, cost = results[0]
    for more, extra in results[1:]:
        parts = [r.combine(a, b) for r, a, b in zip(job.reductions, parts, more, strict=True)]
        cost = cost + extra
    return parts, cost


def _finish(job: _Job, result: tuple[list[Part], Cost]) -> tuple[Any, ...]:
    return tuple(r.finish(job.design, part) for r, part in zip(job.reductions, result[0], strict=True))


def _arity(design: DesignMatrix, reductions: Sequence[Reduction]) -> int:
    return 8 if sum(r.part_bytes(design) for r in reductions) <= _WIDE_TREE_BYTES else 2


# --- what a pass needs of the machine ------------------------------------------------------------


def scheduler() -> tuple[str, int]:
    """Name the current Dask scheduler and how many tasks it runs at once in a process."""
    get = dask.base.get_scheduler() or dask.threaded.get  # type: ignore[no-untyped-call]
    if get is dask.local.get_sync:
        return "synchronous", 1
    if get is dask.threaded.get:
        pool = dask.config.get("pool", None)
        workers = dask.config.get("num_workers", None) or getattr(pool, "_max_workers", None) or CPU_COUNT
        return "threads", int(workers)
    client = getattr(get, "__self__", None)
    if client is not None and hasattr(client, "nthreads"):
        return "distributed", max(client.nthreads().values(), default=1)
    return "other", 1


def pass_needs(design: DesignMatrix, *reductions: Reduction) -> dict[str, int]:
    """Count the bytes that a pass holds at its peak, by what holds them, in one process.

    Notes
    -----
    Buffers, tiles and temporaries count once per concurrent task. In the tree, each level may hold
    all but one of the parts that its next addition takes, beside those being computed.
    """
    tasks = min(scheduler()[1], len(design.partitions), design.max_tasks or MAX_PARTITIONS)
    rows = design.tile_rows(*reductions)
    itemsize = design.dtype.itemsize
    n_inputs, p = design.source.shape[1], design.shape[1]
    tile = 0
    if not design.sparse:
        tile = itemsize * rows * (p + n_inputs) + design.features.work_bytes(rows, n_inputs, itemsize)
        if design.centering is not None and design.centering.shift is not None:
            tile += itemsize * rows * p
    buffers = design.block_bytes * (1 if design.source.sparse else N_SLOTS) + design.source.decode_bytes
    part = sum(r.part_bytes(design) for r in reductions)
    longest = max(len(range(*q.rows.indices(design.shape[0]))) for q in design.partitions)
    targets = 8 * longest * (design.n_targets + (design.weight is not None))
    arity, levels, count = _arity(design, reductions), 0, len(design.partitions)
    while count > 1:
        count, levels = -(-count // arity), levels + 1
    return {
        "feature weights": design.features.weight_bytes(n_inputs),
        "block buffers": tasks * (buffers + targets),
        "tiles": tasks * (tile + sum(r.work_bytes(design, rows) for r in reductions)),
        "partial sums": part * (tasks + 1 + levels * (arity - 1)),
    }
