"""A window: blocks of a design in memory, whose rows are gathered in any order."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse

from nysstream.arrays import namespace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.arrays import Device
    from nysstream.streaming.design import DesignMatrix

    Rows = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Window:
    """Some blocks of a design in memory, in the order of their rows.

    Attributes
    ----------
    starts : ndarray, shape (w,)
        First row of each block.
    pieces : list of array or csr_array, shape (rows of the block, d or p)
        As stored; or after the feature map, where all rows of the design are kept so.
    mapped : bool
        Which of the two.
    target : ndarray, shape (window rows, q), or None
    weight : ndarray, shape (window rows,), or None
    """

    starts: Rows
    pieces: list[Any]
    mapped: bool
    target: NDArray[np.float64] | None
    weight: NDArray[np.float64] | None

    @functools.cached_property
    def offsets(self) -> Rows:
        """Place of each block's first row in the window; the number of rows at the end."""
        return np.cumsum([0, *(piece.shape[0] for piece in self.pieces)])

    def numbers(self) -> Rows:
        """Give the numbers of all rows, ascending."""
        sizes = np.diff(self.offsets)
        return np.arange(self.offsets[-1]) + np.repeat(self.starts - self.offsets[:-1], sizes)

    def places(self, rows: Rows) -> Rows:
        """Find rows, by their numbers, among those of the window."""
        which = np.searchsorted(self.starts, rows, side="right") - 1
        return rows - self.starts[which] + self.offsets[which]

    def take(self, rows: Rows, device: Device) -> Any:
        """Gather rows, their numbers ascending, on the device."""
        edges = np.searchsorted(rows, [*self.starts, np.iinfo(np.int64).max])
        wanted = [
            (piece, rows[i:j] - start, slice(i, j))
            for piece, start, i, j in zip(self.pieces, self.starts, edges[:-1], edges[1:], strict=True)
            if i < j
        ]
        first = wanted[0][0]
        if hasattr(first, "indptr"):
            stack: Any = scipy.sparse.vstack
            return stack([piece[index] for piece, index, _ in wanted], format="csr")
        if not isinstance(first, np.ndarray):
            take = namespace(first).take
            return device.xp.concat([take(x, device.put(index), axis=0) for x, index, _ in wanted], axis=0)
        out = np.empty((rows.size, first.shape[1]), first.dtype)
        for piece, index, place in wanted:
            # With "raise", NumPy gathers into a buffer of its own first.
            np.take(piece, index, axis=0, out=out[place], mode="clip")
        return device.put(out)


def map_rows(design: DesignMatrix, raw: Any, device: Device) -> Any:
    """Apply a design's feature map to rows as stored, (t, d)."""
    if design.source.sparse:
        return design.features(raw.astype(design.dtype, copy=False))
    dtype = getattr(device.xp, design.dtype.name)
    return design.features(device.xp.astype(raw, dtype, copy=False))
