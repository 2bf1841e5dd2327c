"""Threads within a task, for work that falls into independent pieces.

Where memory lets fewer tasks run at once than there are cores, the others would stand idle. What a
piece gives does not depend on the thread that it runs on, so results do not depend on their number.
"""

from __future__ import annotations

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")

_local = threading.local()


@contextlib.contextmanager
def helpers(count: int) -> Iterator[None]:
    """Let :func:`spread` use so many threads inside the block, in this thread's work."""
    if count <= 1:
        yield
        return
    with ThreadPoolExecutor(count, "nysstream-helper") as pool:
        _local.pool = pool
        try:
            yield
        finally:
            del _local.pool


def spread(work: Callable[[T], None], pieces: Iterable[T]) -> None:
    """Do the work on every piece, on the threads there are."""
    pool = getattr(_local, "pool", None)
    if pool is None:
        for piece in pieces:
            work(piece)
        return
    # NumPy's error state belongs to the context.
    for done in [pool.submit(copy_context().run, work, piece) for piece in pieces]:
        done.result()
