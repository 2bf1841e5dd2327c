"""How a fit with an exact kernel will run, and what it holds."""

from __future__ import annotations

from dataclasses import dataclass

from nysstream.estimators.composite_plan import LossPlan


@dataclass(frozen=True)
class KernelPlan(LossPlan):
    """How a fit with an exact kernel will run.

    Its method is ``"working sets"``, or a solver of :class:`nysstream.KernelRidge`. It runs on threads of
    this process, whatever the scheduler.

    Attributes
    ----------
    dtype : str
        Of the kernel matrix.
    matrix_bytes : int
        What the kernel matrix would take; where it is symmetric tile by tile, those on one side.
    kept_bytes : int
        How much of it stays in memory, at most.
    """

    dtype: str
    matrix_bytes: int
    kept_bytes: int

    @property
    def cached_bytes(self) -> int:
        """Bytes of a pass that come from memory once they were read: all or none."""
        return self.pass_bytes if self.budget.needs.get("rows") else 0
