"""Numbers and states in words, the same on the terminal and on the page."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.sketching.approximation import FAILURE_PROBABILITY

if TYPE_CHECKING:
    from nysstream.estimators.results import FitResult

HEADLINES = {
    "converged": "Converged",
    "max_passes": "Stopped at the pass limit",
    "max_iterations": "Stopped at the iteration limit",
    "time_limit": "Stopped at the time limit",
    "interrupted": "Interrupted",
    "stopped": "Stopped by the callback",
    "stalled": "Stalled before the tolerance",
    "breakdown": "Broke down",
}

METHODS = {
    "gram": "a factored Gram matrix, refined by conjugate gradients",
    "subsampled": "conjugate gradients, preconditioned by a factored sample of the rows",
    "cg": "conjugate gradients, without a preconditioner",
    "cholesky": "a Cholesky factor of the kernel matrix",
    "askotch": "block coordinate descent with Nyström preconditioners (ASkotch)",
}

#: Of fits with a loss and a penalty, which are certified by duality.
COMPOSITE_METHODS = {
    "gram": "quadratic models in memory, of a Gram matrix that was summed in one pass",
    "newton": "proximal Newton, with Hessians summed in the passes",
    "subsampled": "proximal Newton, with Hessians of sampled rows",
    "admm": "NysADMM, with products over the data",
    "working sets": "working sets of the dual problem",
}

LABELS = {
    "status": "Status",
    "method": "Method",
    "passes": "Passes over the data",
    "iterations": "Iterations",
    "seconds": "Time",
    "bytes_read": "Read from the store",
    "bytes_from_cache": "Served from memory",
    "peak_bytes": "Peak memory of the process",
    "memory_limit_bytes": "Memory limit",
    "relative_residual": "Relative residual, recomputed",
    "duality_gap": "Relative duality gap",
    "optimality": "Relative distance from optimality",
    "objective": "Objective",
    "n_nonzero": "Coefficients that are not zero",
    "rank": "Rank of the sketch",
    "effective_dimension": "Effective dimension",
    "n_rows": "Rows",
    "n_features": "Features",
    "n_outputs": "Columns",
    "test_r2": "Held-out R2",
    "linear_test_r2": "Held-out R2, linear",
    "cg_relative_residual": "Plain CG in the same passes, residual",
}

MAX_LISTED = 10


@dataclass(frozen=True)
class Accuracy:
    """The number that says how good an answer is.

    Attributes
    ----------
    key : str
        Of statistics and history.
    name : str
    final : str
        What its last value is called in a figure.
    explanation : str
    """

    key: str
    name: str
    final: str
    explanation: str


RESIDUAL = Accuracy(
    "relative_residual",
    "relative residual",
    "recomputed at the end, worst",
    "Residual of the normal equations relative to the right-hand side, after each step. Between "
    "recomputations it comes from the recursion of the solver; the diamond is the last one recomputed in "
    "double precision, the worst over all systems.",
)
GAP = Accuracy(
    "duality_gap",
    "relative duality gap",
    "of the answer",
    "How far the objective can at most be from its minimum, relative to it, as a dual point proves after "
    "each step; the worst over all models. The diamond is that of the coefficients that were kept.",
)
OPTIMALITY = Accuracy(
    "optimality",
    "distance from optimality",
    "of the answer",
    "How far the conditions of optimality are from being met after each step, relative to the gradient at "
    "the start; the worst over all models. This problem has no finite duality gap. The diamond is that of "
    "the coefficients that were kept.",
)

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def headline(status: str) -> str:
    """Say in a few words how a fit ended."""
    return HEADLINES.get(status, status.replace("_", " ").capitalize())


def label(name: str) -> str:
    """Name a statistic for people."""
    return LABELS.get(name, name.replace("_", " ").capitalize())


def number(value: float) -> str:
    """Write a count in full, with separators, and any other number to three digits."""
    if isinstance(value, (int, np.integer)):
        return f"{value:,}"
    if 1000 <= abs(value) < 1e6:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def power_of_ten(exponent: int) -> str:
    """Write a power of ten."""
    return "10" + str(exponent).translate(_SUPERSCRIPT)


def duration(seconds: float) -> str:
    """Write a time span."""
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def size(nbytes: float) -> str:
    """Write a number of bytes, to three digits."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if nbytes < 999.5:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1024
    return f"{nbytes:,.3g} TiB" if nbytes < 999.5 else f"{nbytes:,.0f} TiB"


def percent(part: float, whole: float) -> str:
    """Write a share; nothing of nothing is none."""
    share = 100 * part / whole if whole else 0.0
    if 0 < share < 0.1:
        return "less than 0.1 %"
    return f"{share:.0f} %" if share >= 1 or share == 0 else f"{share:.1f} %"


def statistic(name: str, value: Any) -> str:
    """Write a statistic of a fit in the units that its name tells."""
    if value is None:
        return "not known"
    if isinstance(value, str):
        return headline(value) if name == "status" else value
    if name == "effective_dimension":
        return bracket(value)
    if isinstance(value, (list, tuple, np.ndarray)):
        shown = ", ".join(statistic(name, item) for item in value[:MAX_LISTED])
        return shown if len(value) <= MAX_LISTED else f"{shown}, … ({len(value)} in all)"
    if name.endswith("_bytes") or name.startswith("bytes_"):
        return size(value)
    return duration(value) if name == "seconds" else number(value)


def bracket(dimension: Any) -> str:
    """Write bounds of an effective dimension, or the dimension where they agree."""
    lower, upper = (f"{bound:.1f}" if bound < 100 else f"{bound:,.0f}" for bound in dimension)
    return lower if lower == upper else f"{lower} to {upper}"


def accuracy(result: FitResult) -> Accuracy:
    """Choose the number that certifies a fit."""
    if "relative_residual" in result.stats:
        return RESIDUAL
    return OPTIMALITY if result.stats.get("duality_gap") is None else GAP


def method(result: FitResult) -> str:
    """Name the method behind a fit."""
    name = str(result.stats.get("method", ""))
    if name == "nystrom":
        rank = number(result.stats.get("rank") or 0)
        return f"conjugate gradients, preconditioned by a randomized Nyström sketch of rank {rank}"
    if accuracy(result) is not RESIDUAL:
        columns = int(result.stats.get("rank") or 0)
        sketch = f", preconditioned by a randomized Nyström sketch of rank {columns:,}" if columns else ""
        return COMPOSITE_METHODS.get(name, name) + sketch
    return METHODS.get(name, name)


def certificate(result: FitResult) -> str:
    """Say how far the sketch can be from the matrix it approximates."""
    known = result.certificate
    if known is None:
        return ""
    parts = []
    if math.isfinite(known.nuclear_error):
        share = f", {percent(known.nuclear_error, known.trace)} of its trace" if known.trace else ""
        parts.append(f"in nuclear norm by at most {known.nuclear_error:.3g}{share}")
    if math.isfinite(known.spectral_error):
        parts.append(
            f"in spectral norm by at most {known.spectral_error:.3g} "
            f"(with probability at least 1 − {power_of_ten(round(math.log10(FAILURE_PROBABILITY)))})"
        )
    if not parts:
        return "Neither the trace nor probes were at hand, so the error of the sketch is not bounded."
    return f"The sketch differs from the Gram matrix {', and '.join(parts)}."


def setting(value: Any, longest: int = 200) -> str:
    """Write a setting, without memory addresses and not at any length."""
    text = re.sub(r" at 0x[0-9A-Fa-f]+", "", " ".join(repr(value).split()))
    return text if len(text) <= longest else f"{text[:longest]}…"
