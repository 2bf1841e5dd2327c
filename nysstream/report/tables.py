"""Tables for the terminal."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from nysstream.estimators.kernel_plan import KernelPlan
from nysstream.report import wording

if TYPE_CHECKING:
    from nysstream.estimators.composite_plan import LossPlan
    from nysstream.estimators.planning import Plan
    from nysstream.estimators.results import FitResult

#: Numbers that say nothing when they are zero.
_IF_ANY = ("rank", "passes_recalled")


def summary_table(result: FitResult) -> Table:
    """Tabulate how a fit went.

    Parameters
    ----------
    result : FitResult

    Returns
    -------
    rich.table.Table
        Two columns: what, and how much.
    """
    stats, table = result.stats, _two_columns()
    style = "bold green" if result.converged else "bold yellow"
    table.add_row("Status", Text(wording.headline(result.status), style=style))
    if not result.converged:
        table.add_row("", Text(result.advice))
    if "n_rows" in stats:
        shape = f"{wording.number(stats['n_rows'])} rows × {wording.number(stats['n_features'])} features"
        table.add_row("Problem", Text(shape))
    shown = {"status", "n_rows", "n_features", "memory_limit_bytes"}
    for name, value in stats.items():
        if name in shown or value is None or (name in _IF_ANY and not value):
            continue
        text = wording.statistic(name, value)
        limit = stats.get("memory_limit_bytes")
        if name == "peak_bytes" and limit:
            text += f" of {wording.size(limit)} ({wording.percent(value, limit)})"
        if name == "method":
            text = wording.method(result)
        table.add_row(Text(wording.label(name)), Text(text))
    return table


def plan_table(plan: Plan | LossPlan) -> Table:
    """Tabulate what a fit will need.

    Parameters
    ----------
    plan : Plan or LossPlan

    Returns
    -------
    rich.table.Table
        Two columns: what, and how much. Memory by what holds it, at the peak. The method and why
        it was chosen are not in it.
    """
    design, budget, table = plan.design, plan.budget, _two_columns()
    n, p = design.shape
    table.add_row("Problem", Text(f"{wording.number(n)} rows × {wording.number(p)} features"))
    table.add_row("Systems solved together", Text(wording.number(plan.n_systems)))
    n_sampled = getattr(plan, "n_sampled", 0)
    if plan.rank:
        probes = f", {plan.n_probes} probes" if hasattr(plan, "n_probes") else ""
        table.add_row("Sketch", Text(f"up to {plan.rank} columns{probes}"))
    if n_sampled:
        most = getattr(plan, "most_movable", 0)
        of = f", of which models take up to {wording.number(most)} columns" if most else ""
        table.add_row("Sample", Text(f"{wording.number(n_sampled)} rows{of}"))
    table.add_row("Passes run as", Text(_threads(plan)))
    cached = wording.percent(plan.cached_bytes, plan.pass_bytes)
    text = f"{wording.size(plan.pass_bytes)}, {cached} of it kept in memory"
    table.add_row("Data per pass", Text(text))
    left = "cached blocks"
    if isinstance(plan, KernelPlan):
        left = "the kernel matrix"
        kept = wording.percent(plan.kept_bytes, plan.matrix_bytes)
        text = f"{wording.size(plan.matrix_bytes)}, up to {kept} of it kept in memory"
        table.add_row("Kernel matrix", Text(text))
    table.add_section()
    for name, nbytes in budget.needs.items():
        if nbytes:
            table.add_row(Text(f"Memory: {name}"), Text(wording.size(nbytes)))
    table.add_section()
    share = wording.percent(budget.peak, budget.limit)
    text = f"{wording.size(budget.peak)} of {wording.size(budget.limit)} ({share})"
    table.add_row("Projected peak", Text(text))
    table.add_row(f"Left for {left}", Text(wording.size(budget.spare)))
    return table


def _two_columns() -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _threads(plan: Plan | LossPlan) -> str:
    """Say where the passes run."""
    noun = "task" if plan.n_tasks == 1 else "tasks"
    return f"{plan.n_tasks} {noun} at once ({plan.scheduler} scheduler, {os.cpu_count()} cores)"
