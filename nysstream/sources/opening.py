"""Open data by path or URL, or take them as an object."""

from __future__ import annotations

import os
from typing import Any, Literal, Protocol

from nysstream.errors import InputError, NysstreamError, SourceError
from nysstream.sources.base import RowSource
from nysstream.sources.checking import reason
from nysstream.sources.csr_groups import PARTS, SparseGroup, declared_shape
from nysstream.sources.csr_store import StoredCSR
from nysstream.sources.locations import checked_location, local_path
from nysstream.sources.verifying import verify as verify_rows


class SourceKind(Protocol):
    """What a class of sources offers to be found by :func:`open` and :func:`as_source`.

    A class that cannot be opened by location lacks ``accepts_url`` and ``open``.
    """

    @classmethod
    def accepts(cls, obj: object) -> bool:
        """Whether ``wrap`` serves ``obj``."""

    @classmethod
    def wrap(cls, obj: Any) -> RowSource:
        """Make a source of an object."""


def open(
    url: str | os.PathLike[str],
    name: str | None = None,
    *,
    rows: slice | None = None,
    missing_chunks: Literal["warn", "error", "fill"] = "warn",
    verify: bool = False,
    **options: Any,
) -> RowSource:
    """Open a matrix (or vector) that is stored in a file, a directory or an object store.

    Parameters
    ----------
    url : str or path
        A ``.npy`` file, an HDF5 file, a Zarr store, or the URL of a Zarr store (``file://``,
        ``s3://``, ``gs://``, ``https://``, ...). Credentials belong in the environment.
    name : str, optional
        The array within the store, with its groups (``"train/X"``), or the group that holds a sparse
        matrix (see :class:`StoredCSR`). May be left out where the store holds exactly one matrix.
    rows : slice, optional
        Take this contiguous run of rows only.
    missing_chunks : {"warn", "error", "fill"}
        What to do about chunks that are absent and therefore read as the fill value. Ignored for a
        store that publishes ``committed_rows``, where they are an error.
    verify : bool
        Read all of it once, and compare every stored checksum. Checksums are compared whenever a chunk is
        read; this does it before anything else happens.
    **options
        For Zarr ``anonymous`` (open an object store without credentials), for HDF5
        ``allow_external`` (follow external links, external storage and virtual datasets).

    Returns
    -------
    RowSource
        Of shape ``(n, p)``; a vector reads as ``(n, 1)``.

    Raises
    ------
    InputError
        If the array cannot be streamed (no numbers, more than two dimensions), an option is
        unknown, or no array is named where there are several.
    MissingChunksError
        If chunks are absent that must not be.
    SourceError
        If the location, the array or its metadata cannot be read.

    Notes
    -----
    Cost: metadata, and one look-up per chunk (a listing in object storage); no pass, one with ``verify``.
    """
    from nysstream.sources import SOURCES  # the registry names the classes, and re-exports this

    location = checked_location(url)
    for kind in SOURCES.values():
        if hasattr(kind, "accepts_url") and kind.accepts_url(location):
            source = _opened(kind, location, name, missing_chunks=missing_chunks, **options)
            source = source if rows is None else source.restrict(rows)
            if verify:
                verify_rows(source)
            return source
    raise _unknown(location)


def as_source(obj: Any) -> RowSource:
    """Take an array-like object as a source of rows.

    Parameters
    ----------
    obj : RowSource, ndarray, SciPy CSR matrix, zarr.Array, h5py.Dataset or dask.array.Array
        Shape ``(n, p)`` or ``(n,)``. A memory-mapped array is read through its file. Or a Zarr or
        HDF5 group that holds a sparse matrix; see :class:`StoredCSR`.

    Returns
    -------
    RowSource
        ``obj`` itself where it is one.

    Raises
    ------
    InputError
        If there is no source for such objects, or the array cannot be streamed.
    """
    from nysstream.sources import SOURCES  # the registry names the classes, and re-exports this

    if isinstance(obj, RowSource):
        return obj
    for kind in SOURCES.values():
        if kind.accepts(obj):
            wrapped: RowSource = kind.wrap(obj)
            return wrapped
    if isinstance(obj, (str, os.PathLike)):
        message = f"{os.fspath(obj)!r} is a location, not an array; pass nysstream.open({os.fspath(obj)!r})"
        raise InputError(message)
    advice = "; pass one of its arrays" if type(obj).__name__ in ("Group", "File") else ""
    if hasattr(obj, "to_numpy"):
        advice = "; pass obj.to_numpy()"
    message = (
        f"{type(obj).__name__} cannot be streamed: pass a NumPy array, a SciPy CSR matrix, a Zarr array, "
        f"an HDF5 dataset, a dask array or a RowSource{advice}"
    )
    raise InputError(message)


def _opened(kind: Any, location: str, name: str | None, **options: Any) -> RowSource:
    """Open a matrix by its class; what damaged stores raise becomes an error of this package."""
    try:
        try:
            source: RowSource = kind.open(location, name, **options)
        except SparseGroup as found:
            source = _open_sparse(kind, location, found, **options)
    except (NysstreamError, Warning):  # a warning may have been made an error
        raise
    except Exception as error:  # each kind of damage has errors of its own
        if "unexpected keyword argument" in str(error):
            unknown = sorted(set(options) - {"missing_chunks"})
            message = f"{location}: {kind.__name__} does not take all of the options {unknown}"
            raise InputError(message) from error
        message = f"{location} cannot be opened: {reason(error)}; is it damaged?"
        raise SourceError(message) from error
    return source


def _open_sparse(kind: Any, location: str, found: SparseGroup, **options: Any) -> RowSource:
    """Open the arrays of a sparse matrix by the class that found it."""
    declared_shape(found.attributes, found.where)  # what cannot be streamed is not looked into
    inside = found.path.rstrip("/")
    prefix = f"{inside}/" if inside else ""
    parts = {part: kind.open(location, prefix + part, **options) for part in PARTS}
    return StoredCSR(parts, found.attributes, name=found.where, committed=found.committed)


def _unknown(location: str) -> SourceError:
    path = local_path(location)
    if path is None or os.path.isfile(path):
        reason = "is no .npy file, HDF5 file or Zarr store; convert it with 'nysstream convert'"
    elif os.path.isdir(path):
        reason = "is a directory without Zarr metadata; check the path, or whether writing it was finished"
    else:
        reason = "does not exist; check the path"
        try:
            os.stat(path)
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                reason = f"cannot be opened: {error.strerror}"
    return SourceError(f"{location} {reason}")
