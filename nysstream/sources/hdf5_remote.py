"""HDF5 files elsewhere: the index of a dataset is read once, its chunks are fetched as byte ranges."""

from __future__ import annotations

import io
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from dask.utils import format_bytes
from zarr.abc.store import RangeByteRequest
from zarr.core.sync import sync

from nysstream.errors import NysstreamError, SourceError
from nysstream.sources.chunks import ChunkLayout, Piece, pieces, runs_of
from nysstream.sources.decoding import checks
from nysstream.sources.fetching import Window, latency_of, requests_at_once
from nysstream.sources.hdf5_layout import chunk_index, contiguous_offset
from nysstream.sources.remote import advice_on, explained, remote_store

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from nysstream.sources.fetching import Request

#: What HDF5 asks of the file while it looks for a dataset comes in such pages, of which some are kept.
_PAGE_BYTES, _PAGES = 1 << 18, 64
_PIECE_BYTES, _RUN_BYTES = 4 << 20, 8 << 20
#: Layouts that would take too many bytes, or too many requests, for each block of rows.
_HUGE_STRIP, _TINY_CHUNK, _MANY_CHUNKS = 1 << 30, 1 << 12, 100_000
_CONVERT = "convert it to Zarr once (download it, then 'nysstream convert'), or rewrite it in chunks of rows"


