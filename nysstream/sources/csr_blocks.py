"""How many sparse rows are worth handling together."""

from __future__ import annotations

#: Decoded bytes of the blocks into which passes cut rows, about.
BLOCK_BYTES = 8 << 20
#: The same where there are so many columns that a block of that size would hardly touch them.
WIDE_BLOCK_BYTES = 64 << 20
#: Entries of a block for every column.
_ENTRIES_PER_COLUMN = 4


def rows_together(shape: tuple[int, int], nnz: int, row_bytes: float, least: int = 0) -> int:
    """Count the rows that blocks should be whole multiples of.

    Each block costs products and sums as long as there are columns, however few of these its rows
    touch. So the entries of a block outnumber the columns, or the block takes 64 MiB.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns.
    nnz : int
        Stored entries.
    row_bytes : float
        Bytes of an average row.
    least : int
        Entries that a block should have in any case: those of a stored chunk.

    Returns
    -------
    int
        1 where blocks of 8 MiB will do, which may begin at any row.
    """
    n_rows, n_columns = shape
    if nnz == 0:
        return 1
    mean = nnz / n_rows
    wide = min(_ENTRIES_PER_COLUMN * n_columns / mean, WIDE_BLOCK_BYTES / row_bytes)
    rows = min(n_rows, int(max(wide, least / mean)))
    return max(1, rows) if rows * row_bytes > BLOCK_BYTES else 1
