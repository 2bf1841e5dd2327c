"""Where the chunks of a Zarr array are: in files, or in a store from which they are fetched."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any, Protocol

from zarr.abc.store import RangeByteRequest, SuffixByteRequest
from zarr.core.sync import sync
from zarr.storage import LocalStore

from nysstream.sources.fetching import Window, fetch, latency_of, requests_at_once
from nysstream.sources.files import OpenFile
from nysstream.sources.zarr_store import list_keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import numpy as np
    import zarr
    from numpy.typing import NDArray
    from zarr.abc.store import ByteRequest

    from nysstream.sources.fetching import Request

#: Indexes of shards that are kept: one is wanted for each block of its shard.
_KEPT = 32
#: Bytes that the kernel is told of before they are read.
_AHEAD_BYTES = 16 << 20
_TELLS = hasattr(os, "posix_fadvise")


class WholeBlob(Protocol):
    """An object that is read at once."""

    def whole(self) -> NDArray[np.uint8]:
        """Give all bytes; valid until the thread's next read."""


class PartialBlob(Protocol):
    """An object that is read in parts."""

    def edge(self, count: int, *, at_start: bool) -> NDArray[np.uint8] | None:
        """Give the first or last ``count`` bytes, or all if there are fewer; None if the key is absent."""

    def reads(self, spans: Sequence[tuple[int, int]]) -> Iterator[NDArray[np.uint8]]:
        """Give byte ranges in turn, each valid until the next."""


class FileBlob(OpenFile):
    """An open file."""

    def whole(self) -> NDArray[np.uint8]:
        """Read into the thread's scratch."""
        return self.read(0, self.size)

    def edge(self, count: int, *, at_start: bool) -> NDArray[np.uint8]:
        """Read into the thread's scratch."""
        first = 0 if at_start else max(0, self.size - count)
        return self.read(first, min(self.size, first + count))

    def reads(self, spans: Sequence[tuple[int, int]]) -> Iterator[NDArray[np.uint8]]:
        """Read into the thread's scratch."""
        return (self.read(*span) for span in spans)


