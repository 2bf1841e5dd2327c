"""Blocks and partitions: how the rows are cut. Boundaries depend on the data alone."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nysstream.sources import RowSource

#: Decoded bytes of a block: large enough to hide the cost of a read call, small enough that a few
#: buffers per thread do not matter.
BLOCK_BYTES = 8 << 20
#: Decoded bytes of a partition: about a second of reading, so that a scheduler's overhead vanishes.
PARTITION_BYTES = 256 << 20
#: Enough tasks to keep a few threads evenly busy, and few enough for any scheduler.
MIN_PARTITIONS, MAX_PARTITIONS = 16, 4096


@dataclass(frozen=True)
class Partition:
    """A run of consecutive blocks: the unit of scheduling.

    Attributes
    ----------
    index : int
    blocks : tuple of (int, int)
        First and past-the-last row of each block.
    """

    index: int
    blocks: tuple[tuple[int, int], ...]

    @property
    def rows(self) -> slice:
        """The rows of all blocks."""
        return slice(self.blocks[0][0], self.blocks[-1][1])


def rows_per_block(source: RowSource) -> int:
    """Count the rows of a full block: whole chunks, and about :data:`BLOCK_BYTES` of them."""
    chunk_bytes = max(1.0, source.chunk_rows * source.row_bytes)
    return source.chunk_rows * max(1, int(BLOCK_BYTES / chunk_bytes))


def cut_blocks(source: RowSource) -> list[tuple[int, int]]:
    """Cut the rows into blocks that begin and end where stored chunks do."""
    n_rows = source.shape[0]
    step = rows_per_block(source)
    edges = [0, *range(source.chunk_start or step, n_rows, step), n_rows] if n_rows else []
    return [(a, b) for a, b in pairwise(edges) if a < b]


def cut_partitions(source: RowSource) -> tuple[Partition, ...]:
    """Deal the blocks, in order, into partitions whose sizes differ by at most one block."""
    blocks = cut_blocks(source)
    total_bytes = source.shape[0] * source.row_bytes
    wanted = min(MAX_PARTITIONS, max(MIN_PARTITIONS, int(total_bytes / PARTITION_BYTES)))
    count = min(len(blocks), wanted)
    edges = [len(blocks) * i // count for i in range(count + 1)] if count else [0]
    return tuple(Partition(i, tuple(blocks[a:b])) for i, (a, b) in enumerate(pairwise(edges)))
