"""Figures of the results: bars of the ratios, and curves of the scaling."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Any

    from benchmarks.measuring import Row

_MET, _MISSED, _PLAIN = "#2a7f62", "#c8553d", "#6b7a8f"
#: Of curves: ours in greens and blues, others in warm colours and greys.
_OURS = ("#2a7f62", "#1f5f9e", "#5fb49c", "#7a9fd4", "#0b3c49", "#8ac926")
_OTHERS = ("#c8553d", "#e09f3e", "#9c6644", "#b5179e", "#6b7a8f", "#f28482", "#000000", "#a5a58d")


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


def draw_curves(
    panels: dict[tuple[str, str], dict[str, list[tuple[float, float]]]],
    path: Path,
    *,
    levels: Sequence[float] = (),
) -> None:
    """Write curves that fall, a panel for each title and axis, where Matplotlib is installed.

    Parameters
    ----------
    panels : dict
        By title and name of the horizontal axis: for each label, points from left to right. Panels of one
        title share a row and its legend, and a label has the same colour everywhere.
    path : Path
    levels : sequence of float
        To be marked.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    titles = list(dict.fromkeys(title for title, _ in panels))
    axes_names = list(dict.fromkeys(axis for _, axis in panels))
    styles = _styles(list(dict.fromkeys(label for curves in panels.values() for label in curves)))
    figure = Figure(figsize=(13, 3.6 * len(titles)), layout="constrained")
    grid = figure.subplots(len(titles), len(axes_names), squeeze=False, sharey="row")
    for (title, axis), curves in panels.items():
        i, j = titles.index(title), axes_names.index(axis)
        axes = grid[i][j]
        for label, points in curves.items():
            axes.plot([x for x, _ in points], [y for _, y in points], label=label, **styles[label])
        for level in levels:
            axes.axhline(level, color="black", lw=0.6, ls=":")
        axes.set_yscale("log")
        axes.set_xscale("log")
        axes.set_xlabel(axis)
        axes.set_title(f"{title}: relative suboptimality", loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        if j == len(axes_names) - 1:
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7, frameon=False)
    figure.savefig(path, dpi=110)


def _styles(labels: list[str]) -> dict[str, dict[str, Any]]:
    """Give every label a colour; ours are drawn with thick lines."""
    ours = [label for label in labels if label.startswith("nysstream")]
    found = {}
    for label in labels:
        mine = label in ours
        number = ours.index(label) if mine else [x for x in labels if x not in ours].index(label)
        colours = _OURS if mine else _OTHERS
        found[label] = {
            "color": colours[number % len(colours)],
            "lw": 2.0 if mine else 1.2,
            "ls": "-" if number < len(colours) else "--",
            "marker": "o" if mine else "s",
            "ms": 3.5,
        }
    return found
