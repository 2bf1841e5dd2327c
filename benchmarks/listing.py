"""Tables of texts: in columns for the terminal, and in Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    Line = Sequence[str]


def as_text(header: Line, lines: Sequence[Line]) -> str:
    """Lay lines out in columns."""
    everything = [header, *lines]
    widths = [max(len(line[i]) for line in everything) for i in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in everything
    )


def as_markdown(header: Line, lines: Sequence[Line]) -> str:
    """Make a Markdown table."""
    everything = [header, ("---",) * len(header), *lines]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in everything
    )


def number(value: float | None, unit: str = "") -> str:
    """Write a number with three digits; nothing for what is not known."""
    if value is None or value != value:
        return ""
    text = f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{text} {unit}".rstrip()


def gibibytes(count: float | None) -> str:
    """Write a number of bytes."""
    return "" if not count else f"{count / 2**30:.2f} GiB"
