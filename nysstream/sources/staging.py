"""Write a directory aside and move it into place whole, so that no reader sees half of one."""

from __future__ import annotations

import ctypes
import os
import secrets
import shutil
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from nysstream.errors import OutputExistsError, SourceError

#: Of Linux's renameat2: paths are relative to the working directory; both are renamed.
_HERE, _EXCHANGE = -100, 2
ZARR_MARKS = ("zarr.json", ".zgroup", ".zarray")

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def refuse_existing(target: Path, *, overwrite: bool) -> None:
    """Raise if a local target is taken, or if there is no directory to put it in.

    Parameters
    ----------
    target : pathlib.Path
        Where a file or directory is to be written.
    overwrite : bool
        Whether an existing target may be replaced.

    Raises
    ------
    OutputExistsError
        If the target exists and ``overwrite`` is false, or is a full directory that is no Zarr store.
    SourceError
        If the directory that should hold the target does not exist.
    """
    if os.path.lexists(target) and not overwrite:
        message = f"{target} exists: choose another path or pass overwrite=True"
        raise OutputExistsError(message)
    # A slip of the keyboard must not cost a home directory.
    if target.is_dir() and any(target.iterdir()) and not any((target / mark).exists() for mark in ZARR_MARKS):
        message = f"{target} is a directory but no Zarr store: remove it yourself if it is to be replaced"
        raise OutputExistsError(message)
    if not target.parent.is_dir():
        message = f"cannot write {target}: {target.parent} is not a directory; create it first"
        raise SourceError(message)


@contextmanager
def written_aside(target: Path, *, overwrite: bool = False, token: str | None = None) -> Iterator[Path]:
    """Give an empty directory beside ``target`` and rename it to ``target`` on success.

    On any exception, interrupts included, the directory is removed and an existing target is left
    as it was. A process that is killed outright leaves ``.<name>.partial-<random>`` behind, which
    no reader looks at and which may be deleted.

    Parameters
    ----------
    target : pathlib.Path
        Where the finished directory goes.
    overwrite : bool
        Replace an existing target, at the very end and only on success.
    token : str, optional
        Go on in the directory that was begun with this token, or begin it; it stays on an exception.

    Yields
    ------
    pathlib.Path
        Directory to write into.

    Raises
    ------
    OutputExistsError
        If the target exists and ``overwrite`` is false, or if it appeared meanwhile.
    SourceError
        If the directory cannot be created or moved.
    """
    refuse_existing(target, overwrite=overwrite)
    kept = token is not None
    token = token or secrets.token_hex(4)
    partial = partial_of(target, token)
    try:
        try:
            partial.mkdir(exist_ok=kept)
        except OSError as error:
            message = f"cannot write {target}: {error.strerror or error}"
            raise SourceError(message) from error
        yield partial
        _publish(partial, target, _replaced_by(target, token), overwrite=overwrite)
    except BaseException:
        if not kept:
            shutil.rmtree(partial, ignore_errors=True)
        raise


def partial_of(target: Path, token: str) -> Path:
    """Name the directory in which ``target`` is written aside."""
    return target.with_name(f".{target.name}.partial-{token}")


def remove_aside(target: Path, token: str) -> None:
    """Remove what a killed run left beside ``target``: what it was writing, or what it had replaced."""
    shutil.rmtree(partial_of(target, token), ignore_errors=True)
    if os.path.lexists(target):  # else it may have been killed between two renames
        shutil.rmtree(_replaced_by(target, token), ignore_errors=True)


def _replaced_by(target: Path, token: str) -> Path:
    return target.with_name(f".{target.name}.replaced-{token}")


def _exchange(one: Path, other: Path) -> bool:
    """Let two directories change places at once; False where the system cannot."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    return bool(call(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0)


def _publish(partial: Path, target: Path, replaced: Path, *, overwrite: bool) -> None:
    refuse_existing(target, overwrite=overwrite)
    if target.is_dir() and not target.is_symlink() and _exchange(partial, target):
        shutil.rmtree(partial, ignore_errors=True)  # the old one, by now
        return
    try:
        # A directory cannot be renamed onto a full one, so an old target steps aside first.
        with suppress(FileNotFoundError):
            target.rename(replaced)
        partial.rename(target)
    except OSError as error:
        message = f"cannot move {partial.name} into place as {target}: {error.strerror or error}"
        raise SourceError(message) from error
    finally:
        # Also when interrupted between any two of these lines.
        if os.path.lexists(replaced) and not os.path.lexists(target):
            replaced.rename(target)
        elif replaced.is_dir() and not replaced.is_symlink():
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            replaced.unlink(missing_ok=True)