class RemoteFile(io.RawIOBase):
    """A file at a URL, as HDF5 reads its metadata: by pages, of which the last few are kept.

    Parameters
    ----------
    url : str
    anonymous : bool
        Whether to ask without credentials.

    Raises
    ------
    SourceError
        If there is no such file, or it may not be read.
    """

    def __init__(self, url: str, *, anonymous: bool = False) -> None:
        super().__init__()
        self.url = url
        folder, _, self.key = url.rpartition("/")
        self.store = remote_store(folder, anonymous=anonymous)
        self._place = 0
        self._pages: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
        try:
            self.size = int(sync(self.store.getsize(self.key)))
            self.latency = latency_of(lambda: sync(self.store.getsize(self.key)))
        except FileNotFoundError as error:
            message = f"{url} does not exist; check the bucket and the path"
            raise SourceError(message) from error
        except Exception as error:  # each back end has errors of its own
            message = f"{url} cannot be opened: {explained(error)}"
            raise SourceError(message) from error

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def seekable(self) -> bool:
        """Say that any place can be read."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move."""
        self._place = offset + (0, self._place, self.size)[whence]
        return self._place

    def tell(self) -> int:
        """Give the place of the next read."""
        return self._place

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer, as far as the file goes."""
        view = memoryview(buffer).cast("B")
        stop = min(self._place + len(view), self.size)
        done = 0
        while self._place < stop:
            page, inside = divmod(self._place, _PAGE_BYTES)
            part = self._page(page)[inside : inside + stop - self._place]
            view[done : done + len(part)] = part.data
            done += len(part)
            self._place += len(part)
        return done

    def _page(self, number: int) -> NDArray[np.uint8]:
        page = self._pages.get(number)
        if page is None:
            start = number * _PAGE_BYTES
            page = self._pages[number] = _bytes_of(
                self.window([]), self.request(start, min(start + _PAGE_BYTES, self.size))
            )
            while len(self._pages) > _PAGES:
                self._pages.popitem(last=False)
        else:
            self._pages.move_to_end(number)
        return page

    def request(self, start: int, stop: int) -> Request:
        """Ask for a byte range."""
        return self.key, RangeByteRequest(start, stop)

    def window(self, requests: Iterable[Request], nbytes: int = _PIECE_BYTES) -> Window:
        """Fetch what is asked for ahead."""
        return Window(self.store, requests, requests_at_once(nbytes, self.latency))


def _bytes_of(window: Window, request: Request) -> NDArray[np.uint8]:
    span: Any = request[1]
    data = window.take(request)
    if data is None or data.nbytes != span.end - span.start:
        message = f"bytes {span.start}:{span.end} are not all there"
        raise ValueError(message)
    return data


class _Stored(NamedTuple):
    """A chunk, or a piece of contiguous data: where it lies, what is wanted of it, how it is decoded."""

    start: int
    stop: int
    piece: Piece
    layout: ChunkLayout


class RemoteReader:
    """One dataset of a file elsewhere.

    Parameters
    ----------
    dataset : h5py.Dataset
        Of one or two dimensions, of a file opened by way of ``file``; may be closed afterwards.
    file : RemoteFile
    name : str
        How messages call it.

    Raises
    ------
    SourceError
        If its layout is hopeless at a distance: only HDF5 can decode it, chunks run along the columns,
        or there are countless tiny ones.
    """

    shareable = True

    def __init__(self, dataset: Any, file: RemoteFile, name: str) -> None:
        self._file, self._name = file, name
        self._shape: tuple[int, int] = (*dataset.shape, 1)[:2]
        self._dtype = dataset.dtype
        self.fill = np.asarray(dataset.fillvalue, dataset.dtype)
        self._offset = contiguous_offset(dataset)
        self._index = None
        if self._offset is None and dataset.id.get_storage_size() > 0:
            _refuse_hopeless(dataset, name)
            self._index = chunk_index(dataset, file)
            if self._index is None:
                message = f"{name}: only HDF5 itself can decode its filters, one chunk at a time; {_CONVERT}"
                raise SourceError(message)
        chunk = (*dataset.chunks, 1)[:2] if dataset.chunks else (1, self._shape[1])
        self._chunk = ChunkLayout(chunk, self._dtype)

    @property
    def decode_bytes(self) -> int:
        """What is on its way, and what a chunk decodes to."""
        run = max(_RUN_BYTES, self._chunk.encoded_bound)
        steps = 0 if self._index is None else self._index.layout(0).scratch_bytes + self._chunk.nbytes
        return run * requests_at_once(run, self._file.latency) + steps

    @property
    def checksums(self) -> bool:
        """Whether chunks carry checksums."""
        return self._index is not None and checks(self._index.layout(0).steps)

    def expecting(self, runs: Iterable[slice]) -> Window:
        """Give what :meth:`read` takes as ``window`` to have these runs of rows fetched ahead."""
        wanted = (self._request(run) for rows in runs for run in runs_of(self._stored(rows)[0], _RUN_BYTES))
        return self._file.window(wanted, max(_RUN_BYTES, self._chunk.encoded_bound))

    def read(self, rows: slice, out: NDArray[Any], window: Window | None = None) -> None:
        """Fill ``out`` with a run of rows.

        Raises
        ------
        SourceError
            If a chunk cannot be fetched or decoded.
        """
        stored, absent = self._stored(rows)
        for piece in absent:
            out[piece.target] = self.fill
        own = window or self.expecting([rows])
        try:
            for run in runs_of(stored, _RUN_BYTES):
                data = _bytes_of(own, self._request(run))
                for start, stop, piece, layout in run:
                    origin = run[0].start
                    layout.place(data[start - origin : stop - origin], piece.inside, out[piece.target])
        except NysstreamError:
            raise
        except Exception as error:  # stores and codecs have errors of their own
            remedy = "" if advice_on(error) else "; restore the file from its origin"
            message = (
                f"{self._name}: rows {rows.start}:{rows.stop} cannot be read: {explained(error)}{remedy}"
            )
            raise SourceError(message) from error
        finally:
            if window is None:
                own.close()

    def _request(self, run: list[_Stored]) -> Request:
        return self._file.request(run[0].start, run[-1].stop)

    def _stored(self, rows: slice) -> tuple[list[_Stored], list[Piece]]:
        """Find what a run of rows wants, in the order of the file; and the chunks never written."""
        if self._offset is not None:
            return list(self._contiguous(rows, self._offset)), []
        stored: list[_Stored] = []
        absent: list[Piece] = []
        for piece in pieces(rows, slice(0, self._shape[1]), self._chunk.shape):
            where = None if self._index is None else self._index.find(piece.chunk)
            if where is None or self._index is None:
                absent.append(piece)
            else:
                (start, stop), mask = where
                stored.append(_Stored(start, stop, piece, self._index.layout(mask)))
        return sorted(stored, key=lambda entry: entry.start), absent

    def _contiguous(self, rows: slice, offset: int) -> Iterator[_Stored]:
        width = self._shape[1] * self._dtype.itemsize
        step = max(1, _PIECE_BYTES // max(1, width))
        for first in range(rows.start, rows.stop, step):
            last = min(first + step, rows.stop)
            columns = slice(0, self._shape[1])
            target = slice(first - rows.start, last - rows.start)
            piece = Piece((0, 0), (slice(0, last - first), columns), (target, columns))
            layout = ChunkLayout((last - first, self._shape[1]), self._dtype)
            yield _Stored(offset + first * width, offset + last * width, piece, layout)


def _refuse_hopeless(dataset: Any, name: str) -> None:
    if dataset.chunks is None:
        message = f"{name}: its values do not lie in this file as they are; {_CONVERT}"
        raise SourceError(message)
    rows, columns = (*dataset.chunks, 1)[:2]
    shape = (*dataset.shape, 1)[:2]
    itemsize = dataset.dtype.itemsize
    strip = min(rows, shape[0]) * shape[1] * itemsize
    if strip > _HUGE_STRIP:
        message = (
            f"{name}: rows are stored {rows:,} at a time, {format_bytes(strip)} in all columns, which each "
            f"block of rows would have to fetch; {_CONVERT}"
        )
        raise SourceError(message)
    count = -(-shape[0] // rows) * -(-shape[1] // columns)
    if rows * columns * itemsize < _TINY_CHUNK and count > _MANY_CHUNKS:
        message = f"{name} has {count:,} chunks of {rows * columns * itemsize:,} bytes: too many; {_CONVERT}"
        raise SourceError(message)
