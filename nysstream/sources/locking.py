"""One writer at a time: a lock beside what is written, which a dead process does not keep."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from contextlib import contextmanager
from io import FileIO
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

#: Name of the lock of a store that has nothing beside it, such as a bucket.
INSIDE = ".appending"
#: What file systems say that have no locks.
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
#: Locks that this process holds. A child would share them, and keep them when this process is killed.
_held: set[FileIO] = set()


def _let_go() -> None:
    for lock in _held:
        lock.close()
    _held.clear()


os.register_at_fork(after_in_child=_let_go)


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
        with _object_locked(bucket, f".{last}{INSIDE}" if beside else INSIDE, name):
            yield
        return
    yield


def _remove_unfinished(place: Path) -> None:
    """Remove files that Zarr was writing: they waste space, and in groups it takes them for strangers."""
    for path in place.rglob("*.partial"):
        path.unlink(missing_ok=True)


@contextmanager
def sole_run(name: str, place: Path) -> Iterator[None]:
    """Keep other processes off what this one goes on with, by a file ``.<name>.running`` beside it.

    Parameters
    ----------
    name : str
        For messages.
    place : pathlib.Path
        Local; it may be replaced while the block runs.

    Raises
    ------
    SourceError
        If a process that lives holds it. What a process has left behind that was killed holds nobody up,
        on whatever machine it was: jobs go on where the batch system sends them. Where the file system
        has no locks there is none.
    """
    with _file_locked(place.with_name(f".{place.name}.running"), name, strict=False):
        yield


@contextmanager
def _file_locked(path: Path, name: str, *, strict: bool = True) -> Iterator[bool]:
    """Hold a lock; gives whether a process that was killed had held it.

    A strict one is refused where another machine has left one behind, and where there are no locks.
    """
    with _locked(path, name, strict=strict) as lock:
        holder = _read(lock.read().decode(errors="replace"))
        if strict and holder is not None and holder["host"] != socket.gethostname():
            # The lock of another machine may not be seen through a network file system.
            raise _taken(name, holder, f"remove {path}")
        _held.add(lock)
        try:
            _sign(lock, path, name)
            yield holder is not None
        finally:
            _held.discard(lock)
            if not lock.closed:  # else this is a child, and the lock its parent's
                path.unlink(missing_ok=True)


def _sign(lock: FileIO, path: Path, name: str) -> None:
    """Write into a lock who holds it."""
    try:
        lock.seek(0)
        lock.truncate()
        lock.write(_about_us().encode())
    except OSError as error:
        raise _unlockable(name, f"{path}: {error.strerror}") from error


def _locked(path: Path, name: str, *, strict: bool) -> FileIO:
    """Open the file and lock it; it may have been removed in between by the one that had it."""
    while True:
        try:
            lock = FileIO(path, "r+", opener=_made)
        except OSError as error:
            raise _unlockable(name, f"{path}: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            with lock:
                holder = _read(lock.read().decode(errors="replace"))
            raise _taken(name, holder, None) from error
        except OSError as error:
            if strict or error.errno not in _NO_LOCKS:
                lock.close()
                raise _unlockable(name, f"{path}: {error.strerror}") from error
        if path.exists() and os.fstat(lock.fileno()).st_ino == path.stat().st_ino:
            return lock
        lock.close()


def _made(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, 0o644)


def _unlockable(name: str, why: str) -> SourceError:
    return SourceError(f"cannot lock {name} for writing: {why}")


@contextmanager
def _object_locked(store: Any, key: str, name: str) -> Iterator[None]:
    import obstore
    from obstore.exceptions import BaseError, NotFoundError

    try:
        locked = _create(store, key, name)
    except (NotFoundError, FileNotFoundError) as error:  # it was given back before we could look at it
        raise _taken(name, None, None) from error
    except BaseError as error:
        raise _unlockable(name, explained(error)) from error
    try:
        yield
    finally:
        try:
            if locked:
                obstore.delete(store, key)
        except (NotFoundError, FileNotFoundError):
            pass
        except BaseError as error:
            message = f"cannot unlock {name}: {explained(error)}; remove the object {key} beside it"
            raise SourceError(message) from error


def _create(store: Any, key: str, name: str) -> bool:
    """Put our lock where there is none, or a dead process of this machine has left one.

    False where the store cannot do so.
    """
    import obstore
    from obstore.exceptions import AlreadyExistsError, NotSupportedError, PreconditionError

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
        return False
    return True


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
