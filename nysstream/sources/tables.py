"""Read numeric columns of CSV and Parquet files, block by block, through Arrow."""

from __future__ import annotations

import difflib
import os
import re
from abc import abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from nysstream.errors import InputError, SourceError
from nysstream.sources.fingerprint import fingerprint_of_files
from nysstream.sources.layout import Layout
from nysstream.sources.listing import SUFFIXES, find_files
from nysstream.sources.stream import RowStream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from nysstream.sources.stream import Blocks

CSV_BLOCK_BYTES = 2 << 20
PARQUET_BUFFER_BYTES = 1 << 20
BAD_VALUE = re.compile(r"In CSV column #(\d+):(?: Row #(\d+):)? CSV conversion error.*(invalid value '.*')")


class Table(RowStream):
    """Numeric columns of one or several files with the same column names.

    Parameters
    ----------
    path : str or pathlib.Path
        A file, a directory of files, or a glob.
    columns : sequence of str, optional
        Columns of ``x``, in this order. By default all that are neither target nor weight.
    target : str or sequence of str, optional
        Columns of ``y``.
    weight : str, optional
        Column of row weights.

    Raises
    ------
    InputError
        If a column is missing, holds text or dates, or is asked for twice; and, while reading, if
        a value is missing or is not a number. Names the file, the column and the row.
    SourceError
        If a file cannot be read.

    Notes
    -----
    Cost: one pass over the files; a few blocks of memory.
    """

    kind: str

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        columns: Sequence[str] | None = None,
        target: str | Sequence[str] | None = None,
        weight: str | None = None,
    ) -> None:
        self.name = os.fspath(path)
        self.files = find_files(path, SUFFIXES[self.kind])
        schema = self._schema(self.files[0])
        repeated = sorted({name for name in schema.names if schema.names.count(name) > 1})
        if repeated:
            message = f"{self.files[0]}: columns {', '.join(repeated)} appear more than once; rename them"
            raise InputError(message)
        self._arrays = self._choose(schema, columns, target, weight)
        self._types = {name: schema.field(name).type for names in self._arrays.values() for name in names}
        self._refuse_text(schema)
        self.layouts = {
            name: Layout(
                len(names),
                np.result_type(*(_numpy_dtype(self._types[column]) for column in names)),
                vector=name == "weight" or (name == "y" and isinstance(target, str)),
                columns=names,
            )
            for name, names in self._arrays.items()
        }
        self._starts: list[int] = []

    @abstractmethod
    def _schema(self, file: Path) -> pa.Schema:
        """Names and types of a file's columns."""

    @abstractmethod
    def _batches(self, file: Path, block_rows: int) -> Iterator[pa.RecordBatch]:
        """Read the chosen columns of a file in order."""

    def blocks(self, block_rows: int) -> Iterator[Blocks]:
        """Yield the rows of all files in order."""
        first_row = 0
        self._starts = []
        for file in self.files:
            self._starts.append(first_row)
            for batch in self._batches(file, block_rows):
                for start in range(0, batch.num_rows, block_rows):
                    block = self._convert(batch.slice(start, block_rows), first_row)
                    first_row += len(block["x"])
                    yield block

    @property
    def fingerprint(self) -> str:
        """Digest of the files."""
        return fingerprint_of_files(self.files)

    def where(self, row: int) -> str:
        """Name the file and the row in it, counted from 0 after any header."""
        index = int(np.searchsorted(self._starts, row, side="right")) - 1
        return f"{self.files[index]}, row {row - self._starts[index]} (counted from 0)"

    def _convert(self, batch: pa.RecordBatch, first_row: int) -> Blocks:
        block: Blocks = {}
        for name, layout in self.layouts.items():
            rows = np.empty((batch.num_rows, layout.n_columns), layout.dtype)
            for j, column in enumerate(self._arrays[name]):
                values = batch.column(column)
                if values.null_count:
                    row = pc.index(pc.is_null(values), True).as_py()
                    message = (
                        f"{self.where(first_row + row)}: column {column!r} has no value. Fill or drop such "
                        "rows, or leave the column out"
                    )
                    raise InputError(message)
                if pa.types.is_decimal(values.type):
                    values = pc.cast(values, pa.float64())
                rows[:, j] = values.to_numpy(zero_copy_only=False)
            block[name] = rows[:, 0] if layout.vector else rows
        return block

    def _choose(
        self,
        schema: pa.Schema,
        columns: Sequence[str] | None,
        target: str | Sequence[str] | None,
        weight: str | None,
    ) -> dict[str, tuple[str, ...]]:
        y = (target,) if isinstance(target, str) else tuple(target or ())
        w = () if weight is None else (weight,)
        if isinstance(columns, str):
            columns = (columns,)
        x = tuple(columns) if columns is not None else tuple(n for n in schema.names if n not in {*y, *w})
        chosen = (*x, *y, *w)
        for name in chosen:
            if name not in schema.names:
                message = f"{self.files[0]}: there is no column {name!r}{_suggestion(name, schema.names)}"
                raise InputError(message)
            if chosen.count(name) > 1:
                message = f"column {name!r} is asked for twice: columns, target and weight must differ"
                raise InputError(message)
        if not x:
            message = f"{self.files[0]}: no columns are left for x"
            raise InputError(message)
        return {name: names for name, names in (("x", x), ("y", y), ("weight", w)) if names}

    def _refuse_text(self, schema: pa.Schema) -> None:
        bad = [f"{name!r} ({kind})" for name, kind in self._types.items() if not _is_number(kind)]
        if not bad:
            return
        numeric = [name for name in schema.names if _is_number(schema.field(name).type)]
        message = (
            f"{self.files[0]}: only numbers can be stored, but these columns hold none: {', '.join(bad)}. "
            f"Select others with columns=, or encode them first. Numeric columns: {_listed(numeric)}"
        )
        raise InputError(message)


