"""What a fit will do and need, before it reads the data."""

from __future__ import annotations

import functools
import numbers
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.errors import InputError
from nysstream.estimators.choosing import Candidate, Outlook, candidates, look_ahead, quick, sample_size
from nysstream.estimators.sampling import sample_needs
from nysstream.features import Identity
from nysstream.journal import settled
from nysstream.sketching.factored import matrices_held
from nysstream.sketching.test_matrix import TestMatrix
from nysstream.streaming import (
    Centering,
    DesignMatrix,
    FoldGramProduct,
    FoldSetUp,
    FoldSquaredResidual,
    GramProduct,
    RowSample,
    SetUp,
    SquaredResidual,
    TrainingColumns,
    pass_needs,
)
from nysstream.streaming.affordable import Room, halving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from nysstream.memory import Budget
    from nysstream.streaming import Folds, Reduction

METHODS = ("gram", "nystrom", "subsampled", "cg")
#: Those that training sets can share a pass for.
FOLD_METHODS = ("gram", "nystrom", "cg")

#: Columns of a sketch whose rank is left open: beyond this, arithmetic outweighs the passes saved
#: on the spectra of data matrices.
AUTO_RANK = 512
N_PROBES = 10
#: Up to this many columns the whole Gram matrix costs less than a sketch of the automatic rank.
SMALL = 2 * AUTO_RANK
#: How much longer a fit may take that keeps the Gram matrix, which saves later fits their passes.
_WORTH_KEEPING = 3.0


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
    n_shifts: int | None = None,
    n_start: int = 0,
    tol: float = 1e-6,
    folds: Folds | None = None,
    keep: bool | None = False,
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
    n_shifts : int, optional
        How many different ones a matrix in memory is to be factored for; None counts the matrix and
        its inverse.
    n_start : int
        Columns to start from that the set-up multiplies.
    tol : float
    folds : Folds, optional
        Of cross-validation: one problem for the rows outside each of them, and one for all rows.
        ``n_systems`` counts the columns of all.
    keep : bool, optional
        Whether all sums are kept beside what is made of them; None keeps those with a Gram matrix.

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
    matrices = (2, 0) if n_shifts is None else matrices_held(n_shifts, all_positive=shift > 0)
    fit = functools.partial(
        _fit_memory,
        design,
        memory,
        rank,
        n_systems,
        matrices=matrices,
        n_start=n_start,
        folds=folds,
        keep=keep,
    )

    def choose(earlier: dict[str, Any]) -> Plan:
        if earlier:
            plan: Plan = fit(earlier["method"], earlier["why"], width=earlier["rank"])
            return plan
        return _choose(design, method, rank, n_systems, shift, tol, folds, fit, keep=keep)

    plan: Plan = settled("plan", choose, essentials)
    return plan


def essentials(plan: Any) -> dict[str, Any]:
    """Say what of a plan later runs of the same job must keep to, in plain JSON."""
    return {"method": plan.method, "why": plan.why, "rank": plan.rank}


def _choose(
    design: DesignMatrix,
    method: str,
    rank: int | str,
    n_systems: int,
    shift: float,
    tol: float,
    folds: Folds | None,
    fit: Callable[..., Plan],
    *,
    keep: bool | None,
) -> Plan:
    """Choose the method, and what fits the memory."""
    if method != "auto":
        return fit(method, "it was asked for")
    if rank != "auto":
        return fit("nystrom", "a rank was asked for")
    if design.shape[1] <= SMALL:
        plan = fit("gram", "few columns", check=False)
        if plan.budget.peak <= plan.budget.limit:
            return plan
        return fit("nystrom", "the Gram matrix does not fit")
    return _cheapest(design, n_systems, shift, tol, folds, fit, keep=keep)


