"""The Dask cluster that passes run on, if they do: its client, and what its workers may use."""

from __future__ import annotations

import sys
from typing import Any

import dask.base
import dask.config

#: Of a worker's memory limit. Beyond this share Dask begins to spill, and then to pause the worker.
_SHARE = 0.6


def current_scheduler() -> Any:
    """Give the function by which the current Dask scheduler runs a graph; None where none was chosen.

    Dask would import ``distributed`` to see whether there is a client: there is none before that.
    """
    chosen = dask.config.get("scheduler", None)
    local = chosen is None or chosen in dask.base.named_schedulers
    if local and "distributed" not in sys.modules:
        return dask.base.named_schedulers.get(chosen)
    return dask.base.get_scheduler()  # type: ignore[no-untyped-call]


def current_client() -> Any:
    """Give the ``distributed.Client`` that is the current Dask scheduler, or None."""
    client = getattr(current_scheduler(), "__self__", None)
    return client if hasattr(client, "run_on_scheduler") else None


def worker_bytes() -> int | None:
    """Count the bytes that each worker of the current cluster may use; None where nothing limits them."""
    client = current_client()
    least = None if client is None else client.run_on_scheduler(_least_limit)
    return int(least * _SHARE) if least else None


def _least_limit(dask_scheduler: Any) -> int | None:
    limits = [worker.memory_limit for worker in dask_scheduler.workers.values() if worker.memory_limit]
    return min(limits, default=None)
