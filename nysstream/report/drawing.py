"""How the figures are drawn: style, axes in plain text, labels."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from nysstream.errors import InputError
from nysstream.report import wording
from nysstream.report.palette import LIGHT

if TYPE_CHECKING:
    from collections.abc import Callable

Figure = Any  # matplotlib.figure.Figure; Matplotlib is an extra
Axes = Any
Axis = Any

DASHED = (0, (5, 2))

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


def new_figure(height: float) -> tuple[Figure, Axes]:
    """Make a figure of the page's width and ``height`` inches, and its axes."""
    # Not through pyplot: no display, no global list of figures.
    from matplotlib.figure import Figure as MatplotlibFigure

    figure = MatplotlibFigure(figsize=(7.4, height), layout="constrained")
    return figure, figure.add_subplot()


def spread(count: int, most: int) -> list[int]:
    """Choose at most ``most`` of ``count`` positions, evenly, with both ends."""
    if count <= most:
        return list(range(count))
    return [int(i) for i in np.unique(np.linspace(0, count - 1, most).round())]


def whole_numbers(axes: Axes) -> None:
    """Put ticks of the horizontal axis at whole numbers only."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def decades(axis: Axis) -> None:
    """Label powers of ten in plain text, and show two of them at least."""
    from matplotlib.ticker import NullFormatter

    low, high = np.log10(axis.get_view_interval())
    if np.floor(high) - np.ceil(low) < 1:
        bounds = 10.0 ** np.floor(low), 10.0 ** np.ceil(high)
        (axis.axes.set_ylim if axis.axis_name == "y" else axis.axes.set_xlim)(*bounds)
    axis.set_major_formatter(lambda value, _: wording.power_of_ten(round(np.log10(value))))
    axis.set_minor_formatter(NullFormatter())


def legend_text(name: str) -> str:
    """Make sure that a label shows in the legend."""
    # Matplotlib leaves labels that begin with an underscore out of legends.
    return f"\u200b{name}" if name.startswith("_") else name


def legend_beside(axes: Axes, n_curves: int, n_shown: int) -> None:
    """Put the legend beside the axes; say if it does not list all curves."""
    title = f"{n_shown} of {n_curves} systems" if n_shown < n_curves else None
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        borderaxespad=0.0,
        title=title,
        handlelength=1.6,
        alignment="left",
    )


def note(axes: Axes, x: float, y: float, text: str, side: str) -> None:
    """Write on a horizontal line, at the left or right end."""
    axes.annotate(
        text, (x, y), xycoords=axes.get_yaxis_transform(), xytext=(2 if side == "left" else -2, 2),
        textcoords="offset points", ha=side, va="bottom", fontsize=8.0, color=LIGHT["ink"],
    )  # fmt: skip
