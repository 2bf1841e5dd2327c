"""Decode the bytes of a chunk in the calling thread, into a buffer that the caller owns.

Each step undoes one codec. A step of fixed ``overhead`` gives as many bytes as it takes, less
that; the others must be told how many bytes to expect. Steps raise ``ValueError`` or
``RuntimeError`` on corrupt bytes; the caller knows which chunk it was and says so.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeAlias

import google_crc32c
import numpy as np
from numcodecs import blosc, lz4, zstd
from numcodecs.fletcher32 import Fletcher32

from nysstream.sources.scratch import scratch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Bytes: TypeAlias = NDArray[np.uint8]

_PIECE = 1 << 16


class Step(Protocol):
    """Undo one codec."""

    @property
    def overhead(self) -> int | None:
        """Bytes that encoding adds; None if it depends on the data."""

    def decode(self, encoded: Bytes, decoded: Bytes) -> None:
        """Fill ``decoded``, which has the expected size."""


@dataclass(frozen=True)
class Blosc:
    """Blosc version 1 with any of its compressors and shuffles."""

    overhead: ClassVar[int | None] = None

    def decode(self, encoded: Bytes, decoded: Bytes) -> None:
        """Check both sizes in the header, which the library trusts, then decompress."""
        header = encoded[:16].tobytes()
        size, stored = int.from_bytes(header[4:8], "little"), int.from_bytes(header[12:16], "little")
        if len(header) < 16 or size != decoded.nbytes or stored > encoded.nbytes:
            message = f"blosc header: {size} bytes in {stored}, not {decoded.nbytes} in {encoded.nbytes}"
            raise ValueError(message)
        blosc.decompress(encoded, decoded)


@dataclass(frozen=True)
class Zstd:
    """Zstandard frames."""

    overhead: ClassVar[int | None] = None

    def decode(self, encoded: Bytes, decoded: Bytes) -> None:
        """Decompress in place, whatever size the frames declare: they may lie."""
        declared = _zstd_content_size(encoded[:18].tobytes())
        if declared is not None and declared < decoded.nbytes:  # there must be more frames
            decoded.fill(0)
            zstd.decompress(encoded, decoded)
            first = decoded.tobytes()
            decoded.fill(255)
            zstd.decompress(encoded, decoded)
            if decoded.tobytes() != first:  # the library does not say how much it has written
                message = f"zstd gives fewer than {decoded.nbytes} bytes"
                raise ValueError(message)
            return
        zstd.decompress(encoded, decoded)


def _zstd_content_size(header: bytes) -> int | None:
    """Content size that a frame header declares (RFC 8878, section 3.1.1.1)."""
    if len(header) < 6 or header[:4] != b"\x28\xb5\x2f\xfd":
        return None
    descriptor = header[4]
    flag, single_segment = descriptor >> 6, descriptor >> 5 & 1
    size = (1 if single_segment else 0, 2, 4, 8)[flag]
    start = 5 + (0 if single_segment else 1) + (0, 1, 2, 4)[descriptor & 3]
    if size == 0 or len(header) < start + size:
        return None
    return int.from_bytes(header[start : start + size], "little") + (256 if size == 2 else 0)


@dataclass(frozen=True)
class Deflate:
    """Gzip members or a zlib stream."""

    overhead: ClassVar[int | None] = None

    def decode(self, encoded: Bytes, decoded: Bytes) -> None:
        """Inflate piece by piece, so that no buffer as large as the chunk is allocated."""
        view, position, done = encoded.data, 0, 0
        while position < len(view):
            inflate = zlib.decompressobj(wbits=47)  # gzip or zlib, told apart by the header
            pending = b""
            while not inflate.eof:
                if not pending:
                    pending = bytes(view[position : position + _PIECE])
                    position += len(pending)
                    if not pending:
                        message = "the compressed stream ends early"
                        raise ValueError(message)
                try:
                    piece = inflate.decompress(pending, 16 * _PIECE)
                except zlib.error as error:
                    raise ValueError(str(error)) from error
                pending = inflate.unconsumed_tail
                if done + len(piece) > decoded.nbytes:
                    message = f"the stream gives more than {decoded.nbytes} bytes"
                    raise ValueError(message)
                decoded[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
                done += len(piece)
            position -= len(inflate.unused_data)
            if not any(view[position : position + 1]):  # gzip allows zeros after the last member
                break
        if done != decoded.nbytes:
            message = f"the stream gives {done} bytes, not {decoded.nbytes}"
            raise ValueError(message)


@dataclass(frozen=True)
class LZ4:
    """LZ4 blocks after a length of four bytes, as numcodecs writes them."""

    overhead: ClassVar[int | None] = None

    def decode(self, encoded: Bytes, decoded: Bytes) -> None:
        """Check the length that precedes the block, then decompress."""
        size = int.from_bytes(encoded[:4].tobytes(), "little")
        if encoded.nbytes < 5 or size != decoded.nbytes:
            message = f"the LZ4 block gives {size} bytes, not {decoded.nbytes}"
            raise ValueError(message)
        lz4.decompress(encoded, decoded)


@dataclass(frozen=True)
class CRC32C:
    """A CRC-32C checksum after the data."""

    overhead: ClassVar[int | None] = 4

    def decode(self, encoded: Bytes, decoded: Bytes) -> None:
        """Verify the checksum and copy the data."""
        _copy(self.verified(encoded), decoded)

    def verified(self, encoded: Bytes) -> Bytes:
        """Verify the checksum and give the data before it, where they are."""
        data, stored = encoded[:-4], int.from_bytes(encoded[-4:].tobytes(), "little")
        if encoded.nbytes < 4 or google_crc32c.value(data) != stored:
            message = "its CRC-32C checksum does not match"
            raise ValueError(message)
        return data


@dataclass(frozen=True)
class Fletcher:
    """HDF5's Fletcher-32 checksum after the data."""

    overhead: ClassVar[int | None] = 4

    def decode(self, encoded: Bytes, decoded: Bytes) -> None:
        """Verify the checksum and copy the data."""
        if encoded.nbytes < 4:
            message = f"{encoded.nbytes} bytes, too few for a checksum"
            raise ValueError(message)
        _copy(np.frombuffer(Fletcher32().decode(encoded), np.uint8), decoded)


