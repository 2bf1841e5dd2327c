"""The command ``convert``."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from nysstream.cli.opening import open_beside
from nysstream.cli.printing import by, print_json, print_table, two_columns
from nysstream.cli.progress import ProgressLine
from nysstream.cli.running import CONVERGED, checkpointed, command
from nysstream.errors import InputError
from nysstream.sources import converting
from nysstream.sources.listing import sequential_format
from nysstream.sources.locations import is_url

Strings = list[str] | None
#: Options that say how rows are read from SRC.
Data = Annotated[str | None, typer.Option("--data", metavar="NAME", help="Array of SRC that becomes x.")]
Target = Annotated[
    Strings,
    typer.Option("--target", metavar="NAME|URL[#NAME]", help="What becomes y; repeat for several columns."),
]
Weight = Annotated[
    str | None, typer.Option("--weight", metavar="NAME|URL[#NAME]", help="What becomes weight.")
]
Columns = Annotated[
    Strings,
    typer.Option("--columns", metavar="A,B", help="Columns of a table that make x; all others by default."),
]
Format = Annotated[
    str | None, typer.Option("--format", metavar="csv|parquet|libsvm|npz", help="Read files as this.")
]
Delimiter = Annotated[str | None, typer.Option("--delimiter", help="Of CSV.")]
NoHeader = Annotated[bool, typer.Option("--no-header", help="The first line of CSV is data.")]
NFeatures = Annotated[
    int | None,
    typer.Option("--n-features", min=1, help="Columns of LIBSVM text; as many as are found by default."),
]
Memory = Annotated[str, typer.Option("--memory", metavar="SIZE", help="Limit for the whole process.")]


@command
def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="Zarr store, HDF5 or .npy file; sparse .npz file of SciPy; CSV, Parquet or LIBSVM files, or "
            "a directory of them.",
        ),
    ],
    destination: Annotated[
        str, typer.Argument(metavar="DEST", help="Zarr group to write; sparse rows also to an HDF5 file.")
    ],
    *,
    data: Data = None,
    target: Target = None,
    weight: Weight = None,
    columns: Columns = None,
    format: Format = None,
    delimiter: Delimiter = None,
    no_header: NoHeader = False,
    n_features: NFeatures = None,
    rows: slice | None,
    dtype: Annotated[str | None, typer.Option("--dtype", help="Of x; as stored by default.")] = None,
    chunk_rows: Annotated[
        int | None, typer.Option("--chunk-rows", min=1, help="Rows per chunk; 4 MiB worth by default.")
    ] = None,
    codec: Annotated[
        str, typer.Option("--codec", metavar="blosc-lz4|zstd|gzip|none", help="Compression.")
    ] = "blosc-lz4",
    checksum: Annotated[
        bool, typer.Option("--checksum/--no-checksum", help="Add a checksum to every chunk.")
    ] = True,
    shuffle: Annotated[
        int | None, typer.Option("--shuffle", metavar="SEED", min=0, help="Put the rows in a random order.")
    ] = None,
    dense: Annotated[
        bool | None,
        typer.Option("--dense/--no-dense", help="Whether sparse rows are written as dense ones."),
    ] = None,
    memory: Memory = "1GiB",
    overwrite: bool,
    json: bool,
    checkpoint: str | None,
    checkpoint_every: float | None,
    resume: bool,
) -> int:
    """Write rows from any format as row-chunked Zarr, which streams fastest, as arrays x, y and weight."""
    with (
        checkpointed(checkpoint, checkpoint_every, resume=resume, overwrite=overwrite) as outputs,
        ProgressLine() as line,
    ):
        written = converting.convert(
            source,
            destination,
            target=companion(source, target, format),
            weight=companion(source, None if weight is None else [weight], format),
            rows=rows,
            dtype=dtype,
            chunk_rows=chunk_rows,
            codec=codec,
            checksum=checksum,
            shuffle=shuffle,
            dense=dense,
            overwrite=outputs.replaceable(destination),
            memory=memory,
            progress=(lambda done, total: line.rows("converting", done, total)) if line.shown else None,
            **reading(source, data, columns, format, delimiter, no_header=no_header, n_features=n_features),
        )
        outputs.written(destination)
    record = {
        "store": written.target,
        "n_rows": written.n_rows,
        "chunk_rows": written.chunk_rows,
        "arrays": {
            name: {"shape": list(layout.shape(written.n_rows)), "dtype": str(layout.dtype)}
            for name, layout in written.layouts.items()
        },
        "n_entries": written.nnz,
    }
    if json:
        print_json(record)
    else:
        shapes = [
            (f"Array {name}", f"{by(layout.shape(written.n_rows))} {layout.dtype}")
            for name, layout in written.layouts.items()
        ]
        lines = [("Store", written.target), *shapes]
        if written.nnz is None:
            lines.append(("Chunks", f"{written.chunk_rows:,} rows each"))
        else:
            density = written.nnz / (written.n_rows * written.layouts["x"].n_columns)
            lines.append(("Entries", f"{written.nnz:,} of x, {density:.2%}"))
        print_table(two_columns(lines))
    return CONVERGED


def reading(
    source: str,
    data: str | None,
    columns: Strings,
    format: str | None,
    delimiter: str | None,
    *,
    no_header: bool,
    n_features: int | None,
) -> dict[str, Any]:
    """Say how rows are read, in the words of :func:`nysstream.convert`."""
    options: dict[str, Any] = {"name": data, "format": format}
    options["columns"] = None if columns is None else [name for item in columns for name in item.split(",")]
    if delimiter is not None:
        options["delimiter"] = delimiter
    if no_header:
        options["header"] = False
    if n_features is not None:
        if sequential_format(source, format) != "libsvm":
            message = f"--n-features is about LIBSVM text, and {source} is none: leave it out"
            raise InputError(message)
        options["n_features"] = n_features
    return options


def companion(source: str, names: Strings, format: str | None) -> Any:
    """Say what goes with x: column names, or the name of an array, or an array of another store."""
    if not names:
        return None
    if len(names) > 1:
        return names
    stored = sequential_format(source, format) in (None, "npz")
    elsewhere = "#" in names[0] or is_url(names[0]) or os.path.exists(names[0])
    return open_beside(source, names[0]) if stored and elsewhere else names[0]
