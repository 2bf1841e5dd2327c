"""Looking at targets before the data are read: which classes there are, and whether a loss can use them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.errors import InputError
from nysstream.trace import current_trace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from nysstream.losses import Loss
    from nysstream.sources import RowSource

    Vector = NDArray[np.float64]

#: More different targets than this are no classes.
MAX_CLASSES = 1000
_ROWS = 1 << 18


def find_classes(target: RowSource, weight: RowSource | None) -> tuple[Vector, Vector]:
    """Give the different values of a target, ascending, and the weight of the rows of each.

    Raises
    ------
    InputError
        If the target has several columns, values that are not finite, or too many different ones.

    Notes
    -----
    Cost: one read of targets and weights, which are small beside the rows; it is no pass.
    """
    if target.shape[1] != 1:
        message = f"{target.name} has {target.shape[1]} columns; classes are one number per row"
        raise InputError(message)
    classes: Vector = np.empty(0)
    weights: Vector = np.empty(0)
    for y, h in _runs(target, weight):
        classes, index = np.unique(np.concatenate([classes, y[:, 0]]), return_inverse=True)
        if classes.size > MAX_CLASSES:
            message = (
                f"{target.name} has more than {MAX_CLASSES} different values: these are no classes; fit a "
                "regression instead"
            )
            raise InputError(message)
        if np.any(classes != np.rint(classes)):
            first = classes[classes != np.rint(classes)][0]
            message = (
                f"Unknown label type: continuous. {target.name} holds {first:g}; classes are whole numbers: "
                "fit a regression, or number the classes"
            )
            raise InputError(message)
        weights = np.bincount(index, np.concatenate([weights, h]), classes.size).astype(np.float64)
    return classes, weights


def check_class_weight(setting: Any) -> None:
    """Refuse weights of classes that are neither None, "balanced" nor a dict of numbers from zero."""
    if setting is None or (isinstance(setting, str) and setting == "balanced"):
        return
    if not isinstance(setting, dict) or any(not float(value) >= 0 for value in setting.values()):
        message = (
            f"class_weight={setting!r}: give None, 'balanced', or a dict of weights that are not negative"
        )
        raise InputError(message)


def class_factors(setting: Any, classes: NDArray[Any], weights: Vector) -> Vector:
    """Give the factor of each class, (c,); ``weights`` are the sums of its rows' weights.

    Raises
    ------
    InputError
        If a dict names what is no class.
    """
    if setting is None:
        return np.ones(weights.size)
    if isinstance(setting, str):
        present = np.maximum(weights, 1e-300)
        return np.asarray(np.where(weights > 0, weights.sum() / (weights.size * present), 0.0))
    unknown = set(setting) - set(classes.tolist())
    if unknown:
        message = f"class_weight names {sorted(map(str, unknown))}, which are no classes of the targets"
        raise InputError(message)
    return np.array([float(setting.get(label, 1.0)) for label in classes.tolist()])


def check_targets(loss: Loss, target: RowSource) -> None:
    """Refuse targets that the loss is not defined for.

    Raises
    ------
    InputError
        Names the row and the value.

    Notes
    -----
    Cost: one read of the targets; it is no pass.
    """
    start = 0
    for y, _ in _runs(target, None):
        bad = np.argwhere(np.asarray(loss.invalid(y)))
        if bad.size:
            row, column = bad[0]
            where = f"row {start + row}" + (f", column {column}" if y.shape[1] > 1 else "")
            message = f"{target.name}: {loss.requirement}, and {where} holds {y[row, column]:g}"
            raise InputError(message)
        start += len(y)


def _runs(target: RowSource, weight: RowSource | None) -> Iterator[tuple[Vector, Vector]]:
    n_rows = target.shape[0]
    trace = current_trace()
    for a in range(0, n_rows, _ROWS):
        rows = slice(a, min(a + _ROWS, n_rows))
        y = np.asarray(target.read(rows), np.float64)
        if not np.isfinite(y).all():
            row = a + int(np.flatnonzero(~np.isfinite(y).all(axis=1))[0])
            kind = "NaN" if np.isnan(y).any() else "infinity"
            message = f"the targets contain {kind} (row {row}); replace or remove such values"
            raise InputError(message)
        h = np.ones(len(y)) if weight is None else np.asarray(weight.read(rows), np.float64)[:, 0]
        if trace is not None:
            trace.sampled_bytes += int(len(y) * (target.row_bytes + (0 if weight is None else 8)))
        yield y, h
