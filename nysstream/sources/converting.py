"""Convert whatever holds rows to row-chunked Zarr, which streams fastest; sparse rows stay sparse."""

from __future__ import annotations

import os
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from zarr.abc.store import Store

from nysstream.errors import InputError
from nysstream.journal import current_journal
from nysstream.memory import ALLOWANCE, Budget, parse_memory, resident_bytes
from nysstream.sources.continuing import continued, without_first
from nysstream.sources.csr_converting import as_sparse, write_sparse
from nysstream.sources.csr_hdf5 import is_hdf5_name
from nysstream.sources.layout import Layout, default_chunk_rows, storable_dtype
from nysstream.sources.libsvm import LIBSVM
from nysstream.sources.sequential import open_stream
from nysstream.sources.shuffling import shuffled
from nysstream.sources.stream import check_finite
from nysstream.sources.targets import check_target, locate
from nysstream.sources.writing import RowWriter, write_threads

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from numpy.typing import DTypeLike

    from nysstream.sources.continuing import Continued
    from nysstream.sources.stream import Blocks, RowStream

BLOCK_BYTES = 8 << 20


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
        Rows per chunk; where ``x`` is sparse, of everything else.
    nnz : int or None
        Entries of a sparse ``x``; None of a dense one.
    """

    target: str
    n_rows: int
    layouts: dict[str, Layout]
    chunk_rows: int
    nnz: int | None = None


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
    checksum: bool = True,
    shuffle: int | None = None,
    dense: bool | None = None,
    overwrite: bool = False,
    memory: int | str = "1GiB",
    progress: Callable[[int, int | None], None] | None = None,
    **options: Any,
) -> Conversion:
    """Write rows as a Zarr group of row-chunked arrays ``x`` and, where given, ``y`` and ``weight``.

    Rows that are sparse become a group ``x`` in AnnData's layout of CSR, which :func:`nysstream.open`
    reads. Nothing appears at ``path`` before everything has been written; see :class:`RowWriter`.

    Parameters
    ----------
    source : str, path, array or RowSource, shape (n, p)
        CSV, Parquet or LIBSVM files (one, a directory or a glob of them), told by their suffix; a
        ``.npz`` file of ``scipy.sparse.save_npz``; anything that :func:`nysstream.open` opens; or
        anything that holds rows in memory or lazily.
    path : str, pathlib.Path or zarr.abc.store.Store
        Where the group goes. Sparse rows also go to an HDF5 file, named ``*.h5``, ``*.hdf5`` or
        ``*.h5ad``.
    name : str, optional
        Which array of an HDF5 file or Zarr group is ``x``.
    target : optional
        Becomes ``y``: column names of a table, the name of another array of the same HDF5 file or
        Zarr group, or an array or :class:`RowSource` of n rows. Of LIBSVM the labels are ``y``.
    weight : optional
        Becomes ``weight``; given like ``target``.
    columns : sequence of str, optional
        Columns of a table that make ``x``; by default all that are neither target nor weight.
    format : {"csv", "parquet", "libsvm", "npz"}, optional
        Read files as this, whatever their suffix.
    rows : slice, optional
        Only this contiguous run of rows.
    dtype : dtype, optional
        Dtype of ``x``; by default as stored, float64 for text. Sparse rows of text become float32
        where that holds every value as it is.
    chunk_rows, codec, checksum, overwrite
        As for :class:`RowWriter`. Sparse rows have chunks of 1 MiB, and ``chunk_rows`` is about
        what goes with them.
    shuffle : int, optional
        Seed of a random order of the rows, which depends on the seed and the number of rows only.
        Needs as much disk beside ``path`` as the decoded rows take, for the time being.
    dense : bool, optional
        Whether sparse rows are written as dense ones. By default they stay sparse; LIBSVM text is
        sparse if fewer than one entry in twenty is given.
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
    reads the rows once more. Memory does not grow with n, except that a ``.npz`` file which is not
    stored by rows is ordered in memory.

    Within :func:`nysstream.checkpointing` a run that was cut short is gone on with: rows that were
    written are not written again, and of stored arrays not read again. Text, and rows to be
    shuffled, are read from the beginning.
    """
    if current_journal() is None:
        check_target(path, overwrite=overwrite)
    limit = parse_memory(memory)
    if shuffle is not None and (isinstance(shuffle, bool) or shuffle < 0):
        message = f"shuffle={shuffle}: give a non-negative seed, or None to keep the order"
        raise InputError(message)
    settings = {"name": name, "target": target, "weight": weight, "columns": columns, "format": format}
    stream = open_stream(source, **settings, memory_bytes=limit, **options)
    sparse = as_sparse(stream, dense)
    start, stop = _run_of_rows(stream, rows)
    layouts = dict(stream.layouts)
    if dtype is not None:
        layouts["x"] = _with_dtype(stream, dtype)
    n_rows = None if stop is None else stop - start
    if n_rows == 0:
        message = f"{stream.name} holds no rows to convert"
        raise InputError(message)
    writing: dict[str, Any] = {
        "chunk_rows": chunk_rows,
        "codec": codec,
        "checksum": checksum,
        "overwrite": overwrite,
    }
    if sparse is not None:
        if shuffle is not None:
            message = (
                f"{stream.name}: shuffle= reorders dense rows only; shuffle sparse ones where they are made, "
                "or pass dense=True"
            )
            raise InputError(message)
        if dtype is None and isinstance(stream, LIBSVM):
            stream.scan()
            layouts["x"] = replace(layouts["x"], dtype=np.dtype(np.float32 if stream.narrow else np.float64))
    elif not isinstance(path, Store) and is_hdf5_name(path):
        message = f"{os.fspath(path)}: dense rows are written as Zarr; choose another name, such as x.zarr"
        raise InputError(message)
    begun = _begun(stream, path, layouts, (start, stop), writing, shuffle=shuffle, sparse=sparse is not None)
    if begun is not None and begun.done:
        counts, name = begun.counts, locate(path)[0]
        return Conversion(name, counts["rows"], layouts, counts["chunk_rows"], counts.get("entries"))
    writing["continued"] = begun
    if sparse is not None:
        written = write_sparse(
            sparse, path, layouts, (start, stop), limit=limit, progress=progress, **writing
        )
        return Conversion(written.name, written.rows_appended, layouts, written.chunk_rows, written.nnz)
    block_rows, shuffle_bytes = plan_blocks(stream, layouts, chunk_rows, limit, shuffle is not None)
    with ExitStack() as stack:
        writer = stack.enter_context(RowWriter(path, layouts, n_rows=n_rows, **writing))
        done = 0 if begun is None else begun.rows
        first = start if shuffle is not None else start + done
        blocks = stack.enter_context(closing(checked_blocks(stream, layouts, block_rows, first, stop)))
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
        for block in blocks if shuffle is None else without_first(blocks, done):
            writer.append(**block)
            if progress is not None:
                progress(writer.rows_appended, n_rows)
        if writer.rows_appended == 0:
            message = f"{stream.name} holds no rows to convert"
            raise InputError(message)
    return Conversion(writer.name, writer.rows_appended, layouts, writer.chunk_rows)


def _begun(
    stream: RowStream,
    path: Any,
    layouts: dict[str, Layout],
    run: tuple[int, int | None],
    writing: dict[str, Any],
    **settings: Any,
) -> Continued | None:
    """Say how far an earlier run of the job has come, if it keeps a checkpoint."""
    if current_journal() is None:
        return None
    if not isinstance(path, Store) and is_hdf5_name(path):
        message = (
            f"{os.fspath(path)}: an HDF5 file cannot be gone on with after a crash: keep no checkpoint, or "
            "write Zarr"
        )
        raise InputError(message)
    arrays = {name: str(layout) for name, layout in layouts.items()}
    settings |= {key: value for key, value in writing.items() if key != "overwrite"}
    return continued(path, {"source": stream.fingerprint, "rows": list(run), "arrays": arrays, **settings})


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


def plan_blocks(
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


def checked_blocks(
    stream: RowStream, layouts: dict[str, Layout], block_rows: int, start: int, stop: int | None
) -> Generator[Blocks]:
    """Yield the rows ``start:stop`` in the dtypes to be stored, all of them finite."""
    first = stream.begin_at(start)
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
