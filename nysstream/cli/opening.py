"""Matrices, targets and weights, opened as the options name them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from nysstream.errors import InputError, SourceError
from nysstream.sources import open as open_source
from nysstream.sources.locations import is_url

if TYPE_CHECKING:
    from nysstream.sources import RowSource

#: Openings of arrays that turn out to differ in their rows.
_OPENINGS = 5


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
    for _ in range(_OPENINGS):
        X = open_rows(store, data, rows, missing_chunks)
        try:
            y = open_beside(store, target or "y", rows, missing_chunks)
        except (InputError, SourceError) as error:
            if target is not None:
                raise
            message = (
                f"no targets were named and y, the default, will not do: {error}. Give --target NAME or "
                "URL#NAME"
            )
            raise InputError(message) from error
        w = None if weight is None else open_beside(store, weight, rows, missing_chunks)
        if X.shape[0] == y.shape[0] == (X if w is None else w).shape[0]:
            break  # else the store may have grown between two openings
    return X, y, w


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
