"""How rows are cut into blocks and partitions."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from nysstream.streaming.partition import (
    BLOCK_BYTES,
    MAX_PARTITIONS,
    MIN_PARTITIONS,
    PARTITION_BYTES,
    cut_blocks,
    cut_partitions,
    rows_per_block,
)


@dataclass
class Shape:
    """What cutting looks at, without data."""

    shape: tuple[int, int]
    row_bytes: float
    chunk_rows: int = 1
    chunk_start: int = 0


@st.composite
def shapes(draw):
    chunk_rows = draw(st.one_of(st.integers(1, 50), st.integers(1, 10**6)))
    return Shape(
        (draw(st.one_of(st.integers(1, 300), st.integers(1, 10**7))), 1),
        draw(st.sampled_from([0.5, 4, 4096, 10**6, 10**8])),
        chunk_rows,
        draw(st.integers(0, chunk_rows - 1)),
    )


@given(source=shapes())
def test_blocks_are_whole_chunks_and_cover_the_rows_once(source):
    if source.shape[0] * source.row_bytes > 1e12:
        source.shape = (1000, 1)
    blocks = cut_blocks(source)
    assert blocks[0][0] == 0
    assert blocks[-1][1] == source.shape[0]
    assert all(b == c for (_, b), (c, _) in pairwise(blocks))
    assert all(a < b for a, b in blocks)
    for _, edge in blocks[:-1]:
        assert (edge - source.chunk_start) % source.chunk_rows == 0
    longest = max(b - a for a, b in blocks)
    assert longest <= rows_per_block(source)
    assert longest * source.row_bytes <= max(BLOCK_BYTES, source.chunk_rows * source.row_bytes)


@given(source=shapes())
def test_partitions_deal_the_blocks_evenly_and_in_order(source):
    if source.shape[0] * source.row_bytes > 1e12:
        source.shape = (1000, 1)
    blocks, partitions = cut_blocks(source), cut_partitions(source)
    assert [block for part in partitions for block in part.blocks] == blocks
    assert [part.index for part in partitions] == list(range(len(partitions)))
    sizes = [len(part.blocks) for part in partitions]
    assert max(sizes) - min(sizes) <= 1
    assert len(partitions) <= MAX_PARTITIONS
    assert len(partitions) >= min(MIN_PARTITIONS, len(blocks))
    assert partitions[0].rows == slice(0, partitions[0].blocks[-1][1])


def test_large_data_are_cut_by_bytes():
    source = Shape((100_000_000, 100), 400.0, chunk_rows=1000)
    total = 100_000_000 * 400
    partitions = cut_partitions(source)
    assert len(partitions) == total // PARTITION_BYTES
    n_rows = [p.rows.stop - p.rows.start for p in partitions]
    assert max(n_rows) * 400 < 1.1 * PARTITION_BYTES


def test_huge_data_are_cut_into_a_bounded_number():
    assert len(cut_partitions(Shape((10**9, 1), 8192.0, chunk_rows=10**5))) == MAX_PARTITIONS
