"""Figures of a fit: convergence, spectrum, time per pass, memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.errors import InputError
from nysstream.report import wording
from nysstream.report.drawing import (
    DASHED,
    Figure,
    decades,
    legend_beside,
    legend_text,
    new_figure,
    note,
    spread,
    styled,
    whole_numbers,
)
from nysstream.report.palette import LIGHT, SERIES, series

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from nysstream.estimators.results import FitResult

MAX_CURVES = 10
MAX_POINTS = 2000
MAX_BARS = 60
MAX_PARTS = len(SERIES)
MAX_SHIFTS = 6


@styled
def convergence(
    result: FitResult,
    *,
    tol: float | None = None,
    labels: Sequence[str] | None = None,
    extra_histories: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> Figure:
    """Draw the accuracy over the passes: the relative residual of every system, or a certificate.

    Parameters
    ----------
    result : FitResult
    tol : float, optional
        Drawn as a line.
    labels : sequence of str, optional
        One per system.
    extra_histories : mapping of str to list of dict, optional
        Further curves to compare with, as records like ``result.history``; their worst column is
        drawn.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, axes = new_figure(3.0)
    extra_histories = extra_histories or {}
    first, measure = setup_passes(result), wording.accuracy(result)
    passes, residuals = curves(result.history, measure.key)
    n_curves = residuals.shape[1]
    shown = spread(n_curves, MAX_CURVES)
    colours = series(len(shown))
    marker = "o" if len(passes) <= 40 else None
    for i, colour in zip(shown, colours, strict=True):
        name = labels[i] if labels is not None else ("this fit" if n_curves == 1 else f"system {i + 1}")
        axes.plot(
            first + passes, residuals[:, i], color=colour, marker=marker, label=legend_text(name), gid="fit"
        )
    for i, (name, history) in enumerate(extra_histories.items()):
        x, y = curves(history, measure.key)
        worst = y.max(axis=1, initial=0.0)
        dashes = ("--", ":", "-.")[i % 3]
        axes.plot(first + x, worst, dashes, color=LIGHT["muted"], label=legend_text(name), gid="extra")
    final = result.stats.get(measure.key)
    total = result.stats.get("passes")
    if final is not None and total and len(passes):
        axes.plot(
            [total], [final], "D", color=LIGHT["ink"], markersize=5, markerfacecolor="none",
            label=measure.final, gid="final", zorder=4,
        )  # fmt: skip
    drawn = [np.asarray(line.get_ydata()) for line in axes.lines]
    if tol:
        text = f"tolerance {wording.number(tol)}"
        axes.axhline(tol, color=LIGHT["muted"], linewidth=0.9, linestyle=DASHED, label=text, gid="tolerance")
    if any(np.any(y > 0) for y in drawn):
        axes.set_yscale("log")
        decades(axes.yaxis)
    else:  # zero is the exact solution
        axes.set_ylim(0, 1)
    whole_numbers(axes)
    axes.set_xlim(left=0)
    counted = "passes over the data, the set-up pass included" if result.passes else "steps of the solver"
    axes.set_xlabel(counted)
    axes.set_ylabel(measure.name)
    axes.grid(axis="y")
    if len(axes.get_legend_handles_labels()[0]) > 1:
        legend_beside(axes, n_curves, len(shown))
    return figure


