"""Convert sparse rows without making them dense."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.errors import InputError
from nysstream.memory import ALLOWANCE, Budget, resident_bytes
from nysstream.sources.csr_streams import SparseStream, StoredRows
from nysstream.sources.csr_writing import CHUNK_BYTES, CHUNK_ROWS, CSRWriter
from nysstream.sources.libsvm import LIBSVM
from nysstream.sources.sequential import SourceStream
from nysstream.sources.stream import check_finite
from nysstream.sources.writing import write_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zarr.abc.store import Store

    from nysstream.sources.csr_streams import SparseBlock
    from nysstream.sources.layout import Layout
    from nysstream.sources.stream import RowStream

#: Text with fewer entries than one in twenty is written as sparse rows.
SPARSE_DENSITY = 0.05
#: Entries of a block being converted.
BLOCK_ENTRIES = 1 << 19


def as_sparse(stream: RowStream, dense: bool | None) -> SparseStream | None:
    """Give the stream whose rows are to be written as sparse ones; None if dense ones are wanted.

    Notes
    -----
    Cost: reads LIBSVM text through, where nothing else says how dense it is.
    """
    if dense:
        return None
    if isinstance(stream, LIBSVM):
        if dense is None:
            stream.scan()
        return stream if dense is False or (stream.density or 0.0) < SPARSE_DENSITY else None
    if isinstance(stream, SourceStream) and stream.sources["x"].sparse:
        return StoredRows(stream)
    return stream if isinstance(stream, SparseStream) else None


def write_sparse(
    stream: SparseStream,
    path: str | os.PathLike[str] | Store,
    layouts: dict[str, Layout],
    run: tuple[int, int | None],
    *,
    limit: int,
    chunk_rows: int | None,
    progress: Callable[[int, int | None], None] | None,
    **options: Any,
) -> CSRWriter:
    """Write the rows ``run`` of a stream as CSR, and what goes with them.

    Parameters
    ----------
    stream : SparseStream
    path : str or pathlib.Path
    layouts : dict of str to Layout
        Of ``x`` as it will be stored, and of its companions.
    run : tuple of (int, int or None)
        First and past-the-last row.
    limit : int
        Bytes of memory for the whole process.
    chunk_rows, progress
        As for :func:`convert`.
    **options
        For :class:`CSRWriter`.

    Returns
    -------
    CSRWriter
        Which says how much was written.

    Raises
    ------
    InputError
        If a value is not finite, or there are no rows.
    MemoryBudgetError
        If the limit is too small.
    """
    if layouts["x"].dtype == np.float16:
        message = "sparse rows in float16 are beyond SciPy: choose dtype float32, or pass dense=True"
        raise InputError(message)
    _check_memory(stream, layouts, chunk_rows or CHUNK_ROWS, limit)
    others = {name: layout for name, layout in layouts.items() if name != "x"}
    total = None if run[1] is None else run[1] - run[0]
    begun = options.get("continued")
    with CSRWriter(path, layouts["x"], others, chunk_rows=chunk_rows, **options) as writer:
        left = (run[0] + (begun.rows if begun is not None else 0), run[1])
        for x, companions in checked_sparse_blocks(stream, layouts, left):
            writer.append(x, **companions)
            if progress is not None:
                progress(writer.rows_appended, total)
        if writer.rows_appended == 0:
            message = f"{stream.name} holds no rows to convert"
            raise InputError(message)
    return writer


def _check_memory(stream: SparseStream, layouts: dict[str, Layout], chunk_rows: int, limit: int) -> None:
    companions = sum(layout.row_bytes for name, layout in layouts.items() if name != "x")
    entry = layouts["x"].dtype.itemsize + stream.layouts["x"].dtype.itemsize + 8
    needs = {
        "process": max(0, resident_bytes() - stream.resident_bytes) + ALLOWANCE,
        "chunks being written": (2 * write_threads() + 2) * (2 * CHUNK_BYTES + chunk_rows * (8 + companions)),
        "blocks being read": 3 * BLOCK_ENTRIES * entry + (BLOCK_ENTRIES >> 3) * companions,
        "decoding": stream.scratch_bytes,
    }
    Budget(limit, needs, knob="lower chunk_rows").check()


def checked_sparse_blocks(
    stream: SparseStream, layouts: dict[str, Layout], run: tuple[int, int | None]
) -> Iterator[SparseBlock]:
    """Yield the rows of a run in the dtypes to be stored, all of them finite."""
    start, stop = run
    first = stream.begin_at(start)
    for x, companions in stream.sparse_blocks(BLOCK_ENTRIES):
        n = x.shape[0]
        rows = slice(max(0, start - first), n if stop is None else max(0, min(n, stop - first)))
        if rows.start < rows.stop:
            with np.errstate(over="ignore"):  # an overflow turns into infinity, which is reported
                whole = (rows.start, rows.stop) == (0, n)
                part = (x if whole else x[rows]).astype(layouts["x"].dtype, copy=False)
                others = {
                    name: values[rows].astype(layouts[name].dtype, copy=False)
                    for name, values in companions.items()
                }
            _check_entries(stream, part, first + rows.start)
            check_finite(stream, others, first + rows.start)
            yield part, others
        first += n
        if stop is not None and first >= stop:
            return


def _check_entries(stream: SparseStream, x: Any, first_row: int) -> None:
    """Refuse NaN and infinity among the entries of sparse rows."""
    if x.dtype.kind != "f" or bool(np.isfinite(x.data).all()):
        return
    entry = int(np.argmin(np.isfinite(x.data)))
    row = int(np.searchsorted(x.indptr, entry, side="right")) - 1
    message = (
        f"{stream.where(first_row + row)}: column {x.indices[entry]} of x is {x.data[entry]} as {x.dtype}. "
        "Fill or drop such rows, leave the column out, or choose a wider dtype if it overflowed"
    )
    raise InputError(message)
