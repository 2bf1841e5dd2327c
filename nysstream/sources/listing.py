"""Which files a path means, and what format they have."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import TYPE_CHECKING

from nysstream.errors import InputError, SourceError
from nysstream.sources.staging import ZARR_MARKS

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Formats that are read from first to last, and how their files' names end.
SUFFIXES = {
    "csv": (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".csv.bz2", ".csv.zst"),
    "parquet": (".parquet", ".pq"),
    "libsvm": (".svm", ".libsvm", ".svmlight", ".svm.gz", ".libsvm.gz", ".svmlight.gz"),
    "npz": (".npz",),
}


def sequential_format(path: str | os.PathLike[str], format: str | None = None) -> str | None:
    """Tell which of :data:`SUFFIXES` a file, a glob or the files of a directory have.

    Parameters
    ----------
    path : str or pathlib.Path
        A file, a directory or a glob.
    format : str, optional
        The answer, if it is known already; checked.

    Returns
    -------
    str or None
        None if none fits, as for a ``.npy`` or HDF5 file or a Zarr store.

    Raises
    ------
    InputError
        If ``format`` is unknown.
    """
    if format is not None:
        if format not in SUFFIXES:
            message = f"format {format!r} is unknown: choose one of {', '.join(SUFFIXES)}"
            raise InputError(message)
        return format
    place = Path(path)
    names = [os.fspath(path).lower()]
    if place.is_dir() and not any((place / mark).exists() for mark in ZARR_MARKS):
        names += [file.name.lower() for file in place.rglob("*") if not file.name.startswith((".", "_"))]
    for kind, suffixes in SUFFIXES.items():
        if any(name.endswith(suffixes) for name in names):
            return kind
    return None


def find_files(path: str | os.PathLike[str], suffixes: Sequence[str]) -> list[Path]:
    """List the data files that a path means: a file, a directory of files, or a glob.

    Parameters
    ----------
    path : str or pathlib.Path
        A file; a directory, searched in depth for files with one of ``suffixes``; or a pattern
        with ``*``, ``?`` or ``[``. Hidden files and those that begin with ``_`` are passed over.
    suffixes : sequence of str
        Endings such as ``".csv"``.

    Returns
    -------
    list of pathlib.Path
        In sorted order, which is the order of the rows.

    Raises
    ------
    SourceError
        If there is no such file.
    """
    place = Path(path)
    if place.is_dir():
        found = sorted(file for file in place.rglob("*") if file.name.lower().endswith(tuple(suffixes)))
    elif place.exists():
        return [place]
    else:
        found = [Path(name) for name in sorted(glob.glob(os.fspath(path), recursive=True))]
    found = [file for file in found if file.is_file() and not file.name.startswith((".", "_"))]
    if not found:
        message = f"no data files at {path}: expected a file, a directory or a glob of {', '.join(suffixes)}"
        raise SourceError(message)
    return found
