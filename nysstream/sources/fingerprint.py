"""The identity of a data set: its metadata and sampled values, wherever and however it is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xxhash
from scipy.sparse import issparse

from nysstream.sources.scratch import as_bytes

if TYPE_CHECKING:
    from nysstream.sources.base import RowSource

_SAMPLE_BYTES = 1 << 18


def fingerprint_of(source: RowSource, *, n_samples: int = 7) -> str:
    """Digest the shape, the dtype and runs of rows at the start, at the end and between.

    The same values give the same digest from any store, path, process or byte order. It guards
    against mistakes, not against forgery.

    Parameters
    ----------
    source : RowSource
        Read at ``n_samples`` places.
    n_samples : int
        Runs of rows to read, at least 2.

    Returns
    -------
    str
        32 hexadecimal digits.

    Raises
    ------
    SourceError
        If a sampled run cannot be read.

    Notes
    -----
    Cost: ``n_samples`` chunks are read and decoded, and up to 256 KiB of each digested.
    """
    n_rows, n_columns = source.shape
    metadata = f"{n_rows} {n_columns} {source.dtype.str} {source.vector} {source.sparse}"
    digest = xxhash.xxh3_128(metadata.encode())
    count = max(1, min(n_rows, _SAMPLE_BYTES // max(1, n_columns * source.dtype.itemsize)))
    starts = np.unique(np.linspace(0, max(0, n_rows - count), n_samples).astype(np.int64))
    for start in starts.tolist() if n_rows and n_columns else []:
        block = source.read(slice(start, start + count))
        if issparse(block):
            for part, dtype in ((block.indptr, np.int64), (block.indices, np.int64), (block.data, None)):
                digest.update(as_bytes(np.ascontiguousarray(part, dtype)).data)
        else:
            digest.update(as_bytes(np.ascontiguousarray(block)).data)
    return digest.hexdigest()
