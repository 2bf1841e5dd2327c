"""Zarr stores: opened by URL, read by key. The only module that uses Zarr's private names."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import os
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import zarr
from zarr.abc.store import RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ObjectStore, ZipStore

from nysstream.errors import InputError, SourceError
from nysstream.sources.checking import reason
from nysstream.sources.files import OpenFile
from nysstream.sources.locations import checked_location, local_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

_BATCH = 8


def open_store(url: str, *, anonymous: bool = False) -> Any:
    """Open the store at a local path or URL, for reading.

    Credentials come from the environment of the process.

    Raises
    ------
    SourceError
        If there is nothing there, or nothing installed that reads such URLs.
    """
    path = local_path(url)
    if path is not None:
        try:
            os.stat(path)
        except OSError as error:
            message = f"{url} cannot be opened: {reason(error)}"
            raise SourceError(message) from error
        return ZipStore(path, mode="r") if path.endswith(".zip") else LocalStore(path, read_only=True)
    scheme = url.split("://", 1)[0].lower()
    try:
        if scheme in ("s3", "gs", "az", "abfs", "http", "https") and importlib.util.find_spec("obstore"):
            from obstore.store import from_url

            options: dict[str, Any] = {"skip_signature": True} if anonymous else {}
            if scheme == "http":
                options["client_options"] = {"allow_http": True}
            return ObjectStore(from_url(url, **options), read_only=True)
        storage = {"anon": True} if anonymous else None
        return FsspecStore.from_url(url, storage_options=storage, read_only=True)
    except ImportError as error:
        message = (
            f"{url}: reading {scheme}:// needs another package ({reason(error)}); install 'nysstream[s3]'"
        )
        raise SourceError(message) from error
    except Exception as error:  # each back end has errors of its own
        message = f"{url} cannot be opened: {reason(error)}"
        raise SourceError(message) from error


def location_of(store: Any) -> str | None:
    """Path or URL by which another process can open ``store``; None if unknown, or if it holds a secret."""
    location = None
    if isinstance(store, LocalStore):
        location = os.path.abspath(store.root)
    elif isinstance(store, ZipStore):
        location = os.path.abspath(store.path)
    elif isinstance(store, FsspecStore):
        location = str(store.fs.unstrip_protocol(store.path))
    elif isinstance(store, ObjectStore):
        location = _object_location(store.store)
    try:
        return None if location is None else checked_location(location)
    except InputError:
        return None


def _object_location(store: Any) -> str | None:
    prefix = getattr(store, "prefix", None)
    match type(store).__name__:
        case "S3Store":
            root = f"s3://{store.config.get('bucket')}"
        case "GCSStore":
            root = f"gs://{store.config.get('bucket')}"
        case "HTTPStore":
            return str(store.url)
        case "LocalStore":
            return os.path.abspath(prefix) if prefix else None
        case _:
            return None
    return f"{root}/{prefix}" if prefix else root


def pickled_by_value(store: Any) -> bool:
    """Whether the store lives in memory, so that its content has to travel with it."""
    return isinstance(store, MemoryStore)


def read_into(array: Any, rows: slice, out: NDArray[Any]) -> None:
    """Let Zarr read a run of rows into ``out``, which is C-contiguous and of the array's dtype."""
    values: Any = out
    buffer = default_buffer_prototype().nd_buffer.from_ndarray_like(values)
    array.get_basic_selection(rows, out=buffer)


def list_keys(store: Any, prefix: str) -> Iterator[str]:
    """List the keys under ``prefix``, in batches; empty where the store cannot list."""
    listing = store.list_prefix(prefix)

    async def batch() -> list[str]:
        keys: list[str] = []
        async for key in listing:
            keys.append(key)
            if len(keys) == 1000:
                break
        return keys

    while keys := sync(batch()):
        yield from keys


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
        """Ask for the first or last bytes."""
        span = RangeByteRequest(0, count) if at_start else SuffixByteRequest(count)
        return self._blobs.fetch([(self._key, span)])[0]

    def reads(self, spans: Sequence[tuple[int, int]]) -> Iterator[NDArray[np.uint8]]:
        """Ask for a few ranges at once."""
        for first in range(0, len(spans), _BATCH):
            some = spans[first : first + _BATCH]
            for (start, stop), data in zip(
                some, self._blobs.fetch([(self._key, RangeByteRequest(*span)) for span in some]), strict=True
            ):
                if data is None or data.nbytes != stop - start:
                    message = f"bytes {start}:{stop} are not all there"
                    raise ValueError(message)
                yield data


class RemoteBlobs:
    """Chunks in any of Zarr's stores, fetched a few at a time."""

    at_once = _BATCH

    def __init__(self, store: Any, path: str) -> None:
        self._store = store
        self._prefix = f"{path}/" if path else ""

    def get(self, keys: Iterable[str]) -> Iterator[MemoryBlob | None]:
        """Fetch whole objects, a few at once; None for those absent."""
        waiting = iter(keys)
        while some := list(itertools.islice(waiting, _BATCH)):
            for data in self.fetch([(key, None) for key in some]):
                yield None if data is None else MemoryBlob(data)

    def ranged(self, keys: Iterable[str]) -> Iterator[RangedBlob]:
        """Give objects to be read by ranges; whether they are absent shows on reading."""
        return (RangedBlob(self, key) for key in keys)

    def fetch(self, requests: Sequence[tuple[str, Any]]) -> list[NDArray[np.uint8] | None]:
        """Fetch objects, or the byte ranges asked of them, at once; None for those absent."""
        prototype = default_buffer_prototype()

        async def every() -> list[Any]:
            gets = (self._store.get(self._prefix + key, prototype, span) for key, span in requests)
            return await asyncio.gather(*gets)

        return [
            None if buffer is None else np.asarray(buffer.as_numpy_array()).view(np.uint8)
            for buffer in sync(every())
        ]

    def present(self, keys: Iterable[str]) -> Iterator[bool]:
        """Compare with one listing of the store; where it cannot list, absence shows on reading."""
        try:
            found = set(list_keys(self._store, self._prefix))
        except Exception:  # plain web servers refuse in many ways
            return (True for _ in keys)
        return (self._prefix + key in found for key in keys)


def blobs_of(array: zarr.Array[Any]) -> LocalBlobs | RemoteBlobs:
    """Where the chunks of ``array`` are read from."""
    if isinstance(array.store, LocalStore):
        return LocalBlobs(os.path.abspath(os.path.join(array.store.root, array.path)))
    return RemoteBlobs(array.store, array.path)
