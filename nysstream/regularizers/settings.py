"""Checks of strengths, bounds and radii; what is wrong is named by its index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Number = Any  # float, or ndarray of float64


def entries(owner: str, name: str, value: Any) -> Number:
    """Convert a number, or an array of shape (1, k), (p, 1) or (p, k); refuse NaN."""
    array = numbers(owner, name, value)
    if array.ndim not in {0, 2}:
        message = (
            f"{owner}: {name} has shape {array.shape}; give a number, or an array of shape (1, k) for one "
            "per column, (p, 1) for one per coefficient, or (p, k)"
        )
        raise InputError(message)
    return array if array.ndim else float(array)


def vector(owner: str, name: str, value: Any) -> Number:
    """Convert a number or a one-dimensional array; refuse NaN."""
    array = numbers(owner, name, value)
    if array.ndim > 1:
        message = f"{owner}: {name} has shape {array.shape}; give a number or a one-dimensional array"
        raise InputError(message)
    return array if array.ndim else float(array)


def numbers(owner: str, name: str, value: Any) -> NDArray[np.float64]:
    """Convert to a float64 array of the setting's own; refuse what holds no numbers, and NaN."""
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        message = f"{owner}: {name}={value!r} does not hold numbers"
        raise InputError(message) from None
    refuse(owner, name, array, np.isnan, "a number")
    array.flags.writeable = False
    return array


def refuse(owner: str, name: str, value: Number, wrong: Callable[[Any], Any], must_be: str) -> None:
    """Raise for the first entry that is wrong."""
    bad = np.argwhere(wrong(np.asarray(value)))
    if len(bad) == 0:
        return
    at = tuple(bad[0].tolist())
    where = f" at {at[0] if len(at) == 1 else at}" if at else ""
    message = f"{owner}: {name} is {np.asarray(value)[at]:g}{where}; it must be {must_be}"
    raise InputError(message)


def negative(x: Any) -> Any:
    """Mark what is no strength: below zero, infinite, or NaN."""
    return ~((x >= 0) & np.isfinite(x))


def positive(owner: str, name: str, value: Any) -> Number:
    """Convert a positive, finite number, or one for each column of coefficients, (k,)."""
    converted = vector(owner, name, value)
    refuse(owner, name, converted, lambda x: ~((x > 0) & np.isfinite(x)), "positive and finite")
    return converted


def strength(owner: str, name: str, value: Any, weights: Any = None) -> Number:
    """Convert strengths, one or (k,), times weights, (p,), to what :func:`entries` accepts."""
    converted = np.asarray(vector(owner, name, value))
    refuse(owner, name, converted, negative, ">= 0 and finite")
    if converted.ndim:
        converted = converted[None, :]
    if weights is None:
        return converted
    factors = np.asarray(vector(owner, "weights", weights))
    refuse(owner, "weights", factors, negative, ">= 0 and finite")
    return converted * (factors[:, None] if factors.ndim else factors)


def check_shapes(owner: str, settings: dict[str, Number]) -> None:
    """Refuse arrays that do not broadcast together."""
    shapes = {name: np.shape(value) for name, value in settings.items()}
    try:
        np.broadcast_shapes(*shapes.values())
    except ValueError:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items() if shape)
        message = f"{owner}: shapes do not go together ({listed}); each must be (1, k), (p, 1) or (p, k)"
        raise InputError(message) from None


def check_order(owner: str, lower: Number, upper: Number) -> None:
    """Refuse bounds that no coefficient fits between."""
    low, high = np.broadcast_arrays(lower, upper)
    bad = np.argwhere(low > high)
    if len(bad) == 0:
        return
    at = tuple(bad[0].tolist())
    where = f" at {at}" if at else ""
    message = f"{owner}: lower > upper{where} ({low[at]:g} > {high[at]:g}): no coefficient fits"
    raise InputError(message)


def pick(value: Number, index: Any) -> Number:
    """Restrict a setting to some columns: its last axis, where that has one entry per column."""
    return value[..., index] if np.ndim(value) and value.shape[-1] > 1 else value
