"""Blocks that stay resident between passes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from nysstream.arrays import namespace

if TYPE_CHECKING:
    from nysstream.arrays import Device
    from nysstream.streaming.design import DesignMatrix

Block = tuple[int, int]


class BlockCache:
    """The first blocks offered, up to a number of bytes; none is ever evicted within a solve.

    Passes are cyclic scans. Evicting the least recently used block would always evict the one
    needed next and keep the hit rate at zero; a fixed set is hit in full on every pass.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0
        self._blocks: dict[Block, Any] = {}
        self._lock = threading.Lock()

    def get(self, block: Block) -> Any:
        """Return the block's rows, or None."""
        return self._blocks.get(block)

    def offer(self, block: Block, rows: Any) -> None:
        """Keep a copy of the rows if they fit."""
        xp = namespace(rows)
        nbytes = rows.size * (xp.finfo(rows.dtype).bits // 8)  # blocks are floating; dtypes may lack a size
        with self._lock:
            if block in self._blocks or self.used + nbytes > self.capacity:
                return
            self.used += nbytes
        # Copied outside the lock; a concurrent offer of the same block cannot happen, since a
        # block belongs to one partition.
        self._blocks[block] = xp.asarray(rows, copy=True)


_caches: dict[str, BlockCache] = {}
_caches_lock = threading.Lock()


def block_cache(design: DesignMatrix, device: Device) -> BlockCache:
    """Return this process's cache of the design's blocks.

    A process holds the blocks of one design at a time: the cache of another is dropped. A design
    that caches nothing is not looked at, since identifying its rows may cost reads.
    """
    if design.cache_bytes <= 0:
        return BlockCache(0)
    key = f"{design.cache_key}-{design.cache_bytes}-{device.name}"
    with _caches_lock:
        if key not in _caches:
            _caches.clear()
            _caches[key] = BlockCache(design.cache_bytes)
        return _caches[key]


def clear_cache() -> None:
    """Drop every cached block of this process."""
    with _caches_lock:
        _caches.clear()
