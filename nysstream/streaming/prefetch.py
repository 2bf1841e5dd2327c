"""Reading: in the task's own thread where that keeps it busy, else ahead of it in another one.

Rows from the page cache, and codecs, cost processor time. The task that wants the rows had better
spend it itself: then they are in its core's cache when they are multiplied, and there is nothing to
hand over. Rows from a disk or a network cost waiting. Then a reader thread fills slots with the
next blocks while the task works on earlier ones. Which of both it is shows in the first reads.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.sources.scratch import lent
from nysstream.streaming.cache import block_cache

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from nysstream.arrays import Device, Slot
    from nysstream.sources import RowSource
    from nysstream.sources.scratch import Scratch
    from nysstream.streaming.design import DesignMatrix
    from nysstream.trace import Cost

#: One slot being filled, one waiting, one in use.
N_SLOTS = 3
#: Reads that use the processor for less than this part of their time are worth making ahead.
_BUSY = 0.5
#: And below this part the next partition begins so. In between it looks again: a reader that shares
#: its core with computations seems to wait as well.
_IDLE = 0.45

Block = tuple[int, int]


@dataclass
class Ring:
    """What a task reads with: slots, made as they are needed, and the scratch of one read at a time.

    Attributes
    ----------
    ahead : bool
        Whether to read ahead from the first block: the last reads did little but wait.
    """

    slots: list[Slot] = field(default_factory=list)
    scratch: Scratch = field(default_factory=dict)
    ahead: bool = False


class RingPool:
    """Rings kept between partitions and passes: fresh memory costs a page fault per page."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: dict[tuple[str, int], list[Ring]] = defaultdict(list)

    def take(self, device: Device, nbytes: int) -> Ring:
        """Take a ring of slots for blocks of up to ``nbytes``; idle rings of other sizes are freed."""
        with self._lock:
            for key in [key for key in self._free if key != (device.name, nbytes)]:
                del self._free[key]
            free = self._free[device.name, nbytes]
            return free.pop() if free else Ring()

    def give(self, device: Device, nbytes: int, ring: Ring) -> None:
        """Return a ring."""
        with self._lock:
            self._free[device.name, nbytes].append(ring)

    def clear(self) -> None:
        """Free every idle ring."""
        with self._lock:
            self._free.clear()

    @contextlib.contextmanager
    def lending(self, design: DesignMatrix, device: Device) -> Iterator[Ring]:
        """Lend a ring for the design's blocks inside the block."""
        nbytes = design.block_bytes if needs_slots(design, device) else 0
        ring = self.take(device, nbytes)
        try:
            yield ring
        finally:
            self.give(device, nbytes, ring)


slot_pool = RingPool()


