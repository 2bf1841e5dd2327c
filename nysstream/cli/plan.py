"""The command ``plan`` of every estimator."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.text import Text

from nysstream.cli.estimating import make, planned_names, settings_of
from nysstream.cli.opening import open_data
from nysstream.cli.printing import print_json, print_table
from nysstream.cli.running import CONVERGED, command, scheduled
from nysstream.estimators.choosing import describe
from nysstream.estimators.kernel_plan import KernelPlan
from nysstream.estimators.stochastic import STOCHASTIC
from nysstream.report import plan_table, wording

if TYPE_CHECKING:
    from nysstream.estimators.composite_plan import LossPlan
    from nysstream.estimators.planning import Plan

plan = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Say what a fit would read and hold, before it reads anything.",
)

_IN_BATCHES = dict.fromkeys(STOCHASTIC, "2, one per epoch, and one per full evaluation")
_RIDGE = _IN_BATCHES | {
    "gram": "about 3: set-up, one or two steps of refinement, verification",
    "nystrom": "2 and one per iteration; `nysstream sketch` predicts how many, for one pass",
    "subsampled": "2 and one per iteration",
    "cg": "2 and one per iteration, many if the problem is ill conditioned",
}
_OTHERS = _IN_BATCHES | {
    "gram": "2 or 3: set-up, verification, and refinement where it is needed",
    "nystrom": "2, and one per step of conjugate gradients",
    "newton": "1 and one per Newton step, five to ten of them",
    "subsampled": "1 and one per step, ten to twenty of them",
    "admm": "1, and one per Newton step and per step of conjugate gradients",
    "splitting": "1 and one per iteration, tens to hundreds of them",
}
_KERNELS = {
    "working sets": "1, which leaves the rows in memory",
    "cholesky": "1, if rows are kept; the kernel matrix is made once",
    "nystrom": "1, if rows are kept; a product with the kernel matrix for the sketch, and one per step",
    "askotch": "1, if rows are kept; as much work as a product with the kernel matrix per epoch",
}


def plan_command(name: str) -> Callable[..., None]:
    """Make the command that plans the fit of one kind of estimator."""

    def run(
        store: str,
        *,
        data: str | None,
        target: str | None,
        weight: str | None,
        rows: slice | None,
        missing_chunks: str,
        scheduler: str | None,
        scheduler_file: Path | None,
        local_cluster: int | None,
        threads: int | None,
        json: bool,
        **settings: Any,
    ) -> int:
        model = make(name, settings)
        with scheduled(scheduler, threads, scheduler_file, local_cluster):
            found = model.plan(*open_data(store, data, target, weight, rows, missing_chunks))
        if json:
            print_json(_record(found))
        else:
            table = plan_table(found)
            table.add_section()
            passes = _KERNELS if isinstance(found, KernelPlan) else _RIDGE if name == "ridge" else _OTHERS
            for title, text in _method(found, passes):
                table.add_row(title, Text(text))
            print_table(table)
        return CONVERGED

    return command(run, settings_of(name, planning=True))


def _record(found: Plan | LossPlan) -> dict[str, Any]:
    n_rows, n_features = found.design.shape
    return {
        "n_rows": n_rows,
        "n_features": n_features,
        "n_inputs": found.design.source.shape[1],
        "n_systems": found.n_systems,
        "method": found.method,
        "why": found.why,
        "candidates": [dataclasses.asdict(item) for item in getattr(found, "candidates", {}).values()],
        "pass_bytes": found.pass_bytes,
        "cached_bytes": found.cached_bytes,
        "rank": found.rank,
        "n_probes": getattr(found, "n_probes", 0),
        "n_sampled": getattr(found, "n_sampled", 0),
        "most_movable": getattr(found, "most_movable", 0),
        "memory_limit_bytes": found.budget.limit,
        "projected_peak_bytes": found.budget.peak,
        "needs": found.budget.needs,
        "scheduler": found.scheduler,
        "n_tasks": found.n_tasks,
        "kernel_matrix_bytes": getattr(found, "matrix_bytes", 0),
        "kernel_kept_bytes": getattr(found, "kept_bytes", 0),
        "dtype": _dtype(found),
    }


def _method(found: Plan | LossPlan, passes: dict[str, str]) -> list[tuple[str, str]]:
    """Say what plan_table leaves out: the method, why, and how often each would read the data."""
    lines = [("Method", f"{found.method}: {found.why}"), ("Products", f"in {_dtype(found)}")]
    candidates = getattr(found, "candidates", {})
    if not candidates:
        return [*lines, ("Passes", passes[found.method])]
    lines += [("Passes", f"about {candidates[found.method].passes:.0f}")]
    for name, seconds, count, why in describe(candidates, found.method):
        lines.append((f"  {name}", f"{count:.0f} passes, {wording.duration(seconds)} ({why})"))
    return lines


def _dtype(found: Plan | LossPlan) -> str:
    """Name the dtype of the products, or of the kernel matrix."""
    return str(getattr(found, "dtype", found.design.dtype))


for _name in planned_names():
    plan.command(
        _name,
        help=f"Say how `fit {_name}` with the same options would run. Reads metadata, and at most a sample "
        "of rows.",
        short_help=f"Plan `fit {_name}`.",
    )(plan_command(_name))
