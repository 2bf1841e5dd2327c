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

from nysstream.errors import InputError, NysstreamError, OutputExistsError, SourceError
from nysstream.sources.layout import Layout, default_chunk_rows
from nysstream.sources.locations import checked_location, local_path
from nysstream.sources.remote import advice_on, explained, remote_store
from nysstream.sources.staging import refuse_existing, written_aside

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from concurrent.futures import Future

    from numpy.typing import ArrayLike, NDArray
    from zarr.abc.codec import BytesBytesCodec

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
        self._threads = write_threads()
        self._arrays: dict[str, zarr.Array[Any]] = {}
        self._capacity = 0
        self._filled = 0

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
            self._store = self._enter_place(stack)
            # All writing is done by threads of our own, a chunk a task, which finish what they began
            # when the main thread is interrupted: removing a partial directory then cannot race with
            # a chunk that is still on its way in Zarr's event loop.
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="nysstream-write")
            stack.callback(self._pool.shutdown, wait=True, cancel_futures=True)
            self._pending: deque[tuple[Future[None], Buffers]] = deque()
            self._slot = self._first_slot()
            yield
            self._finish()

    def _enter_place(self, stack: ExitStack) -> Store | Path:
        if isinstance(self._place, Path):
            return stack.enter_context(written_aside(self._place, overwrite=self._overwrite))
        check_target(self._place, overwrite=self._overwrite)
        return self._place

    def _first_slot(self) -> Buffers:
        return self._new_slot()

    def _new_slot(self) -> Buffers:
        return {
            name: np.empty(layout.shape(self.chunk_rows), layout.dtype)
            for name, layout in self.layouts.items()
        }

    def _flush(self) -> None:
        start = self.rows_appended - self._filled
        self._pool.submit(self._reserve, self.rows_appended).result()
        future = self._pool.submit(self._write, self._slot, start, self._filled)
        self._pending.append((future, self._slot))
        self._filled = 0
        if len(self._pending) <= self._threads:
            self._slot = self._new_slot()
        else:
            oldest, self._slot = self._pending.popleft()
            oldest.result()

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
        if "" not in self.layouts:
            self._group = zarr.create_group(
                self._store, zarr_format=3, overwrite=True, attributes={"committed_rows": 0}
            )
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
                attributes={"committed_rows": 0},
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
            self._pending.popleft()[0].result()
        self._pool.submit(self._commit).result()

    def _commit(self) -> None:
        with self._clear_errors("metadata"):
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


def locate(target: str | os.PathLike[str] | Store) -> tuple[str, Path | Store]:
    """Find what to call a target in messages, and its local path or store."""
    if isinstance(target, Store):
        return type(target).__name__, target
    text = checked_location(target)
    path = local_path(text)
    if path is not None:
        return path, Path(path)
    return text, remote_store(text, read_only=False)


def check_target(target: str | os.PathLike[str] | Store, *, overwrite: bool) -> None:
    """Raise :class:`OutputExistsError` or :class:`SourceError` early, before any work is done."""
    name, place = locate(target)
    if isinstance(place, Path):
        refuse_existing(place, overwrite=overwrite)
        return
    try:
        taken = not overwrite and sync(place.exists("zarr.json"))
    except Exception as error:  # each back end has errors of its own
        message = f"cannot write {name}: {explained(error)}"
        raise SourceError(message) from error
    if taken:
        message = f"{name} exists: choose another place or pass overwrite=True"
        raise OutputExistsError(message)


def _names(arrays: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}=" if name else "one block" for name in arrays) or "nothing"
