"""Groups that hold a sparse matrix, in the layout of AnnData: how to tell one, and what it declares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.errors import InputError, SourceError

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Attributes that say what a group holds, besides its ``shape``.
ENCODING, VERSION = "encoding-type", "0.1.0"
#: The arrays of a group: values, their columns, and where each row begins.
PARTS = ("data", "indices", "indptr")


class SparseGroup(InputError):
    """A group was asked for by name that is a sparse matrix rather than an array.

    Parameters
    ----------
    path : str
        The group within its store.
    attributes : mapping
        What it says of itself.
    committed : object
        ``committed_rows`` of the group or of one above it; None where nothing is published.
    where : str
        How messages call it.
    """

    def __init__(self, path: str, attributes: Mapping[str, Any], committed: Any, where: str) -> None:
        super().__init__(f"{where} is a sparse matrix, not an array; open it with nysstream.open")
        self.path, self.attributes, self.committed, self.where = path, attributes, committed, where


def sparse_encoding(attributes: Mapping[str, Any]) -> str | None:
    """Tell ``"csr_matrix"`` or ``"csc_matrix"`` from the attributes of a group; None of any other."""
    found: Any = attributes.get(ENCODING)
    text = found.decode(errors="replace") if isinstance(found, bytes) else found
    return text if isinstance(text, str) and text in ("csr_matrix", "csc_matrix") else None


def declared_shape(attributes: Mapping[str, Any], where: str) -> tuple[int, int]:
    """Read the shape that a group declares, which says nothing yet about what it holds.

    Raises
    ------
    InputError
        If the matrix is stored by columns.
    SourceError
        If there is no shape, or it is none of a matrix.
    """
    if sparse_encoding(attributes) == "csc_matrix":
        message = (
            f"{where} is stored by columns (csc_matrix), and rows are streamed: write it as CSR where it was "
            "made, with X.tocsr(), or save it by scipy.sparse.save_npz and run `nysstream convert` on that"
        )
        raise InputError(message)
    found: Any = attributes.get("shape")
    try:
        sides = np.asarray(found)
    except (ValueError, TypeError, OverflowError):  # of a nested list, say
        sides = np.zeros(0)
    whole = sides.dtype.kind in "iu" and sides.shape == (2,)
    shape = (int(sides[0]), int(sides[1])) if whole else (-1, -1)
    if not 0 <= min(shape) <= max(shape) < 2**62:
        shown = repr(found)[:80]
        message = (
            f"{where}: its attribute shape is {shown}; it should say how many rows and columns there are"
        )
        raise SourceError(message)
    return shape
