"""The commands ``fit`` and ``plan``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
from nysstream.cli.printing import number, numbers, print_json, print_lines, size
from nysstream.cli.progress import ProgressLine, duration
from nysstream.cli.running import CONVERGED, STOPPED, command, in_options, scheduled
from nysstream.estimators import Ridge
from nysstream.estimators.planning import describe_threads
from nysstream.sources.staging import refuse_existing
from nysstream.sources.writing import check_target

if TYPE_CHECKING:
    from nysstream.estimators.planning import Plan

fit = typer.Typer(no_args_is_help=True, help="Fit a model to data on disk.")
plan = typer.Typer(no_args_is_help=True, help="Say what a fit would read and hold, before it reads anything.")

Alphas = Annotated[
    list[float] | None,
    typer.Option(
        "--alpha", metavar="A", help="Penalty, 1 by default; several give a model each, in the same passes."
    ),
]
Solver = Annotated[str, typer.Option("--solver", metavar="auto|nystrom|cg", help="Method.")]
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


@fit.command("ridge")
@command
def fit_ridge(
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
    """Fit ridge regression, by Nyström preconditioned conjugate gradients.

    Exits with 0 if it converged, 3 if a limit or Ctrl-C came first (the best model so far is saved
    all the same), 2 if the options or the data cannot be used, 1 if something failed.
    """
    if out is not None:
        check_target(out, overwrite=overwrite)
    if report is not None:
        refuse_existing(report, overwrite=overwrite)
    model = _ridge(
        alpha=alpha,
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
    if json:
        print_json({**model.result_.stats, "alpha": model.alpha, "model": out})
    else:
        print_lines(_summary(model, out))
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
        print_lines(_plan_lines(found))
    return CONVERGED


def _ridge(*, alpha: list[float] | None, **settings: Any) -> Ridge:
    """Make the estimator; it checks its settings itself, before anything is read."""
    alphas = alpha or [1.0]
    return Ridge(alphas[0] if len(alphas) == 1 else alphas, **settings)


def _summary(model: Ridge, out: str | None) -> list[tuple[str, str]]:
    stats = model.result_.stats
    dimension = stats["effective_dimension"]
    verdict = stats["status"].replace("_", " ")
    return [
        ("status", verdict if model.result_.converged else f"{verdict}: {in_options(model.result_.advice)}"),
        ("data", f"{stats['n_rows']:,} rows, {stats['n_features']:,} features"),
        ("alpha", numbers(model.alpha)),
        ("residual", f"{stats['relative_residual']:.2e} (relative, recomputed)"),
        ("objective", numbers(stats["objective"])),
        ("passes", f"{stats['passes']} ({stats['iterations']} iterations)"),
        ("read", f"{size(stats['bytes_read'])}, and {size(stats['bytes_from_cache'])} from memory"),
        ("memory", f"{size(stats['peak_bytes'])} at the peak, of {size(stats['memory_limit_bytes'])}"),
        ("time", duration(stats["seconds"])),
        ("rank", number(stats["rank"])),
        ("dimension", "" if dimension is None else f"{dimension[0]:.1f} to {dimension[1]:.1f} (effective)"),
        ("model", out or "not saved; give --out MODEL.zarr to keep it"),
    ]


def _plan_record(found: Plan) -> dict[str, Any]:
    n_rows, n_features = found.design.shape
    return {
        "n_rows": n_rows,
        "n_features": n_features,
        "n_inputs": found.design.source.shape[1],
        "n_systems": found.n_systems,
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


def _plan_lines(found: Plan) -> list[tuple[str, str]]:
    n_rows, n_features = found.design.shape
    n_inputs = found.design.source.shape[1]
    mapped = "" if n_inputs == n_features else f", made from {n_inputs:,} columns"
    cached = (
        f"; {size(found.cached_bytes)} of them stay in memory after the first" if found.cached_bytes else ""
    )
    if found.rank == n_features:
        method, passes = (
            "conjugate gradients with a full sketch",
            "about 3: set-up, one iteration or two, check",
        )
    elif found.rank:
        method = f"conjugate gradients, preconditioned by a sketch of rank {found.rank} at most"
        passes = "2 and one per iteration; `nysstream sketch` predicts how many, for one pass"
    else:
        method, passes = "conjugate gradients without a sketch", "2 and one per iteration"
    lines = [
        ("data", f"{n_rows:,} rows, {n_features:,} features{mapped}; {found.design.dtype} products"),
        ("a pass", f"{size(found.pass_bytes)}{cached}"),
        ("passes", passes),
        ("method", method + (f", {found.n_systems} systems at once" if found.n_systems > 1 else "")),
        ("runs as", describe_threads(found)),
        ("memory", f"{size(found.budget.peak)} projected, of {size(found.budget.limit)}; in it"),
    ]
    return lines + [(f"  {name}", size(nbytes)) for name, nbytes in found.budget.needs.items() if nbytes]
