"""Arguments and options that several commands share, and how their text is read."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nysstream.errors import InputError, SourceError
from nysstream.sources import open as open_source
from nysstream.sources.locations import is_url

if TYPE_CHECKING:
    from nysstream.sources import RowSource

_UNITS = {"s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_rows(text: str) -> slice:
    """Read ``A:B``, either end optional or counted from the last row by a minus."""
    match = re.fullmatch(r"\s*([+-]?\d+)?\s*:\s*([+-]?\d+)?\s*", text)
    if match is None:
        message = f"{text!r} is not of the form A:B, such as 0:1000 or -500:"
        raise typer.BadParameter(message)
    return slice(*(None if part is None else int(part) for part in match.groups()))


def parse_seconds(text: str) -> float:
    """Read a duration: seconds, or numbers with units such as ``90s``, ``55min``, ``1h30min``."""
    text = text.strip().lower()
    parts = re.findall(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)", text)
    unread = re.sub(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)", "", text).strip()
    bare = any(unit == "" for _, unit in parts)
    if (
        not parts
        or unread
        or (bare and len(parts) > 1)
        or any(unit not in _UNITS | {"": 1} for _, unit in parts)
    ):
        message = f"{text!r} is not a duration: give seconds, or for example 90s, 55min or 1h30min"
        raise typer.BadParameter(message)
    return sum(float(number) * (_UNITS[unit] if unit else 1.0) for number, unit in parts)


def parse_rank(text: str) -> Any:
    """Read a rank: ``auto`` or a whole number."""
    if text == "auto" or re.fullmatch(r"[+-]?\d+", text):
        return text if text == "auto" else int(text)
    message = f"{text!r} is not a rank: give 'auto' or a whole number"
    raise typer.BadParameter(message)


Store = Annotated[
    str, typer.Argument(metavar="STORE", help="Zarr store, HDF5 file or .npy file, by path or URL.")
]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="A model, as `fit --out` writes it.")]
Data = Annotated[
    str | None,
    typer.Option(
        "--data", metavar="NAME", help="Array of STORE that holds X; may be left out if it holds one matrix."
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        "--target",
        metavar="NAME|URL[#NAME]",
        help="Array of STORE that holds y, or another store and its array; y by default.",
    ),
]
Weight = Annotated[
    str | None,
    typer.Option("--weight", metavar="NAME|URL[#NAME]", help="Sample weights, given like --target."),
]
Rows = Annotated[
    slice | None,
    typer.Option(
        "--rows", metavar="A:B", parser=parse_rows, help="Only rows A to B-1; -1000: are the last 1000."
    ),
]
MissingChunks = Annotated[
    str, typer.Option("--missing-chunks", metavar="warn|error|fill", help="What to do about absent chunks.")
]
Features = Annotated[
    str | None,
    typer.Option(
        "--features",
        metavar="SPEC",
        help="Feature map, such as fourier:4000 or relu:2000,random_state=1.",
    ),
]
Standardize = Annotated[
    bool, typer.Option("--standardize", help="Penalise the coefficients of columns scaled to unit variance.")
]
NoIntercept = Annotated[bool, typer.Option("--no-intercept", help="Fit no intercept.")]
Rank = Annotated[
    Any, typer.Option("--rank", metavar="N|auto", parser=parse_rank, help="Columns of the sketch.")
]
Precision = Annotated[
    str,
    typer.Option("--precision", metavar="single|double", help="Of products; residuals are always double."),
]
Memory = Annotated[
    str | None,
    typer.Option(
        "--memory",
        metavar="SIZE",
        help="Limit for the whole process, such as 2GiB; half of what is free by default.",
    ),
]
Device = Annotated[
    str | None, typer.Option("--device", metavar="cpu|cuda", help="A GPU where there is one, by default.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of the sketch.")]
Scheduler = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        metavar="threads|synchronous|ADDRESS",
        help="Where passes run; an address is tcp://host:port.",
    ),
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Threads; one per core by default.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def open_rows(
    store: str, name: str | None = None, rows: slice | None = None, missing_chunks: str = "warn"
) -> RowSource:
    """Open the matrix of a store, and of it the rows asked for, all of which must exist.

    Raises
    ------
    InputError
        If there are fewer rows, or the array cannot be streamed.
    SourceError
        If the store cannot be opened.
    """
    missing: Any = missing_chunks
    return _restricted(open_source(store, name, missing_chunks=missing), rows)


def open_beside(store: str, spec: str, rows: slice | None = None, missing_chunks: str = "warn") -> RowSource:
    """Open what goes with the matrix of ``store``: an array of it, or of another store.

    Parameters
    ----------
    store : str
        Where the matrix is.
    spec : str
        ``NAME`` of an array of ``store``; or the path or URL of another store, with ``#NAME`` of
        its array where it holds several.
    rows : slice, optional
        The same rows as of the matrix.
    missing_chunks : {"warn", "error", "fill"}
    """
    missing: Any = missing_chunks
    location, mark, name = spec.partition("#")
    if mark or is_url(spec):
        return _restricted(open_source(location or store, name or None, missing_chunks=missing), rows)
    try:
        source = open_source(store, spec, missing_chunks=missing)
    except (InputError, SourceError):
        if not os.path.exists(spec):
            raise
        source = open_source(spec, missing_chunks=missing)
    return _restricted(source, rows)


def open_data(
    store: str,
    data: str | None,
    target: str | None,
    weight: str | None,
    rows: slice | None,
    missing_chunks: str = "warn",
) -> tuple[RowSource, RowSource, RowSource | None]:
    """Open the matrix, the targets (by default the array ``y`` of the same store), and the weights.

    Raises
    ------
    InputError, SourceError
        If one of them cannot be opened; says by which option to name it.
    """
    X = open_rows(store, data, rows, missing_chunks)
    try:
        y = open_beside(store, target or "y", rows, missing_chunks)
    except (InputError, SourceError) as error:
        if target is not None:
            raise
        message = (
            f"no targets were named and y, the default, will not do: {error}. Give --target NAME or URL#NAME"
        )
        raise InputError(message) from error
    return X, y, None if weight is None else open_beside(store, weight, rows, missing_chunks)


def _restricted(source: RowSource, rows: slice | None) -> RowSource:
    if rows is None:
        return source
    n_rows = source.shape[0]
    ends = [end for end in (rows.start, rows.stop) if end is not None]
    start, stop, _ = rows.indices(n_rows)
    if any(not -n_rows <= end <= n_rows for end in ends) or start >= stop:
        shown = ":".join("" if end is None else str(end) for end in (rows.start, rows.stop))
        message = f"--rows {shown} of {source.name}: it has {n_rows} rows; ask for some of them"
        raise InputError(message)
    return source.restrict(rows)
