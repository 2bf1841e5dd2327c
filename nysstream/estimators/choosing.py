"""The cost model: which method reaches the tolerance soonest on this machine."""

from __future__ import annotations

import functools
import math
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg
import scipy.sparse

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
#: Steps that remove the float32 error of a Gram matrix: at common tolerances every other problem
#: needs one.
_REFINEMENT, _COMMON_TOL = (0.5, 2.0), 1e-7
#: Half of Chebyshev's bound on iterations, since spectra cluster, holds for errors of low rank; what
#: a sketch leaves over is spread more evenly.
_CLUSTERED, _SPREAD = 0.5, 0.65
#: Seconds of arithmetic below which the Gram matrix is taken unseen: looking ahead costs a few tenths.
_QUICK = 0.5
#: Rates that a measurement may give, flops per second: beyond, a clock has failed.
_SLOWEST, _FASTEST = 1e8, 1e15
_TINY = 1e-200
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
    missed : ndarray
        Estimates of the trace that the span of so many rows as in ``missed_ranks`` leaves over, from
        rows that are not among them.
    missed_ranks : ndarray of int
        Ascending.
    """

    pass_seconds: float
    flops: float
    values: NDArray[np.float64]
    rest: float
    missed: NDArray[np.float64]
    missed_ranks: NDArray[np.intp]

    def effective_dimension(self, shift: float) -> float:
        """Estimate the effective dimension; the eigenvalues beyond the sample count in full."""
        return float(np.sum(self.values / (self.values + shift))) + self.rest / shift

    def sketch_error(self, rank: int) -> float:
        """Estimate the largest eigenvalue of what a sketch of this rank leaves over."""
        level = float(self.values[min(rank, self.values.size) - 1])
        tail = float(np.interp(rank, self.missed_ranks, self.missed))
        return level + tail / max(rank, 1)


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
    rows = design.sample_rows(SAMPLE_ROWS, keep_sparse=design.sparse)
    m = rows.shape[0]
    read_rate = m * design.row_bytes / max(time.perf_counter() - began, 1e-6)
    n = design.shape[0]
    # On one thread: an eigenvalue problem this small only waits for others on a busy machine.
    with single_threaded_blas():
        Z, row_seconds = _timed_features(design, rows.astype(design.dtype), n_systems)
        # What is not finite is found and named by the set-up pass.
        products = _centred_products(Z)
        values = scipy.linalg.eigvalsh(products, check_finite=False)[::-1].astype(np.float64)
        missed_ranks, missed = _missed(products)
    cached = design.source.resident or n * design.row_bytes <= design.cache_bytes
    read_seconds = 0.0 if cached else n * design.row_bytes / read_rate
    # The sample's small eigenvalues are noise: keep half, and the trace of the rest.
    kept = values[: max(1, min(m // 2, design.shape[1]))]
    scale = n / m
    return Outlook(
        max(read_seconds, n * row_seconds / n_tasks),
        multiplication_rate() * n_tasks,
        np.maximum(kept, 0.0) * scale,
        max(0.0, float(np.sum(values[kept.size :]))) * scale,
        missed * n,
        missed_ranks,
    )


def _centred_products(Z: Any) -> NDArray[Any]:
    """Multiply rows about their mean with one another; sparse rows stay sparse."""
    if not isinstance(Z, np.ndarray):
        Z.data = np.nan_to_num(Z.data, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
        products = (Z @ Z.T).toarray()
        products -= products.mean(axis=0)
        products -= products.mean(axis=1)[:, None]
        return np.asarray(products)
    Z = np.nan_to_num(Z, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    Z -= Z.mean(axis=0, dtype=np.float64).astype(Z.dtype)
    return np.asarray(Z @ Z.T)


def _timed_features(design: DesignMatrix, raw: Any, n_systems: int) -> tuple[Any, float]:
    """Map the rows and multiply them as a pass does; seconds of a row, from the faster half."""
    if not design.sparse:
        design.features(raw[:64])  # draws the weights
    pieces, fastest = [], math.inf
    m = raw.shape[0]
    for a, b in pairwise(np.linspace(0, m, min(2, m) + 1).astype(int)):
        half = raw[a:b]
        began = time.perf_counter()
        Z = half if design.sparse else to_host(design.features(half))
        vectors = np.ones((Z.shape[1], n_systems), Z.dtype)
        Z.T @ (Z @ vectors)
        fastest = min(fastest, (time.perf_counter() - began) / (b - a))
        pieces.append(Z)
    if design.sparse:
        stack: Any = scipy.sparse.vstack
        return stack(pieces, format="csr"), fastest
    return np.concatenate(pieces), fastest


def _missed(products: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Estimate the part of a row's square that the span of some rows misses, for numbers of rows.

    In the sample itself rows span much of one another by chance; those held out do not lie.
    """
    m = len(products)
    order = np.random.default_rng(0).permutation(m)
    ranks = np.unique([max(1, m // 32), max(1, m // 8), max(1, m // 4), max(1, m // 2)])
    shuffled = products[np.ix_(order, order)].astype(np.float64)
    size = float(np.trace(shuffled)) / m
    missed = []
    for r in ranks:
        inside = shuffled[:r, :r] + max(1e-6 * size, _TINY) * np.eye(r)
        factor = scipy.linalg.cholesky(inside, lower=True, check_finite=False)
        seen = scipy.linalg.solve_triangular(factor, shuffled[:r, r:], lower=True, check_finite=False)
        outside = np.diagonal(shuffled)[r:].sum() - float(np.sum(seen**2))
        missed.append(max(0.0, outside) / max(1, m - r))
    return ranks, np.array(missed)


def quick(design: DesignMatrix) -> bool:
    """Whether the Gram matrix takes less arithmetic than it would pay to look ahead."""
    n, p = design.shape
    threads = (design.max_tasks or 1) * design.task_threads
    return (n * p * (p + PANEL_ROWS) + p**3) / (multiplication_rate() * threads) < _QUICK


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
    return min(max(4 * 1024 * 768 * 768 / max(best, 1e-9), _SLOWEST), _FASTEST)


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
    refinement = _REFINEMENT[tol < _COMMON_TOL]
    found = {
        "gram": Candidate(
            "gram",
            once + gram_flops / rate + factor + verify + refinement * (once + verify),
            2 + 2 * refinement,
            f"{gram_flops / 1e12:.2g} Tflop once, then in memory",
        )
    }

    error = outlook.sketch_error(rank)
    steps = _steps(1 + error / shift if shift > 0 else math.inf, digits, p, _SPREAD)
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


def _steps(condition: float, digits: float, p: int, share: float = _CLUSTERED) -> int:
    """Predict iterations from a condition number, as a share of Chebyshev's bound."""
    if not math.isfinite(condition):
        return p
    return max(1, min(p, math.ceil(share * math.sqrt(condition) * digits / 2)))


def describe(candidates_: dict[str, Candidate], chosen: str) -> list[tuple[str, Any, Any, str]]:
    """List the candidates for people: method, seconds, passes, why; the chosen one first."""
    order = sorted(candidates_.values(), key=lambda c: (c.method != chosen, c.seconds))
    return [(c.method, c.seconds, c.passes, c.why) for c in order]
