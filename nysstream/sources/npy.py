"""Rows of a .npy file, or of any file that holds one plain array at an offset."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy_format

from nysstream.errors import InputError, SourceError
from nysstream.sources.base import RowSource
from nysstream.sources.checking import assign, numeric_matrix, output_for, reason
from nysstream.sources.files import OpenFile
from nysstream.sources.fingerprint import fingerprint_of
from nysstream.sources.locations import local_path
from nysstream.sources.scratch import as_bytes, scratch

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PIECE_BYTES = 4 << 20


class NpySource(RowSource):
    """Rows of one plain array in a file, read into the caller's buffer.

    The file is not mapped: mapped pages count as memory of the process, so a pass would seem to
    hold the whole file.

    Parameters
    ----------
    path : str
        The file.
    shape : tuple of int
        ``(n, p)`` or ``(n,)``.
    dtype : numpy.dtype
        Stored dtype, with its byte order.
    offset : int
        Byte at which the array begins.
    fortran : bool
        Whether columns are contiguous.

    Raises
    ------
    InputError
        If the array does not hold real numbers or has more than two dimensions.
    SourceError
        If the file cannot be read or is shorter than the array.
    """

    def __init__(
        self, path: str, *, shape: tuple[int, ...], dtype: np.dtype[Any], offset: int, fortran: bool
    ) -> None:
        self.name = path
        self.shape, self.dtype, self.vector = numeric_matrix(path, shape, dtype)
        self._path = os.path.abspath(path)
        self._stored, self._offset = dtype, offset
        self._fortran = fortran and self.shape[1] > 1
        self._lock = threading.Lock()
        self._file: OpenFile | None = None
        needed = offset + self.shape[0] * self.shape[1] * dtype.itemsize
        size = self._opened().size
        if size < needed:
            message = (
                f"{path} is truncated: its array of shape {shape} needs {needed} bytes, the file has {size}; "
                "copy it again"
            )
            raise SourceError(message)

    @classmethod
    def accepts_url(cls, url: str) -> bool:
        """Whether ``url`` is a local file that begins as .npy files do, or is named like one."""
        path = local_path(url)
        if path is None:
            return url.endswith(".npy")
        if path.endswith(".npy"):
            return True
        try:
            with open(path, "rb") as file:
                return file.read(6) == npy_format.MAGIC_PREFIX
        except OSError:
            return False

    @classmethod
    def open(cls, url: str, name: str | None, *, missing_chunks: str = "warn") -> NpySource:
        """Open a .npy file.

        Raises
        ------
        InputError
            If ``name`` is given, or the array cannot be streamed.
        SourceError
            If the file cannot be read or is not a .npy file.
        """
        path = local_path(url)
        if path is None:
            message = f"{url}: .npy files are read from local disks; download it or convert it to Zarr"
            raise SourceError(message)
        if name is not None:
            message = f"{path} is a .npy file, which holds one array without a name; drop name={name!r}"
            raise InputError(message)
        try:
            with open(path, "rb") as file:
                shape, fortran, dtype = _read_header(file)
                offset = file.tell()
        except OSError as error:
            message = f"{path} cannot be read: {reason(error)}"
            raise SourceError(message) from error
        except ValueError as error:
            message = f"{path} is not a readable .npy file: {error}"
            raise SourceError(message) from error
        return cls(path, shape=shape, dtype=dtype, offset=offset, fortran=fortran)

    @classmethod
    def accepts(cls, obj: object) -> bool:
        """Whether ``obj`` is a memory-mapped array whose values all are in its file."""
        return isinstance(obj, np.memmap) and _mapped_file(obj) is not None

    @classmethod
    def wrap(cls, obj: Any) -> NpySource:
        """Make a source of the file under a memory-mapped array."""
        place = _mapped_file(obj)
        assert place is not None
        path, offset = place
        fortran = not obj.flags.c_contiguous
        return cls(path, shape=obj.shape, dtype=obj.dtype, offset=offset, fortran=fortran)

    @property
    def fingerprint(self) -> str:
        """Digest of the metadata and of sampled rows."""
        return fingerprint_of(self)

    @property
    def decode_bytes(self) -> int:
        """One piece of a read that has to be cast, reordered or gathered from columns."""
        return _PIECE_BYTES

    def read(self, rows: slice, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Read a run of rows with positional reads."""
        out = output_for(self, rows, out)
        if out.size == 0:
            return out
        if self._fortran:
            count = _PIECE_BYTES // self._stored.itemsize
            for start in range(rows.start, rows.stop, count):
                stop = min(start + count, rows.stop)
                self._read_columns(slice(start, stop), out[start - rows.start : stop - rows.start])
        elif out.dtype == self._stored and out.flags.c_contiguous:
            self._fill(rows.start * self.shape[1], as_bytes(out), rows)
        else:
            self._read_cast(rows, out)
        return out

    def _read_cast(self, rows: slice, out: NDArray[Any]) -> None:
        n_columns = self.shape[1]
        count = max(1, _PIECE_BYTES // (n_columns * self._stored.itemsize))
        for start in range(rows.start, rows.stop, count):
            stop = min(start + count, rows.stop)
            buffer = scratch("decoded", (stop - start) * n_columns * self._stored.itemsize)
            self._fill(start * n_columns, buffer, slice(start, stop))
            values = buffer.view(self._stored).reshape(-1, n_columns)
            assign(out[start - rows.start : stop - rows.start], values)

    def _read_columns(self, rows: slice, out: NDArray[Any]) -> None:
        """Gather a run of rows from contiguous columns, as many columns at a time as fit the piece."""
        n_rows, n_columns = self.shape
        length = rows.stop - rows.start
        count = max(1, _PIECE_BYTES // (length * self._stored.itemsize))
        for first in range(0, n_columns, count):
            last = min(first + count, n_columns)
            buffer = scratch("decoded", (last - first) * length * self._stored.itemsize)
            values = buffer.view(self._stored).reshape(last - first, length)
            for column in range(first, last):
                self._fill(column * n_rows + rows.start, as_bytes(values[column - first]), rows)
            assign(out[:, first:last], values.T)

    def _fill(self, element: int, buffer: NDArray[np.uint8], rows: slice) -> None:
        try:
            self._opened().read_into(self._offset + element * self._stored.itemsize, buffer)
        except OSError as error:
            message = f"{self.name}: rows {rows.start}:{rows.stop} cannot be read: {reason(error)}"
            raise SourceError(message) from error
        except ValueError as error:
            message = f"{self.name}: rows {rows.start}:{rows.stop} are missing: {error}; restore the file"
            raise SourceError(message) from error

    def _opened(self) -> OpenFile:
        with self._lock:
            if self._file is None:
                try:
                    self._file = OpenFile(self._path)
                except OSError as error:
                    message = f"{self.name} cannot be opened: {reason(error)}"
                    raise SourceError(message) from error
            return self._file

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_lock", "_file")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()
        self._file = None


def _read_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy_format.read_magic(file)
    if version == (1, 0):
        return npy_format.read_array_header_1_0(file)
    if version == (2, 0):
        return npy_format.read_array_header_2_0(file)
    # Version 3 differs only in allowing names of fields beyond Latin-1, which are not numbers.
    message = f"its format version {version} serves structured data only"
    raise ValueError(message)


def _mapped_file(array: np.memmap[Any, Any]) -> tuple[str, int] | None:
    """File and byte offset of a contiguous array mapped from a file, None where there is no such place."""
    if not (array.flags.c_contiguous or array.flags.f_contiguous) or array.filename is None:
        return None
    root: Any = array
    while isinstance(root.base, np.ndarray):
        root = root.base
    # A copy-on-write mapping may hold values that its file does not.
    if not isinstance(root, np.memmap) or root.mode == "c":
        return None
    offset = int(root.offset) + array.ctypes.data - root.ctypes.data
    return os.fspath(array.filename), offset