class CSV(Table):
    """Numeric columns of CSV files, read as float64.

    Parameters
    ----------
    path, columns, target, weight
        As for :class:`Table`. Compressed files (``.gz``, ``.bz2``, ``.zst``) are read as they are.
    header : bool
        Whether the first line of each file names the columns; ``f0``, ``f1``, ... otherwise.
    delimiter : str, optional
        Character between values: by default a tabulator for ``.tsv``, else a comma.
    """

    kind = "csv"
    scratch_bytes = 24 * CSV_BLOCK_BYTES

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        columns: Sequence[str] | None = None,
        target: str | Sequence[str] | None = None,
        weight: str | None = None,
        header: bool = True,
        delimiter: str | None = None,
    ) -> None:
        self._header, self._delimiter = header, delimiter
        super().__init__(path, columns=columns, target=target, weight=weight)

    @property
    def fingerprint(self) -> str:
        """Digest of the files, and how their rows are told."""
        return f"{super().fingerprint} header={self._header} delimiter={self._delimiter}"

    def _open(self, file: Path, types: dict[str, pa.DataType] | None, *, threads: bool = True) -> Any:
        delimiter = self._delimiter or ("\t" if ".tsv" in file.name.lower() else ",")
        return pyarrow.csv.open_csv(
            pa.input_stream(os.fspath(file)),
            read_options=pyarrow.csv.ReadOptions(
                block_size=CSV_BLOCK_BYTES, use_threads=threads, autogenerate_column_names=not self._header
            ),
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types=types, include_columns=None if types is None else list(types)
            ),
        )

    def _schema(self, file: Path) -> pa.Schema:
        try:
            with self._open(file, None) as reader:
                schema = reader.schema
        except (pa.ArrowException, OSError) as error:
            message = f"cannot read {file}: {error}"
            raise SourceError(message) from error
        # What a first block holds as integers may go on as fractions; what it leaves empty may not.
        numbers = {pa.int64(), pa.null()}
        return pa.schema([(f.name, pa.float64() if f.type in numbers else f.type) for f in schema])

    def _batches(self, file: Path, block_rows: int) -> Iterator[pa.RecordBatch]:
        try:
            with self._open(file, self._types) as reader:
                yield from reader
        except pa.ArrowKeyError as error:
            message = f"{file} lacks columns that {self.files[0]} has: {error}"
            raise InputError(message) from error
        except pa.ArrowInvalid as error:
            raise InputError(self._explain(file, error)) from error
        except OSError as error:
            message = f"cannot read {file}: {error}"
            raise SourceError(message) from error

    def _explain(self, file: Path, error: Exception) -> str:
        """Read again, slowly: Arrow tells the line of a bad value only when it uses one thread."""
        try:
            with self._open(file, self._types, threads=False) as reader:
                for _ in reader:
                    pass
        except pa.ArrowInvalid as slow:
            error = slow
        text = str(error)
        found = re.search(
            r"In CSV column #(\d+):(?: Row #(\d+):)? CSV conversion error.*(invalid value '.*')", text
        )
        if not found:
            return f"{file}: {text}"
        with self._open(file, None) as reader:
            column = reader.schema.names[int(found[1])]
        line = f", line {found[2]}" if found[2] else ""
        return (
            f"{file}{line}: column {column!r} holds no number: {found[3]}. Correct the file, or leave the "
            "column out with columns="
        )


