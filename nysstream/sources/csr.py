"""Rows of a SciPy CSR matrix in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_array, issparse

from nysstream.errors import InputError
from nysstream.sources.base import RowSource
from nysstream.sources.checking import check_rows, numeric_matrix
from nysstream.sources.csr_blocks import rows_together
from nysstream.sources.fingerprint import fingerprint_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


class CSRSource(RowSource):
    """Rows of a SciPy CSR matrix or array in memory.

    Parameters
    ----------
    matrix : csr_array or csr_matrix, shape (n, p)
        Referred to, not copied, unless it stores an entry more than once (duplicates are added up
        in a copy). Pickled by value.
    name : str
        How messages call it.

    Raises
    ------
    InputError
        If it has another sparse format or does not hold real numbers.
    """

    sparse = True

    def __init__(self, matrix: Any, *, name: str = "sparse array") -> None:
        if getattr(matrix, "format", None) != "csr":
            message = f"{name} is {type(matrix).__name__}; rows can be streamed from CSR: pass X.tocsr()"
            raise InputError(message)
        self.name = name
        self.shape, self.dtype, self.vector = numeric_matrix(name, matrix.shape, matrix.dtype)
        if self.vector:
            message = f"{name} has one dimension; reshape it to one row or make it dense"
            raise InputError(message)
        if not matrix.has_canonical_format:
            matrix = matrix.copy()
            matrix.sum_duplicates()
        self._data = matrix.data.astype(self.dtype, copy=False)
        self._indices, self._indptr = matrix.indices, matrix.indptr
        self.chunk_rows = rows_together(self.shape, len(self._data), self.row_bytes)

    @classmethod
    def accepts(cls, obj: object) -> bool:
        """Whether ``obj`` is a SciPy sparse matrix or array."""
        return bool(issparse(obj))

    @classmethod
    def wrap(cls, obj: Any) -> CSRSource:
        """Make a source of a CSR matrix."""
        return cls(obj)

    @property
    def fingerprint(self) -> str:
        """Digest of the metadata and of sampled rows."""
        return fingerprint_of(self)

    @property
    def resident(self) -> bool:
        """True: the rows are in memory."""
        return True

    @property
    def row_bytes(self) -> float:
        """Bytes of the values, column numbers and pointer of an average row."""
        entries = len(self._data) * (self._data.itemsize + self._indices.itemsize)
        return float(entries / max(1, self.shape[0]) + self._indptr.itemsize)

    def read(self, rows: slice, out: NDArray[Any] | None = None) -> csr_array:
        """Read a run of rows as CSR sharing the matrix's data; ``out`` is ignored."""
        check_rows(self, rows)
        first, last = int(self._indptr[rows.start]), int(self._indptr[rows.stop])
        pointers = np.subtract(self._indptr[rows.start : rows.stop + 1], first)
        # The constructor would copy a part that is much smaller than the whole.
        block = csr_array((rows.stop - rows.start, self.shape[1]), dtype=self.dtype)
        block.data, block.indices, block.indptr = self._data[first:last], self._indices[first:last], pointers
        block.has_canonical_format = True
        return block
