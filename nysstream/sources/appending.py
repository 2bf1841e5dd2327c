"""Append rows to a store that grows while others read it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import zarr

from nysstream.errors import InputError
from nysstream.sources.continuing import MARK
from nysstream.sources.layout import Layout
from nysstream.sources.locking import sole_writer
from nysstream.sources.targets import locate, open_arrays
from nysstream.sources.writing import RowWriter

if TYPE_CHECKING:
    import os
    from contextlib import ExitStack

    from zarr.abc.store import Store

    from nysstream.sources.continuing import Continued


class RowAppender(RowWriter):
    """Append rows to an array or group that :class:`RowWriter` wrote.

    Readers see the new rows when the ``with`` block ends and ``committed_rows`` is published; if it
    ends with an exception, or the process is killed, the store reads as before, and the next appender
    writes over what was left. A second appender is refused while one is at work.

    Parameters
    ----------
    target : str, pathlib.Path or zarr.abc.store.Store
        The array or group. Layouts, chunks and codecs are those it has.
    start : int, optional
        Write after so many rows, by whoever keeps other writers out. By default after the committed
        ones, and other writers are kept out.
    continued : Continued, optional
        What earlier runs of the job have appended; this one goes on after it, and notes its own.

    Attributes
    ----------
    rows_appended : int
        Rows in all, those found included.

    Raises
    ------
    InputError
        If the store does not publish ``committed_rows`` or its chunks are not runs of whole rows,
        alike in all arrays.
    SourceError
        If the store cannot be opened or written, or another process is appending to it.
    CheckpointError
        On entry, if others have appended since the job began.

    Notes
    -----
    Cost: reads and rewrites the last chunk of each array if it is not full. Readers of that chunk
    find the old rows in it at any time.
    """

    def __init__(
        self,
        target: str | os.PathLike[str] | Store,
        *,
        start: int | None = None,
        continued: Continued | None = None,
    ) -> None:
        name, place = locate(target)
        arrays, _ = open_arrays(name, place)
        layouts = {key: _layout(array) for key, array in arrays.items()}
        chunk_rows = {array.chunks[0] for array in arrays.values()}
        if len(chunk_rows) != 1 or any(_splits_rows(array) for array in arrays.values()):
            message = f"{name}: chunks must be runs of whole rows, alike in all arrays; convert it first"
            raise InputError(message)
        super().__init__(
            target,
            layouts.get("", layouts),
            chunk_rows=chunk_rows.pop(),
            start=start,
            continued=continued,
        )

    def _enter_place(self, stack: ExitStack) -> tuple[Store | Path, int | None]:
        if self._start is None:
            stack.enter_context(sole_writer(self.name, self._place))
        # What another process committed meanwhile counts.
        self._arrays, committed = open_arrays(self.name, self._place)
        if self._start is not None:
            return self._place, self._start
        node: Any = self._arrays.get("")
        if node is None:
            node = zarr.open_group(self._place, mode="r+", use_consolidated=False)
        return self._place, begin_after(self.name, node, committed, self._continued)

    def _finish(self) -> None:
        super()._finish()
        if self._continued is not None:
            self._continued.finish()


def begin_after(
    name: str, node: zarr.Array[Any] | zarr.Group, committed: int, continued: Continued | None
) -> int:
    """Say in a store who writes to it from now on, and give the rows to write after."""
    last = node.attrs.get(MARK)
    n_rows = committed if continued is None else continued.begin_after(name, last, committed)
    mark: dict[str, Any] = {MARK: None} if continued is None else continued.mark
    if last != mark[MARK]:
        node.update_attributes(mark)
    return n_rows


def _layout(array: zarr.Array[Any]) -> Layout:
    columns: Any = array.attrs.get("columns", ())
    vector = array.ndim == 1
    return Layout(1 if vector else array.shape[1], array.dtype, vector=vector, columns=tuple(columns))


def _splits_rows(array: zarr.Array[Any]) -> bool:
    return array.shards is not None or array.ndim > 2 or array.chunks[1:] != array.shape[1:]
