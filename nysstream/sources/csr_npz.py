"""Sparse matrices as SciPy saves them: ``.npz`` files, read from first to last."""

from __future__ import annotations

import os
import zipfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from dask.utils import format_bytes

from nysstream.errors import InputError, MemoryBudgetError, SourceError
from nysstream.sources.checking import numeric_matrix
from nysstream.sources.csr_checking import check_indices, check_pointers, csr_rows
from nysstream.sources.csr_groups import PARTS
from nysstream.sources.csr_streams import SparseStream, companions
from nysstream.sources.fingerprint import fingerprint_of_files
from nysstream.sources.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from nysstream.sources.base import RowSource
    from nysstream.sources.csr_streams import SparseBlock

_POINTERS = 1 << 16


class NpzCSR(SparseStream):
    """Rows of a CSR matrix that ``scipy.sparse.save_npz`` wrote.

    Parameters
    ----------
    path : str or pathlib.Path
        The file.
    y, weight : RowSource, optional
        Targets and row weights.

    Raises
    ------
    InputError
        If it is stored in another way than by rows, or holds no real numbers.
    SourceError
        If it cannot be read, or is no such file.

    Notes
    -----
    Cost: one reading. The arrays of the file are unpacked side by side, a block at a time, so that
    the matrix is never in memory. Nothing is unpickled.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        y: RowSource | None = None,
        weight: RowSource | None = None,
    ) -> None:
        self.name = os.fspath(path)
        self._others = {name: s for name, s in (("y", y), ("weight", weight)) if s is not None}
        with self._opened() as file:
            self.format, shape = npz_format(file, self.name)
            if self.format != "csr":
                message = f"{self.name} holds a {self.format} matrix; save it as CSR, with X.tocsr()"
                raise InputError(message)
            members = {part: _Member(file, part, self.name) for part in PARTS}
        self._nnz = members["data"].length
        n_rows, n_columns = shape
        if members["indices"].length != self._nnz or members["indptr"].length != n_rows + 1:
            message = f"{self.name} is damaged: its arrays do not have the lengths of a matrix of {shape}"
            raise SourceError(message)
        for part in ("indices", "indptr"):
            if members[part].dtype.kind not in "iu":
                message = f"{self.name}[{part}] has dtype {members[part].dtype}; it must hold whole numbers"
                raise SourceError(message)
        (self.n_rows, _), dtype, _ = numeric_matrix(self.name, shape, members["data"].dtype)
        self.density = self._nnz / max(1, n_rows * n_columns)
        self.layouts = {"x": Layout(n_columns, np.dtype(np.uint8) if dtype == np.bool_ else dtype)}
        for name, source in self._others.items():
            if source.shape[0] != self.n_rows:
                message = f"{name} {source.name} has {source.shape[0]} rows, but x {self.name} has {n_rows}"
                raise InputError(message)
            self.layouts[name] = Layout(source.shape[1], source.dtype, vector=source.vector)
            self.scratch_bytes += source.decode_bytes

    @property
    def fingerprint(self) -> str:
        """Digest of the file, and of what goes with it."""
        others = (source.fingerprint for source in self._others.values())
        return " ".join([fingerprint_of_files([Path(self.name)]), *others])

    def sparse_blocks(self, block_entries: int) -> Iterator[SparseBlock]:
        """Yield runs of rows; longer rows than ``block_entries`` come whole."""
        n_columns = self.layouts["x"].n_columns
        with self._opened() as file, ExitStack() as stack:
            data, indices, indptr = (stack.enter_context(_Member(file, part, self.name)) for part in PARTS)
            row, held = 0, check_pointers(indptr.read(1), 0, self._nnz, indptr.name)
            while row < (self.n_rows or 0):
                if len(held) == 1:
                    more = indptr.read(min(_POINTERS, (self.n_rows or 0) - row))
                    held = check_pointers(np.append(held, more), row, self._nnz, indptr.name)
                within = int(np.searchsorted(held, held[0] + block_entries, side="right")) - 1
                count = min(max(1, within), len(held) - 1)
                first, last = int(held[0]), int(held[count])
                columns = indices.read(last - first)
                check_indices(columns, first, n_columns, indices.name)
                block = csr_rows(data.read(last - first), columns, held[: count + 1] - first, n_columns)
                yield block, companions(self._others, slice(row, row + count))
                row, held = row + count, held[count:]

    @contextmanager
    def _opened(self) -> Iterator[zipfile.ZipFile]:
        with npz_errors(self.name), zipfile.ZipFile(self.name) as file:
            yield file


@contextmanager
def npz_errors(name: str) -> Iterator[None]:
    """Turn what goes wrong in a ``.npz`` file into errors that name it."""
    try:
        yield
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, NotImplementedError) as error:
        if isinstance(error, InputError | SourceError):
            raise
        message = f"{name} cannot be read as a matrix of scipy.sparse.save_npz: {error}"
        raise SourceError(message) from error
    except Exception as error:
        if type(error).__module__ in ("zlib", "lzma"):
            message = f"{name} cannot be unpacked: {error}"
            raise SourceError(message) from error
        raise


def npz_format(file: zipfile.ZipFile, name: str) -> tuple[str, tuple[int, int]]:
    """Read format and shape of the matrix in an open ``.npz`` file."""
    if "format.npy" not in file.namelist():
        message = (
            f"{name} holds no sparse matrix: write it with scipy.sparse.save_npz, or rows with numpy.save"
        )
        raise InputError(message)
    with file.open("format.npy") as opened:
        text: Any = np.lib.format.read_array(opened, allow_pickle=False).item()
    with file.open("shape.npy") as opened:
        sides = np.lib.format.read_array(opened, allow_pickle=False)
    if sides.shape != (2,) or sides.dtype.kind not in "iu" or int(sides.min()) < 0:
        message = f"{name}: its shape is {sides!r}, not that of a matrix"
        raise InputError(message)
    return (text.decode(errors="replace") if isinstance(text, bytes) else str(text)), (
        int(sides[0]),
        int(sides[1]),
    )


def load_by_rows(path: str | os.PathLike[str], limit: int) -> Any:
    """Load a matrix that is stored by columns or entries, and order it by rows, in memory.

    Raises
    ------
    MemoryBudgetError
        If that takes more than ``limit`` bytes.
    """
    from scipy.sparse import load_npz

    name = os.fspath(path)
    with npz_errors(name):
        with zipfile.ZipFile(name) as file:
            size = sum(info.file_size for info in file.infolist())
        # The matrix, its copy by rows, and coordinates on the way.
        if 3 * size > limit:
            message = (
                f"{name} is not stored by rows, and ordering it takes some {format_bytes(3 * size)} "
                "of memory. Give that much, or save it as CSR, with X.tocsr()"
            )
            raise MemoryBudgetError(message)
        matrix: Any = load_npz(name)
        return matrix.tocsr()


class _Member:
    """One array of a ``.npz`` file, read from first to last."""

    def __init__(self, file: zipfile.ZipFile, part: str, name: str) -> None:
        self.name = f"{name}[{part}]"
        self._file: IO[bytes] = file.open(f"{part}.npy")
        version = np.lib.format.read_magic(self._file)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, self.dtype = read(self._file)
        if len(shape) != 1 or self.dtype.hasobject:
            message = f"{self.name} has shape {shape} and dtype {self.dtype}; a vector of numbers is needed"
            raise InputError(message)
        self.length = int(shape[0])

    def __enter__(self) -> _Member:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, count: int) -> NDArray[Any]:
        """Read the next entries, in memory of their own and in native byte order."""
        size = count * self.dtype.itemsize
        pieces = bytearray()
        while len(pieces) < size:
            piece = self._file.read(min(size - len(pieces), 1 << 20))
            if not piece:
                message = f"{self.name} ends before its declared length of {self.length} entries"
                raise SourceError(message)
            pieces += piece
        found = np.frombuffer(pieces, self.dtype)
        return found.astype(self.dtype.newbyteorder("="), copy=False)
