"""Results on stdout: tables for people, or one JSON object for programs."""

from __future__ import annotations

import json
import math
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Wide enough that no path is folded where a program reads the output.
_WIDE = 400


def print_json(record: dict[str, Any]) -> None:
    """Print one JSON object on one line; what is not finite becomes null."""
    print(json.dumps(_plain(record), allow_nan=False))


def print_table(table: Table) -> None:
    """Print a table: as wide as the terminal, or as it needs where stdout is none."""
    width = None if sys.stdout.isatty() else _WIDE
    console = Console(width=width, highlight=False)
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        print(line.rstrip())


def two_columns(rows: Iterable[tuple[str, str]]) -> Table:
    """Tabulate what and how much; rows without a value are left out."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows:
        if value:
            table.add_row(Text(name), Text(value))
    return table


def by(shape: Iterable[int]) -> str:
    """Write a shape: ``1,000 × 20``."""
    return " × ".join(f"{extent:,}" for extent in shape)


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
