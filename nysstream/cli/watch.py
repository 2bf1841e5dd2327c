"""The command ``watch``."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from nysstream.cli.opening import open_data
from nysstream.cli.options import parse_seconds
from nysstream.cli.predict import loaded
from nysstream.cli.printing import print_json
from nysstream.cli.progress import ProgressLine
from nysstream.cli.running import CONVERGED, STOPPED, command, scheduled
from nysstream.errors import InputError
from nysstream.estimators.updating import update
from nysstream.interrupts import interrupts_held
from nysstream.report import wording
from nysstream.sources.growing import count_rows


@dataclass
class Watch:
    """What was done so far, and when to end.

    Attributes
    ----------
    limit : float or None
        Seconds after which to end.
    until : int or None
        Rows of the model at which to end.
    """

    limit: float | None
    until: int | None
    began: float = field(default_factory=time.monotonic)
    updates: int = 0
    new_rows: int = 0
    passes: float = 0.0
    bytes_read: int = 0

    @property
    def left(self) -> float:
        """Seconds left."""
        return float("inf") if self.limit is None else self.limit - (time.monotonic() - self.began)

    def note(self, stats: dict[str, Any]) -> None:
        """Count an update."""
        self.updates += 1
        self.new_rows += stats["new_rows"]
        self.passes += stats["passes"]
        self.bytes_read += stats["bytes_read"]


@command
def watch(
    model: str,
    store: str,
    *,
    data: str | None,
    target: str | None,
    weight: str | None,
    missing_chunks: str,
    every: Annotated[
        float,
        typer.Option("--every", metavar="TIME", parser=parse_seconds, help="Time between looks at STORE."),
    ] = "5s",  # type: ignore[assignment]
    limit: Annotated[
        float | None,
        typer.Option(
            "--for",
            metavar="TIME",
            parser=parse_seconds,
            help="End after this time; else at Ctrl-C.",
        ),
    ] = None,
    until_rows: Annotated[
        int | None,
        typer.Option("--until-rows", metavar="N", min=1, help="End when the model has seen so many rows."),
    ] = None,
    memory: str | None,
    device: str | None,
    scheduler: str | None,
    scheduler_file: Path | None,
    local_cluster: int | None,
    threads: int | None,
    json: bool,
) -> int:
    """Follow a growing STORE, and keep MODEL, fitted with `--keep-statistics`, fresh.

    Each time that new rows are committed, does what `nysstream update` does. Those who load MODEL find
    the old one or the new one, never half. Ctrl-C ends it.
    """
    if every <= 0:
        message = f"--every {every}: give a positive time"
        raise InputError(message)
    estimator = loaded(model, statistics=True, memory=memory, device=device)
    state = Watch(limit, until_rows)
    converged = True
    with scheduled(scheduler, threads, scheduler_file, local_cluster), ProgressLine() as line:
        estimator.callback = line.passes if line.shown else None
        try:
            while True:
                n_rows = estimator.statistics_.watermark if hasattr(estimator, "statistics_") else 0
                if n_rows == 0 or count_rows(store, data) != n_rows:
                    update(estimator, *open_data(store, data, target, weight, None, missing_chunks))
                    if estimator.result_.status == "interrupted":
                        break
                    with interrupts_held():  # what was saved is counted
                        estimator.save(model, overwrite=True)
                        converged = estimator.result_.converged
                        state.note(estimator.result_.stats)
                        n_rows = estimator.statistics_.watermark
                    if not json:
                        print(_line(estimator.result_.stats), flush=True)
                if state.left <= 0 or (until_rows is not None and n_rows >= until_rows):
                    break
                time.sleep(max(0.0, min(every, state.left)))
        except KeyboardInterrupt:
            pass  # the model is the last one that was whole
    if json:
        print_json(
            {
                "model": model,
                "n_rows": n_rows,
                "updates": state.updates,
                "new_rows": state.new_rows,
                "passes": state.passes,
                "bytes_read": state.bytes_read,
                "seconds": time.monotonic() - state.began,
            }
        )
    return CONVERGED if converged else STOPPED


def _line(stats: dict[str, Any]) -> str:
    passes = wording.number(stats["passes"])
    return (
        f"{stats['n_rows']:,} rows, {stats['new_rows']:,} of them new: {passes} passes, "
        f"{wording.size(stats['bytes_read'])} read, {wording.duration(stats['seconds'])}, {stats['status']}"
    )