class LocalBlobs:
    """Chunks in files under a directory.

    The kernel reads ahead within a file, but not from one to the next: a disk would stand still while
    a chunk is decoded. So it is told which files, or parts of them, come next.

    Parameters
    ----------
    root : str
    nbytes : int
        Size of what is read at once, about.
    requests : iterable of Request
        What will be read, in order.
    """

    at_once = 1

    def __init__(self, root: str, nbytes: int, requests: Iterable[Request] = ()) -> None:
        self._root, self._nbytes = root, nbytes
        self._coming = iter(requests)
        self._told: deque[str] = deque()

    def expecting(self, requests: Iterable[Request]) -> LocalBlobs:
        """Give the same blobs, of which the kernel is told what is read next."""
        return LocalBlobs(self._root, self._nbytes, requests) if _TELLS else self

    def close(self) -> None:
        """Tell of nothing more."""
        self._coming = iter(())

    def _tell(self, key: str) -> None:
        """Keep the kernel told of the request for ``key``, which is read now, and of a few after it."""
        ahead = max(1, _AHEAD_BYTES // max(1, self._nbytes))
        for name, span in itertools.islice(self._coming, max(0, 1 + ahead - len(self._told))):
            self._told.append(name)
            with contextlib.suppress(OSError):  # whoever reads it will say what is wrong
                _will_need(f"{self._root}/{name}", span)
        while key in self._told and self._told.popleft() != key:
            pass

    def get(self, keys: Iterable[str]) -> Iterator[FileBlob | None]:
        """Open one file at a time; None for those absent."""
        for key in keys:
            self._tell(key)
            try:
                blob = FileBlob(f"{self._root}/{key}")
            except (FileNotFoundError, NotADirectoryError):
                yield None
                continue
            try:
                yield blob
            finally:
                blob.close()

    ranged = get

    def present(self, keys: Iterable[str]) -> Iterator[bool]:
        """Tell for each key whether it is there."""
        for key in keys:
            try:
                os.stat(f"{self._root}/{key}")
            except (FileNotFoundError, NotADirectoryError):
                yield False
            else:
                yield True


def _will_need(path: str, span: ByteRequest | None) -> None:
    """Have the kernel begin to read a file, or a range of its bytes."""
    start, count = (span.start, span.end - span.start) if isinstance(span, RangeByteRequest) else (0, 0)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.posix_fadvise(fd, start, count, os.POSIX_FADV_WILLNEED)
    finally:
        os.close(fd)


class MemoryBlob:
    """Bytes fetched from a store."""

    def __init__(self, data: NDArray[np.uint8]) -> None:
        self._data = data

    def whole(self) -> NDArray[np.uint8]:
        """Give all bytes."""
        return self._data


class RangedBlob:
    """An object fetched by byte ranges."""

    def __init__(self, blobs: RemoteBlobs, key: str) -> None:
        self._blobs, self._key = blobs, key

    def edge(self, count: int, *, at_start: bool) -> NDArray[np.uint8] | None:
        """Ask for the first or last bytes, unless they were asked for lately."""
        span = RangeByteRequest(0, count) if at_start else SuffixByteRequest(count)
        return self._blobs.edge((self._blobs.prefix + self._key, span))

    def reads(self, spans: Sequence[tuple[int, int]]) -> Iterator[NDArray[np.uint8]]:
        """Ask for ranges, a few ahead."""
        requests = [(self._blobs.prefix + self._key, RangeByteRequest(*span)) for span in spans]
        window = self._blobs.window(requests)
        for (start, stop), request in zip(spans, requests, strict=True):
            data = window.take(request)
            if data is None or data.nbytes != stop - start:
                message = f"bytes {start}:{stop} are not all there"
                raise ValueError(message)
            yield data


class RemoteBlobs:
    """Chunks in any of Zarr's stores, of which a few are on their way at a time.

    Parameters
    ----------
    store : zarr.abc.store.Store
    path : str
        Of the array.
    nbytes : int
        Size of what is fetched at once, about.
    """

    def __init__(self, store: Any, path: str, nbytes: int) -> None:
        self.store, self.prefix = store, f"{path}/" if path else ""
        latency = latency_of(lambda: sync(store.exists(f"{self.prefix}zarr.json")))
        self.at_once = requests_at_once(nbytes, latency)
        self._window: Window | None = None
        self._edges: OrderedDict[Request, NDArray[np.uint8]] = OrderedDict()

    def expecting(self, requests: Iterable[Request]) -> RemoteBlobs:
        """Give the same blobs, which fetch ahead what these requests say will be wanted."""
        other = object.__new__(RemoteBlobs)
        other.__dict__.update(self.__dict__)
        other._window = Window(
            self.store, ((self.prefix + key, span) for key, span in requests), self.at_once
        )
        return other

    def close(self) -> None:
        """Give up what is on its way."""
        if self._window is not None:
            self._window.close()

    def window(self, requests: Iterable[Request]) -> Window:
        """Give the window that fetches ahead: that of all that was announced, or of these."""
        return self._window or Window(self.store, requests, self.at_once)

    def get(self, keys: Iterable[str]) -> Iterator[MemoryBlob | None]:
        """Fetch whole objects; None for those absent."""
        requests: list[Request] = [(self.prefix + key, None) for key in keys]
        window = self.window(requests)
        for request in requests:
            data = window.take(request)
            yield None if data is None else MemoryBlob(data)

    def ranged(self, keys: Iterable[str]) -> Iterator[RangedBlob]:
        """Give objects to be read by ranges; whether they are absent shows on reading."""
        return (RangedBlob(self, key) for key in keys)

    def edge(self, request: Request) -> NDArray[np.uint8] | None:
        """Fetch one end of an object, of which the last few are kept."""
        data = self._edges.get(request)
        if data is None:
            (data,) = fetch(self.store, [request])
            if data is not None:
                self._edges[request] = data
                while len(self._edges) > _KEPT:
                    self._edges.popitem(last=False)
        return data

    def present(self, keys: Iterable[str]) -> Iterator[bool]:
        """Compare with one listing of the store; where it cannot list, absence shows on reading."""
        try:
            found = set(list_keys(self.store, self.prefix))
        except Exception:  # plain web servers refuse in many ways
            return (True for _ in keys)
        return (self.prefix + key in found for key in keys)


def blobs_of(array: zarr.Array[Any], nbytes: int) -> LocalBlobs | RemoteBlobs:
    """Where the chunks of ``array`` are read from, in objects or parts of about ``nbytes``."""
    if isinstance(array.store, LocalStore):
        return LocalBlobs(os.path.abspath(os.path.join(array.store.root, array.path)), nbytes)
    return RemoteBlobs(array.store, array.path, nbytes)
