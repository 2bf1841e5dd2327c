"""Many arrays of any size in one array of bytes, with a checksum: what Zarr would need a file each for."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse
import xxhash
import zarr

from nysstream.sources.zarr_layout import is_plain

if TYPE_CHECKING:
    from numpy.typing import NDArray

_CHUNK = 16 << 20


def write_bundle(
    store: Any, path: str | None, arrays: dict[str, Any], facts: dict[str, Any], *, name: str
) -> None:
    """Write arrays, chunk by chunk; the checksum comes last and makes it a bundle.

    Parameters
    ----------
    store : store, or path of a local one
    path : str, optional
        Of the array within the store.
    arrays : dict of str to ndarray, csr_array or number
    facts : dict
        Plain JSON that goes with them.
    name : str
        For people.
    """
    listed, pieces = _lay_out(arrays)
    total = sum(_padded(piece.nbytes) for piece in pieces)
    chunk = max(1, min(total, _CHUNK))
    array = zarr.create_array(
        store,
        name=path,
        shape=(total,),
        dtype=np.uint8,
        chunks=(chunk,),
        compressors=None,
        zarr_format=3,
        overwrite=True,
        config={"write_empty_chunks": True},
    )
    digest, buffer = _digest(listed, facts), np.zeros(chunk, np.uint8)
    start = filled = 0
    for piece in pieces:
        flat = np.ascontiguousarray(piece).reshape(-1).view(np.uint8)
        position, size = 0, _padded(flat.size)
        while position < size:
            count = min(chunk - filled, size - position)
            some = flat[position : position + count]
            buffer[filled : filled + some.size] = some
            buffer[filled + some.size : filled + count] = 0
            position, filled = position + count, filled + count
            if filled == chunk or start + filled == total:
                array[start : start + filled] = buffer[:filled]
                digest.update(buffer[:filled])
                start, filled = start + filled, 0
    about = {"name": name, "arrays": listed, "facts": facts, "checksum": digest.hexdigest()}
    array.update_attributes(about)


def read_bundle(array: zarr.Array[Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Read the arrays, and the facts that go with them; None if writing them was not finished.

    Raises
    ------
    ValueError
        If it is damaged, or no bundle: before more is allocated than is stored.
    """
    about: dict[str, Any] = dict(array.attrs)
    if "checksum" not in about:
        return None
    listed, facts = about["arrays"], about["facts"]
    total = sum(_padded(np.dtype(item["dtype"]).itemsize * math.prod(item["shape"])) for item in listed)
    if array.dtype != np.uint8 or array.shape != (total,) or array.nbytes_stored() < total:
        message = f"it should hold {total} bytes and does not"
        raise ValueError(message)
    if not is_plain(array) or array.chunks[0] > max(1, min(total, _CHUNK)):
        message = "it is compressed or cut up as no bundle is"
        raise ValueError(message)
    payload: Any = np.asarray(array[...])
    digest = _digest(listed, facts)
    digest.update(payload)
    if about["checksum"] != digest.hexdigest():
        message = "its checksum does not fit"
        raise ValueError(message)
    return _unpack(payload, listed), facts


def nbytes_of(value: Any) -> int:
    """Count the bytes of an array, sparse or not, or of a number."""
    return sum(part.nbytes for part in _parts(value))


def _parts(value: Any) -> tuple[NDArray[Any], ...]:
    sparse = scipy.sparse.issparse(value)
    return (value.data, value.indices, value.indptr) if sparse else (np.asarray(value),)


def _lay_out(arrays: dict[str, Any]) -> tuple[list[dict[str, Any]], list[NDArray[Any]]]:
    """List arrays, and give them one after the other; a sparse one is three."""
    listed: list[dict[str, Any]] = []
    pieces: list[NDArray[Any]] = []
    for name, value in arrays.items():
        shape = list(np.shape(value))
        for part in _parts(value):
            listed.append({"name": name, "dtype": part.dtype.str, "shape": list(part.shape)})
            pieces.append(part)
        if scipy.sparse.issparse(value):
            listed[-3]["csr"] = shape
    return listed, pieces


def _padded(nbytes: int) -> int:
    """Round up, so that every array begins where numbers may."""
    return -(-nbytes // 64) * 64


def _unpack(payload: NDArray[np.uint8], listed: list[dict[str, Any]]) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    start = 0
    items = iter(listed)

    def one(item: dict[str, Any]) -> NDArray[Any]:
        nonlocal start
        dtype, shape = np.dtype(item["dtype"]), tuple(item["shape"])
        nbytes = dtype.itemsize * math.prod(shape)
        values: NDArray[Any] = payload[start : start + nbytes].view(dtype).reshape(shape)
        start += _padded(nbytes)
        return values

    for item in items:
        values: Any = one(item)
        if "csr" in item:
            values = scipy.sparse.csr_array((values, one(next(items)), one(next(items))), shape=item["csr"])
        arrays[item["name"]] = values if values.ndim else values[()]
    return arrays


def _digest(listed: list[dict[str, Any]], facts: dict[str, Any]) -> Any:
    """Begin a checksum with what is said about the bytes."""
    return xxhash.xxh3_128(json.dumps([listed, facts], sort_keys=True).encode())
