"""Write rows as Zarr arrays whose chunks are runs of whole rows."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec
from zarr.core.sync import sync

from nysstream.errors import InputError, NysstreamError, SourceError
from nysstream.sources.continuing import entered
from nysstream.sources.layout import Layout, default_chunk_rows
from nysstream.sources.remote import advice_on, explained
from nysstream.sources.targets import locate, open_arrays

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from concurrent.futures import Future

    from numpy.typing import ArrayLike, NDArray
    from zarr.abc.codec import BytesBytesCodec

    from nysstream.sources.continuing import Continued

    Buffers: TypeAlias = dict[str, NDArray[Any]]

CODECS = ("blosc-lz4", "zstd", "gzip", "none")
MAX_THREADS = 4


class RowWriter(AbstractContextManager["RowWriter"]):
    """Write rows, block by block, to a Zarr array or to a group of arrays with the same rows.

    On a local disk everything is written aside, as ``.<name>.partial-<random>``, and renamed when
    the ``with`` block ends; if it ends with an exception nothing is left. A store or a URL is
    written directly and becomes readable when ``committed_rows``, published last, says so.

    Parameters
    ----------
    target : str, pathlib.Path or zarr.abc.store.Store
        Local path, URL, or Zarr store.
    arrays : Layout or mapping of str to Layout
        One layout writes a single array at ``target``; a mapping writes a group of named arrays.
    n_rows : int, optional
        Number of rows, if known; the arrays grow as needed otherwise.
    chunk_rows : int, optional
        Rows per chunk. By default a chunk of the widest array takes 4 MiB, and fewer rows than
        that make a single chunk: choose it for a store that will grow.
    codec : {"blosc-lz4", "zstd", "gzip", "none"}
        Compression. Blosc LZ4 with bit shuffling decodes at memory speed; zstd and gzip are
        smaller and slower.
    checksum : bool
        Whether to append a CRC32C checksum to every chunk.
    overwrite : bool
        Replace an existing target. A local one is replaced at the very end and only on success; a
        store or URL is cleared at the start.
    attributes : mapping, optional
        JSON attributes of the array or group, beside ``committed_rows``.
    continued : Continued, optional
        What earlier runs of the job have written; this one goes on after it, and notes its own.
    start : int, optional
        Write in place, after so many rows, by whoever keeps other writers out and makes the whole
        appear in the end; 0 makes the arrays.

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
    Cost: at most five chunks of every array in memory and four encoded ones. Empty chunks are
    stored, so that an absent chunk is always an error.

    Examples
    --------
    >>> with RowWriter("flights.zarr", {"x": Layout(100, np.dtype("f4"))}) as writer:  # doctest: +SKIP
    ...     for block in blocks:
    ...         writer.append(x=block)
    """

    def __init__(
        self,
        target: str | os.PathLike[str] | Store,
        arrays: Layout | Mapping[str, Layout],
        *,
        n_rows: int | None = None,
        chunk_rows: int | None = None,
        codec: str = "blosc-lz4",
        checksum: bool = False,
        overwrite: bool = False,
        attributes: Mapping[str, Any] | None = None,
        continued: Continued | None = None,
        start: int | None = None,
    ) -> None:
        self.layouts = {"": arrays} if isinstance(arrays, Layout) else dict(arrays)
        if not self.layouts:
            message = "no arrays to write: give at least one layout"
            raise InputError(message)
        if codec not in CODECS:
            message = f"codec {codec!r} is unknown: choose one of {', '.join(CODECS)}"
            raise InputError(message)
        if chunk_rows is not None and chunk_rows < 1:
            message = f"chunk_rows={chunk_rows}: a chunk holds at least one row"
            raise InputError(message)
        self.name, self._place = locate(target)
        self.n_rows = n_rows
        self.chunk_rows = chunk_rows or default_chunk_rows(self.layouts)
        self.rows_appended = 0
        self._fit_chunk = chunk_rows is None
        self._codec, self._checksum = codec, checksum
        self._overwrite = overwrite
        self._attributes = dict(attributes or {})
        self._continued, self._start = continued, start
        self._threads = write_threads()
        self._arrays: dict[str, zarr.Array[Any]] = {}
        self._capacity = 0
        self._filled = 0
        self._there: int | None = None
        self._pending: deque[tuple[Future[None], Buffers, int]] = deque()

    def __enter__(self) -> Self:
        self._session = self._run()
        self._session.__enter__()
        return self

    def __exit__(self, *exc_info: Any) -> bool | None:
        return self._session.__exit__(*exc_info)

    def append(self, block: ArrayLike | None = None, /, **blocks: ArrayLike) -> None:
        """Append rows to every array.

        Parameters
        ----------
        block : array_like, shape (n_new, n_columns)
            Rows of the only array, for a writer of a single array.
        **blocks : array_like, shape (n_new, n_columns) or (n_new,)
            Rows of each named array. Copied: the caller may reuse them.
        """
        checked = self._check(blocks if block is None else {"": block})
        n_new = next(iter(checked.values())).shape[0]
        if self.n_rows is not None and self.rows_appended + n_new > self.n_rows:
            message = f"{self.name}: more than the promised n_rows={self.n_rows} rows"
            raise InputError(message)
        done = 0
        while done < n_new:
            take = min(n_new - done, self.chunk_rows - self._filled)
            for name, rows in checked.items():
                self._slot[name][self._filled : self._filled + take] = rows[done : done + take]
            done += take
            self._filled += take
            self.rows_appended += take
            if self._filled == self.chunk_rows:
                self._flush()
        if self._continued is not None:
            self._continued.note(rows=self.rows_written)

    @property
    def rows_written(self) -> int:
        """Rows that are where they belong, whatever becomes of this process."""
        for future, _, start in self._pending:
            if not future.done() or future.cancelled() or future.exception() is not None:
                return start
        return max(self._there or 0, self.rows_appended - self._filled)

    def _check(self, blocks: Mapping[str, ArrayLike]) -> Buffers:
        if blocks.keys() != self.layouts.keys():
            message = f"{self.name}: append takes {_names(self.layouts)}, not {_names(blocks)}"
            raise InputError(message)
        checked: Buffers = {}
        for name, layout in self.layouts.items():
            rows = np.asarray(blocks[name])
            if layout.vector and rows.ndim == 2 and rows.shape[1] == 1:
                rows = rows[:, 0]
            if rows.shape != layout.shape(len(rows) if rows.ndim else 0):
                message = f"{self.name}[{name}]: a block of shape {rows.shape} does not fit {layout}"
                raise InputError(message)
            if not np.can_cast(rows.dtype, layout.dtype, "same_kind"):
                message = f"{self.name}[{name}]: {rows.dtype} values do not fit the array's {layout.dtype}"
                raise InputError(message)
            checked[name] = rows
        lengths = {name: len(rows) for name, rows in checked.items()}
        if len(set(lengths.values())) > 1:
            message = f"{self.name}: blocks of one append differ in their rows: {lengths}"
            raise InputError(message)
        return checked

    @contextmanager
    def _run(self) -> Iterator[None]:
        with ExitStack() as stack:
            self._store, self._there = self._enter_place(stack)
            if self._there is not None:
                self._take_up(self._there)
            if self._continued is not None:
                stack.callback(self._note_last, self._continued)
            # All writing is done by threads of our own, a chunk a task, which finish what they began
            # when the main thread is interrupted: removing a partial directory then cannot race with
            # a chunk that is still on its way in Zarr's event loop.
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="nysstream-write")
            stack.callback(self._pool.shutdown, wait=True, cancel_futures=True)
            self._slot = self._first_slot()
            yield
            self._finish()

    def _enter_place(self, stack: ExitStack) -> tuple[Store | Path, int | None]:
        """Give where to write, and the rows that are there; None if the arrays are yet to be made."""
        if self._start is not None:
            return self._place, self._start or None
        return entered(stack, self.name, self._place, overwrite=self._overwrite, continued=self._continued)

    def _take_up(self, n_rows: int) -> None:
        """Go on in arrays that are there."""
        self._arrays = self._arrays or open_arrays(self.name, self._store)[0]
        self.rows_appended = n_rows
        self._capacity = min(array.shape[0] for array in self._arrays.values())
        if n_rows > self._capacity:
            message = (
                f"{self.name} should hold {n_rows} rows but has {self._capacity}: the store is damaged, "
                "write it again"
            )
            raise SourceError(message)
        self.chunk_rows = next(iter(self._arrays.values())).chunks[0]
        self._filled = n_rows % self.chunk_rows
        if "" not in self.layouts:
            self._group = zarr.open_group(self._store, mode="r+", use_consolidated=False)

    def _first_slot(self) -> Buffers:
        """Make buffers, with what the last chunk of arrays that are there holds."""
        slot, start = self._new_slot(), self.rows_appended - self._filled
        for name, array in self._arrays.items() if self._filled else ():
            slot[name][: self._filled] = array[start : self.rows_appended]
        return slot

    def _note_last(self, continued: Continued) -> None:
        continued.note(now=True, rows=self.rows_written)

    def _new_slot(self) -> Buffers:
        return {
            name: np.empty(layout.shape(self.chunk_rows), layout.dtype)
            for name, layout in self.layouts.items()
        }

    def _flush(self) -> None:
        start = self.rows_appended - self._filled
        self._pool.submit(self._reserve, self.rows_appended).result()
        future = self._pool.submit(self._write, self._slot, start, self._filled)
        self._pending.append((future, self._slot, start))
        self._filled = 0
        if len(self._pending) <= self._threads:
            self._slot = self._new_slot()
        else:
            self._pending[0][0].result()
            self._slot = self._pending.popleft()[1]

    def _write(self, slot: Buffers, start: int, n_rows: int) -> None:
        with self._clear_errors(f"rows {start}:{start + n_rows}"):
            for name, array in self._arrays.items():
                array[start : start + n_rows] = slot[name][:n_rows]

    def _reserve(self, n_rows: int) -> None:
        """Make sure that the arrays exist and hold ``n_rows`` rows."""
        with self._clear_errors("metadata"):
            if not self._arrays:
                self._capacity = self.n_rows if self.n_rows is not None else 16 * max(1, n_rows)
                self._create()
            elif n_rows > self._capacity:
                self._resize(2 * n_rows)

    def _resize(self, n_rows: int) -> None:
        # Rows past the last appended one have no chunks: looking for some to delete would take
        # longer than writing the data.
        for name, array in self._arrays.items():
            shape = self.layouts[name].shape(n_rows)
            sync(array.async_array.resize(shape, delete_outside_chunks=False))
        self._capacity = n_rows

    def _create(self) -> None:
        root: dict[str, Any] = {"committed_rows": 0}
        if self._continued is not None:
            root |= self._continued.mark
        if "" not in self.layouts:
            self._group = zarr.create_group(self._store, zarr_format=3, overwrite=True, attributes=root)
        for name, layout in self.layouts.items():
            self._arrays[name] = zarr.create_array(
                self._store,
                name=name or None,
                shape=layout.shape(self._capacity),
                chunks=layout.shape(self.chunk_rows),
                dtype=layout.dtype,
                compressors=_compressors(self._codec, layout.dtype, checksum=self._checksum),
                fill_value=0,
                zarr_format=3,
                overwrite=True,
                attributes={"committed_rows": 0} if name else root,
                config={"write_empty_chunks": True},
            )

    def _finish(self) -> None:
        if self.n_rows is not None and self.rows_appended != self.n_rows:
            message = f"{self.name}: {self.rows_appended} rows were appended, {self.n_rows} were promised"
            raise InputError(message)
        if not self._arrays and self._fit_chunk:
            self.chunk_rows = max(1, self._filled)
        if self._filled or not self._arrays:
            self._flush()
        while self._pending:
            self._pending[0][0].result()
            self._pending.popleft()
        if self._continued is not None:
            self._continued.complete(rows=self.rows_appended, chunk_rows=self.chunk_rows)
        self._pool.submit(self._commit).result()

    def _commit(self) -> None:
        with self._clear_errors("metadata"):
            # A killed append may have published more rows of this array, though not of all.
            for array in self._arrays.values():
                published: Any = array.attrs.get("committed_rows", 0)
                if published > self.rows_appended:
                    array.update_attributes({"committed_rows": self.rows_appended})
            if any(array.shape[0] != self.rows_appended for array in self._arrays.values()):
                self._resize(self.rows_appended)
            committed = {"committed_rows": self.rows_appended}
            for name, array in self._arrays.items():
                columns = self.layouts[name].columns
                named = {"columns": list(columns)} if columns else {}
                array.update_attributes({**named, **({} if name else self._attributes), **committed})
            if "" not in self.layouts:  # last: this is what counts for readers of a group
                self._group.update_attributes({**self._attributes, **committed})

    @contextmanager
    def _clear_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except NysstreamError:
            raise
        except Exception as error:
            if not isinstance(error, OSError) and advice_on(error) is None:
                raise  # a mistake of ours
            message = f"cannot write {what} of {self.name}: {explained(error)}; nothing was kept"
            raise SourceError(message) from error


def _compressors(codec: str, dtype: np.dtype[Any], *, checksum: bool) -> list[BytesBytesCodec] | None:
    found: list[BytesBytesCodec] = []
    match codec:
        case "blosc-lz4":
            found.append(BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=dtype.itemsize))
        case "zstd":
            found.append(ZstdCodec(level=3))
        case "gzip":
            found.append(GzipCodec(level=5))
    if checksum:
        found.append(Crc32cCodec())
    return found or None


def write_threads() -> int:
    """Count the threads that encode and write, each with a chunk of every array in hand."""
    return max(1, min(MAX_THREADS, os.cpu_count() or 1))


def _names(arrays: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}=" if name else "one block" for name in arrays) or "nothing"
