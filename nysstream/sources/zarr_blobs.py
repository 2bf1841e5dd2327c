"""Where the chunks of a Zarr array are: in files, or in a store from which they are fetched."""

from __future__ import annotations

import os
from collections import OrderedDict
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

    from nysstream.sources.fetching import Request

#: Indexes of shards that are kept: one is wanted for each block of its shard.
_KEPT = 32


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
    """Chunks in files under a directory."""

    at_once = 1

    def __init__(self, root: str) -> None:
        self._root = root

    def expecting(self, _requests: Iterable[Request]) -> LocalBlobs:
        """Give itself: the kernel reads ahead."""
        return self

    def close(self) -> None:
        """Do nothing."""

    def get(self, keys: Iterable[str]) -> Iterator[FileBlob | None]:
        """Open one file at a time; None for those absent."""
        for key in keys:
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
        return LocalBlobs(os.path.abspath(os.path.join(array.store.root, array.path)))
    return RemoteBlobs(array.store, array.path, nbytes)
