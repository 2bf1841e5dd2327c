"""What this process has open for sources that were shipped to it, shared by all copies of each.

Every task brings its own copy of a source. Without sharing, each would open the store and walk
through its index again.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_KEPT = 32


class Handle(Protocol):
    """Something open."""

    @property
    def shareable(self) -> bool:
        """Whether it may stay open when no source uses it: others may want to write to a file."""


H = TypeVar("H", bound=Handle)

_lock = threading.RLock()
_handles: OrderedDict[tuple[int, str], Handle] = OrderedDict()


def new_token() -> str:
    """Name a source and all its copies, in every process."""
    return uuid.uuid4().hex


def handle_of(token: str, make: Callable[[], H]) -> H:
    """Give the handle of a source in this process, made on first use.

    A handle of the process that this one was forked from is not used: HDF5 files and event loops do
    not survive a fork. The least recently used of many handles are let go.
    """
    key = (os.getpid(), token)
    with _lock:
        handle = _handles.get(key)
        if handle is None:
            made = make()
            if made.shareable:
                _handles[key] = made
                while len(_handles) > _KEPT:
                    _handles.popitem(last=False)
            return made
        _handles.move_to_end(key)
        return handle  # type: ignore[return-value]
