"""Files read at given offsets, by many threads at once."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from typing import TYPE_CHECKING

from nysstream.sources.scratch import scratch

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray


class OpenFile:
    """A file open for positional reads, closed with the object.

    The kernel reads ahead of each descriptor by itself. Reads that take turns at several places of a
    file would look to it like reads at random, so each sequence of them has a descriptor of its own.

    Parameters
    ----------
    path : str
        The file.

    Raises
    ------
    OSError
        If it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._lock = threading.Lock()
        self._all = [fd]
        self._idle = [(0, fd)]  # each with the place at which its last read ended
        self.close = weakref.finalize(self, _close, self._all)
        self.size = os.fstat(fd).st_size

    def read(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Read a byte range into the thread's scratch; valid until its next read."""
        buffer = scratch("encoded", stop - start)
        self.read_into(start, buffer)
        return buffer

    def read_into(self, start: int, buffer: NDArray[np.uint8]) -> None:
        """Fill ``buffer`` from byte ``start``.

        Raises
        ------
        OSError
            If the device fails.
        ValueError
            If the file ends before.
        """
        view = buffer.data
        done = 0
        with self._descriptor(start, start + len(view)) as fd:
            while done < len(view):
                count = os.preadv(fd, [view[done:]], start + done)
                if count == 0:
                    message = f"the file ends at byte {start + done}, {len(view) - done} bytes early"
                    raise ValueError(message)
                done += count

    @contextlib.contextmanager
    def _descriptor(self, start: int, stop: int) -> Iterator[int]:
        """Lend the descriptor whose last read ended at ``start``, else the one idle longest, or a new one."""
        with self._lock:
            number = next((i for i, (place, _) in enumerate(self._idle) if place == start), 0)
            fd = self._idle.pop(number)[1] if self._idle else -1
        if fd < 0:
            fd = self._another()
        try:
            yield fd
        finally:
            with self._lock:
                self._idle.append((stop, fd))

    def _another(self) -> int:
        """Open the same file once more: the file itself, whatever its name stands for by now."""
        try:
            fd = os.open(f"/proc/self/fd/{self._all[0]}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # no such folder here: another number for the same descriptor must do
            fd = os.dup(self._all[0])
        self._all.append(fd)
        return fd


def _close(descriptors: list[int]) -> None:
    for fd in descriptors:
        os.close(fd)
