"""What a store declares is checked before it is believed, and what it holds against its checksums."""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from dask.utils import format_bytes

from nysstream.errors import DataWarning, SourceError
from nysstream.memory import available_bytes

if TYPE_CHECKING:
    from nysstream.sources.base import RowSource

#: More chunks than any store that can be streamed has: each costs a look-up, and a place in an index.
_MOST_CHUNKS = 20_000_000
_RUN_BYTES = 8 << 20


def refuse_impossible(
    name: str, shape: tuple[int, int], chunk: tuple[int, int], itemsize: int, inner: tuple[int, int] = (0, 0)
) -> None:
    """Refuse an array whose declared sizes nothing on this machine could serve.

    A few bytes of metadata can declare any size. Nothing is allocated, or counted through, for one
    that cannot be meant.

    Parameters
    ----------
    name : str
        How messages call the array.
    shape, chunk : tuple of int
        Rows and columns of the array, and of what is stored in one piece.
    itemsize : int
    inner : tuple of int
        Rows and columns of a chunk within a shard.

    Raises
    ------
    SourceError
        If a vector with a number per column, or the chunks that hold a row, would not fit the memory,
        or there are countless chunks.
    """
    available = available_bytes()
    if 8 * shape[1] > available:
        message = (
            f"{name} declares {shape[1]:,} columns: a vector of coefficients would take "
            f"{format_bytes(8 * shape[1])}, more than this machine has; is the shape right?"
        )
        raise SourceError(message)
    piece = inner if inner[0] else chunk
    if min(*piece, *chunk) < 1 or chunk[0] % piece[0] or chunk[1] % piece[1]:
        message = f"{name} declares chunks of shape {piece}; the store is damaged, write it again"
        raise SourceError(message)
    if piece[0] * piece[1] * itemsize > available:
        message = (
            f"{name} declares chunks of {format_bytes(piece[0] * piece[1] * itemsize)}, more than this "
            "machine has memory; write it again in smaller chunks"
        )
        raise SourceError(message)
    grid = -(-shape[0] // piece[0]) * -(-shape[1] // piece[1])
    within = (chunk[0] // piece[0]) * (chunk[1] // piece[1])
    if max(grid, within) > _MOST_CHUNKS:
        message = f"{name} declares {max(grid, within):,} chunks: too many to stream; is the shape right?"
        raise SourceError(message)


def verify(source: RowSource) -> None:
    """Read all rows, so that every stored checksum is compared.

    Raises
    ------
    SourceError
        If a chunk does not match its checksum, or cannot be decoded; names the chunk.

    Warns
    -----
    DataWarning
        If no checksums are stored: then only what cannot be decoded was noticed.

    Notes
    -----
    Cost: one read of the rows; a block in memory.
    """
    step = source.chunk_rows * max(1, int(_RUN_BYTES / max(1.0, source.chunk_rows * source.row_bytes)))
    first = source.chunk_start or step
    n_rows = source.shape[0]
    edges = sorted({0, *range(min(first, n_rows), n_rows, step), n_rows})
    runs = [slice(a, b) for a, b in pairwise(edges)]
    out = None
    if not source.sparse and runs:
        out = np.empty((max(run.stop - run.start for run in runs), source.shape[1]), source.dtype)
    reads = source.in_turn(runs)
    try:
        for run in runs:
            reads.read(run, None if out is None else out[: run.stop - run.start])
    finally:
        reads.close()
    if not source.checksums:
        message = (
            f"{source.name} stores no checksums, so only chunks that cannot be decoded were noticed; "
            "`nysstream convert` adds them"
        )
        warnings.warn(message, DataWarning, stacklevel=2)
