"""Shuffle rows that do not fit in memory: scatter them to buckets on disk, then sort each bucket."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.errors import InputError, SourceError

if TYPE_CHECKING:
    import os
    from collections.abc import Generator, Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from nysstream.sources.layout import Layout
    from nysstream.sources.stream import Blocks

MAX_BUCKETS = 256  # open files, well below the usual limit of 1024
KEYS = 1 << 64


def shuffled(
    blocks: Iterable[Mapping[str, NDArray[Any]]],
    layouts: Mapping[str, Layout],
    seed: int,
    *,
    memory_bytes: int,
    scratch: str | os.PathLike[str] | None = None,
    n_rows: int | None = None,
) -> Generator[Blocks]:
    """Yield the same rows in a random order.

    Row ``i`` gets the ``i``-th 64-bit number of a Philox stream and the rows are sorted by it, so
    the order is uniformly random and depends on the seed and on the number of rows alone: neither
    on the sizes of the blocks nor on the memory at hand. The rows of all arrays move together.

    Parameters
    ----------
    blocks : iterable of mapping of str to ndarray, shape (n, n_columns) or (n,)
        The rows, in order.
    layouts : mapping of str to Layout
        Columns and dtype of each array.
    seed : int
        Non-negative seed.
    memory_bytes : int
        Memory to use. Rows that fit in a quarter of it never touch the disk.
    scratch : path, optional
        Directory for temporary files, by default the system's. They are removed however the
        iteration ends, provided that the iterator is exhausted or closed.
    n_rows : int, optional
        Number of rows, if known; helps to choose the number of buckets.

    Yields
    ------
    dict of str to ndarray, shape (n, n_columns) or (n,)

    Raises
    ------
    InputError
        If the seed is negative.
    SourceError
        If the temporary files cannot be written.

    Notes
    -----
    Cost: one pass over the blocks, and the rows plus 8 bytes each written to disk and read once;
    more often only if the number of rows is unknown and exceeds some 60 times the memory.
    """
    if seed < 0:
        message = f"shuffle={seed}: the seed must not be negative"
        raise InputError(message)
    record = np.dtype(
        [("key", "u8")] + [(name, layout.dtype, layout.shape(1)[1:]) for name, layout in layouts.items()]
    )
    generator = np.random.Philox(key=seed)
    pieces = _packed(blocks, record, generator, max(1, memory_bytes // 4 // record.itemsize))
    yield from _sorted(pieces, record, (0, KEYS), n_rows, memory_bytes, scratch)


@dataclass
class _Bucket:
    """A run of keys ``low <= key < high`` and the file that holds its records."""

    path: Path
    low: int
    high: int
    n_rows: int = 0


def _packed(
    blocks: Iterable[Mapping[str, NDArray[Any]]],
    record: np.dtype[Any],
    generator: np.random.Philox,
    piece_rows: int,
) -> Iterator[NDArray[Any]]:
    """Pack rows and their keys into pieces of ``piece_rows`` records; the buffer is reused."""
    piece = np.empty(piece_rows, record)
    filled = 0
    for block in blocks:
        n_new = len(next(iter(block.values())))
        done = 0
        while done < n_new:
            take = min(n_new - done, piece_rows - filled)
            part = piece[filled : filled + take]
            part["key"] = generator.random_raw(take)
            for name, rows in block.items():
                part[name] = rows[done : done + take]
            done += take
            filled += take
            if filled == piece_rows:
                yield piece
                filled = 0
    if filled:
        yield piece[:filled]


def _sorted(
    pieces: Iterator[NDArray[Any]],
    record: np.dtype[Any],
    keys: tuple[int, int],
    n_rows: int | None,
    memory_bytes: int,
    scratch: str | os.PathLike[str] | None,
) -> Iterator[Blocks]:
    first = next(pieces, None)
    if first is None:
        return
    piece_rows = max(1, memory_bytes // 4 // record.itemsize)
    if len(first) < piece_rows or n_rows == len(first):
        yield from _unpacked(first, piece_rows)
        return
    with ExitStack() as stack:
        with _temporary_errors(scratch):
            temporary = tempfile.TemporaryDirectory(prefix=".nysstream-shuffle-", dir=scratch)
        folder = stack.enter_context(temporary)
        buckets = _scatter(first, pieces, Path(folder), keys, _bucket_count(n_rows, record, memory_bytes))
        del first
        for bucket in buckets:
            fits = bucket.n_rows * record.itemsize <= memory_bytes // 2
            if fits or bucket.n_rows < 2 or bucket.high - bucket.low < 2:
                records = np.fromfile(bucket.path, record)
                bucket.path.unlink()
                yield from _unpacked(records, piece_rows // 4)
                del records
            else:
                again = _reread(bucket.path, record, piece_rows)
                yield from _sorted(
                    again, record, (bucket.low, bucket.high), bucket.n_rows, memory_bytes, folder
                )
                bucket.path.unlink()


def _bucket_count(n_rows: int | None, record: np.dtype[Any], memory_bytes: int) -> int:
    if n_rows is None:
        return MAX_BUCKETS
    # A quarter of the memory each, on average: counts vary about their mean and half is allowed.
    return min(MAX_BUCKETS, max(2, -(-n_rows * record.itemsize * 4 // memory_bytes)))


def _scatter(
    first: NDArray[Any],
    rest: Iterator[NDArray[Any]],
    folder: Path,
    keys: tuple[int, int],
    count: int,
) -> list[_Bucket]:
    low, high = keys
    width = -(-(high - low) // count)
    edges = [*range(low, high, width), high]
    buckets = [_Bucket(folder / f"{i}", *edges[i : i + 2]) for i in range(len(edges) - 1)]
    with ExitStack() as stack:
        with _temporary_errors(folder.parent):
            files = [stack.enter_context(open(bucket.path, "wb", buffering=0)) for bucket in buckets]
        piece: NDArray[Any] | None = first
        while piece is not None:
            index = ((piece["key"] - np.uint64(low)) // np.uint64(width)).astype(np.intp)
            records = piece.take(np.argsort(index, kind="stable"))
            counts = np.bincount(index, minlength=len(buckets)).tolist()
            with _temporary_errors(folder.parent):
                end = 0
                for bucket, file, n in zip(buckets, files, counts, strict=True):
                    end += n
                    bucket.n_rows += n
                    _write_all(file, records[end - n : end])
            del records
            piece = next(rest, None)
    return buckets


@contextmanager
def _temporary_errors(folder: str | os.PathLike[str] | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = f"cannot write temporary files for shuffling in {folder}: {error.strerror or error}"
        raise SourceError(message) from error


def _write_all(file: Any, records: NDArray[Any]) -> None:
    # tofile would report a full disk as a bare "N requested and M written".
    view = records.view(np.uint8).data if len(records) else memoryview(b"")
    while len(view):
        view = view[file.write(view) :]


def _reread(path: Path, record: np.dtype[Any], piece_rows: int) -> Iterator[NDArray[Any]]:
    with open(path, "rb") as file:
        while len(piece := np.fromfile(file, record, piece_rows)):
            yield piece


def _unpacked(records: NDArray[Any], block_rows: int) -> Iterator[Blocks]:
    order = np.argsort(records["key"], kind="stable")
    names = [name for name in records.dtype.names or () if name != "key"]
    for start in range(0, len(order), max(1, block_rows)):
        rows = order[start : start + max(1, block_rows)]
        yield {name: records[name][rows] for name in names}
