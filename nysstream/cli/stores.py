"""What a store holds, and whether its layout streams well."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import zarr

from nysstream.errors import InputError, SourceError
from nysstream.sources import HDF5Source, NpySource, ZarrSource
from nysstream.sources import open as open_source
from nysstream.sources.csr_groups import sparse_encoding
from nysstream.sources.hdf5_layout import chunk_index, contiguous_offset
from nysstream.sources.hdf5_members import open_file
from nysstream.sources.hdf5_remote import RemoteFile
from nysstream.sources.locations import checked_location, local_path
from nysstream.sources.zarr_layout import array_layout
from nysstream.sources.zarr_store import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Rows are read whole chunks at a time: larger ones cost memory, smaller ones a call each.
_HUGE_CHUNK, _TINY_CHUNK, _MANY_CHUNKS = 64 << 20, 64 << 10, 1000
_MANY_COLUMN_CHUNKS = 16
_REWRITE = "rewrite it with `nysstream convert`"


@dataclass(frozen=True)
class StoredArray:
    """One array of a store.

    Attributes
    ----------
    name : str
        Within the store; empty where the store is the array.
    shape : tuple of int
    dtype : str
    chunks : tuple of int or None
        Shape of the chunks (of the shards, where there are such); None if stored in one piece.
    codec : str
    nbytes, stored_bytes : int
        Decoded, and on disk.
    committed_rows : int or None
        Rows published by a writer; None where nothing is published.
    fingerprint : str or None
        None where the array cannot be streamed.
    advice : list of str
        What to know before streaming it.
    n_entries : int or None
        Stored entries of a sparse matrix, whose arrays are not listed one by one; chunks and codec are
        those of its values. None of a dense one.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[int, ...] | None
    codec: str
    nbytes: int
    stored_bytes: int
    committed_rows: int | None = None
    fingerprint: str | None = None
    advice: list[str] = field(default_factory=list)
    n_entries: int | None = None


def stored_arrays(url: str, name: str | None = None) -> list[StoredArray]:
    """Describe the arrays of a store, or the one named.

    Raises
    ------
    SourceError
        If the store cannot be read, or has no array of that name.

    Notes
    -----
    Cost: metadata and a listing, and a few chunks of every array for its fingerprint.
    """
    location = checked_location(url)
    if NpySource.accepts_url(location):
        if name is not None:
            message = f"{url} is a .npy file, which holds one array without a name; leave out --data {name}"
            raise InputError(message)
        found = [_npy(location)]
    elif HDF5Source.accepts_url(location):
        found = list(_hdf5(location))
    elif ZarrSource.accepts_url(location):
        found = list(_zarr(location))
    else:
        open_source(location)  # says what is wrong with it
        found = []
    if name is not None:
        wanted = [array for array in found if array.name == name.strip("/")]
        if not wanted:
            message = (
                f"{url}[{name}] does not exist; its arrays are: {', '.join(a.name for a in found) or 'none'}"
            )
            raise SourceError(message)
        return wanted
    return found


def _npy(location: str) -> StoredArray:
    path = local_path(location) or location
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError):
        open_source(location)  # says what is wrong with it
        raise
    advice = []
    if array.ndim == 2 and array.flags.f_contiguous and not array.flags.c_contiguous:
        advice.append(f"columns are contiguous, so that a block of rows is read in many pieces: {_REWRITE}")
    size = os.path.getsize(path)
    found = StoredArray(
        "", array.shape, str(array.dtype), None, "none", array.nbytes, size, None, None, advice
    )
    return _identified(found, location, None)


