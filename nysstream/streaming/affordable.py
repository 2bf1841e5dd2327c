"""Designs whose passes fit the memory: fewer tasks at once where they must be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nysstream.memory import ALLOWANCE, Budget, parse_memory, resident_bytes
from nysstream.streaming.needs import pass_needs, process_bytes, scheduler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nysstream.streaming.design import DesignMatrix
    from nysstream.streaming.reduction import Reduction


@dataclass(frozen=True)
class Room:
    """The memory and the threads that a job may use.

    Attributes
    ----------
    limit : int
        Bytes that the process may hold.
    base : dict of str to int
        Bytes that it holds before the job, and others that do not depend on how it runs.
    scheduler : str
    threads : int
        Tasks that the scheduler would run at once.
    """

    limit: int
    base: dict[str, int]
    scheduler: str
    threads: int

    @classmethod
    def of(cls, memory: int | float | str | None, *, here: bool = False, held: int = 0) -> Room:
        """Look at the limit, the scheduler and the process.

        Parameters
        ----------
        memory : int, float, str or None
            Limit for the process.
        here : bool
            Whether the job runs in this process, whatever the scheduler.
        held : int
            Bytes of sums so far.
        """
        limit = parse_memory(memory)
        kind, threads = scheduler()  # may import a scheduler: before the process is measured
        process = resident_bytes() if here else process_bytes()
        base = {"process": process, "allowance": ALLOWANCE} | ({"sums so far": held} if held else {})
        return cls(limit, base, kind, threads)

    def budget(self, needs: dict[str, int], knob: str = "memory") -> Budget:
        """Charge the needs of a job."""
        return Budget(self.limit, self.base | needs, knob)

    def fit(
        self, design: DesignMatrix, needs: Callable[[DesignMatrix], dict[str, int]], knob: str = "memory"
    ) -> tuple[DesignMatrix, Budget, int]:
        """Halve the tasks that run at once until a job fits.

        Returns
        -------
        DesignMatrix, Budget, int
            With so many tasks. Of the last try, where nothing fits: the budget is left to be checked.
        """
        for tasks in halving(self.threads):
            candidate = design.with_tasks(tasks, self.threads)
            budget = self.budget(needs(candidate), knob)
            if budget.fits:
                break
        return candidate, budget, tasks


def halving(count: int, smallest: int = 1) -> Iterator[int]:
    """Give a count, its half, and so on, down to the smallest."""
    while count > smallest:
        yield count
        count //= 2
    yield max(count, smallest)


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
    room = Room.of(memory, held=held)
    fitted, budget, _ = room.fit(design, lambda d: pass_needs(d, *reductions), "ask for a smaller rank")
    budget.check()
    return fitted
