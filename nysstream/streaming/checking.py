"""What is checked of sums over the rows: weights, missing values, overflow and underflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.arrays import to_host
from nysstream.errors import InputError

if TYPE_CHECKING:
    from nysstream.streaming.design import DesignMatrix
    from nysstream.streaming.reduction import Array, Part, Tile


def check_weight(design: DesignMatrix, total: float) -> None:
    """Refuse rows of no weight at all.

    Raises
    ------
    InputError
        Names the weights.
    """
    if total <= 0:
        name = "" if design.weight is None else f" in {design.weight.name}"
        message = f"all weights{name} are zero; at least one must be positive"
        raise InputError(message)


def check_sums(design: DesignMatrix, part: Part) -> None:
    """Refuse sums, about the means, that have overflowed or underflowed.

    Raises
    ------
    InputError
        Says what to scale.
    """
    if not all(np.isfinite(value).all() for value in part.values()):
        message = _overflow(f"sums over the rows of {design.source.name}", design.dtype)
        raise InputError(message)
    mean = part["shift"] + part["offset"]
    least = float(np.finfo(design.dtype).tiny) / design.eps
    vanished = (mean != 0) & (mean**2 < least) & (part["summed_squares"] < least * part["weight"])
    if design.dtype == np.float32 and vanished.any():
        message = (
            f"column {np.flatnonzero(vanished)[0]} of {design.source.name} is so small that its squares "
            "underflow float32: scale the columns, or use precision='double'"
        )
        raise InputError(message)


def _overflow(what: str, dtype: Any) -> str:
    return f"{what} overflow {dtype}: scale the columns, or use precision='double'"


def check_finite(tile: Tile, squares: Array, targets: Array) -> None:
    """Find the first value that is not finite, if sums say that there is one.

    Raises
    ------
    InputError
        Names the array, row and column.
    """
    if np.isfinite(to_host(squares)).all() and np.isfinite(to_host(targets)).all():
        return
    raw = tile.raw.toarray() if hasattr(tile.raw, "toarray") else to_host(tile.raw)
    arrays = [("the data", raw), ("the targets", tile.target), ("the weights", tile.weight)]
    for kind, array in arrays:
        if array is None:
            continue
        values = to_host(array).reshape(len(raw), -1)
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            row, column = int(bad[0][0]), int(bad[0][1])
            value = values[row, column]
            where = f"row {tile.start + row}" + (f", column {column}" if values.shape[1] > 1 else "")
            message = (
                f"{kind} contain {'NaN' if np.isnan(value) else 'infinity'} ({where}); "
                "replace or remove such values: a single one would spoil every sum"
            )
            raise InputError(message)
    rows = f"rows {tile.start} to {tile.start + len(raw) - 1}"
    raise InputError(_overflow(f"products of {rows}", str(squares.dtype).rpartition(".")[2]))
