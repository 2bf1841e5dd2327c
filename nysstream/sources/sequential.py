"""Open anything that holds rows to be read once, from first to last."""

from __future__ import annotations

import os
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.errors import InputError
from nysstream.sources import opening
from nysstream.sources.base import RowSource
from nysstream.sources.csr import CSRSource
from nysstream.sources.csr_npz import NpzCSR, load_by_rows, npz_errors, npz_format
from nysstream.sources.layout import Layout
from nysstream.sources.libsvm import LIBSVM
from nysstream.sources.listing import sequential_format
from nysstream.sources.stream import RowStream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nysstream.sources.stream import Blocks


class SourceStream(RowStream):
    """The rows of up to three sources of equal length, in order.

    Parameters
    ----------
    x : RowSource
        The matrix.
    y, weight : RowSource, optional
        Targets and row weights.
    """

    def __init__(self, x: RowSource, y: RowSource | None = None, weight: RowSource | None = None) -> None:
        self.sources = {
            name: source for name, source in (("x", x), ("y", y), ("weight", weight)) if source is not None
        }
        self.name = x.name
        self.n_rows = x.shape[0]
        self.first = 0
        self.chunk_rows = x.chunk_rows
        self.scratch_bytes = sum(source.decode_bytes for source in self.sources.values())
        self.resident_bytes = sum(
            source.shape[0] * source.shape[1] * source.dtype.itemsize
            for source in self.sources.values()
            if source.resident and not source.sparse
        )
        for name, source in self.sources.items():
            if source.shape[0] != self.n_rows:
                message = f"{name} {source.name} has {source.shape[0]} rows, but x {x.name} has {self.n_rows}"
                raise InputError(message)
        self.layouts = {
            name: Layout(
                source.shape[1],
                np.dtype(np.uint8) if source.dtype == np.bool_ else source.dtype,
                vector=source.vector,
            )
            for name, source in self.sources.items()
        }

    @property
    def fingerprint(self) -> str:
        """Those of the sources."""
        return " ".join(source.fingerprint for source in self.sources.values())

    def begin_at(self, row: int) -> int:
        """Begin where a chunk does."""
        self.first = row - row % self.chunk_rows
        return self.first

    def blocks(self, block_rows: int) -> Iterator[Blocks]:
        """Yield runs of rows; dense buffers are reused."""
        n_rows = self.n_rows or 0
        buffers = {
            name: np.empty((min(block_rows, n_rows), layout.n_columns), layout.dtype)
            for name, layout in self.layouts.items()
            if not self.sources[name].sparse
        }
        for start in range(self.first, n_rows, block_rows):
            rows = slice(start, min(n_rows, start + block_rows))
            block: Blocks = {}
            for name, source in self.sources.items():
                buffer = buffers[name][: rows.stop - rows.start] if name in buffers else None
                read = source.read(rows, buffer)
                dense = read if isinstance(read, np.ndarray) else read.toarray()
                block[name] = dense[:, 0] if self.layouts[name].vector else dense
            yield block


def open_stream(
    source: Any,
    *,
    name: str | None = None,
    target: Any = None,
    weight: Any = None,
    columns: Sequence[str] | None = None,
    format: str | None = None,
    memory_bytes: int = 1 << 30,
    **options: Any,
) -> RowStream:
    """Open anything that :func:`convert` takes; parameters as there, ``memory`` in bytes."""
    if isinstance(source, RowStream):
        return source
    kind = sequential_format(source, format) if isinstance(source, str | os.PathLike) else None
    if kind in ("csv", "parquet"):
        from nysstream.sources.tables import CSV, Parquet  # Arrow takes 40 MB, for tables only

        _refuse(source, f"a {kind} table has columns, not named arrays", name=name)
        table = CSV if kind == "csv" else Parquet
        return table(source, columns=columns, target=target, weight=weight, **options)
    _refuse(source, "only CSV and Parquet have named columns", columns=columns)
    if kind == "libsvm":
        _refuse(source, "labels are the target of LIBSVM text", name=name, target=target, weight=weight)
        return LIBSVM(source, **options)
    if kind == "npz":
        _refuse(source, "a .npz file holds one sparse matrix", name=name)
        return _open_npz(source, target, weight, memory_bytes, **options)
    sources = {
        "x": _row_source(source, name, options),
        "y": _companion(source, target, options),
        "weight": _companion(source, weight, options),
    }
    return SourceStream(**{key: found for key, found in sources.items() if found is not None})


def _open_npz(
    path: str | os.PathLike[str], target: Any, weight: Any, memory_bytes: int, **options: Any
) -> RowStream:
    """Open a sparse matrix that SciPy saved; one that is not stored by rows is ordered in memory."""
    _refuse(path, "a .npz file is read as it is", **options)
    for companion in (target, weight):
        if isinstance(companion, str):
            message = (
                f"{companion!r} names an array, but a .npz file holds one matrix: pass the array itself, or "
                "name another store"
            )
            raise InputError(message)
    y, h = _companion(path, target, {}), _companion(path, weight, {})
    with npz_errors(os.fspath(path)), zipfile.ZipFile(path) as file:
        by_rows = npz_format(file, os.fspath(path))[0] == "csr"
    if by_rows:
        return NpzCSR(path, y, h)
    matrix = load_by_rows(path, memory_bytes)
    return SourceStream(CSRSource(matrix, name=os.fspath(path)), y, h)


def _row_source(source: Any, name: str | None, options: dict[str, Any]) -> RowSource:
    if isinstance(source, RowSource):
        return source
    if isinstance(source, str | os.PathLike):
        return opening.open(source, name, **options)
    _refuse("an array", "only files have named arrays and options", name=name, **options)
    return opening.as_source(source)


def _companion(source: Any, companion: Any, options: dict[str, Any]) -> RowSource | None:
    if companion is None:
        return None
    if not isinstance(companion, str):
        return _row_source(companion, None, {})
    if not isinstance(source, str | os.PathLike):
        message = f"{companion!r} names an array, but the source is not a file: pass the array itself"
        raise InputError(message)
    return _row_source(source, companion, options)


def _refuse(source: Any, why: str, **settings: Any) -> None:
    given = [f"{key}=" for key, value in settings.items() if value is not None]
    if given:
        message = f"{source}: {', '.join(given)} cannot be used here: {why}"
        raise InputError(message)
