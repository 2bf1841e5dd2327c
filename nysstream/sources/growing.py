"""Add rows from anywhere at the end of a store, while others read it."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from nysstream.errors import InputError, SourceError
from nysstream.journal import current_journal
from nysstream.memory import parse_memory
from nysstream.sources.appending import RowAppender
from nysstream.sources.checking import reason
from nysstream.sources.continuing import continued
from nysstream.sources.converting import checked_blocks, plan_blocks
from nysstream.sources.csr_appending import CSRAppender
from nysstream.sources.csr_converting import as_sparse, checked_sparse_blocks
from nysstream.sources.csr_groups import SparseGroup, declared_shape, sparse_encoding
from nysstream.sources.hdf5 import HDF5Source
from nysstream.sources.locations import checked_location
from nysstream.sources.opening import open as open_source
from nysstream.sources.sequential import open_stream
from nysstream.sources.targets import locate
from nysstream.sources.zarr import ZarrSource
from nysstream.sources.zarr_members import committed_rows, find_array
from nysstream.sources.zarr_store import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from zarr.abc.store import Store

    from nysstream.sources.continuing import Continued
    from nysstream.sources.layout import Layout
    from nysstream.sources.stream import RowStream


@dataclass(frozen=True)
class Growth:
    """What an append wrote.

    Attributes
    ----------
    target : str
        The store.
    n_rows : int
        Its rows now.
    n_new : int
        Rows that were added.
    """

    target: str
    n_rows: int
    n_new: int


def append(
    store: str | os.PathLike[str] | Store,
    X: Any,
    y: Any = None,
    weight: Any = None,
    *,
    name: str | None = None,
    columns: Sequence[str] | None = None,
    format: str | None = None,
    memory: int | str = "1GiB",
    progress: Callable[[int, int | None], None] | None = None,
    **options: Any,
) -> Growth:
    """Append rows to a Zarr store that :func:`convert` wrote.

    Readers see the old rows until all new ones are written and ``committed_rows`` is published. If the
    process is killed before, they go on seeing the old rows, and the next append writes over the rest.

    Parameters
    ----------
    store : str, pathlib.Path or zarr.abc.store.Store
        Its arrays are ``x``, and ``y`` and ``weight`` where it has them; or it is a single array.
    X : str, path, array or RowSource, shape (k, p)
        New rows: whatever :func:`convert` takes.
    y, weight : optional
        What goes with them, given as ``target`` and ``weight`` of :func:`convert`. There must be one of
        each if the store has it, and none otherwise.
    name, columns, format
        As for :func:`convert`, about ``X``.
    memory : int or str
        Limit on the memory of the whole process, rows that it holds already not counted.
    progress : callable, optional
        Called with the rows done and the rows in all (None if unknown) after every block.
    **options
        As for :func:`convert`.

    Returns
    -------
    Growth

    Raises
    ------
    InputError
        If the rows do not fit the arrays of the store, or a value is missing or infinite.
    MemoryBudgetError
        If ``memory`` is too small.
    SourceError
        If something cannot be read or written, or another process is appending to the store.
    CheckpointError
        If the run goes on from a checkpoint of other rows, or others have appended in between.

    Notes
    -----
    Cost: the new rows are read and written once, and the last chunk of each array is rewritten if it
    is not full.

    Within :func:`nysstream.checkpointing` the rows are appended once, however often the run is cut short
    and gone on with: rows that were written are not written again, and of stored arrays not read again. An
    append that is done is not repeated, whatever others have appended since.
    """
    limit = parse_memory(memory)
    given = {"name": name, "target": y, "weight": weight, "columns": columns, "format": format}
    sparse = _is_sparse(store)
    stream = open_stream(X, **given, memory_bytes=limit, **options)
    begun = _begun(store, stream)
    if begun is not None and begun.done:
        return Growth(locate(store)[0], begun.rows, begun.rows - begun.counts["before"])
    if sparse:
        return _append_sparse(store, stream, begun, progress)
    appender = RowAppender(store, continued=begun)
    layouts = _matched(stream, appender.layouts, appender.name)
    block_rows, _ = plan_blocks(stream, layouts, appender.chunk_rows, limit, shuffle=False)
    with appender:
        before, done = _start(appender, begun)
        with closing(checked_blocks(stream, layouts, block_rows, done, stream.n_rows)) as blocks:
            for block in blocks:
                appender.append(**block) if "" not in appender.layouts else appender.append(block["x"])
                _tell(progress, appender.rows_appended - before, stream)
    return Growth(appender.name, appender.rows_appended, appender.rows_appended - before)


def _begun(store: Any, stream: RowStream) -> Continued | None:
    """Say how far an earlier run of the job has come, if it keeps a checkpoint."""
    if current_journal() is None:
        return None
    arrays = {name: str(layout) for name, layout in stream.layouts.items()}
    return continued(store, {"source": stream.fingerprint, "arrays": arrays}, in_place=True)


def _start(appender: RowAppender | CSRAppender, begun: Continued | None) -> tuple[int, int]:
    """Count the rows that the store had before, and those of the new ones that it has."""
    before = appender.rows_appended if begun is None else begun.counts["before"]
    return before, appender.rows_appended - before


def _append_sparse(
    store: Any,
    stream: RowStream,
    begun: Continued | None,
    progress: Callable[[int, int | None], None] | None,
) -> Growth:
    appender = CSRAppender(store, continued=begun)
    rows = as_sparse(stream, dense=False)
    if rows is None:
        message = (
            f"{appender.name} holds sparse rows, and those of {stream.name} are dense: pass a CSR matrix"
        )
        raise InputError(message)
    layouts = _matched(stream, {"x": appender.layout, **appender.companions}, appender.name)
    with appender:
        before, done = _start(appender, begun)
        for x, companions in checked_sparse_blocks(rows, layouts, (done, stream.n_rows)):
            appender.append(x, **companions)
            _tell(progress, appender.rows_appended - before, stream)
    return Growth(appender.name, appender.rows_appended, appender.rows_appended - before)


def _tell(progress: Callable[[int, int | None], None] | None, done: int, stream: RowStream) -> None:
    if progress is not None:
        progress(done, stream.n_rows)


def _is_sparse(store: Any) -> bool:
    """Whether the store's x is a sparse matrix."""
    name, place = locate(store)
    try:
        node = zarr.open(place, mode="r")
        x = node.get("x") if isinstance(node, zarr.Group) else None
    except FileNotFoundError as error:
        message = (
            f"{name} holds no Zarr array or group to append to: write it first, with `nysstream convert`"
        )
        raise SourceError(message) from error
    except Exception as error:  # each kind of damage has errors of its own
        message = f"cannot open {name} to append to it: {reason(error)}"
        raise SourceError(message) from error
    return isinstance(x, zarr.Group) and sparse_encoding(x.attrs) is not None


