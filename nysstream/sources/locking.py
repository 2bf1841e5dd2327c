"""One writer at a time: a lock beside what is written, which a dead process does not keep."""

from __future__ import annotations

import fcntl
import json
import os
import socket
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from zarr.storage import ObjectStore

from nysstream.errors import SourceError
from nysstream.sources.locations import is_url
from nysstream.sources.remote import explained, object_store, unwrapped

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zarr.abc.store import Store


@contextmanager
def sole_writer(name: str, place: Path | Store) -> Iterator[None]:
    """Keep other writers of a store out while the block runs.

    Parameters
    ----------
    name : str
        Path or URL of the store.
    place : pathlib.Path or zarr.abc.store.Store
        What it was found to be.

    Raises
    ------
    SourceError
        If there is another writer; says which process on which machine, and what to remove should
        that machine be gone.

    Notes
    -----
    Locally the lock is a file ``.<name>.appending`` beside the store, which the kernel releases when
    its process ends, however it does; an object store has an object of that name, created only if
    there is none. Stores in memory, and those that cannot create conditionally, are not locked.
    """
    if isinstance(place, Path):
        with _file_locked(place.with_name(f".{place.name}.appending"), name) as left_by_killed:
            if left_by_killed and place.is_dir():
                _remove_unfinished(place)
            yield
        return
    store = unwrapped(place)
    if isinstance(store, ObjectStore):
        parent, _, last = name.rstrip("/").rpartition("/")
        beside = is_url(name) and "/" in parent.partition("://")[2]  # not in a bucket's root
        bucket: Any = object_store(parent, anonymous=False) if beside else store.store
        with _object_locked(bucket, f".{last}.appending" if beside else ".appending", name):
            yield
        return
    yield


def _remove_unfinished(place: Path) -> None:
    """Remove files that Zarr was writing: they waste space, and in groups it takes them for strangers."""
    for path in place.rglob("*.partial"):
        path.unlink(missing_ok=True)


@contextmanager
def _file_locked(path: Path, name: str) -> Iterator[bool]:
    """Hold a lock; gives whether a process that was killed had held it."""
    file = _locked(path, name)
    with os.fdopen(file, "r+") as lock:
        holder = _read(lock.read())
        if holder is not None and holder["host"] != socket.gethostname():
            # The lock of another machine may not be seen through a network file system.
            raise _taken(name, holder, f"remove {path}")
        lock.seek(0)
        lock.truncate()
        lock.write(_about_us())
        lock.flush()
        try:
            yield holder is not None
        finally:
            path.unlink(missing_ok=True)


def _locked(path: Path, name: str) -> int:
    """Open the file and lock it; it may have been removed in between by the one that had it."""
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            message = f"cannot lock {name} for writing: {path}: {error.strerror}"
            raise SourceError(message) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = _read(os.read(file, 4096).decode(errors="replace"))
            os.close(file)
            raise _taken(name, holder, None) from error
        if path.exists() and os.fstat(file).st_ino == path.stat().st_ino:
            return file
        os.close(file)


@contextmanager
def _object_locked(store: Any, key: str, name: str) -> Iterator[None]:
    import obstore
    from obstore.exceptions import (
        AlreadyExistsError,
        NotFoundError,
        NotSupportedError,
        PreconditionError,
    )

    ours = _about_us().encode()
    try:
        obstore.put(store, key, ours, mode="create")
    except AlreadyExistsError as error:
        found: Any = obstore.head(store, key)
        holder = _read(bytes(obstore.get(store, key).bytes()).decode(errors="replace"))
        here = holder is not None and holder["host"] == socket.gethostname()
        if holder is None or not here or psutil.pid_exists(holder["pid"]):
            raise _taken(name, holder, f"remove the object {key} beside it") from error
        mode: Any = {part: found[part] for part in ("e_tag", "version") if found.get(part)}
        try:
            obstore.put(store, key, ours, mode=mode)  # only if it is still that of the dead process
        except PreconditionError as lost:
            raise _taken(name, None, None) from lost
    except (NotSupportedError, NotImplementedError):
        yield
        return
    except Exception as error:  # each back end has errors of its own
        message = f"cannot write {name}: {explained(error)}"
        raise SourceError(message) from error
    try:
        yield
    finally:
        # A lock within the store is gone where the store was cleared.
        with suppress(FileNotFoundError, NotFoundError):
            obstore.delete(store, key)


def _about_us() -> str:
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname()})


def _read(text: str) -> dict[str, Any] | None:
    """Read who holds a lock; None where nobody says so."""
    try:
        found = json.loads(text)
        return {"pid": int(found["pid"]), "host": str(found["host"])}
    except (ValueError, KeyError, TypeError):
        return None


def _taken(name: str, holder: dict[str, Any] | None, remedy: str | None) -> SourceError:
    who = "another process" if holder is None else f"process {holder['pid']} on {holder['host']}"
    what = "wait until it is done" + (f"; if it is gone, {remedy}" if remedy else "")
    return SourceError(f"{name} is being written by {who}: {what}")
