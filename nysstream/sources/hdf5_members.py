"""Open HDF5 files and find a dataset in one, without following links to other files unasked."""

from __future__ import annotations

import importlib.util
import posixpath
from typing import TYPE_CHECKING, Any

import h5py

from nysstream.errors import InputError, SourceError
from nysstream.sources.checking import reason
from nysstream.sources.csr_groups import SparseGroup, sparse_encoding

if TYPE_CHECKING:
    from nysstream.sources.hdf5_remote import RemoteFile

_CONSENT = "pass allow_external=True if you trust it"


def open_file(path: str, *, file: RemoteFile | None = None) -> Any:
    """Open an HDF5 file for reading, with the filters of hdf5plugin where it is installed.

    What is at a URL is read by way of ``file``. A file that another process is writing to is opened if
    that process lets others read (SWMR).

    Raises
    ------
    SourceError
        If it cannot be read, is truncated or is no HDF5 file.
    """
    if importlib.util.find_spec("hdf5plugin") is not None:
        import hdf5plugin  # noqa: F401  (importing it registers its filters with HDF5)
    try:
        if file is not None:
            return h5py.File(file, "r")
        try:
            return h5py.File(path, "r", locking="best-effort")
        except OSError as error:
            if "open for write" not in str(error):
                raise
            return h5py.File(path, "r", swmr=True)
    except FileNotFoundError as error:
        message = f"{path} does not exist; check the path"
        raise SourceError(message) from error
    except (OSError, ValueError) as error:
        message = f"{path} cannot be opened as HDF5: {reason(error)}; is it complete?"
        raise SourceError(message) from error


def find_dataset(file: Any, name: str | None, path: str, *, allow_external: bool) -> Any:
    """Find the dataset ``name``, or the only matrix, of a file.

    Raises
    ------
    InputError
        If ``name`` is None and the file holds no matrix, or several; or if it is a group.
    SparseGroup
        If what is found is a group that holds a sparse matrix.
    SourceError
        If there is no such dataset, or it is a link to another file.
    """
    try:
        if name is None:
            return _only_matrix(file, path)
        link = None if allow_external else _external_link(file, name)
        if link is not None:
            message = f"{path}[{name}] is a link to another file, {link}, and is not followed; {_CONSENT}"
            raise SourceError(message)
        found = file.get(name)
        if isinstance(found, h5py.Dataset):
            return found
        if isinstance(found, h5py.Group) and sparse_encoding(found.attrs):
            raise sparse_group(found, name, path)
        listing = _shown(*_members(file))
    except (OSError, RuntimeError, KeyError) as error:
        if isinstance(error, SourceError):
            raise
        message = f"{path}[{name}] cannot be opened: {error}"
        raise SourceError(message) from error
    if found is not None:
        message = f"{path}[{name}] is a group, not a dataset; name one of the datasets: {listing}"
        raise InputError(message)
    message = f"{path}[{name}] does not exist; the datasets are: {listing}"
    raise SourceError(message)


def refuse_external(dataset: Any, name: str) -> None:
    """Refuse a dataset whose values are stored in other files.

    Raises
    ------
    SourceError
        If it is virtual or has external storage.
    """
    if dataset.is_virtual:
        message = f"{name} is a virtual dataset, made of other files, and is not followed; {_CONSENT}"
        raise SourceError(message)
    if dataset.external:
        message = f"{name} is stored in another file, {dataset.external[0][0]}, not followed; {_CONSENT}"
        raise SourceError(message)


def _only_matrix(file: Any, path: str) -> Any:
    if sparse_encoding(file.attrs):
        raise sparse_group(file, "/", path)
    datasets, groups = _members(file)
    matrices = [item for item in datasets if item.shape is not None and len(item.shape) == 2]
    matrices = matrices or ([] if groups else datasets)
    if len(matrices) + len(groups) != 1:
        found = _shown(datasets, groups)
        message = f"{path} does not hold exactly one matrix; name one of its datasets: {found}"
        raise InputError(message)
    if groups:
        raise sparse_group(groups[0], groups[0].name, path)
    return matrices[0]


def sparse_group(group: Any, name: str, path: str) -> SparseGroup:
    """Say what there is to know of a group that holds a sparse matrix."""
    attributes = dict(group.attrs)
    where = f"{path}[{name.strip('/')}]" if name.strip("/") else path
    return SparseGroup(name, attributes, attributes.get("committed_rows"), where)


def _shown(datasets: list[Any], groups: list[Any]) -> str:
    shown = [f"{item.name} {item.shape}" for item in datasets]
    shown += [f"{group.name} (a sparse matrix)" for group in groups]
    return ", ".join(shown) or "none"


def _members(file: Any) -> tuple[list[Any], list[Any]]:
    """List datasets, and groups that hold a sparse matrix, whose own datasets do not count."""
    datasets: list[Any] = []
    groups: list[Any] = []

    def visit(_: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            datasets.append(item)
        elif sparse_encoding(item.attrs):
            groups.append(item)

    file.visititems(visit)  # follows no soft or external links
    inside = tuple(f"{group.name}/" for group in groups)
    return [item for item in datasets if not item.name.startswith(inside)], groups


def _external_link(file: Any, name: str, depth: int = 0) -> str | None:
    """File that some part of the path ``name`` links to."""
    done = "/"
    for part in [part for part in name.split("/") if part]:
        done = posixpath.join(done, part)
        link = file.get(done, getlink=True) if depth < 16 else None
        if isinstance(link, h5py.ExternalLink):
            return str(link.filename)
        if isinstance(link, h5py.SoftLink):
            target = posixpath.join(posixpath.dirname(done), link.path)
            outside = _external_link(file, target, depth + 1)
            if outside is not None:
                return outside
    return None