def check_rank(rank: Any, p: int) -> None:
    """Refuse a rank that is neither "auto" nor a whole number from 1 to p."""
    if rank == "auto":
        return
    if isinstance(rank, bool) or not isinstance(rank, numbers.Integral) or not 1 <= int(rank) <= p:
        message = f"rank={rank!r} is out of range: give 'auto' or a whole number from 1 to {p}, the columns"
        raise InputError(message)


def _cheapest(
    design: DesignMatrix,
    n_systems: int,
    shift: float,
    tol: float,
    folds: Folds | None,
    fit: Callable[..., Plan],
    *,
    keep: bool | None,
) -> Plan:
    """Let the cost model choose among the methods that fit."""
    methods = METHODS if folds is None else FOLD_METHODS
    plans = {method: fit(method, "", check=False) for method in methods}
    fitting = {name: plan for name, plan in plans.items() if plan.budget.peak <= plan.budget.limit}
    if not fitting:
        smallest = min(plans.values(), key=lambda plan: plan.budget.peak)
        smallest.budget.check()
    if "gram" in fitting and folds is None and quick(fitting["gram"].design):
        return replace(fitting["gram"], why="so little arithmetic that a look ahead would not pay")
    first = next(iter(fitting.values()))
    # A Gram matrix uses all threads, by helpers in each task where few tasks fit.
    n_tasks = max(plan.n_tasks for plan in fitting.values())
    outlook: Outlook = look_ahead(first.design, n_systems, n_tasks)
    rank = plans["nystrom"].rank
    n_problems = 1 if folds is None else folds.n_splits + 1
    found = candidates(design, outlook, shift, tol, rank, n_problems)
    best = min(fitting, key=lambda name: found[name].seconds)
    if keep and "gram" in fitting and found["gram"].seconds <= _WORTH_KEEPING * found[best].seconds:
        why = "later rows can then be added without the old ones"
        return replace(fitting["gram"], why=why, candidates=found)
    return replace(fitting[best], why=found[best].why, candidates=found)


def _fit_memory(
    design: DesignMatrix,
    memory: int | float | str | None,
    rank: int | str,
    n_systems: int,
    method: str,
    why: str,
    *,
    matrices: tuple[int, int] = (2, 0),
    n_start: int = 0,
    folds: Folds | None = None,
    keep: bool | None = False,
    check: bool = True,
    width: int | None = None,
) -> Plan:
    """Halve an automatic rank, unless a width is given, then the concurrency, until the peak fits."""
    p = design.shape[1]
    room = Room.of(memory)
    tried: Iterable[int] = [width] if width is not None else [0]
    if method == "nystrom" and width is None:
        tried = _widths(rank, p)
    for columns in tried:
        n_probes = N_PROBES if 0 < columns < p else 0
        needs = functools.partial(
            _needs,
            method=method,
            rank=columns,
            n_probes=n_probes,
            n_systems=n_systems,
            folds=folds,
            matrices=matrices,
            n_start=n_start,
            keep=method == "gram" if keep is None else keep,
        )
        fitted, budget, tasks = room.fit(design, needs, _knob(method, rank, design))
        planned, kind = fitted.with_cache(budget.spare), room.scheduler
        plan = Plan(planned, budget, method, why, columns, n_probes, n_systems, kind, tasks)
        if budget.fits:
            return plan
    if check:
        plan.budget.check()
    return plan


def _widths(rank: int | str, p: int) -> Iterator[int]:
    """Give the widths to try, from the one wanted downwards."""
    if rank == "auto":
        return halving(p if p <= SMALL else AUTO_RANK, smallest=min(p, 16))
    return iter([int(rank)])


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


