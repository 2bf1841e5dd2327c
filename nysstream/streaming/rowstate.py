"""Row state: numbers kept for every row between epochs, in memory or in a scratch file."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.errors import InputError

if TYPE_CHECKING:
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
        values: Any
        if self.in_memory:
            values = np.zeros(self.shape)
        else:
            values = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as this object lives
            values.truncate(8 * self.shape[0] * self.shape[1])
        object.__setattr__(self, "_values", values)

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> RowState:
        """Make one, in memory, of numbers at hand."""
        state = cls((values.shape[0], values.shape[1]))
        state.write(0, values)
        return state

    def read(self, rows: slice) -> NDArray[np.float64]:
        """Read a run of rows; not to be written to."""
        values: Any = self._values  # type: ignore[attr-defined]
        if self.in_memory:
            found: NDArray[np.float64] = values[rows]
            return found
        k = self.shape[1]
        out = np.empty((rows.stop - rows.start, k))
        values.seek(8 * k * rows.start)
        if values.readinto(out.reshape(-1).view(np.uint8)) != out.nbytes:
            message = f"the scratch file of a row state ends before row {rows.stop}: was it truncated?"
            raise InputError(message)
        return out

    def write(self, start: int, block: NDArray[np.float64]) -> None:
        """Write a run of rows."""
        values: Any = self._values  # type: ignore[attr-defined]
        if self.in_memory:
            values[start : start + len(block)] = block
        else:
            values.seek(8 * self.shape[1] * start)
            values.write(np.ascontiguousarray(block, np.float64).reshape(-1).view(np.uint8))

    def of_window(self, window: Window) -> NDArray[np.float64]:
        """Read the rows of a window, in its order."""
        return np.concatenate([self.read(rows) for rows in _runs(window)])

    def write_window(self, window: Window, values: NDArray[np.float64]) -> None:
        """Write the rows of a window."""
        for rows, start in zip(_runs(window), window.offsets, strict=False):
            self.write(rows.start, values[start : start + rows.stop - rows.start])

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
        values = self.read(slice(0, self.shape[0]))
        return np.array(values, dtype=dtype) if copy or dtype is not None else values

    def __reduce__(self) -> tuple[Any, ...]:
        return RowState.of, (np.array(self),)


def _runs(window: Window) -> list[slice]:
    sizes = np.diff(window.offsets)
    return [slice(int(a), int(a + size)) for a, size in zip(window.starts, sizes, strict=True)]
