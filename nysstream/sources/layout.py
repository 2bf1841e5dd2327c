"""How the rows of an array are stored: columns, dtype, rows per chunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import DTypeLike

CHUNK_BYTES = 4 << 20  # stays in the last-level cache while it is decoded and used


@dataclass(frozen=True)
class Layout:
    """How the rows of one array are stored.

    Attributes
    ----------
    n_columns : int
        Columns of the array; 1 for a vector.
    dtype : numpy.dtype
        Real number type of the stored values.
    vector : bool
        Whether the stored array has one dimension.
    columns : tuple of str
        Names of the columns, published as the array's attribute ``columns`` when not empty.
    """

    n_columns: int
    dtype: np.dtype[Any]
    vector: bool = False
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", storable_dtype(self.dtype))
        if self.n_columns < 1 or (self.vector and self.n_columns != 1):
            message = f"n_columns={self.n_columns}: a matrix has at least one column, a vector exactly one"
            raise InputError(message)
        if self.columns and len(self.columns) != self.n_columns:
            message = f"{len(self.columns)} column names for {self.n_columns} columns"
            raise InputError(message)

    @property
    def row_bytes(self) -> int:
        """Bytes of one decoded row."""
        return self.n_columns * self.dtype.itemsize

    def shape(self, n_rows: int) -> tuple[int, ...]:
        """Shape of the stored array with ``n_rows`` rows."""
        return (n_rows,) if self.vector else (n_rows, self.n_columns)


def storable_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Give ``dtype`` in native byte order, or refuse what is not a real number type."""
    found = np.dtype(dtype)
    if found.kind not in "fiu" or found.itemsize > 8:
        message = f"dtype {found} cannot be stored: choose a real type of at most 8 bytes, such as float32"
        raise InputError(message)
    return found.newbyteorder("=")


def default_chunk_rows(layouts: Mapping[str, Layout]) -> int:
    """Rows per chunk for which a chunk of the widest array takes about 4 MiB."""
    return max(1, CHUNK_BYTES // max(layout.row_bytes for layout in layouts.values()))
