"""How a fit of a general loss will run, and what it needs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.errors import InputError
from nysstream.estimators.planning import check_rank, essentials
from nysstream.estimators.sampled_hessians import weighty_rows
from nysstream.features import Identity
from nysstream.journal import settled
from nysstream.losses import Logistic
from nysstream.streaming import (
    Centering,
    HessianProduct,
    LossSums,
    Outcome,
    RowSample,
    SetUp,
    pass_needs,
)
from nysstream.streaming.affordable import Room, halving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from nysstream.memory import Budget
    from nysstream.streaming import DesignMatrix, Reduction

LOSS_METHODS = ("newton", "subsampled", "admm")
#: Columns of a Hessian's sketch where its number is left open.
_RANK = 256


@dataclass(frozen=True)
class LossPlan:
    """How a fit will run.

    Attributes
    ----------
    design : DesignMatrix
        With its cache and its number of concurrent tasks set.
    budget : Budget
    method : str
        ``"newton"``: Hessians summed in the same passes as the gradients, models solved in memory.
        ``"subsampled"``: Hessians of sampled rows.
        ``"admm"``: Hessians as operators over the data, models solved by NysADMM.
    why : str
    rank : int
        Columns of the sketch; 0 for none.
    n_sampled : int
        Rows kept in memory; 0 for none.
    most_movable : int
        Coefficients at most that one model moves, for ``"subsampled"``; 0 for all.
    n_systems : int
        Predictors solved for in the same passes.
    scheduler : str
    n_tasks : int
    """

    design: DesignMatrix
    budget: Budget
    method: str
    why: str
    rank: int
    n_sampled: int
    most_movable: int
    n_systems: int
    scheduler: str
    n_tasks: int

    def sample_rows(self, seed: int) -> NDArray[np.int64] | None:
        """Draw the rows to be kept, if any, among those of positive weight; reads the weights."""
        return weighty_rows(self.design, self.n_sampled, seed) if self.n_sampled else None

    @property
    def pass_bytes(self) -> int:
        """Decoded bytes of one pass."""
        return int(self.design.shape[0] * self.design.row_bytes)

    @property
    def cached_bytes(self) -> int:
        """Bytes of a pass that come from memory once they were read."""
        return min(self.design.cache_bytes, self.pass_bytes)


def plan_loss(
    design: DesignMatrix,
    *,
    memory: Any,
    rank: int | str,
    n_columns: int,
    method: str = "auto",
    coupled: bool = False,
    sparsifies: bool = False,
) -> LossPlan:
    """Choose the method, the concurrency and the cache, within the memory limit; no read.

    Parameters
    ----------
    design : DesignMatrix
    memory : int, float, str or None
    rank : int or "auto"
    n_columns : int
    method : str
        ``"auto"`` or one of :data:`LOSS_METHODS`.
    coupled : bool
        Whether the loss couples its columns, as that of several classes does.
    sparsifies : bool
        Whether many coefficients are expected to be zero, so that models of few will do.

    Raises
    ------
    InputError
        If a rank was given for a method without a sketch.
    MemoryBudgetError
        If nothing fits; names the smallest limit that would do.
    """
    if rank != "auto" and method in ("newton", "subsampled"):
        message = f"rank={rank!r} is for solver='admm': solver={method!r} has no sketch"
        raise InputError(message)
    check_rank(rank, design.shape[1])

    def choose(earlier: dict[str, Any]) -> LossPlan:
        return _choose(
            design, memory, rank, n_columns, method, earlier, coupled=coupled, few=sparsifies and not coupled
        )

    def kept(plan: LossPlan) -> dict[str, Any]:
        return essentials(plan) | {"most_movable": plan.most_movable}

    plan: LossPlan = settled("plan", choose, kept)
    return plan


def _choose(
    design: DesignMatrix,
    memory: Any,
    rank: int | str,
    n_columns: int,
    method: str,
    earlier: dict[str, Any],
    *,
    coupled: bool,
    few: bool,
) -> LossPlan:
    """Take what an earlier run of the job took, or the first method that fits."""
    room = Room.of(memory)
    order: tuple[str, ...]
    why: dict[str, str]
    if earlier:
        order, why = (earlier["method"],), {earlier["method"]: earlier["why"]}
    elif method != "auto":
        order, why = (method,), {method: "it was asked for"}
    elif rank != "auto":
        order, why = ("admm",), {"admm": "a rank was asked for"}
    else:
        order, why = _preference(design, n_columns, coupled=coupled, few=few)
    plan = None
    for name in order:
        for width, most in _tried(name, rank, design.shape[1], earlier, coupled=coupled, few=few):
            m = sample_size(design, most) if name == "subsampled" or coupled else 0
            needs = partial(
                _needs, method=name, rank=width, n_sampled=m, most=most, k=n_columns, coupled=coupled
            )
            fitted, budget, tasks = room.fit(design, needs, "ask for fewer features, or for solver='admm'")
            planned, kind = fitted.with_cache(budget.spare), room.scheduler
            plan = LossPlan(planned, budget, name, why[name], width, m, most, n_columns, kind, tasks)
            if budget.fits:
                return plan
    assert plan is not None
    plan.budget.check()
    return plan


def sample_size(design: DesignMatrix, most_movable: int = 0) -> int:
    """Count the rows whose Hessian stands for that of all: a few times its columns."""
    return min(design.shape[0], max(_LEAST_SAMPLE, 4 * (most_movable or design.shape[1])))


def pass_flops(design: DesignMatrix, k: int = 1) -> float:
    """Estimate the arithmetic in whose time a pass evaluates loss and gradient of k columns."""
    n, p = design.shape
    flops = n * (design.row_bytes * _FLOPS_PER_BYTE + 6.0 * _row_entries(design) * k)
    if not isinstance(design.features, Identity):
        flops += 2.0 * n * p * design.source.shape[1] + _FLOPS_PER_FEATURE * n * p
    return flops


def _row_entries(design: DesignMatrix) -> float:
    """Count the entries of a row that are multiplied with, on average: of sparse rows, those stored."""
    p = design.shape[1]
    return min(float(p), design.row_bytes / _SPARSE_ENTRY_BYTES) if design.sparse else float(p)


def _preference(
    design: DesignMatrix, k: int, *, coupled: bool, few: bool
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Order the methods by what they are expected to cost."""
    n, p = design.shape
    m = sample_size(design)
    if coupled:
        reasons = {
            "subsampled": "the classes' Hessian of sampled rows needs no pass",
            "newton": "the sample does not fit in memory",
        }
        return ("subsampled", "newton"), reasons
    read, entries = pass_flops(design, k), _row_entries(design)
    whole = _NEWTON_STEPS * (read + k * (n * entries**2 + 1.0 * p**3))
    # Of few coefficients a Hessian costs about a pass.
    hessian = min(m * entries**2 + 1.0 * p**3, read) if few else m * entries**2 + 1.0 * p**3
    sampled = _SAMPLED_STEPS * (read + _RENEWED * k * hessian)
    why = {
        "newton": "few columns for so many rows: whole Hessians cost less than further passes",
        "subsampled": "Hessians of sampled rows cost so much less that a few more passes do not matter",
        "admm": "the Hessians do not fit in memory",
    }
    cheap = ("newton", "subsampled") if whole <= sampled or m >= n else ("subsampled", "newton")
    return (*cheap, "admm"), why


