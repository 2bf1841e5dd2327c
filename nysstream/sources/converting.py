"""Convert whatever holds rows to row-chunked Zarr, which streams fastest."""

from __future__ import annotations

import os
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from dask.utils import format_bytes
from zarr.abc.store import Store

from nysstream.errors import InputError
from nysstream.memory import ALLOWANCE, Budget, parse_memory, resident_bytes
from nysstream.sources.layout import Layout, default_chunk_rows, storable_dtype
from nysstream.sources.libsvm import LIBSVM
from nysstream.sources.sequential import SourceStream, open_stream
from nysstream.sources.shuffling import shuffled
from nysstream.sources.stream import check_finite
from nysstream.sources.writing import RowWriter, check_target, locate, write_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from numpy.typing import DTypeLike

    from nysstream.sources.stream import Blocks, RowStream

BLOCK_BYTES = 8 << 20
SPARSE_DENSITY = 0.05


@dataclass(frozen=True)
class Conversion:
    """What a conversion wrote.

    Attributes
    ----------
    target : str
        The group that was written.
    n_rows : int
        Rows of every array.
    layouts : dict of str to Layout
        Columns, dtype and column names of each array.
    chunk_rows : int
        Rows per chunk.
    """

    target: str
    n_rows: int
    layouts: dict[str, Layout]
    chunk_rows: int


def convert(
    source: Any,
    path: str | os.PathLike[str] | Store,
    *,
    name: str | None = None,
    target: Any = None,
    weight: Any = None,
    columns: Sequence[str] | None = None,
    format: str | None = None,
    rows: slice | None = None,
    dtype: DTypeLike | None = None,
    chunk_rows: int | None = None,
    codec: str = "blosc-lz4",
    checksum: bool = False,
    shuffle: int | None = None,
    dense: bool | None = None,
    overwrite: bool = False,
    memory: int | str = "1GiB",
    progress: Callable[[int, int | None], None] | None = None,
    **options: Any,
) -> Conversion:
    """Write rows as a Zarr group of row-chunked arrays ``x`` and, where given, ``y`` and ``weight``.

    Nothing appears at ``path`` before everything has been written; see :class:`RowWriter`.

    Parameters
    ----------
    source : str, path, array or RowSource, shape (n, p)
        CSV, Parquet or LIBSVM files (one, a directory or a glob of them), told by their suffix;
        anything that :func:`nysstream.open` opens; or anything that holds rows in memory or lazily.
    path : str, pathlib.Path or zarr.abc.store.Store
        Where the group goes.
    name : str, optional
        Which array of an HDF5 file or Zarr group is ``x``.
    target : optional
        Becomes ``y``: column names of a table, the name of another array of the same HDF5 file or
        Zarr group, or an array or :class:`RowSource` of n rows. Of LIBSVM the labels are ``y``.
    weight : optional
        Becomes ``weight``; given like ``target``.
    columns : sequence of str, optional
        Columns of a table that make ``x``; by default all that are neither target nor weight.
    format : {"csv", "parquet", "libsvm"}, optional
        Read files as this, whatever their suffix.
    rows : slice, optional
        Only this contiguous run of rows.
    dtype : dtype, optional
        Dtype of ``x``; by default as stored, float64 for text.
    chunk_rows, codec, checksum, overwrite
        As for :class:`RowWriter`.
    shuffle : int, optional
        Seed of a random order of the rows, which depends on the seed and the number of rows only.
        Needs as much disk beside ``path`` as the decoded rows take, for the time being.
    dense : bool, optional
        Whether sparse data may be written as dense rows. By default they may be if at least one
        entry in twenty is stored or if the dense rows fit in ``memory``.
    memory : int or str
        Limit on the memory of the whole process, rows that it holds already not counted.
    progress : callable, optional
        Called with the rows done and the rows in all (None if unknown) after every block.
    **options
        Passed to the reader of a file format: ``header`` and ``delimiter`` for CSV, ``n_features``
        and ``zero_based`` for LIBSVM; or to :func:`nysstream.open`.

    Returns
    -------
    Conversion
        What was written.

    Raises
    ------
    OutputExistsError
        If ``path`` is taken and ``overwrite`` is false, before any work.
    InputError
        If a value is missing, infinite or not a number; names the file, the column and the row.
    MemoryBudgetError
        If ``memory`` is too small.
    SourceError
        If something cannot be read or written.

    Notes
    -----
    Cost: one pass over the source (two readings of LIBSVM text), one writing; a shuffle writes and
    reads the rows once more. Memory does not grow with n.
    """
    check_target(path, overwrite=overwrite)
    limit = parse_memory(memory)
    if shuffle is not None and (isinstance(shuffle, bool) or shuffle < 0):
        message = f"shuffle={shuffle}: give a non-negative seed, or None to keep the order"
        raise InputError(message)
    settings = {"name": name, "target": target, "weight": weight, "columns": columns, "format": format}
    stream = open_stream(source, **settings, **options)
    start, stop = _run_of_rows(stream, rows)
    layouts = dict(stream.layouts)
    if dtype is not None:
        layouts["x"] = _with_dtype(stream, dtype)
    _refuse_sparse(stream, layouts["x"], limit, dense)
    n_rows = None if stop is None else stop - start
    if n_rows == 0:
        message = f"{stream.name} holds no rows to convert"
        raise InputError(message)
    block_rows, shuffle_bytes = _plan(stream, layouts, chunk_rows, limit, shuffle is not None)
    with ExitStack() as stack:
        writer = stack.enter_context(
            RowWriter(
                path,
                layouts,
                n_rows=n_rows,
                chunk_rows=chunk_rows,
                codec=codec,
                checksum=checksum,
                overwrite=overwrite,
            )
        )
        blocks = stack.enter_context(closing(_checked(stream, layouts, block_rows, start, stop)))
        if shuffle is not None:
            place = locate(path)[1]
            scratch = place.parent if isinstance(place, Path) else None
            blocks = stack.enter_context(
                closing(
                    shuffled(
                        blocks, layouts, shuffle, memory_bytes=shuffle_bytes, scratch=scratch, n_rows=n_rows
                    )
                )
            )
        for block in blocks:
            writer.append(**block)
            if progress is not None:
                progress(writer.rows_appended, n_rows)
        if writer.rows_appended == 0:
            message = f"{stream.name} holds no rows to convert"
            raise InputError(message)
    return Conversion(writer.name, writer.rows_appended, layouts, writer.chunk_rows)


