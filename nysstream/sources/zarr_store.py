"""Zarr stores: opened by URL, read by key. The only module that uses Zarr's private names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ObjectStore, ZipStore

from nysstream.errors import InputError, SourceError
from nysstream.sources.checking import reason
from nysstream.sources.locations import checked_location, local_path
from nysstream.sources.remote import remote_store, unwrapped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


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
        if path.endswith(".zip"):
            return ZipStore(path, mode="r")
        # Listing the keys of a relative path, Zarr takes it out of names in which it occurs again.
        return LocalStore(os.path.abspath(path), read_only=True)
    return remote_store(url, anonymous=anonymous)


def location_of(store: Any) -> str | None:
    """Path or URL by which another process can open ``store``; None if unknown, or if it holds a secret."""
    location = None
    store = unwrapped(store)
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
        case "AzureStore":
            account, container = store.config.get("account_name"), store.config.get("container_name")
            root = f"abfss://{container}@{account}.dfs.core.windows.net" if account else f"az://{container}"
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
