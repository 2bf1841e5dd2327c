"""Write sparse rows as CSR: three arrays in a group, to Zarr or to HDF5, beside their targets and weights."""

from __future__ import annotations

import os
from collections import deque
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
import zarr
from zarr.abc.store import Store

from nysstream.errors import InputError, SourceError
from nysstream.sources.continuing import entered
from nysstream.sources.csr_checking import index_dtype
from nysstream.sources.csr_groups import ENCODING, PARTS, VERSION
from nysstream.sources.csr_hdf5 import HDF5File, is_hdf5_name
from nysstream.sources.layout import Layout
from nysstream.sources.locations import checked_location
from nysstream.sources.targets import locate
from nysstream.sources.writing import RowWriter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import ArrayLike
    from scipy.sparse import csr_array

    from nysstream.sources.continuing import Continued

#: Decoded bytes of a chunk of values or columns. Blocks begin where rows do, which is not where
#: chunks do, so the chunk at each end of a block is decoded twice: many chunks make a block.
CHUNK_BYTES = 1 << 20
CHUNK_ROWS = 1 << 15


class Appendable(Protocol):
    """A vector or matrix that grows."""

    def append(self, block: ArrayLike, /) -> None:
        """Add rows at the end."""


class CSRWriter(AbstractContextManager["CSRWriter"]):
    """Write sparse rows, block by block, as a group ``x`` in AnnData's layout, and ``y`` and ``weight``.

    On a local disk everything is written aside and renamed when the ``with`` block ends; if it ends
    with an exception nothing is left. At a URL ``committed_rows``, published last, says what can be
    read.

    Parameters
    ----------
    target : str or pathlib.Path
        Local path or URL of a Zarr group, or path of an HDF5 file, told by its suffix.
    layout : Layout
        Columns and dtype of the values of ``x``.
    companions : mapping of str to Layout
        Dense arrays with the same rows, such as ``y``.
    chunk_entries, chunk_rows : int, optional
        Entries per chunk of ``data`` and ``indices``, 1 MiB worth by default; and rows per chunk of
        ``indptr`` and of the companions.
    codec : str
        As for :class:`RowWriter`. HDF5 has LZF with shuffling for ``"blosc-lz4"``, and no zstd.
    checksum, overwrite, continued
        As for :class:`RowWriter`. HDF5 files are not gone on with.

    Raises
    ------
    OutputExistsError
        On entry, if the target exists and ``overwrite`` is false.
    SourceError
        If something cannot be written.
    InputError
        If blocks do not fit the layouts or each other.

    Notes
    -----
    Cost: at most five chunks of every array in memory.
    """

    def __init__(
        self,
        target: str | os.PathLike[str] | Store,
        layout: Layout,
        companions: Mapping[str, Layout] | None = None,
        *,
        chunk_entries: int | None = None,
        chunk_rows: int | None = None,
        codec: str = "blosc-lz4",
        checksum: bool = False,
        overwrite: bool = False,
        continued: Continued | None = None,
    ) -> None:
        if isinstance(target, Store):
            message = f"sparse rows are written to a path or a URL, not to a {type(target).__name__}"
            raise InputError(message)
        self.name, self._place = locate(target)
        self._target = checked_location(target).rstrip("/")
        self.layout, self.companions = layout, dict(companions or {})
        self.chunk_rows = chunk_rows or CHUNK_ROWS
        self._chunk_entries = chunk_entries
        self._options: dict[str, Any] = {"codec": codec, "checksum": checksum}
        self._overwrite, self._continued = overwrite, continued
        self.rows_appended = self.nnz = 0
        #: Ends of blocks that may not be written yet: rows and entries.
        self._ends: deque[tuple[int, int]] = deque()

    def __enter__(self) -> Self:
        self._session = self._run()
        self._session.__enter__()
        return self

    def __exit__(self, *exc_info: Any) -> bool | None:
        return self._session.__exit__(*exc_info)

    def append(self, x: csr_array, /, **companions: ArrayLike) -> None:
        """Append rows of ``x`` and of everything that goes with it.

        Parameters
        ----------
        x : csr_array, shape (m, n_columns)
            In canonical form.
        **companions : array_like, shape (m, n_columns) or (m,)
        """
        if companions.keys() != self.companions.keys():
            message = f"{self.name}: append takes x and {sorted(self.companions)}, not {sorted(companions)}"
            raise InputError(message)
        if x.shape[1] != self.layout.n_columns or any(len(c) != x.shape[0] for c in companions.values()):  # type: ignore[arg-type]
            message = (
                f"{self.name}: a block of shape {x.shape} does not fit {self.layout} or what goes with it"
            )
            raise InputError(message)
        self._arrays["x/data"].append(x.data)
        self._arrays["x/indices"].append(x.indices.astype(self._index_dtype, copy=False))
        self._arrays["x/indptr"].append(x.indptr[1:].astype(np.int64) + self.nnz)
        for name, rows in companions.items():
            self._arrays[name].append(rows)
        self.rows_appended += x.shape[0]
        self.nnz += x.nnz
        if self._continued is not None:
            self._ends.append((self.rows_appended, self.nnz))
            self._note(self._continued)

    def _note(self, continued: Continued, *, now: bool = False) -> None:
        """Note the last block of which every part is written."""
        arrays: dict[str, Any] = dict(self._arrays)
        written = {name: array.rows_written for name, array in arrays.items()}
        entries = min(written.pop("x/data"), written.pop("x/indices"))
        rows = min(written.pop("x/indptr") - 1, *written.values(), self.rows_appended)
        counts = continued.counts
        while self._ends and self._ends[0][0] <= rows and self._ends[0][1] <= entries:
            end = self._ends.popleft()
            counts = {"rows": end[0], "entries": end[1]}
        continued.note(now=now, **counts)

    @property
    def _index_dtype(self) -> np.dtype[Any]:
        return index_dtype(self.layout.n_columns, 0)

    def _layouts(self) -> dict[str, tuple[Layout, int]]:
        """Give the layout and the rows per chunk of every array."""
        values = Layout(1, self.layout.dtype, vector=True)
        indices = Layout(1, self._index_dtype, vector=True)
        entries = self._chunk_entries or CHUNK_BYTES // max(values.row_bytes, indices.row_bytes)
        return {
            "x/data": (values, entries),
            "x/indices": (indices, entries),
            "x/indptr": (Layout(1, np.dtype(np.int64), vector=True), self.chunk_rows),
            **{name: (layout, self.chunk_rows) for name, layout in self.companions.items()},
        }

    @contextmanager
    def _run(self) -> Iterator[None]:
        with ExitStack() as stack:
            attributes = self._hdf5(stack) if is_hdf5_name(self._target) else self._zarr(stack)
            if self.rows_appended == 0:
                self._arrays["x/indptr"].append(np.zeros(1, np.int64))
            yield
            attributes.update(
                {
                    ENCODING: "csr_matrix",
                    "encoding-version": VERSION,
                    "shape": [self.rows_appended, self.layout.n_columns],
                    "committed_rows": self.rows_appended,
                }
            )

    def _hdf5(self, stack: ExitStack) -> dict[str, Any]:
        if not isinstance(self._place, Path):
            message = f"{self.name}: HDF5 is written to local disks; choose a local path, or Zarr"
            raise SourceError(message)
        file = stack.enter_context(HDF5File(self._place, overwrite=self._overwrite))
        self._arrays: dict[str, Appendable] = {
            name: file.create(name, layout, chunk_rows=rows, **self._options)
            for name, (layout, rows) in self._layouts().items()
        }
        return file.attributes("x")

    def _zarr(self, stack: ExitStack) -> dict[str, Any]:
        attributes: dict[str, Any] = {}
        place, there = entered(
            stack, self.name, self._place, overwrite=self._overwrite, continued=self._continued
        )
        root = place if isinstance(place, Path) else self._target
        if there is not None and self._continued is not None:
            self.rows_appended, self.nnz = there, self._continued.counts["entries"]
            group = zarr.open_group(place, mode="r+", use_consolidated=False)
            x: Any = group["x"]
        else:
            mark = {} if self._continued is None else self._continued.mark
            group = zarr.create_group(
                place, zarr_format=3, overwrite=True, attributes={"committed_rows": 0, **mark}
            )
            unread = {ENCODING: "csr_matrix", "committed_rows": 0, "shape": [0, 0]}
            x = group.create_group("x", attributes=unread)

        def publish() -> None:
            if self._continued is not None:
                self._continued.complete(
                    rows=self.rows_appended, entries=self.nnz, chunk_rows=self.chunk_rows
                )
            x.update_attributes(attributes)
            group.update_attributes({"committed_rows": self.rows_appended})

        # Left in reverse: the arrays are finished first, and then this is said.
        stack.push(lambda kind, *_: publish() if kind is None else None)
        starts = {"x/data": self.nnz, "x/indices": self.nnz}
        if self.rows_appended:
            starts["x/indptr"] = self.rows_appended + 1
        self._arrays = {
            name: stack.enter_context(
                RowWriter(
                    inside(root, name),
                    layout,
                    chunk_rows=rows,
                    **self._options,
                    overwrite=True,
                    start=starts.get(name, self.rows_appended),
                )
            )
            for name, (layout, rows) in self._layouts().items()
        }
        if self._continued is not None:
            stack.callback(self._note, self._continued, now=True)
        assert tuple(self._arrays)[:3] == tuple(f"x/{part}" for part in PARTS)
        return attributes


def inside(root: str | Path, name: str) -> str | Path:
    """Name a member of a group."""
    return root / name if isinstance(root, Path) else f"{root}/{name}"
