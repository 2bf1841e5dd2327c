"""Write growing datasets to an HDF5 file that appears when it is complete."""

from __future__ import annotations

import os
import secrets
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Self

import h5py
import numpy as np

from nysstream.errors import InputError, SourceError
from nysstream.sources.staging import refuse_existing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import ArrayLike

    from nysstream.sources.layout import Layout

_FILTERS: dict[str, dict[str, Any]] = {
    "blosc-lz4": {"compression": "lzf", "shuffle": True},
    "gzip": {"compression": "gzip", "compression_opts": 4, "shuffle": True},
    "none": {},
}


def is_hdf5_name(location: str | os.PathLike[str]) -> bool:
    """Whether a place to write to is named like an HDF5 file."""
    return os.fspath(location).lower().endswith((".h5", ".hdf5", ".h5ad"))


class HDF5File(AbstractContextManager["HDF5File"]):
    """An HDF5 file that is written aside and renamed when the ``with`` block ends without exception.

    Parameters
    ----------
    target : pathlib.Path
        Where the file goes.
    overwrite : bool
        Replace an existing file, at the very end and only on success.

    Raises
    ------
    OutputExistsError
        On entry, if the target exists and ``overwrite`` is false.
    SourceError
        If it cannot be written.
    """

    def __init__(self, target: Path, *, overwrite: bool) -> None:
        self.target, self.overwrite = target, overwrite

    def __enter__(self) -> Self:
        self._session = self._run()
        self._session.__enter__()
        return self

    def __exit__(self, *exc_info: Any) -> bool | None:
        return self._session.__exit__(*exc_info)

    def create(self, name: str, layout: Layout, *, chunk_rows: int, codec: str, checksum: bool) -> HDF5Rows:
        """Create a dataset without rows.

        Raises
        ------
        InputError
            If HDF5 does not have the codec.
        """
        if codec not in _FILTERS:
            message = f"codec {codec!r} is not written to HDF5: choose one of {', '.join(_FILTERS)}"
            raise InputError(message)
        with self._clear_errors():
            dataset = self._file.create_dataset(
                name,
                shape=layout.shape(0),
                maxshape=(None, *layout.shape(0)[1:]),
                chunks=layout.shape(chunk_rows),
                dtype=layout.dtype,
                fletcher32=checksum,
                **_FILTERS[codec],
            )
        rows = HDF5Rows(self, dataset, np.empty(layout.shape(chunk_rows), layout.dtype))
        self._rows.append(rows)
        return rows

    def attributes(self, name: str) -> dict[str, Any]:
        """Give a dictionary whose contents become the attributes of a group when the file is done."""
        return self._attributes.setdefault(name, {})

    @contextmanager
    def _run(self) -> Iterator[None]:
        refuse_existing(self.target, overwrite=self.overwrite)
        if self.target.is_dir():
            message = f"{self.target} is a directory; choose another path for an HDF5 file"
            raise SourceError(message)
        self._rows: list[HDF5Rows] = []
        self._attributes: dict[str, dict[str, Any]] = {}
        partial = self.target.with_name(f".{self.target.name}.partial-{secrets.token_hex(4)}")
        try:
            with self._clear_errors():
                self._file = h5py.File(partial, "x", libver="v110")
            try:
                yield
                for rows in self._rows:
                    rows.flush()
                with self._clear_errors():
                    for name, attributes in self._attributes.items():
                        self._file[name].attrs.update(attributes)
            finally:
                with self._clear_errors():
                    self._file.close()
            refuse_existing(self.target, overwrite=self.overwrite)
            with self._clear_errors():
                partial.replace(self.target)
        finally:
            partial.unlink(missing_ok=True)

    @contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:
            if isinstance(error, SourceError):
                raise
            text = error.strerror if isinstance(error, OSError) and error.strerror else error
            message = f"cannot write {self.target}: {text}; nothing was kept"
            raise SourceError(message) from error


class HDF5Rows:
    """A dataset that is written a whole chunk at a time.

    Parameters
    ----------
    file : HDF5File
        It belongs to.
    dataset : h5py.Dataset, shape (0, n_columns) or (0,)
        To be extended.
    buffer : ndarray, shape (chunk_rows, n_columns) or (chunk_rows,)
        A chunk.
    """

    def __init__(self, file: HDF5File, dataset: Any, buffer: Any) -> None:
        self._owner, self._dataset, self._buffer = file, dataset, buffer
        self._filled = 0

    def append(self, block: ArrayLike, /) -> None:
        """Add rows at the end."""
        rows, done = np.asarray(block), 0
        while done < len(rows):
            take = min(len(rows) - done, len(self._buffer) - self._filled)
            self._buffer[self._filled : self._filled + take] = rows[done : done + take]
            done += take
            self._filled += take
            if self._filled == len(self._buffer):
                self.flush()

    def flush(self) -> None:
        """Write what is held back."""
        with self._owner._clear_errors():
            start = self._dataset.shape[0]
            self._dataset.resize(start + self._filled, axis=0)
            self._dataset[start:] = self._buffer[: self._filled]
        self._filled = 0