class _Reading:
    """The wanted blocks of one partition, in order; at most one is being read at a time."""

    def __init__(self, design: DesignMatrix, blocks: list[Block], device: Device, ring: Ring) -> None:
        self.source, self.dtype = design.source, design.block_dtype
        self.reads = self.source.in_turn([slice(*block) for block in blocks])
        self.nbytes = design.block_bytes if needs_slots(design, device) else 0
        self.blocks = deque(blocks)
        self.device, self.ring = device, ring
        self.seconds = self.busy = 0.0
        self._free = list(ring.slots)
        self._held = 0
        self._ready: deque[Any] = deque()
        self._change = threading.Condition()
        self._stopped = False
        self._thread: threading.Thread | None = None
        # What a device has been sent, it works on by itself: the task's thread would only be in the way.
        self._always_ahead = device.name != "cpu"
        if ring.ahead or self._always_ahead:
            self._start()

    def next(self) -> Any:
        """Give the next block: a filled slot, or sparse rows."""
        if self._thread is None:
            item = self._read(*self.blocks.popleft(), self._take())
            if self._waits(_BUSY):
                self._start()
            return item
        with self._change:
            self._change.wait_for(lambda: self._ready)
            item = self._ready.popleft()
        if isinstance(item, BaseException):
            raise item
        return item

    def give_back(self, item: Any) -> None:
        """Say that a block has been worked on."""
        with self._change:
            self._held -= 1
            if self.nbytes:
                self._free.append(item)
            self._change.notify_all()

    def close(self) -> None:
        """End the reader, and wait for what is on its way."""
        with self._change:
            self._stopped = True
            self._change.notify_all()
        if self._thread is not None:
            self._thread.join()
        self.reads.close()
        for slot in self.ring.slots:
            slot.wait()  # blocks sent ahead and never received may still be on their way
        if self.seconds:
            self.ring.ahead = self._waits(_IDLE)

    def _waits(self, part: float) -> bool:
        """Whether reads have used the processor for less than this part of their time."""
        return self.busy < part * self.seconds

    def _start(self) -> None:
        if self.blocks:
            self._thread = threading.Thread(target=self._run, name="nysstream-reader", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        try:
            with self.device.active():
                while self.blocks:
                    with self._change:
                        self._change.wait_for(lambda: self._stopped or self._held < N_SLOTS)
                        if self._stopped:
                            return
                        slot = self._take()
                    item = self._read(*self.blocks.popleft(), slot)
                    with self._change:
                        self._ready.append(item)
                        self._change.notify_all()
        except BaseException as error:
            with self._change:
                self._ready.append(error)
                self._change.notify_all()

    def _take(self) -> Slot | None:
        """Take the slot used last, which may still be in the processor's cache; on a device, the first."""
        self._held += 1
        if not self.nbytes:
            return None
        if not self._free:
            self.ring.slots.append(self.device.slot(self.nbytes))
            self._free.append(self.ring.slots[-1])
        return self._free.pop(0 if self._always_ahead else -1)

    def _read(self, a: int, b: int, slot: Slot | None) -> Any:
        if slot is not None:
            slot.wait()
        began, worked = time.perf_counter(), time.thread_time()
        with lent(self.ring.scratch):
            if slot is None:
                rows: Any = self.reads.read(slice(a, b))
            else:
                shape = (b - a, self.source.shape[1])
                view = slot.host[: shape[0] * shape[1] * self.dtype.itemsize].view(self.dtype).reshape(shape)
                self.reads.read(slice(a, b), view)
        self.busy += time.thread_time() - worked
        self.seconds += time.perf_counter() - began
        if slot is None:
            return rows
        slot.send(view)
        return slot


def needs_slots(design: DesignMatrix, device: Device) -> bool:
    """Whether blocks go through slots: not sparse rows, nor rows that are where they are needed."""
    source = design.source
    return not source.sparse and not (source.resident and device.name == "cpu")


def n_buffers(design: DesignMatrix, device: Device) -> int:
    """Count the blocks that a task may hold at once."""
    return N_SLOTS if needs_slots(design, device) or not design.source.resident else 1


def read_float64(design: DesignMatrix, source: RowSource, rows: slice, device: Device) -> Any:
    """Read a partition's targets or weights, with the scratch that its blocks are read with."""
    out = np.empty((rows.stop - rows.start, source.shape[1]))
    with slot_pool.lending(design, device) as ring, lent(ring.scratch):
        return source.read(rows, out)


def read_blocks(
    design: DesignMatrix, blocks: tuple[Block, ...], device: Device, cost: Cost
) -> Generator[tuple[int, int, Any]]:
    """Give the blocks of one partition, in order, on the device.

    Yields ``(start, stop, rows)``. The rows are only valid until the next block is asked for, and
    must not be written to. What was read, what came from the cache, and how long reading took and
    was waited for, is added to ``cost``. Closing the generator ends the reader.
    """
    if n_buffers(design, device) == 1:
        yield from _direct(design, blocks, cost)
        return
    cache = block_cache(design, device) if needs_slots(design, device) else None
    # Looked up once: another fit on the same rows may fill the cache while this one reads.
    held = {block: None if cache is None else cache.get(block) for block in blocks}
    wanted = [block for block in blocks if held[block] is None]
    if not wanted:
        yield from _held(design, blocks, held, cost)
        return
    row_bytes = design.row_bytes
    with slot_pool.lending(design, device) as ring:
        reading = _Reading(design, wanted, device, ring)
        try:
            for a, b in blocks:
                if held[a, b] is not None:
                    cost.bytes_from_cache += int((b - a) * row_bytes)
                    yield a, b, held[a, b]
                    continue
                began = time.perf_counter()
                item = reading.next()
                cost.wait_seconds += time.perf_counter() - began
                cost.bytes_read += int((b - a) * row_bytes)
                if cache is None:
                    yield a, b, item
                else:
                    rows = item.receive()
                    try:
                        cache.offer((a, b), rows)
                        yield a, b, rows
                    finally:
                        del rows
                        item.release()
                reading.give_back(item)
                del item
        finally:
            reading.close()
            cost.read_seconds += reading.seconds


def _held(
    design: DesignMatrix, blocks: tuple[Block, ...], held: dict[Block, Any], cost: Cost
) -> Iterator[tuple[int, int, Any]]:
    """Give blocks that are all in the cache."""
    for a, b in blocks:
        cost.bytes_from_cache += int((b - a) * design.row_bytes)
        yield a, b, held[a, b]


def _direct(design: DesignMatrix, blocks: tuple[Block, ...], cost: Cost) -> Iterator[tuple[int, int, Any]]:
    """Give rows that are in memory already, as views where they are dense."""
    for a, b in blocks:
        began = time.perf_counter()
        rows = design.source.read(slice(a, b))
        cost.read_seconds += time.perf_counter() - began
        cost.bytes_read += int((b - a) * design.source.row_bytes)
        yield a, b, rows
