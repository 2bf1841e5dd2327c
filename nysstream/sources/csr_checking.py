"""What is checked of the arrays of a sparse matrix, a block at a time, before anything relies on them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_array

from nysstream.errors import SourceError

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DAMAGED = "the store is damaged, write it again"


def check_pointers(pointers: NDArray[Any], first: int, nnz: int, name: str) -> NDArray[np.int64]:
    """Check a run of row pointers and give it in int64.

    Parameters
    ----------
    pointers : ndarray of int, shape (m,)
        As stored.
    first : int
        Place of the first of them in their array.
    nnz : int
        Number of entries that they may point to.
    name : str
        How messages call the array.

    Raises
    ------
    SourceError
        If they decrease, do not begin with 0, or point past the entries; names the place.
    """
    if len(pointers):
        outside = (pointers < 0) | (pointers > nnz)
        if outside.any():
            place = int(np.argmax(outside))
            message = f"{name}: pointer {first + place} is {pointers[place]}, outside 0..{nnz}; {_DAMAGED}"
            raise SourceError(message)
    found = pointers.astype(np.int64, copy=False)
    if first == 0 and len(found) and found[0] != 0:
        message = f"{name}: pointer 0 is {found[0]}, not 0; {_DAMAGED}"
        raise SourceError(message)
    smaller = found[1:] < found[:-1]
    if smaller.any():
        place = int(np.argmax(smaller))
        message = (
            f"{name}: pointer {first + place + 1} is {found[place + 1]}, less than the one before, "
            f"{found[place]}; {_DAMAGED}"
        )
        raise SourceError(message)
    return found


def check_indices(indices: NDArray[Any], first: int, n_columns: int, name: str) -> None:
    """Refuse columns that do not exist.

    Parameters
    ----------
    indices : ndarray of int, shape (m,)
        As stored.
    first : int
        Place of the first of them in their array.
    n_columns : int
        Number of columns.
    name : str
        How messages call the array.

    Raises
    ------
    SourceError
        Names the place.
    """
    if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < n_columns:
        place = int(np.argmax((indices < 0) | (indices >= n_columns)))
        message = (
            f"{name}: entry {first + place} is column {indices[place]}, but there are columns "
            f"0..{n_columns - 1}; {_DAMAGED}"
        )
        raise SourceError(message)


def csr_rows(
    values: NDArray[Any], indices: NDArray[Any], pointers: NDArray[Any], n_columns: int
) -> csr_array:
    """Make rows of checked arrays, which may be overwritten; entries are sorted and added up if need be.

    Parameters
    ----------
    values, indices : ndarray, shape (nnz,)
    pointers : ndarray, shape (n + 1,)
        From 0 to nnz.
    n_columns : int

    Returns
    -------
    csr_array, shape (n, n_columns)
        In canonical form.
    """
    dtype = index_dtype(n_columns, len(values))
    # The constructor would look through the indices once more.
    block = csr_array((len(pointers) - 1, n_columns), dtype=values.dtype)
    block.data = values
    block.indices = indices.astype(dtype, copy=False)
    block.indptr = pointers.astype(dtype, copy=False)
    if not block.has_canonical_format:
        block.sum_duplicates()
    return block


def index_dtype(n_columns: int, nnz: int) -> np.dtype[Any]:
    """Choose the narrowest dtype in which SciPy takes columns and pointers."""
    return np.dtype(np.int32 if max(n_columns, nnz) < 2**31 else np.int64)
