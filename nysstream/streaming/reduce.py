"""One pass: a Dask graph of partition tasks and a fixed tree of additions."""

from __future__ import annotations

import contextlib
import itertools
import pickle
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import cloudpickle
import numpy as np
from dask.delayed import Delayed, delayed

from nysstream.arrays import aligned, single_threaded_blas, to_host
from nysstream.errors import InputError
from nysstream.journal import Entry, remembered
from nysstream.memory import resident_bytes, trim
from nysstream.streaming import placement
from nysstream.streaming.cache import mapped_cache
from nysstream.streaming.helping import helpers
from nysstream.streaming.needs import ARITY, added_at_once
from nysstream.streaming.prefetch import read_blocks, read_float64
from nysstream.streaming.reduction import Part, Reduction, Tile
from nysstream.trace import Cost, PassRecord, current_trace, listening, report_rows

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from numpy.typing import NDArray

    from nysstream.arrays import Device
    from nysstream.streaming.cache import BlockCache
    from nysstream.streaming.design import DesignMatrix
    from nysstream.streaming.partition import Partition

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
        If there is no reduction, one needs targets and the design has none, or shapes do not belong
        together; before any read.

    Notes
    -----
    Cost: exactly one pass, ``n`` rows of the source. Runs on the current Dask scheduler. Partition
    boundaries and the tree depend on the data alone, so results are the same bits on every
    scheduler of one kind of machine.
    """
    if not reductions:
        message = "reduce() needs at least one reduction"
        raise InputError(message)
    for reduction in reductions:
        reduction.check(design)
    trace = current_trace() if compute else None
    token = f"{next(_numbers)}-{uuid.uuid4().hex[:8]}"
    # Dask's dashboard shows the words of a key.
    shown = name if trace is None else f"pass {len(trace.passes) + 1}: {name}"
    job = delayed(_Job(design, reductions, token), name=f"{shown}-job-{token}", traverse=False)
    tasks, root = _tree(design, reductions, job, f"{shown}-{{}}{token}")
    if not compute:
        return delayed(_finish)(job, root, dask_key_name=f"{shown}-result-{token}")
    began = time.perf_counter()
    started = trace.seconds if trace is not None else 0.0

    def run() -> tuple[list[Part], Cost]:
        with listening(token, name, design.shape[0]):
            found: tuple[list[Part], Cost] = placement.compute(root, design, tasks)
        return found

    result, recalled = remembered(name, (_Inputs(design, reductions),), run, _pack, _unpack)
    large = added_at_once(design, reductions) < ARITY
    if large:  # where parts are, tiles were, too
        trim()
    if trace is not None:
        trace.passes.append(PassRecord(name, started, time.perf_counter() - began, result[1], recalled))
    finished = _finish(_Job(design, reductions, token), result)
    del result
    if large:
        trim()
    return finished


def _tree(design: DesignMatrix, reductions: Sequence[Reduction], job: Any, key: str) -> tuple[list[str], Any]:
    """Build the keys of the partitions' tasks, and the lazy ``(parts, cost)`` over all rows.

    The graph is written out, since calls of delayed functions search and tokenize their arguments:
    for a pass over resident rows that would be a tenth of its time.
    """
    graph = dict(job.dask)
    partitions = level = [f"{key.format('')}-{i}" for i in range(len(design.partitions))]
    graph.update({task: (_run_partition, job.key, i) for i, task in enumerate(level)})
    step = added_at_once(design, reductions) - 1
    for depth in itertools.count(1):
        if len(level) == 1:
            break
        sums = []
        for i in range(0, len(level), ARITY):
            total, *rest = level[i : i + ARITY]
            for j in range(0, len(rest), step):
                task = f"{key.format('sum-')}-{depth}-{i}-{j}"
                graph[task] = (_add_parts, job.key, [total, *rest[j : j + step]])
                total = task
            sums.append(total)
        level = sums
    return partitions, Delayed(level[0], graph)  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class _Inputs:
    """What the sums of a pass depend on, down to the bits."""

    design: DesignMatrix
    reductions: tuple[Reduction, ...]

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        d = self.design
        return (d.fingerprint, d.centering, d.precision, d.get_device().name, *self.reductions)


def _pack(result: tuple[list[Part], Cost]) -> Entry:
    """Lay out the sums of a pass under their reduction's number and their name."""
    parts, cost = result
    arrays = {f"{i}/{name}": value for i, part in enumerate(parts) for name, value in part.items()}
    return Entry(arrays, {"reductions": len(parts), "cost": asdict(cost)})


