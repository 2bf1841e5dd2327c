"""Rows of an array in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.errors import InputError
from nysstream.sources.base import RowSource
from nysstream.sources.checking import assign, check_rows, numeric_matrix, output_for
from nysstream.sources.fingerprint import fingerprint_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


class ArraySource(RowSource):
    """Rows of an array in memory, in C or Fortran order, of any real dtype and byte order.

    Parameters
    ----------
    array : ndarray, shape (n, p) or (n,)
        Referred to, not copied; pickled by value.
    name : str
        How messages call it.

    Raises
    ------
    InputError
        If the array is masked, not real or has more than two dimensions.
    """

    def __init__(self, array: NDArray[Any], *, name: str = "array") -> None:
        if isinstance(array, np.ma.MaskedArray):
            message = f"{name} is a masked array; fill it or drop its masked rows, for example X.filled(0)"
            raise InputError(message)
        self.name = name
        self.shape, self.dtype, self.vector = numeric_matrix(name, array.shape, array.dtype)
        self._mapped = isinstance(array, np.memmap)
        plain = np.asarray(array)
        self._matrix = plain[:, None] if self.vector else plain

    @classmethod
    def accepts(cls, obj: object) -> bool:
        """Whether ``obj`` is an array in memory."""
        return isinstance(obj, np.ndarray)

    @classmethod
    def wrap(cls, obj: Any) -> ArraySource:
        """Make a source of an array."""
        return cls(obj)

    @property
    def fingerprint(self) -> str:
        """Digest of the metadata and of sampled rows."""
        return fingerprint_of(self)

    @property
    def resident(self) -> bool:
        """True, unless the array is mapped from a file (and so scattered in it that it is not read)."""
        return not self._mapped

    def read(self, rows: slice, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Read a run of rows: a view of the array where ``out`` is not given."""
        check_rows(self, rows)
        block: NDArray[Any] = self._matrix[rows]
        if out is None:
            return block.astype(self.dtype, copy=False)
        out = output_for(self, rows, out)
        assign(out, block)
        return out
