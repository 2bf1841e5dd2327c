"""Figures of a fit: convergence, spectrum, time per pass, memory."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from nysstream.errors import InputError
from nysstream.report import wording
from nysstream.report.palette import LIGHT, SERIES, series

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from nysstream.estimators.results import FitResult

Figure = Any  # matplotlib.figure.Figure; Matplotlib is an extra
Axes = Any

MAX_CURVES = 10
MAX_POINTS = 2000
MAX_BARS = 60
MAX_PARTS = len(SERIES)
MAX_SHIFTS = 6

STYLE: Any = {
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8.5,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "text.color": LIGHT["ink"],
    "axes.labelcolor": LIGHT["ink"],
    "axes.edgecolor": LIGHT["muted"],
    "xtick.color": LIGHT["muted"],
    "ytick.color": LIGHT["muted"],
    "xtick.labelcolor": LIGHT["ink"],
    "ytick.labelcolor": LIGHT["ink"],
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": LIGHT["grid"],
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.6,
    "lines.markersize": 3.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "text.parse_math": False,  # a name may hold dollar signs
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "nysstream",  # the same figure gives the same bytes
}

P = ParamSpec("P")
T = TypeVar("T")


def styled(function: Callable[P, T]) -> Callable[P, T]:
    """Run a function under the style of the figures; say what to install without Matplotlib."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            import matplotlib as mpl
        except ImportError as error:
            message = "figures need Matplotlib: pip install nysstream[plots]"
            raise InputError(message) from error
        with mpl.rc_context(STYLE):
            return function(*args, **kwargs)

    return wrapper


