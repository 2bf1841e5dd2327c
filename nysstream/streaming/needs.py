"""What a pass needs of the machine: the scheduler it will run on, and bytes by what holds them."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import dask.config
import dask.local
import dask.threaded
from dask.system import CPU_COUNT

from nysstream.cluster import current_client, current_scheduler
from nysstream.features import Identity
from nysstream.memory import resident_bytes
from nysstream.streaming.cache import cached_bytes
from nysstream.streaming.partition import MAX_PARTITIONS
from nysstream.streaming.prefetch import n_buffers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nysstream.streaming.design import DesignMatrix
    from nysstream.streaming.reduction import Reduction

#: Parts that one node of the tree of additions takes, in order.
ARITY = 16
#: Parts up to this size are added when all are there, in one task. Larger ones each as it comes, so that
#: no more than one sum of each level waits.
_AT_ONCE_BYTES = 8 << 20


def scheduler() -> tuple[str, int]:
    """Name the current Dask scheduler and how many tasks it runs at once in a process."""
    get: Any = current_scheduler() or dask.threaded.get
    if get is dask.local.get_sync:
        return "synchronous", 1
    if get is dask.threaded.get:
        # A pool takes precedence over a number of workers, as in Dask.
        workers = getattr(dask.config.get("pool", None), "_max_workers", None)
        return "threads", int(workers or dask.config.get("num_workers", None) or CPU_COUNT)
    if isinstance(get, functools.partial) and get.func is dask.local.get_async:  # an executor was set
        submit, workers = get.args
        if isinstance(getattr(submit, "__self__", None), ThreadPoolExecutor):
            return "threads", int(workers)
    client = current_client()
    if client is not None:
        return "distributed", max(client.nthreads().values(), default=1)
    return "other", 1


def process_bytes() -> int:
    """Resident memory, before a pass, of the process that reads: of the fullest worker of a cluster."""
    client = current_client()
    if client is None:
        return resident_bytes()
    # A worker that is lost meanwhile has no say.
    found = client.run(_uncached_bytes, on_error="ignore").values()
    return max((nbytes for nbytes in found if isinstance(nbytes, int)), default=resident_bytes())


def _uncached_bytes() -> int:
    return resident_bytes() - cached_bytes()


def added_at_once(design: DesignMatrix, reductions: Sequence[Reduction]) -> int:
    """Count the parts that one task adds; in which order does not depend on it."""
    return ARITY if sum(r.part_bytes(design) for r in reductions) <= _AT_ONCE_BYTES else 2


def pass_needs(design: DesignMatrix, *reductions: Reduction) -> dict[str, int]:
    """Count the bytes that a pass holds at its peak, by what holds them, in one process.

    Notes
    -----
    Buffers, tiles and temporaries count once per concurrent task. In the tree, each level may hold
    all but one of the parts that its next addition takes, beside those being computed.
    """
    count = len(design.partitions)
    tasks = min(scheduler()[1], count, design.max_tasks or MAX_PARTITIONS)
    rows = design.tile_rows(*reductions)
    work = sum(r.work_bytes(design, rows) for r in reductions)
    levels = 0
    while count > 1:
        count, levels = -(-count // ARITY), levels + 1
    waiting = levels * (added_at_once(design, reductions) - 1)
    return {
        "feature weights": design.features.weight_bytes(design.source.shape[1]),
        "block buffers": tasks * _buffer_bytes(design),
        "tiles": tasks * (tile_bytes(design, rows) + work),
        "partial sums": sum(r.held_bytes(design, tasks, 1 + waiting) for r in reductions),
    }


def _buffer_bytes(design: DesignMatrix) -> int:
    """Count what one task holds of its rows, and of its partition's targets and weights, as stored."""
    n_rows = design.shape[0]
    longest = max(len(range(*partition.rows.indices(n_rows))) for partition in design.partitions)
    sources = [s for s in (design.source, design.target, design.weight) if s is not None]
    columns = sum(s.shape[1] for s in sources[1:])
    # Targets are read before the first block: never are two sources decoding at once.
    decoding = max(source.decode_bytes for source in sources)
    blocks = n_buffers(design, design.get_device())
    return blocks * design.block_bytes + 8 * longest * columns + decoding


def tile_bytes(design: DesignMatrix, rows: int) -> int:
    """Count the cast rows, the features and their temporaries, and the shifted rows of one tile."""
    if design.sparse:
        return design.block_bytes  # cast
    itemsize, n_inputs, p = design.dtype.itemsize, design.source.shape[1], design.shape[1]
    cast = design.block_bytes if design.source.sparse else itemsize * rows * n_inputs
    shifted = design.centering is not None and design.centering.shift is not None
    wide = (not isinstance(design.features, Identity)) + shifted
    return cast + wide * itemsize * rows * p + design.features.work_bytes(rows, n_inputs, itemsize)
