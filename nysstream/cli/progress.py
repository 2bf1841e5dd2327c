"""Progress of passes, on stderr and only where that is a terminal."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from nysstream.report import wording

if TYPE_CHECKING:
    from nysstream.trace import Progress as PassProgress


class ProgressLine(AbstractContextManager["ProgressLine"]):
    """One line that is drawn over and over, and wiped at the end.

    Attributes
    ----------
    shown : bool
        Whether there is a terminal to draw on; otherwise nothing is written at all.
    """

    def __init__(self) -> None:
        self.shown = sys.stderr.isatty()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TextColumn("{task.fields[details]}"),
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=False,
            disable=not self.shown,
        )
        self._task: Any = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.stop()

    def passes(self, state: PassProgress) -> None:
        """Draw the pass that is running; a listener for :class:`nysstream.trace.Trace`."""
        seconds = state.seconds / max(state.rows_done, 1) * state.rows_total
        left = seconds - state.seconds
        title = f"pass {state.number}"
        if state.expected_passes is not None and state.expected_passes >= state.number:
            title += f" of about {state.expected_passes}"
            left += (state.expected_passes - state.number) * seconds
        details = [f"{state.bytes_done / max(state.seconds, 1e-9) / 1e9:.2f} GB/s"]
        if state.residual is not None:
            details.append(f"{state.measure} {state.residual:.1e}")
        details.append(f"{wording.duration(max(left, 0.0))} left")
        self._draw(f"{title} ({state.name})", state.rows_done, state.rows_total, details)

    def steps(self, *told: Any) -> None:
        """Draw how far a solver is that reads no data; the last of what it tells is a record of its step."""
        record = told[-1]
        names = {"duality_gap": "gap", "relative_residual": "residual"}
        details = [f"{names[key]} {record[key]:.1e}" for key in names if record.get(key) is not None]
        self._draw(f"step {record['steps']:,}", 0, None, details)

    def windows(self, title: str, rows_total: int) -> Any:
        """Give a listener for work that covers the rows once, in several passes over parts of them."""
        number = before = last = 0

        def listen(state: PassProgress) -> None:
            nonlocal number, before, last
            if state.number != number:
                number, before = state.number, before + last
            last = state.rows_done
            self.rows(title, before + last, rows_total)

        return listen

    def rows(self, title: str, done: int, total: int | None) -> None:
        """Draw how many rows are done."""
        details = [f"{done:,} rows" if total is None else f"{done:,} of {total:,} rows"]
        self._draw(title, done, total, details)

    def _draw(self, title: str, done: int, total: int | None, details: list[str]) -> None:
        if not self.shown:
            return
        if self._task is None:
            self._task = self._bar.add_task(title, total=total, details="")
        self._bar.update(
            self._task, description=title, completed=done, total=total, details=" · ".join(details)
        )
