"""Windows are read: their blocks by several threads, each block once and none that a cache holds."""

from __future__ import annotations

import contextlib
import functools
import itertools
import operator
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.arrays import single_threaded_blas
from nysstream.features import Identity
from nysstream.sources.scratch import lent
from nysstream.streaming.cache import block_cache, mapped_cache
from nysstream.streaming.prefetch import needs_slots, slot_pool
from nysstream.streaming.window import Window, map_rows
from nysstream.trace import Cost

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from numpy.typing import NDArray

    from nysstream.arrays import Device
    from nysstream.sources.base import RowReads
    from nysstream.streaming.design import DesignMatrix

    Block = tuple[int, int]

#: Targets and weights of up to so many bytes are read once and kept.
KEPT_BYTES = 256 << 20


class WindowReader:
    """Reads the windows of an epoch, one ahead of that which is worked on.

    Parameters
    ----------
    design : DesignMatrix
    pool : Executor
        Runs the readers.
    n_readers : int
        Parts that a window is read in at once. What is read does not depend on it.
    kept : dict
        Where targets and weights stay that are small.
    """

    def __init__(
        self, design: DesignMatrix, pool: Executor, n_readers: int, kept: dict[str, NDArray[np.float64]]
    ) -> None:
        self.design, self.device = design, design.get_device()
        self.pool, self.n_readers, self.kept = pool, n_readers, kept
        self._mapped = _keeps_features(design, self.device)
        # Fresh memory costs a page fault per page: two windows take turns.
        self._buffers = [np.empty(0, np.uint8), np.empty(0, np.uint8)]

    def begin(self, blocks: list[Block]) -> Callable[[], tuple[Window, Cost]]:
        """Begin to read the blocks of a window; to call the result is to wait for it, and for its cost.

        The window before the last ends: its memory is used again.
        """
        design, device, mapped = self.design, self.device, self._mapped
        cache = mapped_cache(design, device) if mapped else block_cache(design, device)
        held = [cache.get(block) for block in blocks]
        views: list[Any] = [None] * len(blocks)
        if needs_slots(design, device) and not mapped:
            width, dtype = design.source.shape[1], design.block_dtype
            sizes = [b - a if rows is None else 0 for (a, b), rows in zip(blocks, held, strict=True)]
            nbytes = sum(sizes) * width * dtype.itemsize
            self._buffers.reverse()
            if self._buffers[0].nbytes < nbytes:
                self._buffers[0] = np.empty(nbytes, np.uint8)
            buffer = self._buffers[0][:nbytes].view(dtype).reshape(-1, width)
            views = np.split(buffer, np.cumsum(sizes)[:-1].tolist())
        count = min(len(blocks), self.n_readers)
        edges = [len(blocks) * i // count for i in range(count + 1)]
        jobs = [
            self.pool.submit(self._read, blocks[a:b], held[a:b], views[a:b])
            for a, b in itertools.pairwise(edges)
        ]
        values = [self.pool.submit(self._values, kind, blocks) for kind in ("target", "weight")]

        def wait() -> tuple[Window, Cost]:
            done = [job.result() for job in jobs]
            target, weight = (job.result() for job in values)
            pieces = [piece for found, _ in done for piece in found]
            starts = np.array([a for a, _ in blocks], np.int64)
            window = Window(starts, pieces, mapped, target, None if weight is None else weight[:, 0])
            return window, functools.reduce(operator.add, (cost for _, cost in done))

        return wait

    def _read(self, blocks: list[Block], held: list[Any], views: list[Any]) -> tuple[list[Any], Cost]:
        """Read those blocks of a window that no cache holds, one after the other."""
        design, device = self.design, self.device
        began, cost = time.perf_counter(), Cost()
        wanted = [slice(*block) for block, rows in zip(blocks, held, strict=True) if rows is None]
        pieces = []
        with (
            device.active(),
            single_threaded_blas(),
            slot_pool.lending(design, device) as ring,
            lent(ring.scratch),
            contextlib.closing(design.source.in_turn(wanted)) as reads,
        ):
            for block, rows, view in zip(blocks, held, views, strict=True):
                if rows is not None:
                    cost.bytes_from_cache += int((block[1] - block[0]) * design.row_bytes)
                    pieces.append(rows)
                elif self._mapped:
                    pieces.append(self._mapped_block(block, reads, cost))
                else:
                    pieces.append(self._stored_block(block, view, reads, cost))
        cost.read_seconds = time.perf_counter() - began
        return pieces, cost

    def _stored_block(self, block: Block, view: Any, reads: RowReads, cost: Cost) -> Any:
        rows, design, device = slice(*block), self.design, self.device
        cost.bytes_read += int((rows.stop - rows.start) * design.row_bytes)
        if view is None:  # rows that need no buffer: sparse, or in memory
            return reads.read(rows)
        reads.read(rows, view)
        found = view if device.name == "cpu" else device.put(view)
        block_cache(design, device).offer(block, found)
        return found

    def _mapped_block(self, block: Block, reads: RowReads, cost: Cost) -> Any:
        """Give a block after the feature map; kept, as all of them are."""
        design, device, (a, b) = self.design, self.device, block
        raw = block_cache(design, device).get(block)
        if raw is None:
            view = None
            if needs_slots(design, device):
                view = np.empty((b - a, design.source.shape[1]), design.block_dtype)
            raw = self._stored_block(block, view, reads, cost)
        else:
            cost.bytes_from_cache += int((b - a) * design.row_bytes)
        Z = device.empty((b - a, design.shape[1]), design.dtype)
        step = design.tile_rows()
        for i in range(0, b - a, step):
            Z[i : i + step, ...] = map_rows(design, raw[i : i + step], device)
        cache = mapped_cache(design, device)
        if cache.reserve(block, (b - a) * design.shape[1] * design.dtype.itemsize):
            cache.put(block, Z)
        return Z

    def _values(self, kind: str, blocks: list[Block]) -> NDArray[np.float64] | None:
        """Give the targets or weights of a window; small ones are read once and kept."""
        source = getattr(self.design, kind)
        if source is None:
            return None
        small = 8 * source.shape[0] * source.shape[1] <= KEPT_BYTES
        if small and kind not in self.kept:
            self.kept[kind] = source.read(slice(0, source.shape[0]), np.empty(source.shape))
        if small:
            return np.concatenate([self.kept[kind][a:b] for a, b in blocks])
        return np.concatenate(
            [source.read(slice(a, b), np.empty((b - a, source.shape[1]))) for a, b in blocks]
        )


def _keeps_features(design: DesignMatrix, device: Device) -> bool:
    """Whether there is room for all rows after the feature map, so that they are mapped once."""
    if isinstance(design.features, Identity):
        return False
    wide = design.shape[0] * design.shape[1] * design.dtype.itemsize
    return mapped_cache(design, device).capacity >= wide
