"""What every source checks: real numbers in at most two dimensions, and rows that exist."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from nysstream.sources.base import RowSource

_REMEDIES = {
    "O": "store numbers, for example array.astype('float64')",
    "S": "encode the strings as numbers first",
    "U": "encode the strings as numbers first",
    "T": "encode the strings as numbers first",
    "c": "pass the real and the imaginary part as separate columns",
    "M": "pass times as numbers, for example (t - t0) / numpy.timedelta64(1, 's')",
    "m": "pass durations as numbers, for example dt / numpy.timedelta64(1, 's')",
}


def numeric_matrix(
    name: str, shape: Sequence[int], dtype: np.dtype[Any]
) -> tuple[tuple[int, int], np.dtype[Any], bool]:
    """Check that an array can be streamed as a matrix of real numbers.

    Returns
    -------
    shape : tuple of int
        ``(n_rows, n_columns)``.
    dtype : numpy.dtype
        The dtype in native byte order.
    vector : bool
        Whether the array has one dimension.

    Raises
    ------
    InputError
        If it has no or more than two dimensions, or does not hold real numbers.
    """
    if dtype.kind not in "biuf":
        remedy = _REMEDIES.get(dtype.kind, "store each field as an array of its own")
        message = f"{name} has dtype {dtype}, which is not a real number; {remedy}"
        raise InputError(message)
    if len(shape) not in (1, 2):
        remedy = "reshape it to (n_rows, -1)" if len(shape) > 2 else "a matrix or a vector is needed"
        message = f"{name} has {len(shape)} dimensions, shape {tuple(shape)}; {remedy}"
        raise InputError(message)
    matrix = (int(shape[0]), int(shape[1]) if len(shape) == 2 else 1)
    return matrix, dtype.newbyteorder("="), len(shape) == 1


def output_for(source: RowSource, rows: slice, out: NDArray[Any] | None) -> NDArray[Any]:
    """Check a request for rows and give the array to fill: ``out``, or a new one.

    Raises
    ------
    InputError
        If the rows are not within the source or ``out`` has another shape.
    """
    check_rows(source, rows)
    wanted = (rows.stop - rows.start, source.shape[1])
    if out is None:
        return np.empty(wanted, source.dtype)
    if out.shape != wanted:
        message = f"out has shape {out.shape}; rows {rows.start}:{rows.stop} of {source.name} need {wanted}"
        raise InputError(message)
    return out


def check_rows(source: RowSource, rows: slice) -> None:
    """Refuse rows that ``source`` does not have.

    Raises
    ------
    InputError
        If ``rows`` is not ``slice(start, stop)`` with ``0 <= start <= stop <= n_rows``.
    """
    n_rows = source.shape[0]
    if rows.step not in (None, 1) or not 0 <= rows.start <= rows.stop <= n_rows:
        message = f"rows {rows} of {source.name}: need 0 <= start <= stop <= {n_rows} and step 1"
        raise InputError(message)


def reason(error: BaseException) -> str:
    """Say in one line why an operation failed: object stores append pages of debugging output."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = text.strip().splitlines() or [type(error).__name__]
    return lines[0][:400]


def assign(target: NDArray[Any], values: NDArray[Any]) -> None:
    """Copy with a cast; values too large for a narrower float become infinite without a warning."""
    with np.errstate(over="ignore", invalid="ignore"):
        np.copyto(target, values, casting="unsafe")
