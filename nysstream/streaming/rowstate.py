"""Row state: numbers kept for every row between epochs, in memory or in a scratch file."""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from nysstream.streaming.window import Window


@dataclass(frozen=True, eq=False)
class RowState:
    """k numbers for each of n rows, such as the slopes of a gradient table.

    Written once, block by block, and read in any order afterwards: an epoch reads the numbers of the last
    one and writes its own, so that a state that was handed out never changes.

    Parameters
    ----------
    shape : (int, int)
        n and k.
    in_memory : bool
        Whether there is room for ``8 n k`` bytes; otherwise they are in a temporary file, which vanishes with
        the object.

    Notes
    -----
    Cost: ``8 k`` bytes for each row read or written; never single rows in the file.
    """

    shape: tuple[int, int]
    in_memory: bool = True

    def __post_init__(self) -> None:
        if min(self.shape) < 1:
            message = f"shape={self.shape}: a row state needs at least one row and one number for each"
            raise InputError(message)
        if self.in_memory:
            object.__setattr__(self, "_values", np.zeros(self.shape))
        else:
            object.__setattr__(self, "_file", _scratch_file(self, 8 * self.shape[0] * self.shape[1]))

    @classmethod
    def of(cls, values: NDArray[np.float64], *, in_memory: bool = True) -> RowState:
        """Make one of numbers at hand."""
        state = cls((values.shape[0], values.shape[1]), in_memory)
        state.write(0, values)
        return state

    def read(self, rows: slice) -> NDArray[np.float64]:
        """Read a run of rows; not to be written to."""
        if self.in_memory:
            found: NDArray[np.float64] = self._values[rows]  # type: ignore[attr-defined]
            return found
        out = np.empty((rows.stop - rows.start, self.shape[1]))
        self._transfer(os.preadv, rows.start, out)
        return out

    def write(self, start: int, block: NDArray[np.float64]) -> None:
        """Write a run of rows."""
        if self.in_memory:
            self._values[start : start + len(block)] = block  # type: ignore[attr-defined]
        else:
            self._transfer(os.pwritev, start, np.ascontiguousarray(block, np.float64))

    def _transfer(self, move: Callable[..., int], start: int, block: NDArray[np.float64]) -> None:
        """Move all bytes of a block; the system may take a part of them at a time."""
        left, place = block.data.cast("B"), 8 * self.shape[1] * start
        while left:
            done = move(self._file, [left], place)  # type: ignore[attr-defined]
            if done == 0:
                message = f"the scratch file of a row state ends at byte {place}: was it truncated?"
                raise InputError(message)
            left, place = left[done:], place + done

    def of_window(self, window: Window) -> NDArray[np.float64]:
        """Read the rows of a window, in its order."""
        return np.concatenate([self.read(rows) for rows in _runs(window)])

    def write_window(self, window: Window, values: NDArray[np.float64]) -> None:
        """Write the rows of a window."""
        for rows, start in zip(_runs(window), window.offsets, strict=False):
            self.write(rows.start, values[start : start + rows.stop - rows.start])

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
        # What is on disk stays there: whoever writes it elsewhere goes through it piece by piece.
        mapped = None if self.in_memory else mmap.mmap(self._file, 0, prot=mmap.PROT_READ)  # type: ignore[attr-defined]
        values = self.read(slice(0, self.shape[0])) if mapped is None else np.frombuffer(mapped)
        values = values.reshape(self.shape)
        return np.array(values, dtype=dtype) if copy or dtype is not None else values

    def __reduce__(self) -> tuple[Any, ...]:
        return RowState.of, (np.array(self),)


def _runs(window: Window) -> list[slice]:
    sizes = np.diff(window.offsets)
    return [slice(int(a), int(a + size)) for a, size in zip(window.starts, sizes, strict=True)]


def _scratch_file(owner: RowState, n_bytes: int) -> int:
    """Open a file without a name that is closed when its owner vanishes."""
    number, path = tempfile.mkstemp(prefix="nysstream-")
    os.unlink(path)
    weakref.finalize(owner, os.close, number)
    os.truncate(number, n_bytes)
    return number
