"""Which worker of a cluster runs which partition: the one that holds its blocks, while it is there.

A worker keeps blocks between passes as its memory allows. So a partition has a home, to which it
returns in every pass. Homes are wishes, kept by the client: where a worker is lost, or idle while
another is behind, Dask runs the partition elsewhere, and what is computed does not depend on it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import dask.threaded
from dask.base import annotate

from nysstream.cluster import current_client, current_scheduler

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nysstream.streaming.design import DesignMatrix

#: How often a task that failed, for whatever reason, is run again.
RETRIES = 2
#: Seconds after which the workers are looked at again.
PATIENCE = 5.0

#: Homes of the partitions of designs, by client and by what their blocks are filed under.
_homes: WeakKeyDictionary[Any, dict[tuple[str, int], tuple[str | None, ...]]] = WeakKeyDictionary()


def compute(root: Any, design: DesignMatrix, partitions: Sequence[str]) -> Any:
    """Compute a pass on the current scheduler, each partition at home where there are homes.

    Parameters
    ----------
    root : Delayed
        What the pass gives.
    design : DesignMatrix
    partitions : sequence of str
        Keys of the tasks that read the partitions, in order.
    """
    client = current_client()
    if client is None:
        # The graph is as it should be: Dask's compute() would tokenize and rewrite it, which over few rows
        # takes longer than the pass.
        get: Any = current_scheduler() or dask.threaded.get
        return get(dict(root.dask), [root.key])[0]
    wishes = _Wishes()
    if design.cache_bytes > 0:
        known = _homes.setdefault(client, {})
        filed = design.cache_key, len(partitions)
        homes = assigned(known.get(filed, (None,) * len(partitions)), client.nthreads())
        known.clear()  # a process holds the blocks of one design at a time
        known[filed] = homes
        wishes.homes.update((key, [home]) for key, home in zip(partitions, homes, strict=True) if home)
    with annotate(workers=wishes, allow_other_workers=True, retries=RETRIES):
        future = client.compute(root)
    return _patiently(client, future)


def _patiently(client: Any, future: Any) -> Any:
    """Wait for a result, and see to it that no task waits for a worker that is paused."""
    from distributed import wait

    while True:
        try:
            wait(future, timeout=PATIENCE)  # type: ignore[no-untyped-call]
        except TimeoutError:
            client.run_on_scheduler(_leave_paused_workers)
        else:
            return future.result()


def _leave_paused_workers(dask_scheduler: Any) -> None:
    """Have other workers take what one that is paused, since its memory is full, has not begun.

    Dask leaves the last tasks that it has assigned to such a worker where they are.
    """
    running = list(dask_scheduler.running)
    for victim in list(dask_scheduler.workers.values()):
        if victim in dask_scheduler.running:
            continue
        for number, task in enumerate(list(victim.processing) if running else []):
            thief = running[number % len(running)]
            dask_scheduler.extensions["stealing"].move_task_request(task, victim, thief)


@dataclass
class _Wishes:
    """The workers on which a task should run, given its key; none for tasks that may run anywhere."""

    homes: dict[str, list[str]] = field(default_factory=dict)

    def __call__(self, key: str) -> list[str]:
        return self.homes.get(key, [])


def assigned(before: Sequence[str | None], threads: Mapping[str, int]) -> tuple[str | None, ...]:
    """Give every partition a home, by the workers' numbers of threads, moving as few as possible.

    Parameters
    ----------
    before : sequence of str or None
        Address of the worker that had each partition in the last pass.
    threads : mapping of str to int
        Threads of the workers there are now.

    Returns
    -------
    tuple of str or None
        Neighbours share a home where they can: their sums are then added without a transfer.
    """
    total = sum(threads.values())
    if total == 0:
        return (None,) * len(before)
    shares, given, passed = {}, 0, 0
    for worker in sorted(threads):
        passed += threads[worker]
        shares[worker] = len(before) * passed // total - given
        given += shares[worker]
    left = dict(shares)
    homes: list[str | None] = []
    for home in before:
        stays = home is not None and left.get(home, 0) > 0
        homes.append(home if stays else None)
        if stays and home is not None:
            left[home] -= 1
    free = deque(worker for worker in sorted(left) for _ in range(left[worker]))
    return tuple(free.popleft() if home is None else home for home in homes)
