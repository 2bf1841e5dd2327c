"""Checks of feature-map settings; each returns a plain Python value or says what to change."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence

import numpy as np

from nysstream.errors import InputError


def positive_integer(name: str, value: object) -> int:
    """Return ``value`` as an int of at least one."""
    return _integer(name, value, 1)


def seed(value: object) -> int:
    """Return ``random_state`` as a non-negative int, the only form that can be stored and repeated."""
    if value is None:
        message = "random_state of a feature map must be an integer, not None: every pass repeats its draws"
        raise InputError(message)
    return _integer("random_state", value, 0)


def positive_number(name: str, value: object) -> float:
    """Return ``value`` as a finite float above zero."""
    number = finite_number(name, value)
    if number <= 0:
        message = f"{name} must be above zero, not {value!r}"
        raise InputError(message)
    return number


def finite_number(name: str, value: object) -> float:
    """Return ``value`` as a finite float."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        message = f"{name} must be a number, not {value!r}"
        raise InputError(message) from error
    if isinstance(value, str) or not math.isfinite(number):
        message = f"{name} must be a finite number, not {value!r}"
        raise InputError(message)
    return number


def flag(name: str, value: object) -> bool:
    """Return ``value`` as a bool."""
    if not isinstance(value, bool | np.bool_):
        message = f"{name} must be True or False, not {value!r}"
        raise InputError(message)
    return bool(value)


def one_of(name: str, value: object, choices: Sequence[str]) -> str:
    """Return ``value`` if it is among ``choices``."""
    if not isinstance(value, str) or value not in choices:
        message = f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}"
        raise InputError(message)
    return value


def length_scale(value: object) -> float | tuple[float, ...] | str:
    """Return a length scale: a number, a tuple with one number per column, or ``"median"``."""
    if isinstance(value, str):
        if value != "median":
            message = f"length_scale must be a number, one number per column or 'median', not {value!r}"
            raise InputError(message)
        return value
    if isinstance(value, Iterable) and getattr(value, "ndim", 1) == 1:
        scales = tuple(positive_number("length_scale", scale) for scale in value)
        if not scales:
            message = "length_scale is an empty vector; give one number per column, or a single number"
            raise InputError(message)
        return scales
    return positive_number("length_scale", value)


def _integer(name: str, value: object, smallest: int) -> int:
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError as error:
        message = f"{name} must be an integer, not {value!r}"
        raise InputError(message) from error
    if isinstance(value, bool) or number < smallest:
        message = f"{name} must be an integer of at least {smallest}, not {value!r}"
        raise InputError(message)
    return number