def _unpack(entry: Entry) -> tuple[list[Part], Cost]:
    parts: list[Part] = [{} for _ in range(entry.facts["reductions"])]
    for key, value in entry.arrays.items():
        number, name = key.split("/", 1)
        parts[int(number)][name] = value
    return parts, Cost(**entry.facts["cost"])


@dataclass(frozen=True)
class _Job:
    """Design and reductions: the one input that all tasks of a pass share."""

    design: DesignMatrix
    reductions: tuple[Reduction, ...]
    token: str

    def __reduce__(self) -> tuple[Any, ...]:
        buffers: list[pickle.PickleBuffer] = []
        fields = (self.design, self.reductions, self.token)
        pickled = cloudpickle.dumps(fields, protocol=5, buffer_callback=buffers.append)
        return _received, (pickled, [np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers])


def _received(pickled: bytes, buffers: list[NDArray[np.uint8]]) -> _Job:
    """Put a job together in another process, arrays where BLAS takes them as they are.

    In a message they begin anywhere. NumPy copies what is not aligned before it multiplies, perhaps into
    another order of memory, for which BLAS may have another kernel, with other rounding.
    """
    return _Job(*pickle.loads(pickled, buffers=[aligned(buffer) for buffer in buffers]))


class _Turnstile:
    """Lets so many tasks at once into this process's buffers, whatever the scheduler started."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._inside = 0

    @contextlib.contextmanager
    def passing(self, limit: int | None) -> Iterator[None]:
        """Wait until fewer than ``limit`` tasks are inside."""
        with self._condition:
            self._condition.wait_for(lambda: limit is None or self._inside < limit)
            self._inside += 1
        try:
            yield
        finally:
            with self._condition:
                self._inside -= 1
                self._condition.notify_all()


_turnstile = _Turnstile()


def _run_partition(job: _Job, index: int) -> tuple[list[Part], Cost]:
    """Read one partition and reduce its tiles, in order."""
    design, reductions = job.design, job.reductions
    partition = design.partitions[index]
    device = design.get_device()
    cost = Cost(rows=partition.rows.stop - partition.rows.start)
    # Overflow and NaN are looked for by the reductions, which say where they are.
    with (
        _turnstile.passing(design.max_tasks),
        device.active(),
        single_threaded_blas(),
        helpers(design.task_threads if device.name == "cpu" else 1),
        np.errstate(over="ignore", invalid="ignore"),
        contextlib.closing(_tiles(job, partition, device, cost)) as tiles,
    ):
        prepared = [reduction.prepare(design, device) for reduction in reductions]
        parts = [reduction.start(design, device) for reduction in reductions]
        for tile in tiles:
            began = time.perf_counter()
            parts = [r.add(part, tile, x) for r, part, x in zip(reductions, parts, prepared, strict=True)]
            cost.product_seconds += time.perf_counter() - began
        host = [{key: to_host(value) for key, value in part.items()} for part in parts]
    cost.peak_bytes = resident_bytes()
    return host, cost


def _tiles(job: _Job, partition: Partition, device: Device, cost: Cost) -> Generator[Tile]:
    """Give the tiles of a partition, in order; closing it ends the reading."""
    design = job.design
    first = partition.rows.start
    target = weight = None
    if design.target is not None and any(r.reads_target for r in job.reductions):
        target = device.put(read_float64(design, design.target, partition.rows, device))
    if design.weight is not None:
        weight = device.put(read_float64(design, design.weight, partition.rows, device)[:, 0])
    shift = None
    if design.centering is not None and design.centering.shift is not None:
        shift = device.put(design.centering.shift.astype(design.dtype))
    step = design.tile_rows(*job.reductions)
    mapped = mapped_cache(design, device)
    reads_stored = any(r.reads_stored for r in job.reductions)
    held = set() if reads_stored else {block for block in partition.blocks if mapped.get(block) is not None}
    unheld = tuple(block for block in partition.blocks if block not in held)
    with contextlib.closing(read_blocks(design, unheld, device, cost)) as stored:
        for a, b in partition.blocks:
            nbytes = int((b - a) * design.row_bytes)
            if (a, b) in held:
                cost.bytes_from_cache += nbytes
                block, pieces = None, _held_tiles(mapped.get((a, b)), step)
            else:
                block = next(stored)[2]
                pieces = _mapped_tiles(design, (a, b), block, step, mapped, device)
            with contextlib.closing(pieces):
                while True:
                    began = time.perf_counter()
                    piece = next(pieces, None)
                    if piece is None:
                        break
                    i, j, Z = piece
                    if shift is not None:
                        Z = Z - shift
                    cost.feature_seconds += time.perf_counter() - began
                    rows = slice(a + i - first, a + j - first)
                    yield Tile(
                        a + i,
                        None if block is None else block[i:j, ...],
                        Z,
                        None if target is None else target[rows, ...],
                        None if weight is None else weight[rows],
                    )
            report_rows(job.token, b - a, nbytes)


def _held_tiles(Z: Any, step: int) -> Generator[tuple[int, int, Any]]:
    """Give the tiles of a block that was mapped in an earlier pass."""
    n_rows = Z.shape[0]
    for i in range(0, n_rows, step):
        j = min(i + step, n_rows)
        yield i, j, Z[i:j, ...]


def _mapped_tiles(
    design: DesignMatrix, key: tuple[int, int], block: Any, step: int, cache: BlockCache, device: Device
) -> Generator[tuple[int, int, Any]]:
    """Map the tiles of a block, and keep the whole if there is room."""
    xp, n_rows = device.xp, key[1] - key[0]
    dtype = getattr(xp, design.dtype.name)
    nbytes = n_rows * design.shape[1] * design.dtype.itemsize
    whole = device.empty((n_rows, design.shape[1]), design.dtype) if cache.reserve(key, nbytes) else None
    complete = False
    try:
        for i in range(0, n_rows, step):
            j = min(i + step, n_rows)
            raw = block if j - i == n_rows else block[i:j, ...]
            if design.source.sparse:
                Z = design.features(raw.astype(design.dtype, copy=False))
            else:
                Z = design.features(xp.astype(raw, dtype, copy=False))
            if whole is not None:
                whole[i:j, ...] = Z
            yield i, j, Z
        complete = True
    finally:
        if whole is not None and complete:
            cache.put(key, whole)
        elif whole is not None:
            cache.release(nbytes)


def _add_parts(job: _Job, results: list[tuple[list[Part], Cost]]) -> tuple[list[Part], Cost]:
    """Add the results of consecutive partitions, left to right."""
    parts, cost = results[0]
    with single_threaded_blas(), np.errstate(over="ignore", invalid="ignore"):
        for more, extra in results[1:]:
            parts = [r.combine(a, b) for r, a, b in zip(job.reductions, parts, more, strict=True)]
            cost = cost + extra
    return parts, cost


def _finish(job: _Job, result: tuple[list[Part], Cost]) -> tuple[Any, ...]:
    with single_threaded_blas(), np.errstate(over="ignore", invalid="ignore"):
        return tuple(r.finish(job.design, part) for r, part in zip(job.reductions, result[0], strict=True))
