"""Rows of a Zarr array, of format 2 or 3, in any of Zarr's stores."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import zarr

from nysstream.errors import DataWarning, InputError, MissingChunksError, SourceError
from nysstream.sources.base import RowReads, RowSource
from nysstream.sources.checking import numeric_matrix, output_for
from nysstream.sources.chunks import Piece
from nysstream.sources.decoding import checks
from nysstream.sources.fingerprint import fingerprint_of
from nysstream.sources.handles import handle_of, new_token
from nysstream.sources.locations import is_url, local_path
from nysstream.sources.verifying import refuse_impossible
from nysstream.sources.zarr_layout import array_layout, refuse_code
from nysstream.sources.zarr_members import committed_rows, find_array
from nysstream.sources.zarr_reading import ZarrReader
from nysstream.sources.zarr_store import location_of, open_store, pickled_by_value

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray


MissingChunks: TypeAlias = Literal["warn", "error", "fill"]

_MARKERS = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")


class ZarrSource(RowSource):
    """Rows of a Zarr array.

    The common codecs (none, blosc, zstd, gzip, zlib, lz4, checksums, transposes, either byte order,
    shards of these) are decoded in the thread that reads, straight into its output where layout and
    dtype allow; every other layout is left to Zarr's own call.

    Parameters
    ----------
    array : zarr.Array, shape (n, p) or (n,)
        An open array. Where the array or a group above it has an attribute ``committed_rows``, rows
        beyond that do not exist yet, and absent chunks are an error.
    missing_chunks : {"warn", "error", "fill"}
        What to do about chunks that are absent, and so read as the fill value, in a store that
        publishes no ``committed_rows``.
    anonymous : bool
        Whether other processes open the store without credentials.
    url : str, optional
        How other processes find the store; by default taken from the store.

    Raises
    ------
    InputError
        If the array does not hold real numbers or has more than two dimensions.
    MissingChunksError
        If chunks are absent that must not be.

    Notes
    -----
    Cost of construction: one look-up per chunk (one listing in object storage), and one read of the
    index per shard in a local store; none with ``missing_chunks="fill"`` in a foreign store.
    """

    def __init__(
        self,
        array: zarr.Array[Any],
        *,
        missing_chunks: MissingChunks = "warn",
        anonymous: bool = False,
        url: str | None = None,
    ) -> None:
        if missing_chunks not in ("warn", "error", "fill"):
            message = f"missing_chunks={missing_chunks!r} must be 'warn', 'error' or 'fill'"
            raise InputError(message)
        self._url = url or location_of(array.store)
        self._path, self._anonymous = array.path, anonymous
        self._unlocated = array if self._url is None else None
        shown = self._url or f"{type(array.store).__name__}"
        self.name = f"{shown}[{array.path}]" if array.path else shown
        (n_rows, n_columns), self.dtype, self.vector = numeric_matrix(
            self.name, array.shape, np.dtype(array.dtype)
        )
        try:
            array.chunks  # noqa: B018
        except NotImplementedError as error:
            message = f"{self.name} has chunks of irregular sizes; copy it to regular ones"
            raise InputError(message) from error
        layout = array_layout(array)
        inner = (0, 0) if layout.shard is None or layout.chunk is None else layout.chunk.shape
        refuse_impossible(self.name, (n_rows, n_columns), layout.shape, self.dtype.itemsize, inner)
        refuse_code(array, self.name)
        self._committed = committed_rows(array, self.name)
        self.shape = (n_rows if self._committed is None else self._committed, n_columns)
        self._missing = "error" if self._committed is not None else missing_chunks
        self._token = new_token()
        reader = ZarrReader(array, self.name)
        self._own: tuple[int, ZarrReader] | None = (os.getpid(), reader)
        self.chunk_rows = max(1, reader.layout.shape[0])
        self._announced = self._missing != "warn"
        if self._missing != "fill":
            self._survey(reader)

    @classmethod
    def accepts_url(cls, url: str) -> bool:
        """Whether ``url`` is a directory with Zarr metadata, is named like one, or is not a local path."""
        path = local_path(url)
        if path is None or path.rstrip("/").endswith((".zarr", ".zarr.zip")):
            return True
        return any(os.path.exists(os.path.join(path, marker)) for marker in _MARKERS)

    @classmethod
    def open(
        cls,
        url: str,
        name: str | None,
        *,
        missing_chunks: MissingChunks = "warn",
        anonymous: bool = False,
    ) -> ZarrSource:
        """Open an array of a store: the one named, or the only matrix.

        Raises
        ------
        InputError
            If ``name`` is not given and the store does not hold exactly one matrix.
        SourceError
            If the store or the array cannot be opened.
        """
        store = open_store(url, anonymous=anonymous)
        array = find_array(store, name, url)
        location = url if is_url(url) else os.path.abspath(url)
        return cls(array, missing_chunks=missing_chunks, anonymous=anonymous, url=location)

    @classmethod
    def accepts(cls, obj: object) -> bool:
        """Whether ``obj`` is an array of Zarr's."""
        return isinstance(obj, zarr.Array)

    @classmethod
    def wrap(cls, obj: Any) -> ZarrSource:
        """Make a source of an open array."""
        return cls(obj)

    @property
    def fingerprint(self) -> str:
        """Digest of the metadata and of sampled rows."""
        return fingerprint_of(self)

    @property
    def decode_bytes(self) -> int:
        """The stored bytes of a chunk (or of neighbours within a shard) and its decoded block."""
        return self._reader().decode_bytes

    @property
    def checksums(self) -> bool:
        """Whether chunks carry checksums, as those of CRC32C, Fletcher-32 and gzip do."""
        chunk = self._reader().layout.chunk
        return chunk is not None and checks(chunk.steps)

    def read(self, rows: slice, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Read a run of rows.

        Raises
        ------
        MissingChunksError
            If a chunk is absent that must not be.
        SourceError
            If a chunk cannot be read or decoded.
        """
        return self._read(rows, out, None)

    def in_turn(self, runs: Iterable[slice]) -> RowReads:
        """Announce reads: from a store elsewhere, the next chunks are fetched while rows are worked on."""
        blobs = self._reader().expecting(runs)
        return RowReads(lambda rows, out=None: self._read(rows, out, blobs), blobs.close)

    def _read(self, rows: slice, out: NDArray[Any] | None, blobs: Any) -> NDArray[Any]:
        out = output_for(self, rows, out)
        self._reader().read(rows, out, self._absent, blobs)
        return out

    def _absent(self, reader: ZarrReader, piece: Piece, inner: tuple[int, int] | None) -> None:
        """Refuse or announce an absent chunk met while reading."""
        if self._missing == "error":
            raise self._missing_error(reader, piece, inner)
        if not self._announced:
            self._announced = True
            self._warn(reader, "some chunks are")

    def _missing_error(
        self, reader: ZarrReader, piece: Piece, inner: tuple[int, int] | None
    ) -> MissingChunksError:
        where = f"inner chunk {inner} of shard" if inner else "chunk"
        why = (
            f"though the store has committed {self._committed} rows; the store is damaged, write it again"
            if self._committed is not None
            else "and missing_chunks='error' refuses it; write it, or pass missing_chunks='fill' to read "
            f"it as the fill value {reader.fill}"
        )
        message = f"{self.name}: {where} {reader.key(piece)} ({reader.rows_of(piece)}) is absent, {why}"
        return MissingChunksError(message)

    def _warn(self, reader: ZarrReader, which: str) -> None:
        message = (
            f"{self.name}: {which} absent, read as fill value {reader.fill}; "
            "missing_chunks='error' refuses them, 'fill' accepts them silently"
        )
        warnings.warn(message, DataWarning, stacklevel=2)

    def _survey(self, reader: ZarrReader) -> None:
        """Count the absent chunks before any work starts."""
        total = absent = 0
        for piece, inner, there in reader.lookups(self.shape[0]):
            total += 1
            if not there:
                absent += 1
                if self._missing == "error":
                    raise self._missing_error(reader, piece, inner)
        if absent:
            self._announced = True
            self._warn(reader, f"{absent} of {total} chunks are")

    def _reader(self) -> ZarrReader:
        own = self._own
        if own is None or own[0] != os.getpid():
            own = self._own = (os.getpid(), handle_of(self._token, self._reopened))
        return own[1]

    def _reopened(self) -> ZarrReader:
        array = self._unlocated
        if array is None:
            assert self._url is not None
            store = open_store(self._url, anonymous=self._anonymous)
            array = find_array(store, self._path, self._url)
        found = (*array.shape, 1)[:2]
        if (
            found[0] < self.shape[0]
            or found[1] != self.shape[1]
            or array.dtype.newbyteorder("=") != self.dtype
        ):
            message = (
                f"{self.name} has changed since it was opened: {array.shape} {array.dtype}; open it again"
            )
            raise SourceError(message)
        return ZarrReader(array, self.name)

    def __getstate__(self) -> dict[str, Any]:
        if self._unlocated is not None and not pickled_by_value(self._unlocated.store):
            message = (
                f"{self.name} has no URL for other processes to open it by; use nysstream.open(url, name)"
            )
            raise InputError(message)
        return {**self.__dict__, "_own": None}
