"""Named blocks of rows that can only be read in order, such as those of a text file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from nysstream.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from nysstream.sources.layout import Layout

    Blocks: TypeAlias = dict[str, NDArray[Any]]


class RowStream(ABC):
    """Rows of a matrix ``x``, and perhaps of ``y`` and ``weight``, read once from first to last.

    Attributes
    ----------
    name : str
        How messages call the stream.
    layouts : dict of str to Layout
        Columns, dtype and column names of each array: ``"x"``, and maybe ``"y"`` and ``"weight"``.
    n_rows : int or None
        Number of rows, where it is known without reading them.
    chunk_rows : int
        Rows per stored chunk: blocks of whole multiples of it decode nothing twice.
    scratch_bytes : int
        Memory that reading takes beside the blocks it gives.
    resident_bytes : int
        Memory that the rows take already, because the caller holds them.
    """

    name: str
    layouts: dict[str, Layout]
    n_rows: int | None = None
    chunk_rows: int = 1
    scratch_bytes: int = 0
    resident_bytes: int = 0

    @abstractmethod
    def blocks(self, block_rows: int) -> Iterator[Blocks]:
        """Yield the rows in order, at most ``block_rows`` at a time.

        Yields
        ------
        dict of str to ndarray, shape (n, n_columns) or (n,)
            One entry for each layout. Valid until the next block is asked for.
        """

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digest of the metadata and of samples: the identity of the rows.

        Raises
        ------
        InputError
            If the stream cannot tell.
        """
        message = f"{self.name} cannot tell whether its rows are those of an earlier run: keep no checkpoint"
        raise InputError(message)

    def begin_at(self, row: int) -> int:
        """Leave out the rows before this one, as far as that spares reading them.

        Returns
        -------
        int
            The row with which blocks begin from now on; 0 if all have to be read.
        """
        return 0

    def where(self, row: int) -> str:
        """Say where a row, counted from 0 in the stream, comes from."""
        return f"row {row} of {self.name}"


def check_finite(stream: RowStream, blocks: Mapping[str, NDArray[Any]], first_row: int) -> None:
    """Refuse NaN and infinity.

    Parameters
    ----------
    stream : RowStream
        Where the blocks come from.
    blocks : mapping of str to ndarray, shape (n, n_columns) or (n,)
        Rows of each array, in the dtype in which they will be stored.
    first_row : int
        Index in the stream of the first of these rows.

    Raises
    ------
    InputError
        Names the column, the row and what to do.
    """
    for name, block in blocks.items():
        if block.dtype.kind != "f":
            continue
        # A sum costs no temporary array, and only a non-finite or enormous one calls for a look.
        with np.errstate(all="ignore"):
            if np.isfinite(block.sum()):
                continue
        bad = np.argwhere(~np.isfinite(block))
        if not bad.size:
            continue
        row, column = int(bad[0, 0]), int(bad[0, 1]) if block.ndim == 2 else 0
        names = stream.layouts[name].columns
        label = repr(names[column]) if names else f"{column} of {name}"
        value = block[row, column] if block.ndim == 2 else block[row]
        message = (
            f"{stream.where(first_row + row)}: column {label} is {value} as {block.dtype}. "
            "Fill or drop such rows, leave the column out, or choose a wider dtype if it overflowed"
        )
        raise InputError(message)
