"""What a fit will do and need, before it reads the data."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from nysstream.errors import InputError
from nysstream.estimators.choosing import Candidate, Outlook, candidates, look_ahead, sample_size
from nysstream.features import Identity
from nysstream.memory import ALLOWANCE, Budget, parse_memory, resident_bytes
from nysstream.sketching.test_matrix import TestMatrix
from nysstream.streaming import (
    Centering,
    DesignMatrix,
    GramProduct,
    RowSample,
    SetUp,
    SquaredResidual,
    pass_needs,
    scheduler,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

METHODS = ("gram", "nystrom", "subsampled", "cg")

#: Columns of a sketch whose rank is left open: beyond this, arithmetic outweighs the passes saved
#: on the spectra of data matrices.
AUTO_RANK = 512
N_PROBES = 10
#: Up to this many columns the whole Gram matrix costs less than a sketch of the automatic rank.
_SMALL = 2 * AUTO_RANK


@dataclass(frozen=True)
class Plan:
    """How a fit will run.

    Attributes
    ----------
    design : DesignMatrix
        With its cache and its number of concurrent tasks set.
    budget : Budget
        The phase of the fit that needs most.
    method : str
        One of :data:`METHODS`.
    why : str
        What decided for the method.
    rank : int
        Columns of the sketch; 0 for none.
    n_probes : int
        Further columns that certify the sketch.
    n_systems : int
        Columns solved for in the same passes.
    scheduler : str
    n_tasks : int
        Concurrent tasks in this process.
    candidates : dict of str to Candidate
        What the cost model expects of each method, where it was asked.
    """

    design: DesignMatrix
    budget: Budget
    method: str
    why: str
    rank: int
    n_probes: int
    n_systems: int
    scheduler: str
    n_tasks: int
    candidates: dict[str, Candidate] = field(default_factory=dict)

    @property
    def pass_bytes(self) -> int:
        """Decoded bytes of one pass."""
        return int(self.design.shape[0] * self.design.row_bytes)

    @property
    def cached_bytes(self) -> int:
        """Bytes of a pass that come from memory once they were read."""
        return min(self.design.cache_bytes, self.pass_bytes)


def plan_fit(
    design: DesignMatrix,
    *,
    memory: int | float | str | None,
    rank: int | str,
    n_systems: int,
    method: str = "auto",
    shift: float = 0.0,
    tol: float = 1e-6,
) -> Plan:
    """Choose the method, the sketch's width, the concurrency and the cache, within the memory limit.

    Parameters
    ----------
    design : DesignMatrix
    memory : int, float, str or None
        Limit for the whole process.
    rank : int or "auto"
        A number asks for a sketch.
    n_systems : int
    method : str
        ``"auto"`` or one of :data:`METHODS`.
    shift : float
        The smallest.
    tol : float

    Raises
    ------
    InputError
        If the rank is out of range.
    MemoryBudgetError
        If nothing fits; names the smallest limit that would do.

    Notes
    -----
    Cost: no read, but for an automatic method on many columns: a sample of rows.
    """
    check_rank(rank, design.shape[1])
    if method != "auto":
        return _fit_memory(design, memory, rank, n_systems, method, "it was asked for")
    if rank != "auto":
        return _fit_memory(design, memory, rank, n_systems, "nystrom", "a rank was asked for")
    if design.shape[1] <= _SMALL:
        plan = _fit_memory(design, memory, rank, n_systems, "gram", "few columns", check=False)
        if plan.budget.peak <= plan.budget.limit:
            return plan
        return _fit_memory(design, memory, rank, n_systems, "nystrom", "the Gram matrix does not fit")
    return _cheapest(design, memory, n_systems, shift, tol)


def check_rank(rank: int | str, p: int) -> None:
    """Refuse a rank that is neither "auto" nor a whole number from 1 to p."""
    if rank == "auto":
        return
    if isinstance(rank, (bool, str)) or int(rank) != rank or not 1 <= rank <= p:
        message = f"rank={rank!r} is out of range: give 'auto' or a whole number from 1 to {p}, the columns"
        raise InputError(message)


def _cheapest(
    design: DesignMatrix, memory: int | float | str | None, n_systems: int, shift: float, tol: float
) -> Plan:
    """Let the cost model choose among the methods that fit."""
    plans = {
        method: _fit_memory(design, memory, "auto", n_systems, method, "", check=False) for method in METHODS
    }
    fitting = {name: plan for name, plan in plans.items() if plan.budget.peak <= plan.budget.limit}
    if not fitting:
        smallest = min(plans.values(), key=lambda plan: plan.budget.peak)
        smallest.budget.check()
    first = next(iter(fitting.values()))
    outlook: Outlook = look_ahead(first.design, n_systems, first.n_tasks)
    rank = plans["nystrom"].rank
    found = candidates(design, outlook, shift, tol, rank)
    best = min(fitting, key=lambda name: found[name].seconds)
    return replace(fitting[best], why=found[best].why, candidates=found)


def _fit_memory(
    design: DesignMatrix,
    memory: int | float | str | None,
    rank: int | str,
    n_systems: int,
    method: str,
    why: str,
    *,
    check: bool = True,
) -> Plan:
    """Halve an automatic rank, then the concurrency, until the projected peak fits."""
    p = design.shape[1]
    limit = parse_memory(memory)
    base = {"process": resident_bytes(), "allowance": ALLOWANCE}
    kind, threads = scheduler()
    for width in _widths(rank, p) if method == "nystrom" else [0]:
        n_probes = N_PROBES if 0 < width < p else 0
        for tasks in _halving(threads):
            candidate = replace(design, max_tasks=tasks)
            needs = _needs(candidate, method, width, n_probes, n_systems)
            budget = Budget(limit, base | needs, _knob(method, rank, design))
            cache = 0 if design.source.resident else budget.spare
            planned = replace(candidate, cache_bytes=cache)
            plan = Plan(planned, budget, method, why, width, n_probes, n_systems, kind, tasks)
            if budget.peak <= limit:
                return plan
    if check:
        plan.budget.check()
    return plan


def _widths(rank: int | str, p: int) -> Iterator[int]:
    """Give the widths to try, from the one wanted downwards."""
    if rank == "auto":
        return _halving(p if p <= _SMALL else AUTO_RANK, smallest=min(p, 16))
    return iter([int(rank)])


def _halving(count: int, smallest: int = 1) -> Iterator[int]:
    while count > smallest:
        yield count
        count //= 2
    yield max(count, smallest)


def _knob(method: str, rank: int | str, design: DesignMatrix) -> str:
    knobs = [] if rank == "auto" else ["a smaller rank"]
    if method in ("gram", "subsampled"):
        knobs.append("another solver")
    if not isinstance(design.features, Identity):
        knobs.append("fewer features")
    if design.block_bytes > 64 << 20:
        knobs.append(
            f"smaller chunks ({design.source.name} is read {design.block_bytes >> 20} MiB at a time: "
            "rewrite it with `nysstream convert`)"
        )
    return "ask for " + " or ".join(knobs) if knobs else "a smaller problem"


def _needs(design: DesignMatrix, method: str, rank: int, n_probes: int, n_systems: int) -> dict[str, int]:
    """Count bytes in the phase that holds most: set-up, factorisation, or iteration."""
    p = design.shape[1]
    width = rank + n_probes
    matrix = TestMatrix(p, rank, n_probes, 0) if rank else None
    reductions: list[SetUp | RowSample] = [SetUp(matrix, width, gram=method == "gram")]
    rows = np.empty(sample_size(design), np.int64) if method == "subsampled" else np.empty(0, np.int64)
    if rows.size:
        reductions.append(RowSample(rows))
    setup = pass_needs(design, *reductions)
    kept = {"feature weights": setup["feature weights"], "block buffers": setup["block buffers"]}
    setup["sketch"] = 2 * 8 * p * width
    factor, iterate = dict(kept), dict(kept)
    iterate["preconditioner"] = 8 * p * rank
    if method == "nystrom":
        # Test matrix, product, shifted product, factor, Q, and the vectors, beside LAPACK's copy.
        factor["sketch"] = 7 * 8 * p * width
    if method == "gram":
        setup["Gram matrix"] = 8 * p * p
        factor["Gram matrix"] = iterate["preconditioner"] = 2 * 8 * p * p
    if method == "subsampled":
        small = min(rows.size, p)
        factor["sample"] = int(rows.size * (design.row_bytes + 8))
        factor["factor"] = 3 * 8 * small * small + (0 if small == p else 4 * small * p)
        iterate["preconditioner"] = 2 * 8 * small * small + (0 if small == p else 4 * small * p)
    shifted = design
    if isinstance(design.features, Identity) and not design.sparse:
        zeros, one = np.zeros(p), np.ones(p)
        shifted = replace(design, centering=Centering(zeros, one, np.zeros(design.n_targets), shift=zeros))
    vectors = np.broadcast_to(np.float64(0), (p, n_systems))
    products = pass_needs(shifted, GramProduct(vectors))
    residual = SquaredResidual(vectors, np.zeros(n_systems, np.intp))
    doubled = pass_needs(shifted.with_precision("double"), residual)
    iterate |= {name: max(products[name], doubled[name]) for name in products}
    iterate["solver"] = 12 * 8 * p * n_systems
    return max([setup, factor, iterate], key=lambda needs: sum(needs.values()))


def describe_threads(plan: Plan) -> str:
    """Say where the passes run."""
    noun = "task" if plan.n_tasks == 1 else "tasks"
    return f"{plan.n_tasks} {noun} at once ({plan.scheduler} scheduler, {os.cpu_count()} cores)"
