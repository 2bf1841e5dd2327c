"""Results on stdout: a few aligned lines, or one JSON object."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
from dask.utils import format_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable


def print_json(record: dict[str, Any]) -> None:
    """Print one JSON object on one line; what is not finite becomes null."""
    print(json.dumps(_plain(record), allow_nan=False))


def print_lines(lines: Iterable[tuple[str, str]]) -> None:
    """Print names and values in two columns."""
    kept = [(name, value) for name, value in lines if value]
    width = max((len(name) for name, _ in kept), default=0)
    for name, value in kept:
        print(f"{name:<{width}}  {value}")


def number(value: float | None) -> str:
    """Write a number with as many digits as help."""
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def numbers(values: Any, limit: int = 8) -> str:
    """Write one number, or the first of several."""
    values = np.atleast_1d(np.asarray(values, dtype=object)).tolist()
    shown = ", ".join(number(value) for value in values[:limit])
    return f"{shown}, ... ({len(values)} in all)" if len(values) > limit else shown


def size(nbytes: float) -> str:
    """Write a number of bytes."""
    return format_bytes(int(nbytes))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
