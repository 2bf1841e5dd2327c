"""Scratch memory that each thread reuses.

A fresh buffer of many megabytes costs more in page faults than the read that fills it, so every
thread keeps its buffers between reads.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_local = threading.local()


def scratch(slot: str, n_bytes: int) -> NDArray[np.uint8]:
    """Give the calling thread's buffer ``slot``, its first ``n_bytes`` bytes.

    Valid until this thread asks for the same slot again.
    """
    slots: dict[str, NDArray[np.uint8]] = _local.__dict__.setdefault("slots", {})
    buffer = slots.get(slot)
    if buffer is None or buffer.nbytes < n_bytes:
        slots.pop(slot, None)  # freed before the larger one is allocated
        buffer = slots[slot] = np.empty(n_bytes, np.uint8)
    return buffer[:n_bytes]


def as_bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """View a C-contiguous array as its bytes."""
    return array.reshape(-1).view(np.uint8)
