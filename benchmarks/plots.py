"""Figures of the results: bars of the ratios, and curves of the scaling."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.measuring import Row

_MET, _MISSED, _PLAIN = "#2a7f62", "#c8553d", "#6b7a8f"


def draw(rows: list[Row], folder: Path) -> None:
    """Write one PNG per group, where Matplotlib is installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    for group in dict.fromkeys(row.group for row in rows):
        members = [row for row in rows if row.group == group]
        curves = [row for row in members if "x" in row.details]
        figure = Figure(
            figsize=(9, 1.2 + 0.32 * len(members)) if not curves else (9, 6), layout="constrained"
        )
        if curves:
            _curves(figure, curves)
        else:
            _bars(figure, members, group)
        figure.savefig(folder / f"{group}.png", dpi=130)


def _bars(figure, rows: list[Row], group: str) -> None:
    axes = figure.subplots()
    colours = [{None: _PLAIN, True: _MET, False: _MISSED}[row.met] for row in rows]
    places = range(len(rows))
    axes.barh(places, [row.ratio for row in rows], color=colours)
    axes.set_yticks(places, [row.case for row in rows], fontsize=8)
    axes.invert_yaxis()
    for goal in {row.goal for row in rows if row.goal is not None}:
        axes.axvline(goal, color="black", lw=1, ls="--")
    for place, row in zip(places, rows, strict=True):
        axes.text(row.ratio, place, f" {row.ratio:.2f}", va="center", fontsize=8)
    axes.set_xlim(0, 1.1 * max([1.0, *(row.ratio for row in rows)]))
    axes.set_title(f"{group}: ratio to the limit (dashed: goal)", loc="left", fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)


def _curves(figure, rows: list[Row]) -> None:
    kinds = list(dict.fromkeys(row.details["axis"] for row in rows))
    panels = figure.subplots(2, -(-len(kinds) // 2), squeeze=False).reshape(-1)
    for axes, kind in zip(panels, kinds, strict=False):
        points = [row for row in rows if row.details["axis"] == kind]
        x = [row.details["x"] for row in points]
        axes.plot(x, [row.seconds for row in points], "o-", color=_MET)
        axes.set_xlabel(kind)
        axes.set_ylabel("seconds a pass")
        axes.set_ylim(bottom=0)
        if all("peak_bytes" in row.details for row in points):
            twin = axes.twinx()
            twin.plot(x, [row.details["peak_bytes"] / 2**20 for row in points], "s--", color=_MISSED)
            twin.set_ylabel("peak memory, MiB", color=_MISSED)
            twin.set_ylim(bottom=0)
    for axes in panels[len(kinds) :]:
        axes.set_visible(False)
