"""The row source: a numeric matrix at rest, read by runs of rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from nysstream.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray
    from scipy.sparse import csr_array

    Rows: TypeAlias = NDArray[Any] | csr_array


@dataclass(frozen=True)
class RowReads:
    """Reads that were announced.

    Attributes
    ----------
    read : callable
        As :meth:`RowSource.read`.
    close : callable
        Ends them: what is on its way is given up.
    """

    read: Callable[..., Rows]
    close: Callable[[], None]


class RowSource(ABC):
    """A numeric ``n x p`` matrix at rest, read by contiguous runs of rows.

    A source holds only what it needs to find the data again (a location and option names, or a
    reference to an array in memory), so it is cheap to pickle and ships no credentials. Handles
    are opened on first use in each process.

    Attributes
    ----------
    name : str
        How messages call the source, for example ``flights.zarr[x]``.
    shape : tuple of int
        ``(n_rows, n_columns)``. A stored vector of length ``n`` reads as ``(n, 1)``.
    dtype : numpy.dtype
        Dtype of the stored values, in native byte order.
    chunk_rows : int
        Rows per stored chunk: reading whole multiples of it decodes nothing twice. 1 where any
        run of rows is as cheap as any other.
    chunk_start : int
        First row at which a stored chunk begins (0 but for row ranges).
    vector : bool
        Whether the stored array has one dimension.
    sparse : bool
        Whether :meth:`read` gives ``scipy.sparse.csr_array`` rows.
    """

    name: str
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    chunk_rows: int = 1
    chunk_start: int = 0
    vector: bool = False
    sparse: bool = False

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Hexadecimal digest of the metadata and of sampled values: the data set's identity."""

    @property
    def decode_bytes(self) -> int:
        """Bytes of scratch memory that one concurrent :meth:`read` needs beside its output."""
        return 0

    @property
    def checksums(self) -> bool:
        """Whether stored chunks carry checksums, which every read compares."""
        return False

    @property
    def row_bytes(self) -> float:
        """Decoded bytes of a stored row (an average where rows differ)."""
        return float(self.shape[1] * self.dtype.itemsize)

    @property
    def resident(self) -> bool:
        """Whether the rows are in this process's memory already, so that caching gains nothing."""
        return False

    @abstractmethod
    def read(self, rows: slice, out: NDArray[Any] | None = None) -> Rows:
        """Read a run of rows.

        Parameters
        ----------
        rows : slice
            ``slice(start, stop)`` with ``0 <= start <= stop <= n_rows`` and step 1.
        out : ndarray, shape (stop - start, n_columns), optional
            Filled and returned, cast to its dtype. Ignored by sparse sources.

        Returns
        -------
        ndarray or csr_array, shape (stop - start, n_columns)
            In ``dtype`` unless ``out`` says otherwise. May share memory with the source: do not
            write to it unless it is ``out``.

        Raises
        ------
        SourceError
            If the rows cannot be read or decoded; names the source and the chunk.
        """

    def in_turn(self, runs: Iterable[slice]) -> RowReads:
        """Announce reads of these runs of rows, in this order.

        A source that has to wait for its rows may begin to fetch the next ones. Not every run that is
        announced must be read.
        """
        return RowReads(self.read, lambda: None)

    def restrict(self, rows: slice) -> RowSource:
        """View a contiguous run of rows as a source of its own, without copying."""
        start, stop, step = rows.indices(self.shape[0])
        if step != 1:
            message = f"rows={rows} of {self.name}: only contiguous runs (step 1) can be streamed"
            raise InputError(message)
        if (start, stop) == (0, self.shape[0]):
            return self
        return RowRange(self, start, max(start, stop))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.shape[0]} x {self.shape[1]} {self.dtype}>"


class RowPart(RowSource):
    """Some rows of another source: what is said of a row is said by that."""

    def __init__(self, source: RowSource, n_rows: int) -> None:
        self.source = source
        self.shape = (n_rows, source.shape[1])
        self.dtype, self.vector, self.sparse = source.dtype, source.vector, source.sparse
        self.chunk_rows = source.chunk_rows

    @property
    def decode_bytes(self) -> int:
        """As the whole source."""
        return self.source.decode_bytes

    @property
    def checksums(self) -> bool:
        """As the whole source."""
        return self.source.checksums

    @property
    def row_bytes(self) -> float:
        """As the whole source."""
        return self.source.row_bytes

    @property
    def resident(self) -> bool:
        """As the whole source."""
        return self.source.resident


class RowRange(RowPart):
    """A contiguous run of the rows of another source."""

    def __init__(self, source: RowSource, start: int, stop: int) -> None:
        super().__init__(source, stop - start)
        self.start = start
        self.name = f"{source.name}[{start}:{stop}]"
        self.chunk_start = (source.chunk_start - start) % source.chunk_rows

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the whole source, with the range."""
        return f"{self.source.fingerprint}-{self.start}-{self.start + self.shape[0]}"

    def read(self, rows: slice, out: NDArray[Any] | None = None) -> Rows:
        """Read rows counted from the start of the range."""
        return self.source.read(self._shifted(rows), out)

    def in_turn(self, runs: Iterable[slice]) -> RowReads:
        """Announce reads of runs counted from the start of the range."""
        reads = self.source.in_turn([self._shifted(rows) for rows in runs])
        return RowReads(lambda rows, out=None: reads.read(self._shifted(rows), out), reads.close)

    def _shifted(self, rows: slice) -> slice:
        return slice(rows.start + self.start, rows.stop + self.start)

    def restrict(self, rows: slice) -> RowSource:
        """Restrict the underlying source, so that ranges do not nest."""
        start, stop, _ = rows.indices(self.shape[0])
        return self.source.restrict(slice(self.start + start, self.start + max(start, stop)))