@styled
def spectrum(result: FitResult, *, shifts: ArrayLike = ()) -> Figure:
    """Draw the eigenvalues of the sketch, the shifts, and the effective dimension.

    Parameters
    ----------
    result : FitResult
        With a ``spectrum`` that is not empty.
    shifts : array-like, shape (k,)
        Regularisation strengths; those that are zero have no place on a logarithmic scale.

    Returns
    -------
    matplotlib.figure.Figure
    """
    values = np.asarray([] if result.spectrum is None else result.spectrum, dtype=np.float64)
    if not values.size:
        message = "this fit has no spectrum to draw: it made no sketch, or one without eigenvalues"
        raise InputError(message)
    figure, axes = new_figure(3.0)
    axes.set_yscale("log")
    index = np.arange(1, values.size + 1)
    marker = "o" if values.size <= 60 else None
    axes.plot(index, values, color=LIGHT["series-1"], marker=marker, gid="eigenvalues")
    right = float(values.size)
    dimension = result.stats.get("effective_dimension")
    if dimension is not None:
        lower, upper = (max(1.0, float(bound)) for bound in dimension)
        axes.axvspan(lower, upper, color=LIGHT["series-3"], alpha=0.16, linewidth=0, gid="bracket")
        axes.axvline(lower, color=LIGHT["series-3"], linewidth=1.0, gid="lower")
        right = max(right, upper)
        axes.text(
            lower, 1.02, f"effective dimension {wording.bracket(dimension)}", color=LIGHT["ink"],
            transform=axes.get_xaxis_transform(), va="bottom", gid="dimension",
            ha="right" if lower**2 > right else "left",
        )  # fmt: skip
    if right > 20:
        axes.set_xscale("log")
        axes.set_xlim(0.9, right * 1.15)
        decades(axes.xaxis)
    else:
        axes.set_xlim(0.5, right + 0.5)
        whole_numbers(axes)
    positive = np.unique(np.asarray(shifts, dtype=np.float64))
    positive = positive[positive > 0]
    chosen = positive[spread(positive.size, MAX_SHIFTS)]
    for shift in chosen:
        axes.axhline(shift, color=LIGHT["series-2"], linewidth=1.1, gid="shift")
    floor = result.certificate.noise_floor if result.certificate is not None else 0.0
    lowest = min([values.min(), *chosen])
    if floor > 1e-4 * lowest:
        axes.axhline(floor, color=LIGHT["muted"], linewidth=0.9, linestyle=DASHED, gid="floor")
        note(axes, 1.0, floor, f"noise floor {floor:.1e}", "right")
    elif floor > 0:  # far below: a line there would press all else together
        axes.margins(y=0.12)
        axes.annotate(
            f"noise floor {floor:.1e}, far below ↓", (1, 0), xycoords="axes fraction", xytext=(-2, 3),
            textcoords="offset points", ha="right", va="bottom", fontsize=8.0, gid="floor",
        )  # fmt: skip
    decades(axes.yaxis)
    low, high = np.log10(axes.get_ylim())
    last = -np.inf
    for shift in chosen:
        if np.log10(shift) - last > 0.07 * (high - low):  # else one label would cover another
            note(axes, 0.0, shift, f"α = {wording.number(float(shift))}", "left")
            last = np.log10(shift)
    axes.set_xlabel("index of the eigenvalue")
    axes.set_ylabel("eigenvalue of the Gram matrix")
    axes.grid(axis="y")
    return figure


@styled
def pass_times(result: FitResult) -> Figure:
    """Draw where the seconds of every pass went: computing upwards, reading downwards.

    Returns
    -------
    matplotlib.figure.Figure
        Beyond 60 passes a bar stands for the mean of several; the first pass stands alone.
    """
    figure, axes = new_figure(2.9)
    edges, seconds = grouped_passes(result)
    unit = "seconds"
    if max(record.seconds for record in result.passes) < 0.1:
        unit, seconds = "milliseconds", {name: 1000 * values for name, values in seconds.items()}
    centres, widths = 0.5 * (edges[1:] + edges[:-1]) + 0.5, 0.86 * np.diff(edges)
    bottom = np.zeros(len(centres))
    upwards = {"features": "features", "products": "products", "wait": "waiting for the reader"}
    for (name, text), colour in zip(upwards.items(), ("series-3", "series-1", "series-5"), strict=True):
        bars = {"color": LIGHT[colour], "label": text, "gid": name, "linewidth": 0}
        axes.bar(centres, seconds[name], widths, bottom, **bars)
        bottom += seconds[name]
    bars = {"color": LIGHT["series-2"], "label": "reading", "gid": "read", "linewidth": 0}
    axes.bar(centres, -seconds["read"], widths, **bars)
    axes.hlines(
        seconds["wall"], centres - widths / 2, centres + widths / 2, color=LIGHT["ink"], linewidth=1.4,
        label="wall time", gid="wall",
    )  # fmt: skip
    axes.axhline(0, color=LIGHT["muted"], linewidth=0.7)
    axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    whole_numbers(axes)
    axes.set_xlim(0.4, max(1.6, edges[-1] + 0.6))
    axes.set_xlabel("pass")
    axes.set_ylabel(f"task-{unit} per pass")
    axes.grid(axis="y")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=5, handlelength=1.2)
    return figure