def _run_of_rows(stream: RowStream, rows: slice | None) -> tuple[int, int | None]:
    if rows is None:
        return 0, stream.n_rows
    if rows.step not in (None, 1):
        message = f"rows={rows}: only contiguous runs (step 1) can be converted"
        raise InputError(message)
    if stream.n_rows is not None:
        start, stop, _ = rows.indices(stream.n_rows)
        return start, max(start, stop)
    start, end = rows.start or 0, rows.stop
    if start < 0 or (end is not None and end < start):
        message = f"rows={rows}: {stream.name} does not tell its number of rows; count from the first"
        raise InputError(message)
    return start, None if end is None else end


def _with_dtype(stream: RowStream, dtype: DTypeLike) -> Layout:
    layout = stream.layouts["x"]
    wanted = storable_dtype(dtype)
    if not np.can_cast(layout.dtype, wanted, "same_kind"):
        message = f"{stream.name}: {layout.dtype} values do not fit {wanted}; choose a floating dtype"
        raise InputError(message)
    return replace(layout, dtype=wanted)


def _refuse_sparse(stream: RowStream, layout: Layout, limit: int, dense: bool | None) -> None:
    if isinstance(stream, LIBSVM):
        density = stream.density
    elif isinstance(stream, SourceStream) and stream.sources["x"].sparse:
        first: Any = stream.sources["x"].read(slice(0, min(1000, stream.n_rows or 0)))
        density = first.nnz / max(1, first.shape[0] * first.shape[1])
    else:
        return
    size = (stream.n_rows or 0) * layout.row_bytes
    if dense or (dense is None and (density is None or density >= SPARSE_DENSITY or size <= limit)):
        return
    message = (
        f"{stream.name}: {density or 0:.2%} of the entries are stored, and dense rows would take "
        f"{format_bytes(size)} before compression; a sparse layout is not written yet. Pass dense=True "
        "to write dense rows all the same (zeros compress well), or solve from a CSR matrix in memory"
    )
    raise InputError(message)


def _plan(
    stream: RowStream, layouts: dict[str, Layout], chunk_rows: int | None, limit: int, shuffle: bool
) -> tuple[int, int]:
    """Choose the rows of a block and the bytes of a shuffle within the memory limit."""
    row_bytes = sum(layout.row_bytes for layout in layouts.values())
    read_bytes = sum(layout.row_bytes for layout in stream.layouts.values())
    chunk = (chunk_rows or default_chunk_rows(layouts)) * row_bytes
    block_rows = max(1, BLOCK_BYTES // read_bytes)
    # Larger stored chunks are decoded once a block rather than held whole.
    if stream.chunk_rows * read_bytes <= 8 * BLOCK_BYTES:
        block_rows = stream.chunk_rows * max(1, block_rows // stream.chunk_rows)
    needs = {
        "process": max(0, resident_bytes() - stream.resident_bytes) + ALLOWANCE,
        "chunks being written": (2 * write_threads() + 2) * chunk,
        "blocks being read": block_rows * (2 * read_bytes + row_bytes),
        "decoding": stream.scratch_bytes,
        "shuffle": max(16 << 20, 64 * row_bytes) if shuffle else 0,
    }
    budget = Budget(limit, needs, knob="lower chunk_rows")
    budget.check()
    return block_rows, needs["shuffle"] + budget.spare


def _checked(
    stream: RowStream, layouts: dict[str, Layout], block_rows: int, start: int, stop: int | None
) -> Generator[Blocks]:
    """Yield the rows ``start:stop`` in the dtypes to be stored, all of them finite."""
    first = 0
    for block in stream.blocks(block_rows):
        n = len(block["x"])
        run = slice(max(0, start - first), n if stop is None else max(0, min(n, stop - first)))
        if run.start < run.stop:
            with np.errstate(over="ignore"):  # an overflow turns into infinity, which is reported
                cast = {
                    name: rows[run].astype(layouts[name].dtype, copy=False) for name, rows in block.items()
                }
            check_finite(stream, cast, first + run.start)
            yield cast
        first += n
        if stop is not None and first >= stop:
            return
