"""The command ``update``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from nysstream.cli.opening import open_data
from nysstream.cli.options import OUTPUT
from nysstream.cli.predict import loaded
from nysstream.cli.printing import print_json, print_table
from nysstream.cli.progress import ProgressLine
from nysstream.cli.running import CONVERGED, STOPPED, checkpointed, command, scheduled
from nysstream.estimators.updating import update as update_model
from nysstream.report import summary_table, write_report
from nysstream.sources.staging import refuse_existing
from nysstream.sources.targets import check_target


@command
def update(
    model: str,
    store: str,
    *,
    data: str | None,
    target: str | None,
    weight: str | None,
    rows: slice | None,
    missing_chunks: str,
    memory: str | None,
    device: str | None,
    max_passes: int | None = None,
    time_limit: float | None,
    scheduler: str | None,
    scheduler_file: Path | None,
    local_cluster: int | None,
    threads: int | None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            metavar="MODEL.zarr",
            help="Where to save the model; by default it takes the place of MODEL.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    report: Path | None,
    overwrite: bool,
    json: bool,
    checkpoint: str | None,
    checkpoint_every: float | None,
    resume: bool,
) -> int:
    """Add the rows that STORE has gained to a model that was fitted with `--keep-statistics`.

    Reads the new rows once. With the Gram matrix kept that is all; else the solver starts from the
    model's coefficients, and makes a pass over all rows per iteration. STORE must hold the rows of the
    fit as they were, named and restricted by the same options.
    """
    with checkpointed(checkpoint, checkpoint_every, resume=resume, overwrite=overwrite) as outputs:
        if out is not None:
            check_target(out, overwrite=outputs.replaceable(out))
        if report is not None:
            refuse_existing(report, overwrite=outputs.replaceable(report))
        limits = {"max_passes": max_passes, "time_limit": time_limit}
        estimator = loaded(model, statistics=True, memory=memory, device=device, **limits)
        with scheduled(scheduler, threads, scheduler_file, local_cluster), ProgressLine() as line:
            estimator.callback = line.passes if line.shown else None
            update_model(estimator, *open_data(store, data, target, weight, rows, missing_chunks))
        replace_model, replace_report = outputs.announced(out, report)
        estimator.save(out or model, overwrite=out is None or replace_model)
        if report is not None:
            write_report(estimator, report, overwrite=replace_report)
    print_update(estimator, out or model, json=json)
    return CONVERGED if estimator.result_.converged else STOPPED


def print_update(model: Any, place: str, *, json: bool) -> None:
    """Say what an update did."""
    if json:
        print_json({**model.result_.stats, "model": place})
        return
    table = summary_table(model.result_)
    table.add_row("Model", Text(place))
    print_table(table)
