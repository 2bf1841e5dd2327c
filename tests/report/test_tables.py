"""Tables for the terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from nysstream import Ridge
from nysstream.report import plan_table, summary_table, wording
from tests.report.making import make_result


def printed(table):
    console = Console(file=io.StringIO(), width=160, color_system=None)
    console.print(table)
    return console.file.getvalue()


def rows(table):
    """Map labels to values, as they are printed."""
    found = {}
    for line in printed(table).splitlines():
        name, _, value = line.strip().partition("  ")
        found[name] = value.strip()
    return found


def test_summary_shows_every_statistic_that_is_known():
    result = make_result()
    shown = rows(summary_table(result))
    assert shown["Status"] == "Converged"
    assert shown["Problem"] == "12,345 rows × 67 features"
    assert shown["Method"] == wording.method(result)
    assert shown["Peak memory of the process"] == "224 MiB of 436 MiB (51 %)"
    for name in ("passes", "iterations", "seconds", "bytes_read", "relative_residual", "objective", "rank"):
        assert shown[wording.label(name)] == wording.statistic(name, result.stats[name])


def test_summary_leaves_out_what_there_is_not():
    shown = rows(summary_table(make_result(rank=0)))
    assert "Rank of the sketch" not in shown
    assert "Effective dimension" not in shown


def test_summary_gives_advice_where_it_is_needed():
    result = make_result(status="max_passes", advice="Raise max_passes.", stats={"status": "max_passes"})
    text = printed(summary_table(result))
    assert "Stopped at the pass limit" in text
    assert "Raise max_passes." in text


@pytest.mark.parametrize("evil", ["[bold]x[/bold]", "[/]", "[link=http://x]y"])
def test_names_are_not_read_as_markup(evil):
    result = make_result(status=evil, advice=evil, stats={"status": evil, evil: evil})
    assert printed(summary_table(result)).count(evil) >= 3


def test_plan_lists_the_needs_and_their_sum(fits):
    plan = Ridge(alpha=1e-3, solver="nystrom", memory="8GiB").plan(fits.X, fits.y)
    shown = rows(plan_table(plan))
    assert shown["Problem"] == "600 rows × 12 features"
    assert shown["Sketch"] == f"up to {plan.rank} columns, {plan.n_probes} probes"
    for name, nbytes in plan.budget.needs.items():
        if nbytes:
            assert shown[f"Memory: {name}"] == wording.size(nbytes)
    assert shown["Projected peak"].startswith(f"{wording.size(plan.budget.peak)} of 8 GiB")
    assert shown["Left for cached blocks"] == wording.size(plan.budget.spare)
    assert shown["Data per pass"].startswith(wording.size(plan.pass_bytes))
