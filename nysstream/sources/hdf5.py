"""Rows of an HDF5 dataset."""

from __future__ import annotations

import os
import threading
import warnings
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from nysstream.errors import DataWarning, InputError, MissingChunksError, SourceError
from nysstream.sources.base import RowSource
from nysstream.sources.checking import assign, numeric_matrix, output_for
from nysstream.sources.chunks import Piece, pieces
from nysstream.sources.fingerprint import fingerprint_of
from nysstream.sources.hdf5_layout import ChunkIndex, chunk_index, contiguous_offset, missing_filter
from nysstream.sources.hdf5_members import find_dataset, open_file, refuse_external
from nysstream.sources.locations import local_path
from nysstream.sources.npy import NpySource
from nysstream.sources.scratch import scratch

if TYPE_CHECKING:
    from typing import Literal

    from numpy.typing import NDArray

_SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5", ".h5ad", ".nc", ".nc4")
_PIECE_BYTES = 4 << 20


class HDF5Source(RowSource):
    """Rows of an HDF5 dataset.

    HDF5 has one lock for everything, decompression included. So the byte ranges of a dataset are
    asked for once; contiguous data and chunks without a filter, or with gzip, shuffle, Fletcher-32,
    zstd or blosc, are then read and decoded in the thread that reads, side by side with others.
    Everything else goes through h5py.

    Parameters
    ----------
    dataset : h5py.Dataset, shape (n, p) or (n,)
        Of a file open for reading, which may be closed afterwards; or of a file open for writing or
        held in memory, which must stay open and cannot be sent to other processes.
    missing_chunks : {"warn", "error", "fill"}
        What to do about chunks that were never written, and so read as the fill value.
    allow_external : bool
        Whether external links, external storage and virtual datasets may be followed.
    name : str, optional
        Name under which the dataset is opened again.
    path : str, optional
        File in which ``name`` is found.

    Raises
    ------
    InputError
        If the dataset does not hold real numbers or has more than two dimensions.
    MissingChunksError
        If chunks are absent and ``missing_chunks="error"``.
    SourceError
        If its data are in another file, or a filter it needs is not installed.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        missing_chunks: Literal["warn", "error", "fill"] = "warn",
        allow_external: bool = False,
        name: str | None = None,
        path: str | None = None,
    ) -> None:
        if missing_chunks not in ("warn", "error", "fill"):
            message = f"missing_chunks={missing_chunks!r} must be 'warn', 'error' or 'fill'"
            raise InputError(message)
        if not dataset:
            message = "the HDF5 dataset is closed; keep its file open until it has been wrapped"
            raise InputError(message)
        self._member = name or dataset.name
        self._path = os.path.abspath(path or dataset.file.filename)
        self._allow_external = allow_external
        self.name = f"{path or dataset.file.filename}[{self._member.lstrip('/')}]"
        if dataset.shape is None:
            message = f"{self.name} is empty: it has no shape; choose another dataset"
            raise InputError(message)
        try:
            dtype = dataset.dtype
        except TypeError as error:
            message = f"{self.name} has an HDF5 type that NumPy lacks ({error}); write it again as float64"
            raise InputError(message) from error
        self.shape, self.dtype, self.vector = numeric_matrix(self.name, dataset.shape, dtype)
        if not allow_external:
            refuse_external(dataset, self.name)
        self.chunk_rows = int(dataset.chunks[0]) if dataset.chunks else 1
        live = dataset.file.mode != "r" or dataset.file.driver != "sec2"
        self._live = dataset if live else None
        self._pid: int | None = None
        self._opened(dataset if live else self._reopened())
        if missing_chunks != "fill":
            self._survey(dataset, refuse=missing_chunks == "error")

    @classmethod
    def accepts_url(cls, url: str) -> bool:
        """Whether ``url`` is an HDF5 file or is named like one."""
        path = local_path(url)
        if path is None or path.lower().endswith(_SUFFIXES):
            return url.lower().endswith(_SUFFIXES)
        return os.path.isfile(path) and bool(h5py.is_hdf5(path))

    @classmethod
    def open(
        cls,
        url: str,
        name: str | None,
        *,
        missing_chunks: Literal["warn", "error", "fill"] = "warn",
        allow_external: bool = False,
    ) -> HDF5Source:
        """Open a dataset of a file: the one named, or the only matrix.

        Raises
        ------
        InputError
            If ``name`` is not given and the file does not hold exactly one matrix.
        SourceError
            If the file or the dataset cannot be opened.
        """
        path = local_path(url)
        if path is None:
            message = f"{url}: HDF5 is read from local disks; download it, or convert it to Zarr"
            raise SourceError(message)
        with open_file(path) as file:
            dataset = find_dataset(file, name, path, allow_external=allow_external)
            return cls(
                dataset,
                missing_chunks=missing_chunks,
                allow_external=allow_external,
                name=name or dataset.name,
                path=path,
            )

    @classmethod
    def accepts(cls, obj: object) -> bool:
        """Whether ``obj`` is an HDF5 dataset."""
        return isinstance(obj, h5py.Dataset)

    @classmethod
    def wrap(cls, obj: Any) -> HDF5Source:
        """Make a source of an open dataset."""
        return cls(obj)

    @property
    def fingerprint(self) -> str:
        """Digest of the metadata and of sampled rows."""
        return fingerprint_of(self)

    @property
    def decode_bytes(self) -> int:
        """The stored bytes of a chunk and its decoded block."""
        self._current()
        if self._chunks is not None:
            return self._chunks.layout(0).file_scratch_bytes(self.shape[1])
        width = self.shape[1] * self.dtype.itemsize
        return max(_PIECE_BYTES, self.chunk_rows * width) + (
            0 if self.chunk_rows == 1 else 2 * self._chunk_bytes
        )

    def read(self, rows: slice, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Read a run of rows.

        Raises
        ------
        SourceError
            If a chunk cannot be read or decoded.
        """
        out = output_for(self, rows, out)
        self._current()
        if self._plain is not None:
            return self._plain.read(rows, out)
        if self._chunks is not None:
            self._read_chunks(self._chunks, rows, out)
        else:
            self._read_by_h5py(rows, out)
        return out

    def _read_chunks(self, index: ChunkIndex, rows: slice, out: NDArray[Any]) -> None:
        for piece in pieces(rows, slice(0, self.shape[1]), index.shape):
            target = out[piece.target]
            where = index.find(piece.chunk)
            if where is None:
                target[...] = self._fill
                continue
            try:
                span, mask = where
                index.layout(mask).place_from(index.file, span, piece.inside, target)
            except (OSError, ValueError, RuntimeError) as error:
                raise self._unreadable(self._rows_of(piece, index), error) from error

    def _read_by_h5py(self, rows: slice, out: NDArray[Any]) -> None:
        """Read through HDF5, a few chunks at a time where the values have to be cast."""
        stored = self._dataset.dtype
        width = self.shape[1] * stored.itemsize
        step = max(1, _PIECE_BYTES // max(1, width) // self.chunk_rows) * self.chunk_rows
        for start in range(rows.start - rows.start % step, rows.stop, step):
            part = slice(max(start, rows.start), min(start + step, rows.stop))
            target = out[part.start - rows.start : part.stop - rows.start]
            if target.size == 0:
                continue
            direct = out.dtype == stored and target.flags.c_contiguous
            values = target if direct else scratch("decoded", target.size * stored.itemsize).view(stored)
            try:
                self._refuse_truncated()
                shape = target.shape[:1] if self.vector else target.shape
                self._dataset.read_direct(values.reshape(shape), source_sel=part)
            except (OSError, ValueError, RuntimeError) as error:
                raise self._unreadable(part, error) from error
            if not direct:
                assign(target, values.reshape(target.shape))

    def _refuse_truncated(self) -> None:
        """HDF5 reads zeros beyond the end of a file, and says nothing."""
        if self._live is not None:
            return
        size = os.stat(self._dataset.file.filename).st_size
        if size < self._file_size:
            message = f"the file has shrunk from {self._file_size} to {size} bytes since it was opened"
            raise ValueError(message)

    def _current(self) -> None:
        """Open the file in a process that received this source, or was forked from one that had."""
        if self._pid == os.getpid():
            return
        with _opening:
            if self._pid != os.getpid():
                self._opened(self._reopened())

    def _reopened(self) -> Any:
        if self._live is not None:
            message = f"{self.name} was opened for writing by another process, which alone can read it"
            raise SourceError(message)
        file = open_file(self._path)
        return find_dataset(file, self._member, self._path, allow_external=self._allow_external)

    def _opened(self, dataset: Any) -> None:
        """Note where the data lie; keep the dataset open only if HDF5 has to read it."""
        self._fill = np.asarray(dataset.fillvalue, dataset.dtype)
        self._chunk_bytes = int(np.prod(dataset.chunks or (0,))) * dataset.dtype.itemsize
        self._plain: NpySource | None = None
        self._chunks: ChunkIndex | None = None
        self._dataset: Any = None
        offset = None if self._live is not None else contiguous_offset(dataset)
        if offset is not None:
            path, shape = dataset.file.filename, dataset.shape
            self._plain = NpySource(path, shape=shape, dtype=dataset.dtype, offset=offset, fortran=False)
            self._plain.name = self.name
        elif self._live is None:
            self._chunks = chunk_index(dataset)
        if self._plain is None and self._chunks is None:
            unknown = missing_filter(dataset)
            if unknown is not None:
                message = (
                    f"{self.name} needs the HDF5 filter {unknown}; install hdf5plugin or rewrite it with gzip"
                )
                raise SourceError(message)
            self._dataset = dataset
            self._file_size = 0 if self._live is not None else os.stat(dataset.file.filename).st_size
        self._pid = os.getpid()

    def _survey(self, dataset: Any, *, refuse: bool) -> None:
        """Count the chunks that were never written, before any work starts."""
        rows, columns = self.shape
        if dataset.is_virtual or dataset.external or rows * columns == 0:
            return
        if dataset.chunks is None:
            total, stored = 1, int(dataset.id.get_storage_size() > 0)
        else:
            chunk = (*dataset.chunks, 1)[:2]
            total = -(-rows // chunk[0]) * -(-columns // chunk[1])
            stored = min(total, dataset.id.get_num_chunks())
        if stored == total:
            return
        which = f"{self.name}: {total - stored} of {total} chunks are absent"
        if refuse:
            message = f"{which}; write them, or pass missing_chunks='fill' to read them as {self._fill}"
            raise MissingChunksError(message)
        message = (
            f"{which}, read as fill value {self._fill}; missing_chunks='error' refuses them, 'fill' accepts "
            "them silently"
        )
        warnings.warn(message, DataWarning, stacklevel=2)

    def _rows_of(self, piece: Piece, index: ChunkIndex) -> slice:
        start = piece.chunk[0] * index.shape[0]
        return slice(start, min(start + index.shape[0], self.shape[0]))

    def _unreadable(self, rows: slice, error: Exception) -> SourceError:
        message = (
            f"{self.name}: the chunk of rows {rows.start}:{rows.stop} cannot be read: {error}; restore the "
            "file from its origin or leave these rows out with rows="
        )
        return SourceError(message)

    def __getstate__(self) -> dict[str, Any]:
        if self._live is not None:
            message = (
                f"{self.name} is open for writing or in memory; close it and pass nysstream.open(path, name)"
            )
            raise InputError(message)
        dropped = ("_dataset", "_plain", "_chunks", "_fill", "_chunk_bytes", "_pid")
        return {key: value for key, value in self.__dict__.items() if key not in dropped}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _pid=None)


_opening = threading.RLock()
