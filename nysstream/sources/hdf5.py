"""Rows of an HDF5 dataset."""

from __future__ import annotations

import os
import warnings
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import h5py

from nysstream.errors import DataWarning, InputError, MissingChunksError, SourceError
from nysstream.sources.base import RowReads, RowSource
from nysstream.sources.checking import numeric_matrix, output_for
from nysstream.sources.fingerprint import fingerprint_of
from nysstream.sources.handles import handle_of, new_token
from nysstream.sources.hdf5_members import find_dataset, open_file, refuse_external
from nysstream.sources.hdf5_reading import HDF5Reader
from nysstream.sources.hdf5_remote import RemoteFile, RemoteReader
from nysstream.sources.locations import local_path
from nysstream.sources.verifying import refuse_impossible

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Literal

    from numpy.typing import NDArray

    from nysstream.sources.fetching import Window

_SUFFIXES = (".h5", ".hdf5", ".hdf", ".he5", ".h5ad", ".nc", ".nc4")


class HDF5Source(RowSource):
    """Rows of an HDF5 dataset.

    HDF5 has one lock for everything, decompression included. So the byte ranges of a dataset are
    asked for once; contiguous data and chunks without a filter, or with gzip, LZF, shuffle,
    Fletcher-32, zstd or blosc, are then read and decoded in the thread that reads, side by side with others.
    Everything else goes through h5py. Of a file at a URL the byte ranges are fetched, a few at a time.

    Parameters
    ----------
    dataset : h5py.Dataset, shape (n, p) or (n,)
        Of a file open for reading, which may be closed afterwards; or of a file open for writing or
        held in memory, which must stay open and cannot be sent to other processes. Of a file that another
        process is writing to (SWMR), the rows that are there now.
    missing_chunks : {"warn", "error", "fill"}
        What to do about chunks that were never written, and so read as the fill value.
    allow_external : bool
        Whether external links, external storage and virtual datasets may be followed.
    name : str, optional
        Name under which the dataset is opened again.
    path : str, optional
        File, or URL, in which ``name`` is found.
    anonymous : bool
        Whether a file at a URL is read without credentials.

    Raises
    ------
    InputError
        If the dataset does not hold real numbers or has more than two dimensions.
    MissingChunksError
        If chunks are absent and ``missing_chunks="error"``.
    SourceError
        If its data are in another file, or a filter it needs is not installed.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        missing_chunks: Literal["warn", "error", "fill"] = "warn",
        allow_external: bool = False,
        name: str | None = None,
        path: str | None = None,
        anonymous: bool = False,
    ) -> None:
        if missing_chunks not in ("warn", "error", "fill"):
            message = f"missing_chunks={missing_chunks!r} must be 'warn', 'error' or 'fill'"
            raise InputError(message)
        if not dataset:
            message = "the HDF5 dataset is closed; keep its file open until it has been wrapped"
            raise InputError(message)
        if dataset.file.swmr_mode:
            dataset.refresh()  # the rows that are there now
        self._member = name or dataset.name
        self._remote = path is not None and local_path(path) is None
        file = path or dataset.file.filename
        self._path = file if self._remote else os.path.abspath(file)
        self._allow_external, self._anonymous = allow_external, anonymous
        self.name = f"{file}[{self._member.lstrip('/')}]"
        if dataset.shape is None:
            message = f"{self.name} is empty: it has no shape; choose another dataset"
            raise InputError(message)
        try:
            dtype = dataset.dtype
        except TypeError as error:
            message = f"{self.name} has an HDF5 type that NumPy lacks ({error}); write it again as float64"
            raise InputError(message) from error
        self.shape, self.dtype, self.vector = numeric_matrix(self.name, dataset.shape, dtype)
        if not allow_external:
            refuse_external(dataset, self.name)
        if dataset.chunks:
            refuse_impossible(self.name, self.shape, (*dataset.chunks, 1)[:2], self.dtype.itemsize)
        self.chunk_rows = int(dataset.chunks[0]) if dataset.chunks else 1
        growing = dataset.file.mode != "r" or dataset.file.swmr_mode
        live = growing or dataset.file.driver != ("fileobj" if self._remote else "sec2")
        self._live: Any = dataset if live else None
        self._token = new_token()
        reader = HDF5Reader(dataset, self.name, live=True) if live else self._reopened()
        self._own: tuple[int, HDF5Reader | RemoteReader] | None = (os.getpid(), reader)
        if missing_chunks != "fill":
            self._survey(dataset, reader, refuse=missing_chunks == "error")

    @classmethod
    def accepts_url(cls, url: str) -> bool:
        """Whether ``url`` is an HDF5 file or is named like one."""
        path = local_path(url)
        if path is None or path.lower().endswith(_SUFFIXES):
            return url.lower().endswith(_SUFFIXES)
        return os.path.isfile(path) and bool(h5py.is_hdf5(path))

    @classmethod
    def open(
        cls,
        url: str,
        name: str | None,
        *,
        missing_chunks: Literal["warn", "error", "fill"] = "warn",
        allow_external: bool = False,
        anonymous: bool = False,
    ) -> HDF5Source:
        """Open a dataset of a file: the one named, or the only matrix.

        Raises
        ------
        InputError
            If ``name`` is not given and the file does not hold exactly one matrix.
        SourceError
            If the file or the dataset cannot be opened.
        """
        path = local_path(url) or url
        remote = RemoteFile(url, anonymous=anonymous) if local_path(url) is None else None
        with ExitStack() as stack:
            file = open_file(path, file=remote)
            if not file.swmr_mode:  # HDF5 has to read what is being written
                stack.enter_context(file)
            dataset = find_dataset(file, name, path, allow_external=allow_external)
            return cls(
                dataset,
                missing_chunks=missing_chunks,
                allow_external=allow_external,
                name=name or dataset.name,
                path=path,
                anonymous=anonymous,
            )

    @classmethod
    def accepts(cls, obj: object) -> bool:
        """Whether ``obj`` is an HDF5 dataset."""
        return isinstance(obj, h5py.Dataset)

    @classmethod
    def wrap(cls, obj: Any) -> HDF5Source:
        """Make a source of an open dataset."""
        return cls(obj)

    @property
    def fingerprint(self) -> str:
        """Digest of the metadata and of sampled rows."""
        return fingerprint_of(self)

    @property
    def decode_bytes(self) -> int:
        """The stored bytes of a chunk and its decoded block."""
        return self._reader().decode_bytes

    @property
    def checksums(self) -> bool:
        """Whether chunks carry checksums, as those of Fletcher-32 and gzip do."""
        return self._reader().checksums

    def read(self, rows: slice, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Read a run of rows.

        Raises
        ------
        SourceError
            If a chunk cannot be read or decoded.
        """
        return self._read(rows, out, None)

    def in_turn(self, runs: Iterable[slice]) -> RowReads:
        """Announce reads: from a file elsewhere, the next chunks are fetched while rows are worked on."""
        reader = self._reader()
        if not isinstance(reader, RemoteReader):
            return super().in_turn(runs)
        window = reader.expecting(runs)
        return RowReads(lambda rows, out=None: self._read(rows, out, window), window.close)

    def _read(self, rows: slice, out: NDArray[Any] | None, window: Window | None) -> NDArray[Any]:
        out = output_for(self, rows, out)
        reader = self._reader()
        if isinstance(reader, RemoteReader):
            reader.read(rows, out, window)
        else:
            reader.read(rows, out)
        return out

    def _reader(self) -> HDF5Reader | RemoteReader:
        own = self._own
        if own is None or own[0] != os.getpid():
            own = self._own = (os.getpid(), handle_of(self._token, self._reopened))
        return own[1]

    def _reopened(self) -> HDF5Reader | RemoteReader:
        if self._live is not None:
            message = f"{self.name} is open for writing in another process, which alone can read it"
            raise SourceError(message)
        remote = RemoteFile(self._path, anonymous=self._anonymous) if self._remote else None
        file = open_file(self._path, file=remote)
        dataset = find_dataset(file, self._member, self._path, allow_external=self._allow_external)
        if (*dataset.shape, 1)[:2] != self.shape or dataset.dtype.newbyteorder("=") != self.dtype:
            message = (
                f"{self.name} has changed since it was opened: {dataset.shape} {dataset.dtype}; open it again"
            )
            raise SourceError(message)
        if remote is not None:
            return RemoteReader(dataset, remote, self.name)
        return HDF5Reader(dataset, self.name, live=False)

    def _survey(self, dataset: Any, reader: HDF5Reader | RemoteReader, *, refuse: bool) -> None:
        """Count the chunks that were never written, before any work starts."""
        rows, columns = self.shape
        if dataset.is_virtual or dataset.external or rows * columns == 0:
            return
        if dataset.chunks is None:
            total, stored = 1, int(dataset.id.get_storage_size() > 0)
        else:
            chunk = (*dataset.chunks, 1)[:2]
            total = -(-rows // chunk[0]) * -(-columns // chunk[1])
            stored = min(total, dataset.id.get_num_chunks())
        if stored == total:
            return
        which = f"{self.name}: {total - stored} of {total} chunks are absent"
        if refuse:
            message = f"{which}; write them, or pass missing_chunks='fill' to read them as {reader.fill}"
            raise MissingChunksError(message)
        message = (
            f"{which}, read as fill value {reader.fill}; missing_chunks='error' refuses them, 'fill' accepts "
            "them silently"
        )
        warnings.warn(message, DataWarning, stacklevel=2)

    def __getstate__(self) -> dict[str, Any]:
        if self._live is not None:
            message = (
                f"{self.name} is open for writing or in memory; close it and pass nysstream.open(path, name)"
            )
            raise InputError(message)
        return {**self.__dict__, "_own": None}
