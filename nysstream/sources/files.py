"""Files read at given offsets, by many threads at once."""

from __future__ import annotations

import os
import weakref
from typing import TYPE_CHECKING

from nysstream.sources.scratch import scratch

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class OpenFile:
    """A file open for positional reads, closed with the object.

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
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.close = weakref.finalize(self, os.close, self._fd)
        self.size = os.fstat(self._fd).st_size

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
        while done < len(view):
            count = os.preadv(self._fd, [view[done:]], start + done)
            if count == 0:
                message = f"the file ends at byte {start + done}, {len(view) - done} bytes early"
                raise ValueError(message)
            done += count