@dataclass(frozen=True)
class Unshuffle:
    """Bytes grouped by their place within an element."""

    itemsize: int
    overhead: ClassVar[int | None] = 0

    def decode(self, encoded: Bytes, decoded: Bytes) -> None:
        """Put the bytes of each element together again; a remainder is stored as it is."""
        if encoded.nbytes != decoded.nbytes:
            message = f"{encoded.nbytes} shuffled bytes, not {decoded.nbytes}"
            raise ValueError(message)
        count = decoded.nbytes // self.itemsize
        whole = count * self.itemsize
        planes = encoded[:whole].reshape(self.itemsize, count)
        elements = decoded[:whole].reshape(count, self.itemsize)
        for first in range(0, count, _PIECE):  # a tile stays in cache while its planes are woven in
            for place in range(self.itemsize):
                elements[first : first + _PIECE, place] = planes[place, first : first + _PIECE]
        decoded[whole:] = encoded[whole:]


def checks(steps: Sequence[Step]) -> bool:
    """Whether a checksum of the stored bytes, or of what they decode to, is among the steps."""
    return any(isinstance(step, (CRC32C, Fletcher, Deflate)) for step in steps)


def supported(steps: Sequence[Step]) -> bool:
    """Whether the size of every intermediate result follows from those of the first and the last."""
    return sum(step.overhead is None for step in steps) <= 1


def decode(steps: Sequence[Step], encoded: Bytes, decoded: Bytes) -> None:
    """Undo all codecs, the last applied first.

    Parameters
    ----------
    steps : sequence of Step
        In the order of decoding.
    encoded, decoded : ndarray of uint8
        The stored bytes, and the buffer to fill, of the chunk's size.

    Raises
    ------
    ValueError, RuntimeError
        If the bytes are corrupt.
    """
    data = encoded
    for number, step in enumerate(steps):
        rest = steps[number + 1 :]
        if rest and isinstance(step, CRC32C):  # the next step reads them where they are
            data = step.verified(data)
            continue
        if not rest:
            target = decoded
        elif any(later.overhead is None for later in rest):
            target = scratch(f"step {number}", max(0, data.nbytes - (step.overhead or 0)))
        else:
            extra = sum(later.overhead or 0 for later in rest)
            target = scratch(f"step {number}", decoded.nbytes + extra)
        step.decode(data, target)
        data = target
    if not steps:
        _copy(data, decoded)


def _copy(data: Bytes, target: Bytes) -> None:
    if data.nbytes != target.nbytes:
        message = f"{data.nbytes} bytes, not {target.nbytes}"
        raise ValueError(message)
    target[:] = data
