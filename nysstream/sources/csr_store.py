"""Rows of a sparse matrix at rest: a group of three arrays in a Zarr store or an HDF5 file."""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any, TypeAlias

import h5py
import numpy as np
import zarr
from dask.utils import format_bytes

from nysstream.errors import SourceError
from nysstream.memory import available_bytes
from nysstream.sources.base import RowReads, RowSource
from nysstream.sources.checking import check_rows, numeric_matrix
from nysstream.sources.csr_blocks import BLOCK_BYTES, rows_together
from nysstream.sources.csr_checking import check_indices, check_pointers, csr_rows, index_dtype
from nysstream.sources.csr_groups import PARTS, declared_shape, sparse_encoding
from nysstream.sources.fingerprint import fingerprint_of
from nysstream.sources.hdf5 import HDF5Source
from nysstream.sources.hdf5_members import find_dataset, sparse_group
from nysstream.sources.zarr import ZarrSource
from nysstream.sources.zarr_members import sparse_group as sparse_zarr
from nysstream.sources.zarr_store import location_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from numpy.typing import NDArray
    from scipy.sparse import csr_array

    #: Of a vector's run of rows, into an array.
    Read: TypeAlias = Callable[[slice, NDArray[Any]], Any]

#: Copies of a block that a pass may hold beside the block: cast, squared, in double precision; and
#: the two blocks that are read ahead.
_COPIES = 7
#: Row pointers that are looked through at a time.
_POINTERS = 1 << 19


