"""Rows at rest: arrays in memory, files and stores, opened by location or taken as objects."""

from __future__ import annotations

from typing import Any

from nysstream.sources.array import ArraySource
from nysstream.sources.base import RowRange, RowSource
from nysstream.sources.csr import CSRSource
from nysstream.sources.csr_store import StoredCSR
from nysstream.sources.dask import DaskSource
from nysstream.sources.hdf5 import HDF5Source
from nysstream.sources.npy import NpySource
from nysstream.sources.opening import as_source, open
from nysstream.sources.zarr import ZarrSource

# The first that accepts a location or an object serves it.
SOURCES: dict[str, Any] = {
    "npy": NpySource,
    "array": ArraySource,
    "csr": CSRSource,
    "dask": DaskSource,
    "hdf5": HDF5Source,
    "zarr": ZarrSource,
    "stored_csr": StoredCSR,
}

__all__ = [
    "SOURCES",
    "ArraySource",
    "CSRSource",
    "DaskSource",
    "HDF5Source",
    "NpySource",
    "RowRange",
    "RowSource",
    "StoredCSR",
    "ZarrSource",
    "as_source",
    "open",
]
