"""Read the chunks of one open Zarr array: decoded here where the layout is known, else by Zarr."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from zarr.abc.store import RangeByteRequest

from nysstream.errors import DataWarning, MissingChunksError, SourceError
from nysstream.sources.checking import assign
from nysstream.sources.chunks import ChunkLayout, Piece, pieces, runs_of
from nysstream.sources.remote import advice_on, explained
from nysstream.sources.scratch import scratch
from nysstream.sources.zarr_blobs import FileBlob, LocalBlobs, blobs_of
from nysstream.sources.zarr_layout import array_layout
from nysstream.sources.zarr_store import read_into

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import zarr
    from numpy.typing import NDArray

    from nysstream.sources.fetching import Request
    from nysstream.sources.zarr_blobs import PartialBlob, RemoteBlobs, WholeBlob
    from nysstream.sources.zarr_layout import ShardLayout

    Absent = Callable[["ZarrReader", Piece, tuple[int, int] | None], None]

_RUN_BYTES = 8 << 20
_PIECE_BYTES = 4 << 20


class ZarrReader:
    """The chunks of one open array.

    Attributes
    ----------
    layout : ArrayLayout
        How they are laid out.
    fill : ndarray, shape ()
        What an absent one reads as.

    Parameters
    ----------
    array : zarr.Array
        Of one or two dimensions.
    name : str
        How messages call it.
    """

    def __init__(self, array: zarr.Array[Any], name: str) -> None:
        self._array, self._name = array, name
        self._vector = array.ndim == 1
        self._n_columns = 1 if self._vector else int(array.shape[1])
        self._dtype = np.dtype(array.dtype)
        self.layout = array_layout(array)
        self._blobs = blobs_of(array, self._fetched_bytes)
        self.fill = np.asarray(0 if array.fill_value is None else array.fill_value, self._dtype)

    @property
    def shareable(self) -> bool:
        """True: nothing stays open between reads."""
        return True

    @property
    def decode_bytes(self) -> int:
        """The stored bytes of the chunks (or runs of a shard) fetched at once, and one decoded block."""
        layout = self.layout
        if layout.chunk is None:
            width = -(-self._n_columns // layout.shape[1]) * layout.shape[1]
            return 3 * layout.shape[0] * width * self._dtype.itemsize
        if layout.shard is None and isinstance(self._blobs, LocalBlobs):
            return layout.chunk.file_scratch_bytes(self._n_columns)
        return layout.chunk.scratch_bytes + self._fetched_bytes * self._blobs.at_once

    @property
    def _fetched_bytes(self) -> int:
        """Bytes of the largest object, or part of one, that is fetched at once."""
        layout = self.layout
        run = (layout.chunk or ChunkLayout(layout.shape, self._dtype)).encoded_bound
        return run if layout.shard is None else max(layout.shard.index_bytes, _RUN_BYTES, run)

    def expecting(self, runs: Iterable[slice]) -> LocalBlobs | RemoteBlobs:
        """Give what :meth:`read` takes as ``blobs`` to have these runs of rows fetched ahead."""
        return self._blobs.expecting(self._requests(runs))

    def read(
        self,
        rows: slice,
        out: NDArray[Any],
        absent: Absent,
        blobs: LocalBlobs | RemoteBlobs | None = None,
    ) -> None:
        """Fill ``out`` with a run of rows.

        Parameters
        ----------
        rows : slice
            Which rows.
        out : ndarray, shape (rows, columns)
            Where to.
        absent : callable
            Told of each absent chunk (and inner chunk of a shard) before it is taken as the fill
            value; may raise ``MissingChunksError``.
        blobs : LocalBlobs or RemoteBlobs, optional
            Where the chunks come from, if that is known to fetch ahead.

        Raises
        ------
        MissingChunksError
            From ``absent``.
        SourceError
            If a chunk cannot be read or decoded.
        """
        chunk, shard = self.layout.chunk, self.layout.shard
        if chunk is None:
            self._read_by_zarr(rows, out)
            return
        wanted = list(pieces(rows, slice(0, self._n_columns), self.layout.shape))
        keys = (self.key(piece) for piece in wanted)
        blobs = blobs or self._blobs
        whole, parts = (blobs.get(keys), None) if shard is None else (None, blobs.ranged(keys))
        for piece in wanted:
            target = out[piece.target]
            try:
                if whole is not None:
                    self._read_chunk(next(whole), chunk, piece, target, absent)
                elif shard is not None and parts is not None:
                    self._read_shard(next(parts), shard, chunk, piece, target, absent)
            except (MissingChunksError, DataWarning):  # a warning may have been made an error
                raise
            except Exception as error:  # stores and codecs have errors of their own
                raise self.unreadable(piece, error) from error

    def key(self, piece: Piece) -> str:
        """Name of the chunk (or shard) in the store."""
        return str(self._array.metadata.encode_chunk_key(piece.chunk[:1] if self._vector else piece.chunk))

    def rows_of(self, piece: Piece) -> str:
        """Name the rows of a chunk."""
        start = piece.chunk[0] * self.layout.shape[0]
        return f"rows {start}:{min(start + self.layout.shape[0], self._array.shape[0])}"

    def unreadable(self, piece: Piece, error: Exception) -> SourceError:
        """Say which chunk could not be read, and why."""
        remedy = "" if advice_on(error) else "; restore it from its origin or leave its rows out with rows="
        message = (
            f"{self._name}: chunk {self.key(piece)} ({self.rows_of(piece)}) cannot be read: "
            f"{explained(error)}{remedy}"
        )
        return SourceError(message)

    def lookups(self, n_rows: int) -> Iterator[tuple[Piece, tuple[int, int] | None, bool]]:
        """Tell of each chunk, and of each inner chunk of a local shard, whether it is there.

        Raises
        ------
        SourceError
            If the store cannot be listed, or the index of a shard is corrupt.
        """
        grid = (slice(0, n_rows), slice(0, self._n_columns), self.layout.shape)
        found = self._blobs.present(self.key(piece) for piece in pieces(*grid))
        for piece in pieces(*grid):
            try:
                there = next(found)
                present = self._inner_presence(piece, there=there)
            except Exception as error:  # stores have errors of their own
                raise self.unreadable(piece, error) from error
            if present is None or self.layout.chunk is None:
                yield piece, None, there
                continue
            for inner in pieces(*piece.inside, self.layout.chunk.shape):
                yield piece, inner.chunk, bool(present[inner.chunk])

    def _inner_presence(self, piece: Piece, *, there: bool) -> NDArray[np.bool_] | None:
        shard = self.layout.shard
        if shard is None or not isinstance(self._blobs, LocalBlobs):
            return None
        if not there:
            return np.zeros(shard.grid, np.bool_)
        (present,) = (
            shard.parse(blob.edge(shard.index_bytes, at_start=shard.at_start))[1]
            for blob in self._blobs.get([self.key(piece)])
            if blob is not None
        )
        return present

    def _read_chunk(
        self, blob: WholeBlob | None, chunk: ChunkLayout, piece: Piece, target: NDArray[Any], absent: Absent
    ) -> None:
        if blob is None:
            absent(self, piece, None)
            target[...] = self.fill
        elif isinstance(blob, FileBlob):
            chunk.place_from(blob, (0, blob.size), piece.inside, target)
        else:
            chunk.place(blob.whole(), piece.inside, target)

    def _read_shard(
        self,
        blob: PartialBlob | None,
        shard: ShardLayout,
        chunk: ChunkLayout,
        piece: Piece,
        target: NDArray[Any],
        absent: Absent,
    ) -> None:
        index = None if blob is None else blob.edge(shard.index_bytes, at_start=shard.at_start)
        if blob is None or index is None:
            absent(self, piece, None)
            target[...] = self.fill
            return
        runs, missing = _runs_of(index, shard, chunk, piece)
        for inner in missing:
            absent(self, piece, inner.chunk)
            target[inner.target] = self.fill
        for run, data in zip(runs, blob.reads([(run[0][0], run[-1][1]) for run in runs]), strict=True):
            origin = run[0][0]
            for start, stop, inner in run:
                chunk.place(data[start - origin : stop - origin], inner.inside, target[inner.target])

    def _requests(self, runs: Iterable[slice]) -> Iterator[Request]:
        """Enumerate what reading these runs of rows will ask of a store."""
        chunk, shard = self.layout.chunk, self.layout.shard
        if chunk is None:
            return
        for rows in runs:
            for piece in pieces(rows, slice(0, self._n_columns), self.layout.shape):
                key = self.key(piece)
                if shard is None:
                    yield key, None
                    continue
                found: list[list[tuple[int, int, Piece]]] = []
                try:
                    for blob in self._blobs.ranged([key]):  # a file is open while the loop runs
                        edge = None if blob is None else blob.edge(shard.index_bytes, at_start=shard.at_start)
                        found = [] if edge is None else _runs_of(edge, shard, chunk, piece)[0]
                except Exception:  # whoever reads the rows will say what is wrong
                    return
                for run in found:
                    yield key, RangeByteRequest(run[0][0], run[-1][1])

    def _read_by_zarr(self, rows: slice, out: NDArray[Any]) -> None:
        """Read by Zarr's own call, one row of its chunk grid at a time to bound the memory."""
        height = self.layout.shape[0]
        stored = self._dtype
        for start in range(rows.start - rows.start % height, rows.stop, height):
            part = slice(max(start, rows.start), min(start + height, rows.stop))
            target = out[part.start - rows.start : part.stop - rows.start]
            direct = out.dtype == stored and target.flags.c_contiguous
            values = target if direct else scratch("decoded", target.size * stored.itemsize).view(stored)
            values = values.reshape(target.shape[:1] if self._vector else target.shape)
            try:
                read_into(self._array, part, values)
            except Exception as error:  # stores and codecs have errors of their own
                piece = next(pieces(part, slice(0, self._n_columns), self.layout.shape))
                raise self.unreadable(piece, error) from error
            if not direct:
                assign(target, values.reshape(target.shape))


def _runs_of(
    index: NDArray[np.uint8], shard: ShardLayout, chunk: ChunkLayout, piece: Piece
) -> tuple[list[list[tuple[int, int, Piece]]], list[Piece]]:
    """Find the inner chunks that a piece of a shard wants: runs of those stored, and those absent."""
    spans, present = shard.parse(index)
    stored: list[tuple[int, int, Piece]] = []
    missing: list[Piece] = []
    for inner in pieces(*piece.inside, chunk.shape):
        if present[inner.chunk]:
            start, length = spans[inner.chunk].tolist()
            stored.append((start, start + length, inner))
        else:
            missing.append(inner)
    stored.sort(key=lambda entry: entry[0])
    return list(runs_of(stored, _RUN_BYTES)), missing
