"""The identity of a data set: its metadata and sampled values, wherever and however it is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xxhash
from scipy.sparse import issparse

from nysstream.errors import SourceError
from nysstream.sources.scratch import as_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

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


def fingerprint_of_files(files: Sequence[Path], *, n_samples: int = 7) -> str:
    """Digest the lengths of files, and their bytes at the start, at the end and between.

    Parameters
    ----------
    files : sequence of pathlib.Path
        In the order in which they are read.
    n_samples : int
        Runs of bytes to read, at least 2.

    Returns
    -------
    str
        32 hexadecimal digits.

    Notes
    -----
    Cost: ``n_samples`` reads of up to 256 KiB.
    """
    try:
        ends = np.cumsum([file.stat().st_size for file in files])
        digest = xxhash.xxh3_128(ends.astype(np.int64).tobytes())
        for position in np.linspace(0, max(0, ends[-1] - _SAMPLE_BYTES), n_samples).astype(np.int64):
            number = min(int(np.searchsorted(ends, position, side="right")), len(files) - 1)
            with files[number].open("rb") as file:
                file.seek(int(position - (ends[number - 1] if number else 0)))
                digest.update(file.read(_SAMPLE_BYTES))
    except OSError as error:
        message = f"cannot read {error.filename}: {error.strerror or error}"
        raise SourceError(message) from error
    return digest.hexdigest()