def _needs(
    design: DesignMatrix,
    method: str,
    rank: int,
    n_probes: int,
    n_systems: int,
    folds: Folds | None,
    matrices: tuple[int, int],
    n_start: int,
    *,
    keep: bool,
) -> dict[str, int]:
    """Count bytes in the phase that holds most: set-up, factorisation, or iteration; and kept sums."""
    p = design.shape[1]
    width = rank + n_probes
    held, passing = matrices
    # Cross-validation keeps the sums of each fold, and has a problem for each and one for all rows.
    n_parts, n_problems = (1, 1) if folds is None else (folds.n_splits, folds.n_splits + 1)
    matrix = TestMatrix(p, rank, n_probes, 0) if rank else None
    given = np.broadcast_to(np.float64(0), (p, n_start)) if n_start and method != "gram" else None
    gather = SetUp(matrix, width, gram=method == "gram", given=given)
    reductions: list[Reduction] = [gather if folds is None else FoldSetUp(gather, folds)]
    rows = np.empty(sample_size(design), np.int64) if method == "subsampled" else np.empty(0, np.int64)
    if rows.size:
        reductions.append(RowSample(rows))
    setup = pass_needs(design, *reductions)
    kept = {"feature weights": setup["feature weights"], "block buffers": setup["block buffers"]}
    setup["sketch"] = 2 * 8 * p * (width + n_start)
    factor, iterate = dict(kept), dict(kept)
    iterate["preconditioner"] = n_problems * 8 * p * rank
    if method == "nystrom":
        # Test matrix, product, shifted product, factor, Q, and the vectors, beside LAPACK's copy.
        factor["sketch"] = 7 * 8 * p * width
    assemble = kept | {"partial sums": 0}
    if method == "gram" and folds is None:
        # The last sum, as merged and as moved to the means, becomes one matrix.
        assemble |= {"partial sums": 2 * gather.part_bytes(design), "Gram matrix": 8 * p * p}
    elif method == "gram":
        setup["Gram matrix"] = 8 * p * p
    if method == "gram":
        factor["Gram matrix"] = iterate["preconditioner"] = (held + passing) * 8 * p * p
    if folds is not None and method == "gram":
        factor["Gram matrix"] = n_problems * 8 * p * p
        iterate["preconditioner"] = (n_problems * held + passing) * 8 * p * p
    if folds is not None:
        # Sums of the folds, those that are merged into training sets, and the vectors so far.
        merging = 2 + n_parts.bit_length()
        factor["folds"] = (n_parts + merging) * gather.part_bytes(design) + n_parts * 8 * p * rank
    if method == "subsampled":
        phase, iterate["preconditioner"] = sample_needs(design, rows.size, held + passing)
        factor |= phase
    shifted = design
    if isinstance(design.features, Identity) and not design.sparse:
        zeros, one = np.zeros(p), np.ones(p)
        shifted = replace(design, centering=Centering(zeros, one, np.zeros(design.n_targets), shift=zeros))
    vectors = np.broadcast_to(np.float64(0), (p, n_systems))
    first = np.zeros(n_systems, np.intp)
    product: Reduction = GramProduct(vectors)
    residual: Reduction = SquaredResidual(vectors, first)
    if folds is not None:
        columns = TrainingColumns(folds, first, None)
        product = FoldGramProduct(vectors, columns)
        residual = FoldSquaredResidual(vectors, first, columns)
    products = pass_needs(shifted, product)
    doubled = pass_needs(shifted.with_precision("double"), residual)
    iterate |= {name: max(products[name], doubled[name]) for name in products}
    iterate["solver"] = 12 * 8 * p * n_systems
    if folds is not None:
        iterate["means"] = n_problems * 4 * 8 * p * (1 + design.n_targets)
    most = max([setup, assemble, factor, iterate], key=lambda needs: sum(needs.values()))
    return most | ({"kept sums": _kept_bytes(design, method, rank, n_probes, n_systems)} if keep else {})


def _kept_bytes(design: DesignMatrix, method: str, rank: int, n_probes: int, n_systems: int) -> int:
    p, gram = design.shape[1], method == "gram"
    # The sums so far, and those of new rows.
    sums = 2 * SetUp(None, rank + n_probes + n_systems, gram=gram).part_bytes(design)
    sample = RowSample(np.empty(sample_size(design) if method == "subsampled" else 0, np.int64))
    return sums + 8 * p * p * gram + sample.part_bytes(design)
