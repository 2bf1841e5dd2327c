"""The commands ``fit`` and ``plan``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from nysstream.cli.options import (
    Data,
    Device,
    Features,
    Json,
    Memory,
    MissingChunks,
    NoIntercept,
    Overwrite,
    Precision,
    Rank,
    Rows,
    Scheduler,
    Seed,
    Standardize,
    Store,
    Target,
    Threads,
    Weight,
    open_data,
    parse_seconds,
)
from nysstream.cli.printing import print_json, print_table
from nysstream.cli.progress import ProgressLine
from nysstream.cli.running import CONVERGED, STOPPED, command, scheduled
from nysstream.errors import InputError
from nysstream.estimators import Ridge, RidgeCV
from nysstream.estimators.choosing import describe
from nysstream.estimators.ridge import SOLVERS
from nysstream.report import plan_table, summary_table, wording, write_report
from nysstream.sources.staging import refuse_existing
from nysstream.sources.writing import check_target
from nysstream.streaming import ContiguousFolds, Folds, HashedFolds

if TYPE_CHECKING:
    from nysstream.estimators.planning import Plan

fit = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="Fit a model to data on disk.")
plan = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Say what a fit would read and hold, before it reads anything.",
)

Alphas = Annotated[
    list[float] | None,
    typer.Option(
        "--alpha", metavar="A", help="Penalty, 1 by default; several give a model each, in the same passes."
    ),
]
CV = Annotated[
    int | None,
    typer.Option(
        "--cv", metavar="K", help="Choose among the alphas by K-fold cross-validation, in the same passes."
    ),
]
HashedRows = Annotated[
    bool, typer.Option("--hashed-folds", help="Deal rows to folds at random instead of in runs.")
]
Solver = Annotated[
    str,
    typer.Option("--solver", metavar="|".join(SOLVERS), help="Method; auto asks a cost model."),
]
Tol = Annotated[float, typer.Option("--tol", help="Relative residual at which to stop.")]
MaxPasses = Annotated[
    int | None, typer.Option("--max-passes", metavar="N", help="Limit on reads of the data.")
]
TimeLimit = Annotated[
    float | None,
    typer.Option("--time-limit", metavar="TIME", parser=parse_seconds, help="Seconds, or for example 55min."),
]
Out = Annotated[str | None, typer.Option("--out", metavar="MODEL.zarr", help="Where to save the model.")]
Report = Annotated[
    Path | None,
    typer.Option("--report", metavar="PAGE.html", help="Write a page that shows how the fit went."),
]


_PASSES = {
    "gram": "about 3: set-up, one or two steps of refinement, verification",
    "nystrom": "2 and one per iteration; `nysstream sketch` predicts how many, for one pass",
    "subsampled": "2 and one per iteration",
    "cg": "2 and one per iteration, many if the problem is ill conditioned",
}


@fit.command("ridge")
@command
def fit_ridge(
    store: Store,
    data: Data = None,
    target: Target = None,
    weight: Weight = None,
    rows: Rows = None,
    alpha: Alphas = None,
    cv: CV = None,
    hashed_folds: HashedRows = False,
    features: Features = None,
    rank: Rank = "auto",
    standardize: Standardize = False,
    no_intercept: NoIntercept = False,
    solver: Solver = "auto",
    tol: Tol = 1e-6,
    max_passes: MaxPasses = None,
    time_limit: TimeLimit = None,
    precision: Precision = "single",
    memory: Memory = None,
    device: Device = None,
    seed: Seed = 0,
    scheduler: Scheduler = None,
    threads: Threads = None,
    missing_chunks: MissingChunks = "warn",
    out: Out = None,
    report: Report = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> int:
    """Fit ridge regression, by preconditioned conjugate gradients.

    Exits with 0 if it converged, 3 if a limit or Ctrl-C came first (the best model so far is saved
    all the same), 2 if the options or the data cannot be used, 1 if something failed.
    """
    if out is not None:
        check_target(out, overwrite=overwrite)
    if report is not None:
        refuse_existing(report, overwrite=overwrite)
    model = _model(
        alpha=alpha,
        folds=_folds(cv, seed, hashed=hashed_folds),
        features=features,
        rank=rank,
        standardize=standardize,
        fit_intercept=not no_intercept,
        solver=solver,
        tol=tol,
        max_passes=max_passes,
        time_limit=time_limit,
        precision=precision,
        memory=memory,
        device=device,
        random_state=seed,
    )
    with scheduled(scheduler, threads), ProgressLine() as line:
        model.callback = line.passes if line.shown else None
        model.fit(*open_data(store, data, target, weight, rows, missing_chunks))
    if out is not None:
        model.save(out, overwrite=overwrite)
    if report is not None:
        write_report(model, report, overwrite=overwrite)
    if json:
        print_json({**model.result_.stats, **_chosen(model), "model": out})
    else:
        table = summary_table(model.result_)
        if isinstance(model, RidgeCV):
            table.add_row("Alpha", Text(f"{model.alpha_:g}, of mean held-out score {model.best_score_:.4f}"))
        table.add_row("Model", Text(out or "not saved: give --out MODEL.zarr"))
        if report is not None:
            table.add_row("Report", Text(str(report)))
        print_table(table)
    return CONVERGED if model.result_.converged else STOPPED


@plan.command("ridge")
@command
def plan_ridge(
    store: Store,
    data: Data = None,
    target: Target = None,
    weight: Weight = None,
    rows: Rows = None,
    alpha: Alphas = None,
    features: Features = None,
    rank: Rank = "auto",
    standardize: Standardize = False,
    no_intercept: NoIntercept = False,
    solver: Solver = "auto",
    tol: Tol = 1e-6,
    max_passes: MaxPasses = None,
    precision: Precision = "single",
    memory: Memory = None,
    device: Device = None,
    scheduler: Scheduler = None,
    threads: Threads = None,
    missing_chunks: MissingChunks = "warn",
    json: Json = False,
) -> int:
    """Say how `fit ridge` with the same options would run. Reads metadata, and at most a sample of rows."""
    model = _ridge(
        alpha=alpha,
        features=features,
        rank=rank,
        standardize=standardize,
        fit_intercept=not no_intercept,
        solver=solver,
        tol=tol,
        max_passes=max_passes,
        precision=precision,
        memory=memory,
        device=device,
    )
    with scheduled(scheduler, threads):
        found = model.plan(*open_data(store, data, target, weight, rows, missing_chunks))
    if json:
        print_json(_plan_record(found))
    else:
        table = plan_table(found)
        table.add_section()
        for name, text in _plan_method(found):
            table.add_row(name, Text(text))
        print_table(table)
    return CONVERGED


def _folds(cv: int | None, seed: int, *, hashed: bool) -> Folds | None:
    if cv is None and hashed:
        message = "--hashed-folds says how to cross-validate: give --cv K too"
        raise InputError(message)
    if cv is None:
        return None
    return HashedFolds(cv, seed) if hashed else ContiguousFolds(cv)


def _model(*, alpha: list[float] | None, folds: Folds | None, **settings: Any) -> Ridge | RidgeCV:
    """Make the estimator that the options ask for."""
    if folds is None:
        return _ridge(alpha=alpha, **settings)
    return RidgeCV(alpha or (0.1, 1.0, 10.0), cv=folds, **settings)


def _chosen(model: Ridge | RidgeCV) -> dict[str, Any]:
    """Give the penalty and, where it was chosen, the scores that chose it."""
    if isinstance(model, RidgeCV):
        return {"alpha": model.alpha_, "best_score": model.best_score_, "cv_results": model.cv_results_}
    return {"alpha": model.alpha}


def _ridge(*, alpha: list[float] | None, **settings: Any) -> Ridge:
    """Make the estimator; it checks its settings itself, before anything is read."""
    alphas = alpha or [1.0]
    return Ridge(alphas[0] if len(alphas) == 1 else alphas, **settings)


def _plan_record(found: Plan) -> dict[str, Any]:
    n_rows, n_features = found.design.shape
    return {
        "n_rows": n_rows,
        "n_features": n_features,
        "n_inputs": found.design.source.shape[1],
        "n_systems": found.n_systems,
        "method": found.method,
        "why": found.why,
        "candidates": [dataclasses.asdict(candidate) for candidate in found.candidates.values()],
        "pass_bytes": found.pass_bytes,
        "cached_bytes": found.cached_bytes,
        "rank": found.rank,
        "n_probes": found.n_probes,
        "memory_limit_bytes": found.budget.limit,
        "projected_peak_bytes": found.budget.peak,
        "needs": found.budget.needs,
        "scheduler": found.scheduler,
        "n_tasks": found.n_tasks,
        "dtype": str(found.design.dtype),
    }


def _plan_method(found: Plan) -> list[tuple[str, str]]:
    """Say what plan_table leaves out: the method, why, and how often each would read the data."""
    lines = [("Method", f"{found.method}: {found.why}"), ("Products", f"in {found.design.dtype}")]
    if not found.candidates:
        return [*lines, ("Passes", _PASSES[found.method])]
    lines += [("Passes", f"about {found.candidates[found.method].passes:.0f}")]
    for name, seconds, passes, why in describe(found.candidates, found.method):
        lines.append((f"  {name}", f"{passes:.0f} passes, {wording.duration(seconds)} ({why})"))
    return lines
