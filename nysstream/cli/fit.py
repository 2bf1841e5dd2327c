"""The command ``fit`` of every estimator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from nysstream.cli.estimating import fitted_names, make, own_settings, settings_of, summary_of
from nysstream.cli.opening import open_data
from nysstream.cli.options import OUTPUT
from nysstream.cli.printing import print_json, print_table
from nysstream.cli.progress import ProgressLine
from nysstream.cli.running import CONVERGED, STOPPED, checkpointed, command, scheduled
from nysstream.estimators import KERNEL_MACHINES
from nysstream.report import summary_table, wording, write_report
from nysstream.sources.staging import refuse_existing
from nysstream.sources.targets import check_target
from nysstream.sources.verifying import verify as verify_rows

fit = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="Fit a model to data on disk.")

_EXITS = (
    "Exits with 0 if it converged, 3 if a limit or Ctrl-C came first (the best model so far is saved all the "
    "same), 2 if the options or the data cannot be used, 1 if something failed."
)


def fit_command(name: str) -> Callable[..., None]:
    """Make the command that fits one kind of estimator."""

    def run(
        store: str,
        *,
        data: str | None,
        target: str | None,
        weight: str | None,
        rows: slice | None,
        missing_chunks: str,
        verify: bool,
        scheduler: str | None,
        scheduler_file: Path | None,
        local_cluster: int | None,
        threads: int | None,
        out: Annotated[
            str | None,
            typer.Option(
                "--out", metavar="MODEL.zarr", help="Where to save the model.", rich_help_panel=OUTPUT
            ),
        ] = None,
        report: Path | None,
        overwrite: bool,
        json: bool,
        checkpoint: str | None,
        checkpoint_every: float | None,
        resume: bool,
        **settings: Any,
    ) -> int:
        model = make(name, settings)
        with checkpointed(checkpoint, checkpoint_every, resume=resume, overwrite=overwrite) as outputs:
            if out is not None:
                check_target(out, overwrite=outputs.replaceable(out))
            if report is not None:
                refuse_existing(report, overwrite=outputs.replaceable(report))
            with scheduled(scheduler, threads, scheduler_file, local_cluster), ProgressLine() as line:
                listener = line.steps if name in KERNEL_MACHINES else line.passes
                # That of kernel ridge is given solutions, of which there is nothing to draw.
                model.callback = listener if line.shown and name != "kernel-ridge" else None
                opened = open_data(store, data, target, weight, rows, missing_chunks)
                for source in opened if verify else ():
                    if source is not None:
                        verify_rows(source)
                model.fit(*opened)
            replace_model, replace_report = outputs.announced(out, report)
            if out is not None:
                model.save(out, overwrite=replace_model)
            if report is not None:
                write_report(model, report, overwrite=replace_report)
        if json:
            print_json({**model.result_.stats, **own_settings(model), "model": out})
        else:
            print_table(_table(model, out, report))
        return CONVERGED if model.result_.converged else STOPPED

    return command(run, settings_of(name))


def _table(model: Any, out: str | None, report: Path | None) -> Any:
    table = summary_table(model.result_)
    if hasattr(model, "classes_"):
        table.add_row("Classes", Text(wording.statistic("classes", model.classes_)))
    if hasattr(model, "best_score_"):
        table.add_row("Alpha", Text(f"{model.alpha_:g}, of mean held-out score {model.best_score_:.4f}"))
    elif hasattr(model, "alpha_"):
        table.add_row("Alpha", Text(f"{model.alpha_:g}, of least mean error on rows held out"))
    table.add_row("Model", Text(out or "not saved: give --out MODEL.zarr"))
    if report is not None:
        table.add_row("Report", Text(str(report)))
    return table


for _name in fitted_names():
    fit.command(_name, help=f"{summary_of(_name)}\n\n{_EXITS}", short_help=summary_of(_name))(
        fit_command(_name)
    )