def _hdf5(location: str) -> Iterator[StoredArray]:
    path = local_path(location)
    remote = RemoteFile(location) if path is None else None
    with open_file(path or location, file=remote) as file:
        datasets: list[Any] = []
        groups = {file.name: file} if sparse_encoding(file.attrs) else {}

        def visit(_: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                datasets.append(item)
            elif sparse_encoding(item.attrs):
                groups[item.name] = item

        file.visititems(visit)
        parts: dict[str, list[StoredArray]] = {name: [] for name in groups}
        for item in datasets:
            shape = item.shape or ()
            numeric = item.dtype.kind in "fiub"
            filters = item.id.get_create_plist()
            names = [filters.get_filter(i)[3].decode() or "?" for i in range(filters.get_nfilters())]
            advice = _chunk_advice(shape, item.chunks, item.dtype.itemsize)
            if numeric and contiguous_offset(item) is None and chunk_index(item, remote) is None:
                advice.append(f"its layout or filter is left to HDF5, which reads on one thread: {_REWRITE}")
            found = StoredArray(
                item.name.lstrip("/"),
                shape,
                str(item.dtype),
                item.chunks,
                " ".join(names) or "none",
                item.nbytes,
                item.id.get_storage_size(),
                advice=advice,
            )
            parent = item.name.rpartition("/")[0] or "/"
            if parent in parts:
                parts[parent].append(found)
            else:
                yield _identified(found, location, item.name)
        for name, group in groups.items():
            yield _sparse(name.strip("/"), dict(group.attrs), parts[name], location)


def _zarr(location: str) -> Iterator[StoredArray]:
    store = open_store(location)
    try:
        node = zarr.open(store, mode="r")
        members = (
            [node] if isinstance(node, zarr.Array) else [item for _, item in node.members(max_depth=None)]
        )
    except FileNotFoundError as error:
        message = f"{location} holds no Zarr array or group; check the path"
        raise SourceError(message) from error
    except Exception as error:  # each kind of damage has errors of its own
        message = f"{location} cannot be opened: {type(error).__name__}: {error}"
        raise SourceError(message) from error
    groups = {item.path: item for item in [node, *members] if _is_sparse(item)}
    parts: dict[str, list[StoredArray]] = {path: [] for path in groups}
    for array in sorted(
        (item for item in members if isinstance(item, zarr.Array)), key=lambda item: item.path
    ):
        chunks = array.shards or array.chunks
        numeric = np.dtype(array.dtype).kind in "fiub" and array.ndim in (1, 2)
        advice = _chunk_advice(array.shape, chunks, np.dtype(array.dtype).itemsize)
        if numeric and array_layout(array).chunk is None:
            advice.append(f"its codecs are left to Zarr, which decodes more slowly: {_REWRITE}")
        committed = array.attrs.get("committed_rows")
        found = StoredArray(
            array.path,
            array.shape,
            str(array.dtype),
            chunks,
            _zarr_codec(array),
            array.nbytes,
            array.nbytes_stored(),
            committed if isinstance(committed, int) else None,
            advice=advice,
        )
        parent = array.path.rpartition("/")[0]
        if parent in parts:
            parts[parent].append(found)
        else:
            yield _identified(found, location, array.path)
    for path, group in sorted(groups.items()):
        yield _sparse(path, dict(group.attrs), parts[path], location)


def _is_sparse(item: Any) -> bool:
    return isinstance(item, zarr.Group) and sparse_encoding(item.attrs) is not None


def _sparse(name: str, attributes: dict[str, Any], parts: list[StoredArray], location: str) -> StoredArray:
    """Describe a sparse matrix by its arrays."""
    try:
        shape = tuple(int(side) for side in np.ravel(attributes.get("shape", ())))
    except (TypeError, ValueError):
        shape = ()
    committed = attributes.get("committed_rows")
    found = {part.name.rpartition("/")[2]: part for part in parts}
    data = found.get("data")
    advice = [f"{part.name}: {text}" for part in parts for text in part.advice]
    return _identified(
        StoredArray(
            name,
            shape,
            data.dtype if data else "none",
            data.chunks if data else None,
            data.codec if data else "none",
            sum(part.nbytes for part in parts),
            sum(part.stored_bytes for part in parts),
            int(committed) if isinstance(committed, int | np.integer) else None,
            advice=advice,
            n_entries=data.shape[0] if data else 0,
        ),
        location,
        name or None,
    )


def _zarr_codec(array: zarr.Array[Any]) -> str:
    metadata: Any = array.metadata
    if metadata.zarr_format == 2:
        codecs = [*(metadata.filters or ()), *([metadata.compressor] if metadata.compressor else ())]
        return " ".join(codec.codec_id for codec in codecs) or "none"
    codecs = metadata.to_dict()["codecs"]
    sharded = codecs[0]["name"] == "sharding_indexed"
    if sharded:
        inner = codecs[0]["configuration"]
        codecs = inner["codecs"]
    names = []
    for codec in codecs:
        settings = codec.get("configuration") or {}
        if codec["name"] != "bytes":
            names.append(f"{codec['name']}-{settings['cname']}" if "cname" in settings else codec["name"])
    text = " ".join(names) or "none"
    return f"{text}, in shards of chunks {tuple(inner['chunk_shape'])}" if sharded else text


def _chunk_advice(shape: tuple[int, ...], chunks: tuple[int, ...] | None, itemsize: int) -> list[str]:
    """Say where the shape of the chunks is bad for reading runs of whole rows."""
    if chunks is None or len(shape) not in (1, 2) or 0 in shape:
        return []
    across = -(-shape[1] // chunks[1]) if len(shape) == 2 else 1
    width = shape[1] if len(shape) == 2 else 1
    rows = min(chunks[0], shape[0])
    strip, chunk = rows * width * itemsize, int(np.prod(chunks)) * itemsize
    advice = []
    if strip > _HUGE_CHUNK:
        advice.append(
            f"rows are stored {rows:,} at a time, {strip >> 20} MiB, and so held in every buffer: {_REWRITE}"
        )
    if across > _MANY_COLUMN_CHUNKS:
        advice.append(f"a row is spread over {across:,} chunks, which makes reading it slow: {_REWRITE}")
    if chunk < _TINY_CHUNK and across * -(-shape[0] // chunks[0]) > _MANY_CHUNKS:
        advice.append(f"chunks of {chunk:,} bytes are small, which makes reading them slow: {_REWRITE}")
    return advice


def _identified(found: StoredArray, location: str, name: str | None) -> StoredArray:
    """Add the fingerprint, or the reason why the array cannot be streamed."""
    try:
        source = open_source(location, name)
        return replace(found, fingerprint=source.fingerprint)
    except (InputError, SourceError) as error:
        return replace(found, advice=[*found.advice, f"cannot be streamed: {error}"])
