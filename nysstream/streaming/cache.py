"""Blocks that stay resident between passes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from nysstream.arrays import namespace
from nysstream.features import Identity

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

    def reserve(self, block: Block, nbytes: int) -> bool:
        """Set bytes aside for a block, if they are left and it is not held."""
        with self._lock:
            if block in self._blocks or self.used + nbytes > self.capacity:
                return False
            self.used += nbytes
            return True

    def put(self, block: Block, rows: Any) -> None:
        """Hold rows for which bytes were reserved: a block belongs to one partition, hence one task."""
        self._blocks[block] = rows

    def release(self, nbytes: int) -> None:
        """Give reserved bytes back."""
        with self._lock:
            self.used -= nbytes

    def offer(self, block: Block, rows: Any) -> None:
        """Hold a copy of the rows if they fit."""
        xp = namespace(rows)
        nbytes = rows.size * (xp.finfo(rows.dtype).bits // 8)  # blocks are floating; dtypes may lack a size
        if self.reserve(block, nbytes):
            self.put(block, xp.asarray(rows, copy=True))


#: Blocks as stored, and after a feature map: of one design each.
_stored: dict[str, BlockCache] = {}
_mapped: dict[str, BlockCache] = {}
_lock = threading.Lock()


def block_cache(design: DesignMatrix, device: Device) -> BlockCache:
    """Return this process's cache of the design's blocks as they are stored.

    A process holds the blocks of one design at a time: the cache of another is dropped. A design
    that caches nothing is not looked at, since identifying its rows may cost reads.
    """
    if design.cache_bytes <= 0:
        return BlockCache(0)
    key = f"{design.cache_key}-{design.cache_bytes}-{device.name}"
    with _lock:
        if key not in _stored:
            _stored.clear()
            _mapped.clear()
            _stored[key] = BlockCache(design.cache_bytes)
        return _stored[key]


def mapped_cache(design: DesignMatrix, device: Device) -> BlockCache:
    """Return this process's cache of blocks after the feature map, in the bytes that stored rows leave.

    A mapped block saves the map as well as the reading, but takes as many times the bytes as the
    map widens the rows: so rows as stored come first.
    """
    left = design.cache_bytes - design.buffered_bytes
    if isinstance(design.features, Identity) or design.precision == "double" or left <= 0:
        return BlockCache(0)
    block_cache(design, device)  # drops what belongs to another design
    key = f"{design.cache_key}-{design.features!r}-{left}-{device.name}"
    with _lock:
        if key not in _mapped:
            _mapped.clear()
            _mapped[key] = BlockCache(left)
        return _mapped[key]


def cached_bytes() -> int:
    """Bytes of this process's memory in cached blocks, which give way to those of the next design."""
    with _lock:
        caches = {**_stored, **_mapped}
    return sum(cache.used for key, cache in caches.items() if key.endswith("-cpu"))


def clear_cache() -> None:
    """Drop every cached block of this process."""
    with _lock:
        _stored.clear()
        _mapped.clear()