@styled
def memory(result: FitResult) -> Figure:
    """Draw what was projected to hold memory, the peak that was measured, and the limit.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, axes = new_figure(2.1)
    needs, peak = main_needs(result), result.stats.get("peak_bytes") or 0
    widest = max(sum(needs.values()), peak, 1)
    limit = result.stats.get("memory_limit_bytes") or 0
    # A limit far to the right is named, not drawn: the bars would shrink to nothing.
    right = max(widest, limit) if limit <= 3 * widest else 1.5 * widest
    unit, scale = ("GiB", 1 << 30) if right >= 4 << 30 else ("MiB", 1 << 20)
    left = 0
    colours = iter(LIGHT[name] for name in SERIES)
    for name, nbytes in needs.items():
        colour = LIGHT[name] if name in ("process", "allowance") else next(colours)
        text = legend_text(f"{name}, {wording.size(nbytes)}")
        axes.barh(
            1, nbytes / scale, 0.55, left / scale, color=colour, label=text, gid="need",
            edgecolor=LIGHT["surface"], linewidth=0.5,
        )  # fmt: skip
        left += nbytes
    axes.barh(0, peak / scale, 0.55, color=LIGHT["muted"], gid="peak")
    if limit:
        at = min(limit, right) / scale
        text = f"limit {wording.size(limit)}" + (" →" if limit > right else "")
        axes.text(at, 1.02, text, transform=axes.get_xaxis_transform(), ha="right", va="bottom")
        if limit <= right:
            axes.axvline(at, color=LIGHT["ink"], linewidth=1.6, gid="limit")
    for y, nbytes in ((0, peak), (1, left)):
        inside = nbytes > 0.8 * right
        axes.annotate(
            wording.size(nbytes), (nbytes / scale, y), xytext=(-4 if inside else 4, 0),
            textcoords="offset points", va="center", ha="right" if inside else "left",
            color=LIGHT["surface"] if inside and y == 0 else LIGHT["ink"],
        )  # fmt: skip
    axes.set_xlim(0, 1.02 * right / scale)
    axes.set_ylim(-0.45, 1.45)
    axes.set_yticks([0, 1], ["measured peak", "projected"])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"memory of the process, {unit}")
    figure.legend(
        *axes.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3,
        handlelength=1.0,
        handleheight=1.0,
    )
    return figure


# --- the numbers behind the figures --------------------------------------------------------------


def setup_passes(result: FitResult) -> int:
    """Count the passes made before the solver's first step, which its history leaves out."""
    if not result.passes:
        return 0
    if result.history and wording.accuracy(result) is not wording.RESIDUAL:
        return len(result.passes) - int(result.history[-1]["passes"])  # nothing follows the last step
    solving = ("product", "residual", "objective")
    names = [record.name for record in result.passes]
    return next((i for i, name in enumerate(names) if name in solving), len(names))


def curves(
    history: Sequence[Mapping[str, Any]], key: str = "relative_residual"
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Collect passes ``(m,)`` and accuracies ``(m, k)``; long histories are thinned.

    Parameters
    ----------
    history : sequence of dict
    key : str
        What to collect; with an ``s`` added where records have it for every system.
    """
    if not history:
        return np.zeros(0), np.zeros((0, 1))
    kept = [history[i] for i in spread(len(history), MAX_POINTS)]
    passes = np.array(
        [record["passes" if "passes" in record else "steps"] for record in kept], dtype=np.float64
    )
    if "problem" in kept[0]:  # one after another, each with steps of its own
        number = np.array([record["problem"] for record in kept])
        values = np.array([record[key] for record in kept], dtype=np.float64)
        return passes, np.where(number[:, None] == np.unique(number), values[:, None], np.nan)
    columns = [np.atleast_1d(record.get(key + "s", record.get(key))) for record in kept]
    return passes, np.array(columns, dtype=np.float64).reshape(len(kept), -1)  # what is not known is NaN


def grouped_passes(result: FitResult) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    """Average the seconds of consecutive passes into at most ``MAX_BARS`` groups.

    Returns
    -------
    edges : ndarray, shape (m + 1,)
        Group i holds the passes from ``edges[i]`` to ``edges[i + 1]``, counted from zero.
    seconds : dict of str to ndarray, shape (m,)
        Mean per pass, by where the time went.
    """
    n = len(result.passes)
    step = 1 if n <= MAX_BARS else -(-(n - 1) // (MAX_BARS - 1))
    starts = np.array([0, *range(1, n, step)][: max(n, 0)], dtype=np.intp)
    edges = np.append(starts, n)
    columns = {
        "read": [record.cost.read_seconds for record in result.passes],
        "features": [record.cost.feature_seconds for record in result.passes],
        "products": [record.cost.product_seconds for record in result.passes],
        "wait": [record.cost.wait_seconds for record in result.passes],
        "wall": [record.seconds for record in result.passes],
    }
    means = {
        name: np.add.reduceat(np.asarray(values), starts) / np.diff(edges) if n else np.zeros(0)
        for name, values in columns.items()
    }
    return edges.astype(np.float64), means


def main_needs(result: FitResult) -> dict[str, int]:
    """Give the projected needs, largest first, the smallest gathered where there are too many."""
    own = {name: nbytes for name, nbytes in result.needs.items() if name in ("process", "allowance")}
    rest = {name: nbytes for name, nbytes in result.needs.items() if name not in own and nbytes}
    ranked = sorted(rest.items(), key=lambda item: -item[1])
    if len(ranked) > MAX_PARTS:
        other = sum(nbytes for _, nbytes in ranked[MAX_PARTS - 1 :])
        ranked = [*ranked[: MAX_PARTS - 1], ("other", other)]
    return own | dict(ranked)
