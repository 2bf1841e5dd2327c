"""Append sparse rows to a Zarr group that grows while others read it."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zarr

from nysstream.errors import InputError, SourceError
from nysstream.sources.appending import RowAppender, begin_after
from nysstream.sources.csr_groups import PARTS, declared_shape, sparse_encoding
from nysstream.sources.csr_writing import CSRWriter, inside
from nysstream.sources.layout import Layout
from nysstream.sources.locking import sole_writer
from nysstream.sources.targets import locate
from nysstream.sources.zarr_members import unfinished_ignored

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from nysstream.sources.continuing import Continued


class CSRAppender(CSRWriter):
    """Append sparse rows to a group that :class:`CSRWriter` wrote to Zarr.

    As with :class:`RowAppender`, readers see the new rows when the ``with`` block ends, and what a
    killed process left is written over by the next.

    Parameters
    ----------
    target : str or pathlib.Path
        The group that holds ``x``, and whatever goes with it.
    continued : Continued, optional
        As for :class:`RowAppender`.

    Raises
    ------
    InputError
        If there is no sparse ``x``, or it does not publish ``committed_rows``.
    SourceError
        If the store cannot be opened or written, or another process is appending to it.
    CheckpointError
        As for :class:`RowAppender`.
    """

    def __init__(self, target: str | os.PathLike[str], *, continued: Continued | None = None) -> None:
        name, place = locate(target)
        root = _root(name, place)
        x: Any = root["x"]
        with unfinished_ignored():
            arrays = dict(root.arrays())
        companions = {
            key: Layout(1 if array.ndim == 1 else array.shape[1], array.dtype, vector=array.ndim == 1)
            for key, array in arrays.items()
        }
        n_columns = declared_shape(dict(x.attrs), name)[1]
        super().__init__(target, Layout(n_columns, x["data"].dtype), companions, continued=continued)

    @contextmanager
    def _run(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(sole_writer(self.name, self._place))
            root = _root(self.name, self._place)
            x: Any = root["x"]
            # Entries of rows that were never committed are written over.
            committed: Any = root.attrs["committed_rows"]
            self.rows_appended = begin_after(self.name, root, committed, self._continued)
            self.nnz = int(x["indptr"][self.rows_appended])

            def publish() -> None:
                shape = [self.rows_appended, self.layout.n_columns]
                if self._continued is not None:
                    self._continued.complete(rows=self.rows_appended)
                x.update_attributes({"shape": shape, "committed_rows": self.rows_appended})
                root.update_attributes({"committed_rows": self.rows_appended})
                if self._continued is not None:
                    self._continued.finish()

            # Left in reverse: the arrays are finished first, and then this is said.
            stack.push(lambda kind, *_: publish() if kind is None else None)
            starts = {"x/data": self.nnz, "x/indices": self.nnz, "x/indptr": self.rows_appended + 1}
            starts |= dict.fromkeys(self.companions, self.rows_appended)
            place = self._place if isinstance(self._place, Path) else self._target
            self._arrays = {
                key: stack.enter_context(RowAppender(inside(place, key), start=start))
                for key, start in starts.items()
            }
            if self._continued is not None:
                stack.callback(self._note, self._continued, now=True)
            yield


def _root(name: str, place: Any) -> zarr.Group:
    """Open the group, of which a sparse ``x`` is a part."""
    try:
        root = zarr.open_group(place, mode="r+", use_consolidated=False)
        x = root.get("x")
    except Exception as error:
        message = f"cannot open {name} to append to it: {error}"
        raise SourceError(message) from error
    if not isinstance(x, zarr.Group) or not sparse_encoding(x.attrs) or set(PARTS) - set(x.array_keys()):
        message = f"{name} holds no sparse matrix x to append to"
        raise InputError(message)
    if not isinstance(root.attrs.get("committed_rows"), int):
        message = (
            f"{name} does not publish committed_rows, so which rows are complete is unknown; convert it first"
        )
        raise InputError(message)
    return root
