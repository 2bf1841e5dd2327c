"""The cost model: which method reaches the tolerance soonest on this machine."""

from __future__ import annotations

import functools
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg

from nysstream.arrays import single_threaded_blas, to_host
from nysstream.sketching.random_matrices import gaussian
from nysstream.streaming.panels import PANEL_ROWS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.streaming import DesignMatrix

#: Rows that the spectrum is estimated from.
SAMPLE_ROWS = 1024
#: What a pass in double precision costs in single ones, where the products are arithmetic.
_DOUBLE = 2.5
#: Passes that remove the float32 error of a Gram matrix: one or two steps, and the verification.
_REFINEMENT = 2
#: Sampled rows per column, and how much more iterations take than on rows of equal leverage.
_ROWS_PER_COLUMN, _COHERENCE = 4, 2.0


@dataclass(frozen=True)
class Outlook:
    """What is known of a problem before its set-up pass.

    Attributes
    ----------
    pass_seconds : float
        Estimate for one pass with one column per system.
    flops : float
        Arithmetic rate of wide single-precision products, all tasks together, per second.
    values : ndarray
        Estimates of the leading eigenvalues of the Gram matrix, descending.
    rest : float
        Sum of the other eigenvalues.
    """

    pass_seconds: float
    flops: float
    values: NDArray[np.float64]
    rest: float

    def effective_dimension(self, shift: float) -> float:
        """Estimate the effective dimension; the eigenvalues beyond the sample count in full."""
        return float(np.sum(self.values / (self.values + shift))) + self.rest / shift


@dataclass(frozen=True)
class Candidate:
    """A method, and what it may cost.

    Attributes
    ----------
    method : str
    seconds : float
    passes : float
    why : str
    """

    method: str
    seconds: float
    passes: float
    why: str


def look_ahead(design: DesignMatrix, n_systems: int, n_tasks: int) -> Outlook:
    """Read a sample of rows; time reading, features and products on it; and take its spectrum.

    Notes
    -----
    Cost: a few chunks. The timings decide between methods, never between results of one method.
    """
    began = time.perf_counter()
    rows = design.sample_rows(SAMPLE_ROWS)
    read_rate = len(rows) * design.row_bytes / max(time.perf_counter() - began, 1e-6)
    n = design.shape[0]
    with single_threaded_blas():
        raw = rows.astype(design.dtype)
        design.features(raw[:64])  # draws the weights
        began = time.perf_counter()
        Z = to_host(design.features(raw))
        vectors = np.ones((Z.shape[1], n_systems), Z.dtype)
        Z.T @ (Z @ vectors)
        row_seconds = (time.perf_counter() - began) / len(rows) / n_tasks
    cached = design.source.resident or n * design.row_bytes <= design.cache_bytes
    read_seconds = 0.0 if cached else n * design.row_bytes / read_rate
    # On one thread: an eigenvalue problem this small only waits for others on a busy machine.
    with single_threaded_blas():
        Z = Z - Z.mean(axis=0, dtype=np.float64).astype(Z.dtype)
        values = scipy.linalg.eigvalsh((Z @ Z.T).astype(np.float64))[::-1]
    # The sample's small eigenvalues are noise: keep half, and the trace of the rest.
    kept = values[: max(1, min(len(rows) // 2, design.shape[1]))]
    scale = n / len(rows)
    return Outlook(
        max(read_seconds, n * row_seconds),
        multiplication_rate() * n_tasks,
        np.maximum(kept, 0.0) * scale,
        float(np.sum(values[kept.size :])) * scale,
    )


@functools.cache
def multiplication_rate() -> float:
    """Measure single-precision products on one thread, in flops per second."""
    A = gaussian(1024, 768, 0).astype(np.float32)
    best = math.inf
    with single_threaded_blas():
        for _ in range(3):
            began = time.perf_counter()
            A.T @ (A @ A[:768, :])
            best = min(best, time.perf_counter() - began)
    return 4 * 1024 * 768 * 768 / best


def candidates(
    design: DesignMatrix, outlook: Outlook, shift: float, tol: float, rank: int, n_problems: int = 1
) -> dict[str, Candidate]:
    """Estimate seconds and passes of every method.

    Parameters
    ----------
    design : DesignMatrix
    outlook : Outlook
    shift : float
        The smallest.
    tol : float
    rank : int
        Columns of the sketch that would be made.
    n_problems : int
        Matrices to factor: those of cross-validation's training sets.
    """
    n, p = design.shape
    once, rate = outlook.pass_seconds, outlook.flops
    digits = math.log(2 / max(tol, 1e-15))
    verify = _DOUBLE * once

    gram_flops = n * p * (p + PANEL_ROWS)
    factor = n_problems * p**3 / 3 / (rate / 2)
    found = {
        "gram": Candidate(
            "gram",
            once + gram_flops / rate + factor + once + _REFINEMENT * verify,
            2 + _REFINEMENT,
            f"{gram_flops / 1e12:.2g} Tflop once, then in memory",
        )
    }

    tail = outlook.values[rank:]
    level = float(outlook.values[min(rank, outlook.values.size) - 1]) if outlook.values.size else 0.0
    error = level + (float(tail.sum()) + outlook.rest) / max(rank, 1)
    steps = _steps(1 + error / shift if shift > 0 else math.inf, digits, p)
    found["nystrom"] = Candidate(
        "nystrom",
        once + 4 * n * p * rank / rate + steps * once + verify,
        steps + 2,
        f"rank {rank}, about {steps} iterations",
    )

    m = sample_size(design)
    ratio = math.sqrt(min(0.9, outlook.effective_dimension(shift) / m)) if shift > 0 else 0.95
    steps = math.ceil(_COHERENCE * _steps(((1 + ratio) / (1 - ratio)) ** 2, digits, p))
    small = min(m, p)
    sample_flops = m * p * small + small**3 / 1.5
    found["subsampled"] = Candidate(
        "subsampled",
        once + once * m / n + sample_flops / rate + steps * once + verify,
        steps + 2,
        f"{m} sampled rows, about {steps} iterations",
    )

    steps = _steps(1 + outlook.values[0] / shift if shift > 0 else math.inf, digits, p)
    found["cg"] = Candidate("cg", once + steps * once + verify, steps + 2, f"about {steps} iterations")
    return found


def sample_size(design: DesignMatrix) -> int:
    """Choose how many rows to factor."""
    n, p = design.shape
    return min(n, _ROWS_PER_COLUMN * p)


def _steps(condition: float, digits: float, p: int) -> int:
    """Predict iterations from a condition number: half of Chebyshev's, since spectra cluster."""
    if not math.isfinite(condition):
        return p
    return max(1, min(p, math.ceil(0.5 * math.sqrt(condition) * digits / 2)))


def describe(candidates_: dict[str, Candidate], chosen: str) -> list[tuple[str, Any, Any, str]]:
    """List the candidates for people: method, seconds, passes, why; the chosen one first."""
    order = sorted(candidates_.values(), key=lambda c: (c.method != chosen, c.seconds))
    return [(c.method, c.seconds, c.passes, c.why) for c in order]
