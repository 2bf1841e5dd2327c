"""Read LIBSVM (svmlight) text in bounded memory, as sparse or dense rows."""

from __future__ import annotations

import gzip
import os
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nysstream.errors import InputError, SourceError
from nysstream.sources.csr_checking import csr_rows
from nysstream.sources.csr_streams import SparseStream
from nysstream.sources.fingerprint import fingerprint_of_files
from nysstream.sources.layout import Layout
from nysstream.sources.listing import SUFFIXES, find_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import DTypeLike, NDArray
    from scipy.sparse import csr_matrix

    from nysstream.sources.csr_streams import SparseBlock
    from nysstream.sources.stream import Blocks

TEXT_BYTES = 4 << 20


class LIBSVM(SparseStream):
    """Rows of LIBSVM text: labels become ``y``, features a sparse or dense ``x``.

    Parameters
    ----------
    path : str or pathlib.Path
        A file, a directory of files, or a glob; ``.gz`` files are read as they are.
    n_features : int, optional
        Number of columns. By default the largest index found by a first reading of all files.
    zero_based : bool or "auto"
        Whether indices begin with 0. ``"auto"`` takes them to begin with 1 unless a 0 is found
        anywhere, so that all parts of the files are read alike.
    dtype : dtype
        Dtype of ``x``; labels are float64.

    Raises
    ------
    InputError
        If a line cannot be understood, or an index exceeds ``n_features``; names the line.
    SourceError
        If a file cannot be read.

    Notes
    -----
    Cost: one pass over the text to find the number of rows and columns (two readings in all),
    unless both ``n_features`` and ``zero_based`` are given. Holds 4 MiB of text at a time.

    Attributes
    ----------
    density : float or None
        Fraction of entries that are stored in the text, once it has been read through.
    narrow : bool
        Whether float32 holds every value as it is; false before the text has been read through.
    """

    narrow = False
    scratch_bytes = 12 * TEXT_BYTES

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        n_features: int | None = None,
        zero_based: bool | Literal["auto"] = "auto",
        dtype: DTypeLike = np.float64,
    ) -> None:
        self.name = os.fspath(path)
        self.files = find_files(path, SUFFIXES["libsvm"])
        self.density: float | None = None
        self._starts: list[int] = []
        if n_features is not None and n_features < 1:
            message = f"n_features={n_features}: there is at least one column"
            raise InputError(message)
        if n_features is None or zero_based == "auto":
            n_features, zero_based = self._scan(n_features, zero_based)
        self.zero_based = bool(zero_based)
        self.layouts = {
            "x": Layout(n_features, np.dtype(dtype)),
            "y": Layout(1, np.dtype(np.float64), vector=True),
        }

    def blocks(self, block_rows: int) -> Iterator[Blocks]:
        """Yield dense rows and their labels in order."""
        layout = self.layouts["x"]
        for entries, labels in self._checked():
            for start in range(0, len(labels), block_rows):
                part = entries[start : start + block_rows]
                rows = np.zeros((part.shape[0], layout.n_columns), layout.dtype)
                where = np.repeat(np.arange(part.shape[0]), np.diff(part.indptr))
                rows[where, part.indices] = part.data
                yield {"x": rows, "y": labels[start : start + block_rows]}

    def sparse_blocks(self, block_entries: int) -> Iterator[SparseBlock]:
        """Yield what some megabytes of text hold, whatever ``block_entries``."""
        n_columns = self.layouts["x"].n_columns
        for entries, labels in self._checked():
            yield csr_rows(entries.data, entries.indices, entries.indptr, n_columns), {"y": labels}

    def scan(self) -> None:
        """Read the text through, unless that was done: for its number of rows, density and values."""
        if self.n_rows is None:
            self._scan(self.layouts["x"].n_columns, self.zero_based)

    @property
    def fingerprint(self) -> str:
        """Digest of the files, and how their columns are counted."""
        return f"{fingerprint_of_files(self.files)} zero_based={self.zero_based}"

    def where(self, row: int) -> str:
        """Name the file and the row in it."""
        index = int(np.searchsorted(self._starts, row, side="right")) - 1
        return f"{self.files[index]}, row {row - self._starts[index]} (counted from 0)"

    def _scan(self, n_features: int | None, zero_based: bool | Literal["auto"]) -> tuple[int, bool]:
        lowest, highest, n_rows, n_entries, narrow = 1, 0, 0, 0, True
        for _, entries, labels in self._parts():
            n_rows += len(labels)
            n_entries += entries.nnz
            with np.errstate(over="ignore"):
                narrow = narrow and bool((entries.data.astype(np.float32) == entries.data).all())
            if entries.nnz:
                lowest = min(lowest, int(entries.indices.min()))
                highest = max(highest, int(entries.indices.max()))
        self.n_rows, self.narrow = n_rows, narrow
        if zero_based == "auto":
            zero_based = lowest == 0
        if n_features is None:
            n_features = highest + 1 if zero_based else highest
        if n_features < 1:
            message = f"{self.name}: no features were found in {n_rows} rows"
            raise InputError(message)
        self.density = n_entries / max(1, n_rows * n_features)
        return n_features, zero_based

    def _checked(self) -> Iterator[tuple[csr_matrix, NDArray[Any]]]:
        """Read entries whose columns exist and count from 0, and labels."""
        offset, n_columns = (0 if self.zero_based else 1), self.layouts["x"].n_columns
        for first_row, entries, labels in self._parts():
            if (
                entries.nnz
                and not offset <= entries.indices.min() <= entries.indices.max() < n_columns + offset
            ):
                raise InputError(self._bad_index(entries, first_row, offset))
            entries.indices -= offset
            yield entries, labels

    def _parts(self) -> Iterator[tuple[int, csr_matrix, NDArray[Any]]]:
        """Read whole lines, some megabytes at a time: first row, entries as indexed, labels."""
        first_row = 0
        self._starts = []
        for file in self.files:
            self._starts.append(first_row)
            line = 1
            for text in _lines(file):
                entries, labels = self._parse(file, text, line)
                yield first_row, entries, labels
                first_row += len(labels)
                line += text.count(b"\n")

    def _parse(self, file: Path, text: bytes, line: int) -> tuple[csr_matrix, NDArray[Any]]:
        from sklearn.datasets import load_svmlight_file  # takes 100 MB and a second to import

        try:
            # With zero_based=True indices come as they stand in the text.
            entries, labels = load_svmlight_file(BytesIO(text), zero_based=True)
        except (ValueError, OverflowError) as error:
            if text.count(b"\n") > 1:
                for number, single in enumerate(text.splitlines(keepends=True)):
                    self._parse(file, single, line + number)
            message = (
                f"{file}, line {line}: not LIBSVM text of the form 'label index:value ...' with one label a "
                f"line and growing indices: {error}"
            )
            raise InputError(message) from error
        return entries, labels

    def _bad_index(self, entries: csr_matrix, first_row: int, offset: int) -> str:
        last = self.layouts["x"].n_columns + offset - 1
        bad = np.flatnonzero((entries.indices < offset) | (entries.indices > last))[0]
        row = first_row + int(np.searchsorted(entries.indptr, bad, side="right")) - 1
        return (
            f"{self.where(row)}: index {entries.indices[bad]} is outside {offset}..{last}; "
            "pass other n_features or zero_based"
        )


def _lines(file: Path) -> Iterator[bytes]:
    try:
        with gzip.open(file) if file.suffix == ".gz" else open(file, "rb") as opened:
            while text := opened.read(TEXT_BYTES):
                text += opened.readline()
                yield text
    except (OSError, EOFError) as error:
        if isinstance(error, SourceError):
            raise
        message = f"cannot read {file}: {error}"
        raise SourceError(message) from error
