"""Where outputs go: directories and stores, what is taken, and arrays that are there already."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import zarr
from zarr.abc.store import Store
from zarr.core.sync import sync

from nysstream.errors import InputError, NysstreamError, OutputExistsError, SourceError
from nysstream.sources.locations import checked_location, local_path
from nysstream.sources.locking import INSIDE
from nysstream.sources.remote import explained, remote_store
from nysstream.sources.staging import ZARR_MARKS, refuse_existing
from nysstream.sources.zarr_members import unfinished_ignored


def locate(target: str | os.PathLike[str] | Store) -> tuple[str, Path | Store]:
    """Find what to call a target in messages, and its local path or store."""
    if isinstance(target, Store):
        return type(target).__name__, target
    text = checked_location(target)
    path = local_path(text)
    if path is not None:
        # Listing the keys of a relative path, Zarr takes it out of names in which it occurs again.
        return path, Path(os.path.abspath(path))
    return text, remote_store(text, read_only=False)


def check_target(target: str | os.PathLike[str] | Store, *, overwrite: bool) -> None:
    """Raise :class:`OutputExistsError` or :class:`SourceError` early, before any work is done."""
    refuse_taken(*locate(target), overwrite=overwrite)


def refuse_taken(name: str, place: Path | Store, *, overwrite: bool) -> None:
    """Do what :func:`check_target` does to a target that was located."""
    if isinstance(place, Path):
        refuse_existing(place, overwrite=overwrite)
        return
    try:
        found = first_of(place)
        zarrs = found is not None and any(sync(place.exists(mark)) for mark in ZARR_MARKS)
    except Exception as error:  # each back end has errors of its own
        message = f"cannot write {name}: {explained(error)}"
        raise SourceError(message) from error
    if found is not None and not zarrs:  # a slip of the keyboard must not cost a bucket
        message = f"{name} holds {found} and is no Zarr store: choose another place"
        raise OutputExistsError(message)
    if zarrs and not overwrite:
        message = f"{name} exists: choose another place or pass overwrite=True"
        raise OutputExistsError(message)


def first_of(store: Store) -> str | None:
    """Name something that a store holds, whatever it is; None if it is empty."""

    async def first() -> str | None:
        async for key in store.list_prefix(""):
            if key and key != INSIDE:  # the mark of an empty folder has no name; the lock is ours
                return key
        return None

    return sync(first())


def open_arrays(name: str, place: Store | Path) -> tuple[dict[str, zarr.Array[Any]], int]:
    """Open an array, or those of a group, to write to; and give the rows that they have committed."""
    try:
        node = zarr.open(place, mode="r+")
        with unfinished_ignored():
            arrays = {"": node} if isinstance(node, zarr.Array) else dict(node.arrays())
        committed = node.attrs.get("committed_rows")
    except NysstreamError:
        raise
    except Exception as error:  # each kind of damage has errors of its own
        message = f"cannot open {name} to append to it: {explained(error)}"
        raise SourceError(message) from error
    if not arrays or not isinstance(committed, int) or isinstance(committed, bool) or committed < 0:
        message = (
            f"{name} does not publish committed_rows, so which rows are complete is unknown; convert it first"
        )
        raise InputError(message)
    return arrays, committed
