"""Read the chunks of one open HDF5 dataset: decoded here where the layout is known, else by HDF5."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.errors import SourceError
from nysstream.sources.checking import assign, reason
from nysstream.sources.chunks import pieces
from nysstream.sources.decoding import checks
from nysstream.sources.hdf5_layout import ChunkIndex, chunk_index, contiguous_offset, missing_filter
from nysstream.sources.npy import NpySource
from nysstream.sources.scratch import scratch

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PIECE_BYTES = 4 << 20


class HDF5Reader:
    """One dataset of a file.

    Parameters
    ----------
    dataset : h5py.Dataset
        Of one or two dimensions. Kept open only if HDF5 itself has to read it.
    name : str
        How messages call it.
    live : bool
        Whether the file may be changing, or is in memory: then HDF5 has to read it.

    Raises
    ------
    SourceError
        If a filter that the dataset needs is not installed.
    """

    def __init__(self, dataset: Any, name: str, *, live: bool) -> None:
        self._name, self._live = name, live
        self._shape = (*dataset.shape, 1)[:2]
        self._vector = len(dataset.shape) == 1
        self._dtype = dataset.dtype
        self._chunk = (*dataset.chunks, 1)[:2] if dataset.chunks else (1, 1)
        self._plain: NpySource | None = None
        self._index: ChunkIndex | None = None
        self._dataset: Any = None
        self.fill = np.asarray(dataset.fillvalue, dataset.dtype)
        offset = None if live else contiguous_offset(dataset)
        if offset is not None:
            path, shape = dataset.file.filename, dataset.shape
            self._plain = NpySource(path, shape=shape, dtype=dataset.dtype, offset=offset, fortran=False)
            self._plain.name = name
        elif not live:
            self._index = chunk_index(dataset)
        if self._plain is None and self._index is None:
            unknown = missing_filter(dataset)
            if unknown is not None:
                message = (
                    f"{name} needs the HDF5 filter {unknown}; install hdf5plugin or rewrite it with gzip"
                )
                raise SourceError(message)
            self._dataset = dataset
            self._file_size = 0 if live else os.stat(dataset.file.filename).st_size

    @property
    def shareable(self) -> bool:
        """Whether HDF5 has let go of the file, and values are read and decoded without its lock."""
        return self._dataset is None

    @property
    def decode_bytes(self) -> int:
        """The stored bytes of a chunk and its decoded block."""
        if self._index is not None:
            return self._index.layout(0).file_scratch_bytes(self._shape[1])
        if self._plain is not None:
            return self._plain.decode_bytes
        run = self._chunk[0] * self._shape[1] * self._dtype.itemsize
        return int(max(_PIECE_BYTES, run) + 2 * self._chunk[0] * self._chunk[1] * self._dtype.itemsize)

    @property
    def checksums(self) -> bool:
        """Whether chunks carry checksums."""
        return self._index is not None and checks(self._index.layout(0).steps)

    def read(self, rows: slice, out: NDArray[Any]) -> None:
        """Fill ``out`` with a run of rows.

        Raises
        ------
        SourceError
            If a chunk cannot be read or decoded.
        """
        if self._plain is not None:
            self._plain.read(rows, out)
        elif self._index is not None:
            self._read_chunks(self._index, rows, out)
        else:
            self._read_by_hdf5(rows, out)

    def _read_chunks(self, index: ChunkIndex, rows: slice, out: NDArray[Any]) -> None:
        for piece in pieces(rows, slice(0, self._shape[1]), index.shape):
            target = out[piece.target]
            where = index.find(piece.chunk)
            if where is None:
                target[...] = self.fill
                continue
            try:
                span, mask = where
                index.layout(mask).place_from(index.file, span, piece.inside, target)
            except (OSError, ValueError, RuntimeError) as error:
                start = piece.chunk[0] * index.shape[0]
                affected = slice(start, min(start + index.shape[0], self._shape[0]))
                raise self._unreadable(affected, error) from error

    def _read_by_hdf5(self, rows: slice, out: NDArray[Any]) -> None:
        """Read through HDF5, a few chunks at a time where the values have to be cast."""
        width = self._shape[1] * self._dtype.itemsize
        step = max(1, _PIECE_BYTES // max(1, width) // self._chunk[0]) * self._chunk[0]
        for start in range(rows.start - rows.start % step, rows.stop, step):
            part = slice(max(start, rows.start), min(start + step, rows.stop))
            target = out[part.start - rows.start : part.stop - rows.start]
            if target.size == 0:
                continue
            direct = out.dtype == self._dtype and target.flags.c_contiguous
            n_bytes = target.size * self._dtype.itemsize
            values = target if direct else scratch("decoded", n_bytes).view(self._dtype)
            try:
                self._refuse_truncated()
                shape = target.shape[:1] if self._vector else target.shape
                self._dataset.read_direct(values.reshape(shape), source_sel=part)
            except (OSError, ValueError, RuntimeError) as error:
                raise self._unreadable(part, error) from error
            if not direct:
                assign(target, values.reshape(target.shape))

    def _refuse_truncated(self) -> None:
        """Check the size of the file: beyond its end HDF5 reads zeros, and says nothing."""
        if self._live:
            return
        size = os.stat(self._dataset.file.filename).st_size
        if size < self._file_size:
            message = f"the file has shrunk from {self._file_size} to {size} bytes since it was opened"
            raise ValueError(message)

    def _unreadable(self, rows: slice, error: Exception) -> SourceError:
        message = (
            f"{self._name}: the chunk of rows {rows.start}:{rows.stop} cannot be read: {reason(error)}; "
            "restore the file from its origin or leave these rows out with rows="
        )
        return SourceError(message)
