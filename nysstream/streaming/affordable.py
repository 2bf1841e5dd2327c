"""A design whose passes fit the memory: fewer tasks at once where they must be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nysstream.memory import ALLOWANCE, Budget, parse_memory
from nysstream.streaming.needs import pass_needs, process_bytes, scheduler

if TYPE_CHECKING:
    from nysstream.streaming.design import DesignMatrix
    from nysstream.streaming.reduction import Reduction


def affordable(
    design: DesignMatrix, memory: int | float | str | None, *reductions: Reduction, held: int = 0
) -> DesignMatrix:
    """Halve the tasks that run at once until a pass fits.

    Parameters
    ----------
    design : DesignMatrix
    memory : int, float, str or None
        Limit for the whole process.
    *reductions : Reduction
        Of the pass.
    held : int
        Bytes that are held besides.

    Raises
    ------
    MemoryBudgetError
        If one task does not fit; names the smallest limit that would do.
    """
    limit, threads = parse_memory(memory), scheduler()[1]
    tasks = threads
    base = {"process": process_bytes(), "allowance": ALLOWANCE, "sums so far": held}
    while True:
        candidate = design.with_tasks(tasks, threads)
        budget = Budget(limit, base | pass_needs(candidate, *reductions), "ask for a smaller rank")
        if budget.peak <= limit or tasks == 1:
            budget.check()
            return candidate
        tasks //= 2