#: Steps to a relative gap of 1e-6 that the two kinds of Newton's method typically take.
_NEWTON_STEPS, _SAMPLED_STEPS = 7, 16
#: Arithmetic in whose time a byte is read, or one feature is mapped.
_FLOPS_PER_BYTE, _FLOPS_PER_FEATURE = 40.0, 150.0
_LEAST_SAMPLE = 4096
#: Share of the steps in which a Hessian of sampled rows is made anew.
_RENEWED = 0.6
#: Of the number and the place of an entry of a sparse row.
_SPARSE_ENTRY_BYTES = 8.0
#: Fewest coefficients that models are restricted to by the memory.
_LEAST_MOVABLE = 512


def _tried(
    method: str, rank: int | str, p: int, earlier: dict[str, Any], *, coupled: bool, few: bool
) -> Iterator[tuple[int, int]]:
    """Give the widths of a sketch and the most coefficients of a model that are tried, in order."""
    if earlier:
        yield earlier["rank"], earlier["most_movable"]
    elif method == "admm" and not coupled:
        yield from ((width, 0) for width in _widths(rank, p))
    else:
        yield 0, 0
        if method == "subsampled" and few and p > 2 * _LEAST_MOVABLE:
            yield from ((0, most) for most in halving(p // 2, _LEAST_MOVABLE))


def _widths(rank: int | str, p: int) -> Iterator[int]:
    return halving(min(p, _RANK), min(p, 16)) if rank == "auto" else iter([int(rank)])


def _needs(
    design: DesignMatrix, method: str, rank: int, n_sampled: int, most: int, k: int, *, coupled: bool
) -> dict[str, int]:
    """Count bytes in the phase that holds most: set-up, evaluation, or products."""
    p = design.shape[1]
    gather: list[Reduction] = [SetUp()]
    if n_sampled:
        gather.append(RowSample(np.empty(n_sampled, np.int64)))
    setup = pass_needs(design, *gather)
    zeros = np.zeros(p)
    shift = None if design.sparse or not isinstance(design.features, Identity) else zeros
    shifted = replace(design, centering=Centering(zeros, np.ones(p), np.zeros(design.n_targets), shift))
    W, b = np.broadcast_to(np.float64(0), (p, k)), np.zeros(k)
    outcome = Outcome(Logistic(), np.zeros(k, np.intp))
    whole = method == "newton" and not coupled
    reductions: list[Reduction] = [LossSums(outcome, W, b, True, tuple(range(k)) if whole else ())]
    if rank:
        test = np.broadcast_to(np.float64(0), (p, (rank + 1) * k))
        reductions.append(HessianProduct(outcome, W, b, test, np.repeat(np.arange(k), rank + 1)))
    evaluate = pass_needs(shifted.with_precision("double"), *reductions)
    evaluate["solver"] = 24 * 8 * p * k
    if method == "admm" and not coupled:
        evaluate["sketch"] = 8 * p * rank * (k + 7)
    else:
        evaluate["Hessians"] = (2 * k + 2) * 8 * (most or p) ** 2
    if n_sampled:
        wide = 0 if isinstance(design.features, Identity) else p * design.dtype.itemsize
        evaluate["sample"] = int(n_sampled * (design.row_bytes + wide + 24 * (k + 1)))
        if not design.sparse:  # their columns that a model moves
            evaluate["sample"] += n_sampled * (most or p) * design.dtype.itemsize
    return max([setup, evaluate], key=lambda needs: sum(needs.values()))
