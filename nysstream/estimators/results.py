"""What a fit leaves behind beside its coefficients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.estimators.least_squares import LeastSquares
    from nysstream.estimators.planning import Plan
    from nysstream.sketching.nystrom import Certificate
    from nysstream.solvers import Result
    from nysstream.trace import PassRecord, Trace


@dataclass(frozen=True)
class FitResult:
    """How a fit went: everything a report shows, and no data.

    Attributes
    ----------
    status : str
        ``"converged"``, or what stopped the solver.
    advice : str
        What the status means for the user.
    stats : dict
        The numbers that ``nysstream fit --json`` prints.
    history : list of dict
        One record per step of the solver: ``steps``, ``passes``, ``seconds``, ``relative_residual``.
    passes : list of PassRecord
    needs : dict of str to int
        Projected bytes of the phase that needs most, by what holds them.
    spectrum : ndarray, shape (rank,), or None
        Eigenvalues of the sketch's approximation, descending.
    certificate : Certificate or None
    """

    status: str
    advice: str
    stats: dict[str, Any]
    history: list[dict[str, Any]]
    passes: list[PassRecord]
    needs: dict[str, int]
    spectrum: NDArray[Any] | None
    certificate: Certificate | None

    @property
    def converged(self) -> bool:
        """Whether the tolerance was met."""
        return self.status == "converged"


def fit_result(
    plan: Plan,
    problem: LeastSquares,
    result: Result[Any],
    trace: Trace,
    shifts: NDArray[np.float64],
    objective: NDArray[np.float64],
) -> FitResult:
    """Gather what a fit leaves behind."""
    nystrom, total = problem.nystrom, trace.total
    positive = shifts[shifts > 0]
    dimension = problem.effective_dimension(float(positive.min())) if positive.size else None
    stats = {
        "status": result.status.name.lower(),
        "method": plan.method,
        "passes": len(trace.passes),
        "passes_recalled": trace.n_recalled,
        "iterations": int(result.stats["iterations"]),
        "seconds": trace.seconds,
        "bytes_read": total.bytes_read + trace.sampled_bytes,
        "bytes_from_cache": total.bytes_from_cache,
        "peak_bytes": trace.peak_bytes,
        "memory_limit_bytes": plan.budget.limit,
        "relative_residual": float(result.stats["relative_residual"]),
        "objective": float(objective[0]) if objective.size == 1 else objective.tolist(),
        "rank": 0 if nystrom is None else nystrom.rank,
        "effective_dimension": dimension,
        "n_rows": problem.statistics.n_rows,
        "n_features": problem.design.shape[1],
    }
    return FitResult(
        status=result.status.name.lower(),
        advice=result.status.value,
        stats=stats,
        history=result.history,
        passes=trace.passes,
        needs=plan.budget.needs,
        spectrum=None if nystrom is None else nystrom.values,
        certificate=None if nystrom is None else nystrom.certificate,
    )


def composite_result(
    plan: Any, result: Result[Any], trace: Trace, coef: NDArray[np.float64], unit: float, *, coupled: bool
) -> FitResult:
    """Gather what a fit with a penalty leaves behind.

    Parameters
    ----------
    plan : Plan or LossPlan
    result : Result
    trace : Trace
    coef : ndarray
    unit : float
        What sums over the rows are divided by in the documented objective.
    coupled : bool
        Whether the loss couples its columns.
    """
    total = trace.total
    # Where the loss couples its columns, they have one objective.
    size = 1 if coupled else len(result.stats["objective"])
    objective = np.asarray(result.stats["objective"])[:size] / unit
    history = [
        {**record, "objective": (np.asarray(record["objective"])[:size] / unit).tolist()}
        for record in result.history
    ]
    stats = {
        "status": result.status.name.lower(),
        "method": "admm" if plan.method == "nystrom" else plan.method,
        "passes": len(trace.passes),
        "passes_recalled": trace.n_recalled,
        "iterations": int(result.stats["iterations"]),
        "seconds": trace.seconds,
        "bytes_read": total.bytes_read + trace.sampled_bytes,
        "bytes_from_cache": total.bytes_from_cache,
        "peak_bytes": trace.peak_bytes,
        "memory_limit_bytes": plan.budget.limit,
        "duality_gap": result.stats["duality_gap"],
        "optimality": float(result.stats["optimality"]),
        "objective": float(objective[0]) if objective.size == 1 else objective.tolist(),
        "n_nonzero": int(np.count_nonzero(coef)),
        **({"n_support": result.stats["n_support"]} if "n_support" in result.stats else {}),
        "rank": plan.rank,
        "n_rows": plan.design.shape[0],
        "n_features": plan.design.shape[1],
    }
    return FitResult(
        status=result.status.name.lower(),
        advice=result.status.value,
        stats=stats,
        history=history,
        passes=trace.passes,
        needs=plan.budget.needs,
        spectrum=None,
        certificate=None,
    )
