"""What a fit will need, before it reads anything."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from nysstream.errors import InputError, MemoryBudgetError
from nysstream.features import Identity
from nysstream.memory import ALLOWANCE, Budget, parse_memory, resident_bytes
from nysstream.sketching.test_matrix import TestMatrix
from nysstream.streaming import (
    Centering,
    DesignMatrix,
    GramProduct,
    SetUp,
    SquaredResidual,
    pass_needs,
    scheduler,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Columns of a sketch whose rank is left open: beyond this, arithmetic outweighs the passes saved
#: on the spectra of data matrices. Below twice that many columns in all, a full sketch is exact.
AUTO_RANK = 512
N_PROBES = 10


@dataclass(frozen=True)
class Plan:
    """How a fit will run.

    Attributes
    ----------
    design : DesignMatrix
        With its cache and its number of concurrent tasks set.
    budget : Budget
        The phase of the fit that needs most.
    rank : int
        Columns of the sketch; 0 for none.
    n_probes : int
        Further columns that certify the sketch.
    n_systems : int
        Columns solved for in the same passes.
    scheduler : str
    n_tasks : int
        Concurrent tasks in this process.
    """

    design: DesignMatrix
    budget: Budget
    rank: int
    n_probes: int
    n_systems: int
    scheduler: str
    n_tasks: int

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
    sketched: bool = True,
) -> Plan:
    """Choose the sketch's width, the concurrency and the cache, within the memory limit.

    Parameters
    ----------
    design : DesignMatrix
    memory : int, float, str or None
        Limit for the whole process.
    rank : int or "auto"
    n_systems : int
    sketched : bool
        False for a method without a sketch.

    Raises
    ------
    InputError
        If the rank is out of range.
    MemoryBudgetError
        If nothing fits; names the smallest limit that would do.

    Notes
    -----
    Cost: no read. An automatic rank is halved, then concurrency, until the projected peak fits.
    """
    p = design.shape[1]
    limit = parse_memory(memory)
    base = {"process": resident_bytes(), "allowance": ALLOWANCE}
    kind, threads = scheduler()
    budget = None
    for width in _widths(rank, p) if sketched else [0]:
        n_probes = N_PROBES if 0 < width < p else 0
        for tasks in _halving(threads):
            candidate = replace(design, max_tasks=tasks)
            budget = Budget(limit, base | _needs(candidate, width, n_probes, n_systems), _knob(rank, design))
            if budget.peak <= limit:
                planned = replace(candidate, cache_bytes=0 if design.source.resident else budget.spare)
                return Plan(planned, budget, width, n_probes, n_systems, kind, tasks)
    assert budget is not None
    budget.check()
    raise MemoryBudgetError  # pragma: no cover - check raises


def _widths(rank: int | str, p: int) -> Iterator[int]:
    """Give the widths to try, from the one wanted downwards."""
    if rank == "auto":
        width = p if p <= 2 * AUTO_RANK else AUTO_RANK
        yield from _halving(width, smallest=min(p, 16))
        return
    if isinstance(rank, (bool, str)) or int(rank) != rank or not 1 <= rank <= p:
        message = f"rank={rank!r} is out of range: give 'auto' or a whole number from 1 to {p}, the columns"
        raise InputError(message)
    yield int(rank)


def _halving(count: int, smallest: int = 1) -> Iterator[int]:
    while count > smallest:
        yield count
        count //= 2
    yield max(count, smallest)


def _knob(rank: int | str, design: DesignMatrix) -> str:
    knobs = [] if rank == "auto" else ["a smaller rank"]
    if not isinstance(design.features, Identity):
        knobs.append("fewer features")
    if design.block_bytes > 64 << 20:
        knobs.append(
            f"smaller chunks ({design.source.name} is read {design.block_bytes >> 20} MiB at a time: "
            "rewrite it with `nysstream convert`)"
        )
    return "ask for " + " or ".join(knobs) if knobs else "a smaller problem"


def _needs(design: DesignMatrix, rank: int, n_probes: int, n_systems: int) -> dict[str, int]:
    """Count bytes in the phase that holds most: set-up, factorisation, or iteration."""
    p = design.shape[1]
    width = rank + n_probes
    matrix = TestMatrix(p, rank, n_probes, 0) if rank else None
    setup = pass_needs(design, SetUp(matrix, width))
    setup["sketch"] = 2 * 8 * p * width
    kept = {"feature weights": setup["feature weights"], "block buffers": setup["block buffers"]}
    # Test matrix, product, shifted product, factor, Q, and the vectors, beside LAPACK's copy.
    factor = kept | {"sketch": 7 * 8 * p * width}
    shifted = design
    if isinstance(design.features, Identity) and not design.sparse:
        zeros, one = np.zeros(p), np.ones(p)
        shifted = replace(design, centering=Centering(zeros, one, np.zeros(design.n_targets), shift=zeros))
    vectors = np.broadcast_to(np.float64(0), (p, n_systems))
    products = pass_needs(shifted, GramProduct(vectors))
    residual = SquaredResidual(vectors, np.zeros(n_systems, np.intp))
    doubled = pass_needs(shifted.with_precision("double"), residual)
    iterate = {name: max(products[name], doubled[name]) for name in products}
    iterate |= {"preconditioner": 8 * p * rank, "solver": 12 * 8 * p * n_systems}
    return max([setup, factor, iterate], key=lambda needs: sum(needs.values()))


def describe_threads(plan: Plan) -> str:
    """Say where the passes run."""
    noun = "task" if plan.n_tasks == 1 else "tasks"
    return f"{plan.n_tasks} {noun} at once ({plan.scheduler} scheduler, {os.cpu_count()} cores)"
