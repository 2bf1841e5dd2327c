"""Reading ahead: a reader thread fills reused slots while the computation works on earlier ones."""

from __future__ import annotations

import queue
import threading
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from nysstream.streaming.cache import block_cache

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from nysstream.arrays import Device, Slot
    from nysstream.streaming.design import DesignMatrix
    from nysstream.trace import Cost

#: One slot being filled, one waiting, one in use.
N_SLOTS = 3


class SlotPool:
    """Slots kept between partitions and passes: fresh memory costs a page fault per page."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free: dict[tuple[str, int], list[Slot]] = defaultdict(list)

    def take(self, device: Device, nbytes: int) -> list[Slot]:
        """Take a ring of slots for blocks of up to ``nbytes``; idle slots of other sizes are freed."""
        with self._lock:
            for key in [key for key in self._free if key != (device.name, nbytes)]:
                del self._free[key]
            free = self._free[device.name, nbytes]
            ring = [free.pop() for _ in range(min(N_SLOTS, len(free)))]
        return ring + [device.slot(nbytes) for _ in range(N_SLOTS - len(ring))]

    def give(self, device: Device, nbytes: int, ring: list[Slot]) -> None:
        """Return a ring."""
        with self._lock:
            self._free[device.name, nbytes].extend(ring)

    def clear(self) -> None:
        """Free every idle slot."""
        with self._lock:
            self._free.clear()


slot_pool = SlotPool()


class _Reader:
    """Fills slots with the wanted blocks, in order, on its own thread."""

    def __init__(self, design: DesignMatrix, blocks: list[tuple[int, int]], device: Device) -> None:
        self.design = design
        self.blocks = blocks
        self.device = device
        self.nbytes = design.block_bytes
        self.ring = slot_pool.take(device, self.nbytes)
        self.free: queue.SimpleQueue[Slot | None] = queue.SimpleQueue()
        self.ready: queue.SimpleQueue[Slot | BaseException] = queue.SimpleQueue()
        self.seconds = 0.0
        self.stopped = False
        for slot in self.ring:
            self.free.put(slot)
        self.thread = threading.Thread(target=self._run, name="nysstream-reader", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            with self.device.active():
                self._fill()
        except BaseException as error:
            self.ready.put(error)

    def _fill(self) -> None:
        dtype, n_columns = self.design.block_dtype, self.design.source.shape[1]
        for a, b in self.blocks:
            slot = self.free.get()
            if slot is None or self.stopped:
                return
            slot.wait()
            began = time.perf_counter()
            view = slot.host[: (b - a) * n_columns * dtype.itemsize].view(dtype).reshape(b - a, n_columns)
            self.design.source.read(slice(a, b), view)
            self.seconds += time.perf_counter() - began
            slot.send(view)
            self.ready.put(slot)

    def next(self) -> Slot:
        item = self.ready.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        self.stopped = True
        self.free.put(None)
        self.thread.join()
        for slot in self.ring:
            slot.wait()  # blocks sent ahead and never received may still be on their way
        slot_pool.give(self.device, self.nbytes, self.ring)


def needs_slots(design: DesignMatrix, device: Device) -> bool:
    """Whether blocks go through slots: not sparse rows, nor rows that are where they are needed."""
    source = design.source
    return not source.sparse and not (source.resident and device.name == "cpu")


def read_blocks(
    design: DesignMatrix, blocks: tuple[tuple[int, int], ...], device: Device, cost: Cost
) -> Generator[tuple[int, int, Any]]:
    """Give the blocks of one partition, in order, on the device.

    Yields ``(start, stop, rows)``. The rows are only valid until the next block is asked for, and
    must not be written to. What was read, what came from the cache, and how long the reader took
    and was waited for, is added to ``cost``. Closing the generator ends the reader.
    """
    if not needs_slots(design, device):
        yield from _direct(design, blocks, cost)
        return
    cache = block_cache(design, device)
    # Looked up once: another fit on the same rows may fill the cache while this one reads.
    held = {block: cache.get(block) for block in blocks}
    wanted = [block for block in blocks if held[block] is None]
    reader = _Reader(design, wanted, device) if wanted else None
    row_bytes = design.row_bytes
    try:
        for a, b in blocks:
            kept = held[a, b]
            if kept is not None:
                cost.bytes_from_cache += int((b - a) * row_bytes)
                yield a, b, kept
                continue
            assert reader is not None
            began = time.perf_counter()
            slot = reader.next()
            cost.wait_seconds += time.perf_counter() - began
            cost.bytes_read += int((b - a) * row_bytes)
            rows = slot.receive()
            try:
                cache.offer((a, b), rows)
                yield a, b, rows
            finally:
                del rows
                slot.release()
            reader.free.put(slot)
    finally:
        if reader is not None:
            reader.close()
            cost.read_seconds += reader.seconds


def _direct(
    design: DesignMatrix, blocks: tuple[tuple[int, int], ...], cost: Cost
) -> Iterator[tuple[int, int, Any]]:
    """Give blocks that need no buffer: views of memory, or sparse rows."""
    for a, b in blocks:
        began = time.perf_counter()
        rows = design.source.read(slice(a, b))
        cost.read_seconds += time.perf_counter() - began
        cost.bytes_read += int((b - a) * design.source.row_bytes)
        yield a, b, rows