class StoredCSR(RowSource):
    """Rows of a sparse matrix that is stored as a group of ``data``, ``indices`` and ``indptr``.

    The layout is AnnData's: group attributes ``encoding-type`` (``"csr_matrix"``) and ``shape``.
    The three arrays are sources of their own, so what holds for those of Zarr and HDF5 (codecs,
    absent chunks, links, credentials, pickling) holds for this one. Columns may come in any order
    within a row; entries stored more than once are added up as the rows are read. Values in float16,
    which SciPy does not take, are read as float32.

    Parameters
    ----------
    parts : mapping of str to RowSource
        ``"data"``, shape (nnz,); ``"indices"``, shape (nnz,); ``"indptr"``, shape (n + 1,).
    attributes : mapping
        Of the group.
    name : str
        How messages call the matrix.
    committed : int, optional
        Rows that a writer has published. By default all that are declared.

    Raises
    ------
    InputError
        If the matrix is stored by columns, or holds no real numbers.
    SourceError
        If arrays and declared shape do not belong together, or one vector of so many columns would
        not fit in this machine's memory.

    Notes
    -----
    Cost: construction reads nothing. What is read is checked, a block at a time: pointers that
    decrease or point outside, and columns that do not exist, are a :class:`SourceError`. The first
    plan or pass reads ``indptr`` once, 8 bytes a row, to find the longest block.
    """

    sparse = True

    def __init__(
        self,
        parts: Mapping[str, RowSource],
        attributes: Mapping[str, Any],
        *,
        name: str,
        committed: Any = None,
    ) -> None:
        self.name = name
        n_rows, n_columns = declared_shape(attributes, name)
        self._data, self._indices, self._indptr = (parts[part] for part in PARTS)
        for part in (self._data, self._indices, self._indptr):
            if not part.vector:
                message = f"{part.name} has shape {part.shape}; arrays of a sparse matrix have one dimension"
                raise SourceError(message)
        for part in (self._indices, self._indptr):
            if part.dtype.kind not in "iu":
                message = f"{part.name} has dtype {part.dtype}; it must hold whole numbers: write it again"
                raise SourceError(message)
        lengths = {part.name: part.shape[0] for part in (self._data, self._indices)}
        self._nnz = min(lengths.values())
        if committed is None and len(set(lengths.values())) > 1:
            message = f"{name} is damaged: its arrays differ in length, {lengths}; write it again"
            raise SourceError(message)
        if committed is not None:
            whole = isinstance(committed, int | np.integer) and not isinstance(committed, bool)
            if not whole or not 0 <= committed <= n_rows:
                message = (
                    f"{name} publishes committed_rows = {committed!r} but declares {n_rows} rows; "
                    "open it again if it has grown since, else write it again"
                )
                raise SourceError(message)
            n_rows = int(committed)
        pointed = self._indptr.shape[0] - 1
        if n_rows and pointed < n_rows if committed is not None else pointed != n_rows:
            message = (
                f"{name} declares {n_rows} rows, and {self._indptr.name} has entries for {max(0, pointed)}; "
                "the store is damaged, write it again"
            )
            raise SourceError(message)
        if 8 * n_columns > available_bytes():
            message = (
                f"{name} declares {n_columns} columns: a vector of coefficients would take "
                f"{format_bytes(8 * n_columns)}, more than this machine has; is the shape right?"
            )
            raise SourceError(message)
        self.shape, stored, _ = numeric_matrix(name, (n_rows, n_columns), self._data.dtype)
        self.dtype = np.dtype(np.float32) if stored == np.float16 else stored
        self._index_dtype = index_dtype(n_columns, 0)
        # A block covers a stored chunk at least, else the same one is decoded for several blocks.
        chunk = max(self._data.chunk_rows, self._indices.chunk_rows)
        entries = self._nnz if n_rows else 0
        self.chunk_rows = rows_together(self.shape, entries, self.row_bytes, chunk)

    @classmethod
    def accepts(cls, obj: object) -> bool:
        """Whether ``obj`` is a Zarr or HDF5 group that holds a sparse matrix."""
        return isinstance(obj, zarr.Group | h5py.Group) and sparse_encoding(obj.attrs) is not None

    @classmethod
    def wrap(cls, obj: Any) -> StoredCSR:
        """Make a source of an open group."""
        if isinstance(obj, h5py.Group):
            path = obj.file.filename
            where = f"{path}[{obj.name.lstrip('/')}]"
            declared_shape(obj.attrs, where)  # what cannot be streamed is not looked into
            found = sparse_group(obj, obj.name, path)
            # By their names, so that links to other files are seen.
            arrays = {
                part: find_dataset(obj.file, f"{obj.name}/{part}", path, allow_external=False)
                for part in PARTS
            }
            parts: dict[str, RowSource] = {part: HDF5Source(array) for part, array in arrays.items()}
        else:
            where = location_of(obj.store) or type(obj.store).__name__
            found = sparse_zarr(obj, where)
            declared_shape(found.attributes, found.where)
            arrays = {part: obj.get(part) for part in PARTS}
            for part, array in arrays.items():
                if not isinstance(array, zarr.Array):
                    message = f"{found.where} has no array {part}: a sparse matrix has {', '.join(PARTS)}"
                    raise SourceError(message)
            parts = {part: ZarrSource(array) for part, array in arrays.items()}
        return cls(parts, found.attributes, name=found.where, committed=found.committed)

    @property
    def fingerprint(self) -> str:
        """Digest of the metadata and of sampled rows: that of the same matrix in memory."""
        return fingerprint_of(self)

    @property
    def nnz(self) -> int:
        """Entries that are stored, zeros among them included."""
        return self._nnz

    @property
    def checksums(self) -> bool:
        """Whether the chunks of all three arrays carry checksums."""
        return all(part.checksums for part in (self._data, self._indices, self._indptr))

    @property
    def row_bytes(self) -> float:
        """Bytes of the values, column numbers and pointer of an average row, as read."""
        entries = self._nnz * (self.dtype.itemsize + self._index_dtype.itemsize)
        return float(entries / max(1, self.shape[0]) + self._index_dtype.itemsize)

    @property
    def decode_bytes(self) -> int:
        """Chunks, the pointers of a few blocks, and what the longest block has over an average one."""
        rows = self._block_rows
        raw = self._indices.dtype.itemsize if self._indices.dtype != self._index_dtype else 0
        average = rows * self.row_bytes
        excess = max(0.0, self._longest * (self.dtype.itemsize + self._index_dtype.itemsize) - average)
        # From elsewhere chunks of all three are on their way at a time.
        parts = sum(part.decode_bytes for part in (self._data, self._indices, self._indptr))
        return int(parts + 40 * rows + raw * self._longest + _COPIES * excess)

    @property
    def _block_rows(self) -> int:
        chunk_bytes = max(1.0, self.chunk_rows * self.row_bytes)
        return min(self.shape[0], self.chunk_rows * max(1, int(BLOCK_BYTES / chunk_bytes)))

    @functools.cached_property
    def _longest(self) -> int:
        """Most entries in as many consecutive rows as a block has."""
        n_rows, step = self.shape[0], max(1, self._block_rows)
        longest = 0
        # In runs of whole blocks, so that no block is seen in two parts.
        run = step * max(1, _POINTERS // step)
        for start in range(0, n_rows, run):
            pointers = self._pointers(slice(start, min(n_rows, start + run)), self._indptr.read)
            edges = [*range(0, len(pointers) - 1, step), len(pointers) - 1]
            longest = max(longest, int(np.diff(pointers[edges]).max()))
        return longest

    def read(self, rows: slice, out: NDArray[Any] | None = None) -> csr_array:
        """Read a run of rows as CSR in canonical form; ``out`` is ignored.

        Raises
        ------
        MissingChunksError
            If a chunk is absent that must not be.
        SourceError
            If a chunk cannot be read or decoded, or holds what makes no sense.
        """
        check_rows(self, rows)
        return self._rows(self._pointers(rows, self._indptr.read), self._data.read, self._indices.read)

    def in_turn(self, runs: Iterable[slice]) -> RowReads:
        """Announce reads: the pointers of a run tell which entries to fetch ahead of it."""
        runs = list(runs)
        pointers = self._indptr.in_turn(slice(rows.start, rows.stop + 1) for rows in runs)
        ahead: dict[int, NDArray[np.int64]] = {}

        def spans() -> Iterator[slice]:
            for rows in runs:
                try:
                    found = ahead[rows.start] = self._pointers(rows, pointers.read)
                except SourceError:  # whoever reads the rows will say what is wrong
                    return
                yield slice(int(found[0]), int(found[-1]))

        one, other = itertools.tee(spans())
        data, indices = self._data.in_turn(one), self._indices.in_turn(other)

        def read(rows: slice, out: NDArray[Any] | None = None) -> csr_array:
            check_rows(self, rows)
            found = ahead.pop(rows.start, None)
            if found is None or len(found) != rows.stop - rows.start + 1:
                found = self._pointers(rows, pointers.read)
            return self._rows(found, data.read, indices.read)

        def close() -> None:
            for reads in (data, indices, pointers):
                reads.close()

        return RowReads(read, close)

    def _rows(self, pointers: NDArray[np.int64], data: Read, indices: Read) -> csr_array:
        span = slice(int(pointers[0]), int(pointers[-1]))
        columns = _entries(indices, span, self._indices.dtype)
        check_indices(columns, span.start, self.shape[1], self._indices.name)
        return csr_rows(_entries(data, span, self.dtype), columns, pointers - span.start, self.shape[1])

    def _pointers(self, rows: slice, read: Read) -> NDArray[np.int64]:
        if rows.start == rows.stop:
            return np.zeros(1, np.int64)
        found = _entries(read, slice(rows.start, rows.stop + 1), self._indptr.dtype)
        return check_pointers(found, rows.start, self._nnz, self._indptr.name)


def _entries(read: Read, span: slice, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Read a run of entries of a vector, in memory of their own."""
    column = np.empty((span.stop - span.start, 1), dtype)
    read(span, column)
    return column[:, 0]
