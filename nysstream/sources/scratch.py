"""Scratch memory that reads use again and again.

A fresh buffer of many megabytes costs more in page faults than the read that fills it, so buffers
are kept between reads: by each thread, or by whoever lends the thread its own for a while.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

#: Buffers by the name of what they are for.
Scratch: TypeAlias = "dict[str, NDArray[np.uint8]]"

_local = threading.local()


def scratch(slot: str, n_bytes: int) -> NDArray[np.uint8]:
    """Give the calling thread's buffer ``slot``, its first ``n_bytes`` bytes.

    Valid until this thread asks for the same slot again.
    """
    slots: Scratch = _local.__dict__.setdefault("slots", {})
    buffer = slots.get(slot)
    if buffer is None or buffer.nbytes < n_bytes:
        slots.pop(slot, None)  # freed before the larger one is allocated
        buffer = slots[slot] = np.empty(n_bytes, np.uint8)
    return buffer[:n_bytes]


@contextlib.contextmanager
def lent(buffers: Scratch) -> Iterator[None]:
    """Have this thread's reads use ``buffers`` inside the block; no other thread may meanwhile."""
    own = _local.__dict__.get("slots", {})
    _local.slots = buffers
    try:
        yield
    finally:
        _local.slots = own


def as_bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """View a C-contiguous array as its bytes."""
    return array.reshape(-1).view(np.uint8)