class Parquet(Table):
    """Numeric columns of Parquet files, in their common dtype."""

    kind = "parquet"
    scratch_bytes = 32 << 20

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        columns: Sequence[str] | None = None,
        target: str | Sequence[str] | None = None,
        weight: str | None = None,
    ) -> None:
        super().__init__(path, columns=columns, target=target, weight=weight)
        dtypes: dict[str, np.dtype[Any]] = {}
        self.n_rows = 0
        for file in self.files:
            with self._open(file) as opened:
                self.n_rows += int(opened.metadata.num_rows)
                for name, dtype in self._dtypes(file, opened.schema_arrow).items():
                    dtypes[name] = np.result_type(dtypes.get(name, dtype), dtype)
        for name, columns in self._arrays.items():
            common = np.result_type(*(dtypes[column] for column in columns))
            self.layouts[name] = replace(self.layouts[name], dtype=common)
        # Every column of a file is read through a buffer of its own.
        self.scratch_bytes += PARQUET_BUFFER_BYTES * len(self._types)

    def _open(self, file: Path) -> pyarrow.parquet.ParquetFile:
        try:
            return pyarrow.parquet.ParquetFile(file, buffer_size=PARQUET_BUFFER_BYTES, pre_buffer=False)
        except (pa.ArrowException, OSError) as error:
            message = f"cannot read {file}: {error}"
            raise SourceError(message) from error

    def _schema(self, file: Path) -> pa.Schema:
        with self._open(file) as opened:
            return opened.schema_arrow

    def _dtypes(self, file: Path, schema: pa.Schema) -> dict[str, np.dtype[Any]]:
        for name in self._types:
            if name not in schema.names:
                message = f"{file} lacks the column {name!r} that {self.files[0]} has"
                raise InputError(message)
            kind = schema.field(name).type
            if not _is_number(kind):
                message = f"{file}: column {name!r} holds {kind}, but numbers in {self.files[0]}"
                raise InputError(message)
        return {name: _numpy_dtype(schema.field(name).type) for name in self._types}

    def _batches(self, file: Path, block_rows: int) -> Iterator[pa.RecordBatch]:
        with self._open(file) as opened:
            try:
                yield from opened.iter_batches(block_rows, columns=list(self._types))
            except (pa.ArrowException, OSError) as error:
                message = f"cannot read {file}: {error}"
                raise SourceError(message) from error


def _is_number(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_decimal(kind)
    )


def _numpy_dtype(kind: pa.DataType) -> np.dtype[Any]:
    if pa.types.is_boolean(kind):
        return np.dtype(np.uint8)
    if pa.types.is_decimal(kind):
        return np.dtype(np.float64)
    dtype: np.dtype[Any] = np.dtype(kind.to_pandas_dtype())
    return dtype


def _suggestion(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {close[0]!r}?" if close else f". Columns: {_listed(names)}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:20])) + (", ..." if len(names) > 20 else "") if names else "none"
