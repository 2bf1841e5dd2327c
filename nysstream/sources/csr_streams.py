"""Sparse rows read once from first to last, in blocks of so many entries."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from nysstream.errors import InputError
from nysstream.sources.stream import RowStream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from scipy.sparse import csr_array

    from nysstream.sources.base import RowSource
    from nysstream.sources.sequential import SourceStream
    from nysstream.sources.stream import Blocks

    SparseBlock: TypeAlias = tuple[csr_array, dict[str, NDArray[Any]]]


class SparseStream(RowStream):
    """A stream whose ``x`` has sparse rows.

    Attributes
    ----------
    density : float or None
        Fraction of entries that are stored, where it is known.
    """

    density: float | None = None

    @abstractmethod
    def sparse_blocks(self, block_entries: int) -> Iterator[SparseBlock]:
        """Yield rows of ``x`` in canonical form, about ``block_entries`` at a time, and of the others.

        Yields
        ------
        csr_array, shape (m, n_columns)
        dict of str to ndarray, shape (m, n_columns) or (m,)
            ``"y"`` and ``"weight"``, where the stream has them.
        """

    def blocks(self, block_rows: int) -> Iterator[Blocks]:
        """Yield dense rows."""
        dtype = self.layouts["x"].dtype
        for rows, others in self.sparse_blocks(1 << 18):
            for start in range(0, rows.shape[0], block_rows):
                part = slice(start, start + block_rows)
                dense = rows[part].toarray().astype(dtype, copy=False)
                yield {"x": dense, **{name: values[part] for name, values in others.items()}}


class StoredRows(SparseStream):
    """The rows of a stream of sources whose ``x`` is sparse.

    Parameters
    ----------
    stream : SourceStream
        Its ``x`` gives CSR rows.
    """

    def __init__(self, stream: SourceStream) -> None:
        self.name, self.layouts, self.n_rows = stream.name, stream.layouts, stream.n_rows
        self.scratch_bytes, self.resident_bytes = stream.scratch_bytes, stream.resident_bytes
        self._stream, self._sources = stream, stream.sources
        x = self._sources["x"]
        self.row_entries = x.row_bytes / (x.dtype.itemsize + 4)

    @property
    def fingerprint(self) -> str:
        """That of the stream."""
        return self._stream.fingerprint

    def begin_at(self, row: int) -> int:
        """Begin where a chunk does."""
        return self._stream.begin_at(row)

    def sparse_blocks(self, block_entries: int) -> Iterator[SparseBlock]:
        """Yield runs of rows."""
        n_rows, step = self.n_rows or 0, max(1, int(block_entries / max(1.0, self.row_entries)))
        for start in range(self._stream.first, n_rows, step):
            rows = slice(start, min(n_rows, start + step))
            block: Any = self._sources["x"].read(rows)
            yield block, companions(self._sources, rows)


def companions(sources: dict[str, RowSource], rows: slice) -> dict[str, NDArray[Any]]:
    """Read what goes with a run of rows of ``x``: targets and weights."""
    found: dict[str, NDArray[Any]] = {}
    for name, source in sources.items():
        if name == "x":
            continue
        values = source.read(rows, np.empty((rows.stop - rows.start, source.shape[1]), source.dtype))
        if not isinstance(values, np.ndarray):
            message = f"{name} {source.name} is sparse; targets and weights must be dense"
            raise InputError(message)
        found[name] = values[:, 0] if source.vector else values
    return found
