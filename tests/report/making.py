"""Results of fits, made up in full control."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nysstream.estimators.results import FitResult
from nysstream.sketching.approximation import Certificate
from nysstream.trace import Cost, PassRecord

#: In MiB.
NEEDS = {"process": 120, "allowance": 64, "tiles": 9, "sketch": 3, "nothing": 0}


@dataclass
class Model:
    """What a report asks of an estimator."""

    result_: Any
    alpha: Any = 1.0
    tol: float | None = 1e-6
    settings: dict[str, Any] = field(default_factory=lambda: {"alpha": 1.0, "tol": 1e-6})

    def get_params(self, *, deep: bool = True) -> dict[str, Any]:
        return self.settings


def make_result(*, n_steps=5, n_systems=1, rank=8, first="set-up", **changes) -> FitResult:
    """Make up a fit of ``n_steps`` steps; no two of its numbers agree by accident."""
    decay = 10.0 ** -np.linspace(0, 7, n_steps + 1)
    history = [
        {
            "steps": i,
            "passes": i,
            "seconds": 0.5 * i,
            "relative_residual": float(decay[i]),
            "relative_residuals": decay[i] ** (1 + np.arange(n_systems) / 8),
        }
        for i in range(n_steps + 1)
    ]
    names = [first, *["product"] * n_steps, "residual"]
    passes = [
        PassRecord(
            name, 1.0 * i, 2.0 + i % 7, Cost(100, 1000 + i, 7 * i, 0.25 + i % 3, 0.5, 1.0 + i % 5, 0.125)
        )
        for i, name in enumerate(names)
    ]
    stats: dict[str, Any] = {
        "status": "converged",
        "method": "nystrom" if rank else "cg",
        "passes": len(passes),
        "iterations": n_steps,
        "seconds": 123.456,
        "bytes_read": 345_678_901,
        "bytes_from_cache": 45_678_901,
        "peak_bytes": 234_567_890,
        "memory_limit_bytes": 456_789_012,
        "relative_residual": 8.76e-8,
        "objective": 98.7654 if n_systems == 1 else [98.7654 + i for i in range(n_systems)],
        "rank": rank,
        "effective_dimension": [5.25, 17.75] if rank else None,
        "n_rows": 12_345,
        "n_features": 67,
    }
    values: dict[str, Any] = {
        "status": "converged",
        "advice": "The tolerance was met.",
        "history": history,
        "passes": passes,
        "needs": {
            "process": 120 << 20,
            "allowance": 64 << 20,
            "tiles": 9 << 20,
            "sketch": 3 << 20,
            "nothing": 0,
        },
        "spectrum": 10.0 ** -np.arange(float(rank)) if rank else None,
        "certificate": Certificate(100.0, 2.5, 0.75, 1e-9) if rank else None,
    }
    stats |= changes.pop("stats", {})
    return FitResult(**(values | {"stats": stats} | changes))