def _matched(stream: RowStream, stored: Mapping[str, Layout], name: str) -> dict[str, Layout]:
    """Give the layouts that new rows are to be written in, if they fit.

    Raises
    ------
    InputError
        Says which array does not fit, and how.
    """
    layouts = {"x": stored[""]} if "" in stored else dict(stored)
    new = stream.layouts
    for key in layouts.keys() ^ new.keys():
        if key in new:
            message = f"{name} has no array {key} to append {key} to; its arrays are: {', '.join(layouts)}"
        else:
            message = f"{name} has an array {key}: give the {key} of the new rows of {stream.name} too"
        raise InputError(message)
    for key, layout in layouts.items():
        if new[key].n_columns != layout.n_columns:
            message = (
                f"{key} of {stream.name} has {new[key].n_columns} columns, {name} has {layout.n_columns}"
            )
            raise InputError(message)
        if layout.columns and new[key].columns and layout.columns != new[key].columns:
            theirs, ours = new[key].columns, layout.columns
            i = next(i for i in range(len(ours)) if ours[i] != theirs[i])
            message = f"column {i} of {key} is {theirs[i]!r} in {stream.name}, and {ours[i]!r} in {name}"
            raise InputError(message)
        if not np.can_cast(new[key].dtype, layout.dtype, "same_kind"):
            message = f"{key} of {stream.name}: {new[key].dtype} values do not fit the store's {layout.dtype}"
            raise InputError(message)
    return layouts


def count_rows(url: str, name: str | None = None) -> int:
    """Count the rows that can be read of an array, of a store that may be growing.

    Notes
    -----
    Cost: metadata only, where :func:`nysstream.open` looks for every chunk.
    """
    location = checked_location(url)
    if ZarrSource.accepts_url(location) and not HDF5Source.accepts_url(location):
        try:
            array = find_array(open_store(location), name, location)
        except SparseGroup as found:
            n_rows = declared_shape(found.attributes, found.where)[0]
            return n_rows if found.committed is None else min(n_rows, int(found.committed))
        committed = committed_rows(array, location)
        return array.shape[0] if committed is None else committed
    return open_source(location, name, missing_chunks="fill").shape[0]