@styled
def convergence(
    result: FitResult,
    *,
    tol: float | None = None,
    labels: Sequence[str] | None = None,
    extra_histories: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> Figure:
    """Draw the relative residual of every system over the passes.

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
    figure, axes = _figure(3.0)
    extra_histories = extra_histories or {}
    first = setup_passes(result)
    passes, residuals = curves(result.history)
    n_curves = residuals.shape[1]
    shown = _spread(n_curves, MAX_CURVES)
    colours = series(len(shown))
    marker = "o" if len(passes) <= 40 else None
    for i, colour in zip(shown, colours, strict=True):
        name = labels[i] if labels is not None else ("this fit" if n_curves == 1 else f"system {i + 1}")
        axes.plot(
            first + passes, residuals[:, i], color=colour, marker=marker, label=_legend(name), gid="fit"
        )
    for i, (name, history) in enumerate(extra_histories.items()):
        x, y = curves(history)
        worst = y.max(axis=1, initial=0.0)
        dashes = ("--", ":", "-.")[i % 3]
        axes.plot(first + x, worst, dashes, color=LIGHT["muted"], label=_legend(name), gid="extra")
    final = result.stats.get("relative_residual")
    total = result.stats.get("passes")
    if final is not None and total is not None and len(passes):
        axes.plot(
            [total], [final], "D", color=LIGHT["ink"], markersize=5, markerfacecolor="none",
            label="recomputed at the end, worst", gid="final", zorder=4,
        )  # fmt: skip
    positive = [line for line in axes.lines if np.any(np.asarray(line.get_ydata()) > 0)]
    if positive:
        axes.set_yscale("log")
    if tol:
        axes.axhline(tol, color=LIGHT["muted"], linewidth=0.9, linestyle=(0, (5, 2)), gid="tolerance")
        _note(axes, 1.0, tol, f"tolerance {wording.number(tol)}", "right")
    _integers(axes)
    axes.set_xlim(left=0)
    axes.set_xlabel("passes over the data, the set-up pass included")
    axes.set_ylabel("relative residual")
    axes.grid(axis="y")
    if len(axes.get_legend_handles_labels()[0]) > 1:
        _legend_beside(axes, n_curves, len(shown))
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
    figure, axes = _figure(3.0)
    axes.set_xscale("log")
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
    axes.set_xlim(0.9, max(2.0, right * 1.15))
    positive = np.unique(np.asarray(shifts, dtype=np.float64))
    positive = positive[positive > 0]
    for i in _spread(positive.size, MAX_SHIFTS):
        axes.axhline(positive[i], color=LIGHT["series-2"], linewidth=1.1, gid="shift")
        _note(axes, 0.0, positive[i], f"α = {wording.number(float(positive[i]))}", "left")
    floor = result.certificate.noise_floor if result.certificate is not None else 0.0
    if floor > 0:
        axes.axhline(floor, color=LIGHT["muted"], linewidth=0.9, linestyle=(0, (5, 2)), gid="floor")
        _note(axes, 1.0, floor, f"noise floor {floor:.1e}", "right")
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
    figure, axes = _figure(2.9)
    edges, seconds = grouped_passes(result)
    centres, widths = 0.5 * (edges[1:] + edges[:-1]) + 0.5, 0.86 * np.diff(edges)
    bottom = np.zeros(len(centres))
    for name, colour in (("features", "series-3"), ("products", "series-1"), ("wait", "series-5")):
        text = {"wait": "waiting for the reader"}.get(name, name)
        axes.bar(
            centres, seconds[name], widths, bottom, color=LIGHT[colour], label=text, gid=name, linewidth=0
        )
        bottom += seconds[name]
    axes.bar(
        centres, -seconds["read"], widths, color=LIGHT["series-2"], label="reading", gid="read", linewidth=0
    )
    axes.hlines(
        seconds["wall"], centres - widths / 2, centres + widths / 2, color=LIGHT["ink"], linewidth=1.4,
        label="wall time", gid="wall",
    )  # fmt: skip
    axes.axhline(0, color=LIGHT["muted"], linewidth=0.7)
    axes.yaxis.set_major_formatter(lambda value, _: f"{abs(value):g}")
    _integers(axes)
    axes.set_xlim(0.4, max(1.6, edges[-1] + 0.6))
    axes.set_xlabel("pass")
    axes.set_ylabel("task-seconds per pass")
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
    figure, axes = _figure(2.1)
    unit, scale = _unit(result)
    left = 0.0
    colours = iter(LIGHT[name] for name in SERIES)
    for name, nbytes in main_needs(result).items():
        colour = LIGHT[name] if name in ("process", "allowance") else next(colours)
        text = f"{name}, {wording.size(nbytes)}"
        axes.barh(
            1, nbytes / scale, 0.55, left, color=colour, label=_legend(text), gid="need",
            edgecolor=LIGHT["surface"], linewidth=0.5,
        )  # fmt: skip
        left += nbytes / scale
    peak = (result.stats.get("peak_bytes") or 0) / scale
    axes.barh(0, peak, 0.55, color=LIGHT["muted"], gid="peak")
    limit = result.stats.get("memory_limit_bytes")
    widest = max(left, peak)
    if limit:
        axes.axvline(limit / scale, color=LIGHT["ink"], linewidth=1.6, gid="limit")
        axes.text(
            limit / scale, 1.02, f"limit {wording.size(limit)} ", transform=axes.get_xaxis_transform(),
            ha="right", va="bottom",
        )  # fmt: skip
        widest = max(widest, limit / scale)
    for y, value in ((0, peak), (1, left)):
        inside = value > 0.8 * widest
        axes.text(
            value, y, f" {wording.size(value * scale)} ", va="center", ha="right" if inside else "left",
            color=LIGHT["surface"] if inside and y == 0 else LIGHT["ink"],
        )  # fmt: skip
    axes.set_xlim(0, max(widest * 1.02, 1e-9))
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
    names = [record.name for record in result.passes]
    return next((i for i, name in enumerate(names) if name != "set-up"), len(names))


def curves(history: Sequence[Mapping[str, Any]]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Collect passes ``(m,)`` and relative residuals ``(m, k)``; long histories are thinned."""
    kept = [history[i] for i in _spread(len(history), MAX_POINTS)]
    passes = np.array([record["passes"] for record in kept], dtype=np.float64)
    columns = [
        np.atleast_1d(record.get("relative_residuals", record["relative_residual"])) for record in kept
    ]
    return passes, np.array(columns, dtype=np.float64).reshape(len(kept), -1)


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


# --- parts of figures ----------------------------------------------------------------------------


def _figure(height: float) -> tuple[Figure, Axes]:
    # Not through pyplot: no display, no global list of figures.
    from matplotlib.figure import Figure as MatplotlibFigure

    figure = MatplotlibFigure(figsize=(7.4, height), layout="constrained")
    return figure, figure.add_subplot()


def _spread(count: int, most: int) -> list[int]:
    """Choose at most ``most`` of ``count`` positions, evenly, with both ends."""
    if count <= most:
        return list(range(count))
    return [int(i) for i in np.unique(np.linspace(0, count - 1, most).round())]


def _integers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _legend(name: str) -> str:
    # Matplotlib leaves labels that begin with an underscore out of legends.
    return f"\u200b{name}" if name.startswith("_") else name


def _legend_beside(axes: Axes, n_curves: int, n_shown: int) -> None:
    title = f"{n_shown} of {n_curves} systems" if n_shown < n_curves else None
    axes.legend(
        loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0, title=title, handlelength=1.6
    )


def _note(axes: Axes, x: float, y: float, text: str, side: str) -> None:
    """Write on a horizontal line, at the left or right end."""
    axes.annotate(
        text, (x, y), xycoords=axes.get_yaxis_transform(), xytext=(2 if side == "left" else -2, 2),
        textcoords="offset points", ha=side, va="bottom", fontsize=8.0, color=LIGHT["ink"],
    )  # fmt: skip


def _unit(result: FitResult) -> tuple[str, float]:
    largest = max(result.stats.get("memory_limit_bytes") or 0, sum(result.needs.values()), 1)
    return ("GiB", float(1 << 30)) if largest >= 4 << 30 else ("MiB", float(1 << 20))
