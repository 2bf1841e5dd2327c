"""The results as one table, in plain text and in Markdown, and as JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.measuring import Row

_HEADER = ("benchmark", "case", "ours", "limit", "ratio", "goal", "", "remark")


def _cells(row: Row) -> tuple[str, ...]:
    goal = "" if row.goal is None else f"{'≤' if row.at_most else '≥'} {row.goal:g}"
    mark = {None: "", True: "met", False: "not met"}[row.met]
    limit = "" if row.limit != row.limit else f"{_number(row.limit)} {row.unit}"
    return (
        row.group,
        row.case,
        f"{_number(row.seconds)} {row.unit}",
        limit,
        f"{row.ratio:.2f}" if row.ratio < 10 else f"{row.ratio:.0f}",
        goal,
        mark,
        row.note,
    )


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def as_text(rows: list[Row]) -> str:
    """Lay the rows out in columns."""
    lines = [_HEADER, *map(_cells, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(_HEADER))]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def as_markdown(rows: list[Row]) -> str:
    """Make a Markdown table."""
    lines = [_HEADER, ("---",) * len(_HEADER), *map(_cells, rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def write(rows: list[Row], about: dict[str, Any], folder: Path) -> None:
    """Write ``results.json``, ``table.txt`` and ``table.md``."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {"about": about, "rows": [row.as_dict() for row in rows]}
    (folder / "results.json").write_text(json.dumps(document, indent=1, default=float))
    (folder / "table.txt").write_text(as_text(rows) + "\n")
    (folder / "table.md").write_text(as_markdown(rows) + "\n")
