"""Rows from a grid of chunks: which parts of which chunks, and where they go."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np

from nysstream.sources.checking import assign
from nysstream.sources.decoding import Step, decode
from nysstream.sources.scratch import as_bytes, scratch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from nysstream.sources.files import OpenFile

_PIECE_BYTES = 4 << 20

Entry = TypeVar("Entry", bound=tuple[Any, ...])


class Piece(NamedTuple):
    """The part of one chunk that a read wants.

    Attributes
    ----------
    chunk : tuple of int
        Place of the chunk in the grid.
    inside : tuple of slice
        Rows and columns wanted of the chunk.
    target : tuple of slice
        Where they go in the output.
    """

    chunk: tuple[int, int]
    inside: tuple[slice, slice]
    target: tuple[slice, slice]


def pieces(rows: slice, columns: slice, chunk: tuple[int, int]) -> Iterator[Piece]:
    """Enumerate the chunks that hold a rectangle of the matrix, row by row of the grid."""
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    for i in range(rows.start // chunk[0], -(-rows.stop // chunk[0])):
        row_inside, row_target = _overlap(i, rows, chunk[0])
        for j in range(columns.start // chunk[1], -(-columns.stop // chunk[1])):
            column_inside, column_target = _overlap(j, columns, chunk[1])
            yield Piece((i, j), (row_inside, column_inside), (row_target, column_target))


def _overlap(index: int, wanted: slice, size: int) -> tuple[slice, slice]:
    origin = index * size
    start, stop = max(wanted.start, origin), min(wanted.stop, origin + size)
    return slice(start - origin, stop - origin), slice(start - wanted.start, stop - wanted.start)


def runs_of(stored: Iterable[Entry], limit: int) -> Iterator[list[Entry]]:
    """Group entries ``(start, stop, ...)`` that lie next to each other, into reads of up to ``limit`` bytes.

    An entry that is longer is a read of its own.
    """
    run: list[Entry] = []
    for entry in stored:
        if run and (entry[0] != run[-1][1] or entry[1] - run[0][0] > limit):
            yield run
            run = []
        run.append(entry)
    if run:
        yield run


@dataclass(frozen=True)
class ChunkLayout:
    """How the bytes of one chunk become a block of the matrix.

    Attributes
    ----------
    shape : tuple of int
        Rows and columns of a chunk; chunks at the edge of the matrix are stored whole.
    dtype : numpy.dtype
        Stored dtype, with its byte order.
    order : {"C", "F"}
        Whether rows or columns are contiguous.
    steps : tuple of Step
        What undoes the codecs, in the order of decoding.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    order: Literal["C", "F"] = "C"
    steps: tuple[Step, ...] = field(default=())

    @property
    def nbytes(self) -> int:
        """Bytes of a decoded chunk."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    @property
    def encoded_bound(self) -> int:
        """Bytes of an encoded chunk at most, allowing for data that do not compress."""
        return self.nbytes + self.nbytes // 64 + 1024

    @property
    def scratch_bytes(self) -> int:
        """Scratch for decoding one chunk: what each step makes of its stored bytes."""
        return len(self.steps) * self.encoded_bound

    def file_scratch_bytes(self, n_columns: int) -> int:
        """Scratch for :meth:`place_from` on a matrix of ``n_columns``."""
        if not self.steps and self.order == "C" and n_columns % self.shape[1] == 0:
            return _PIECE_BYTES
        return max(_PIECE_BYTES, self.encoded_bound + self.scratch_bytes)

    def matches(self, target: NDArray[Any]) -> bool:
        """Whether stored bytes can go to ``target`` unchanged."""
        return target.dtype == self.dtype and target.flags.c_contiguous

    def place(self, encoded: NDArray[np.uint8], inside: tuple[slice, slice], target: NDArray[Any]) -> None:
        """Decode one chunk and copy the part wanted to ``target``.

        A chunk wanted whole, of the target's dtype and order, is decoded in place.

        Raises
        ------
        ValueError, RuntimeError
            If the bytes are corrupt.
        """
        whole = inside[0] == slice(0, self.shape[0]) and self._full_width(inside[1])
        if whole and self.matches(target):
            decode(self.steps, encoded, as_bytes(target))
            return
        if self.steps:
            decoded = scratch("decoded", self.nbytes)
            decode(self.steps, encoded, decoded)
        elif encoded.nbytes == self.nbytes:
            decoded = encoded
        else:
            message = f"{encoded.nbytes} bytes, not {self.nbytes}"
            raise ValueError(message)
        # A thread's buffer starts at an aligned address; a slice of a shard may not.
        block = np.ndarray(self.shape, self.dtype, decoded, order=self.order)
        assign(target, block[inside])

    def place_from(
        self, file: OpenFile, span: tuple[int, int], inside: tuple[slice, slice], target: NDArray[Any]
    ) -> None:
        """Read, decode and copy the part wanted of a chunk that lies at ``span`` of a file.

        Of a chunk stored plainly only the rows wanted are read, straight into ``target`` where its
        dtype and order allow.

        Raises
        ------
        OSError, ValueError, RuntimeError
            If the bytes cannot be read or are corrupt.
        """
        if self.steps or not self._full_width(inside[1]):
            self.place(file.read(*span), inside, target)
            return
        if span[1] - span[0] != self.nbytes:
            message = f"{span[1] - span[0]} bytes, not {self.nbytes}"
            raise ValueError(message)
        width = self.shape[1] * self.dtype.itemsize
        start = span[0] + inside[0].start * width
        if self.matches(target):
            file.read_into(start, as_bytes(target))
            return
        step = max(1, _PIECE_BYTES // width)
        for first in range(0, len(target), step):
            part = target[first : first + step]
            buffer = scratch("decoded", len(part) * width)
            file.read_into(start + first * width, buffer)
            assign(part, buffer.view(self.dtype).reshape(part.shape))

    def _full_width(self, columns: slice) -> bool:
        return self.order == "C" and columns == slice(0, self.shape[1])
