"""A uniform sample of rows, kept from a pass that is made anyway."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.arrays import to_host
from nysstream.streaming.reduction import Part, Reduction, Tile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.arrays import Device
    from nysstream.streaming.design import DesignMatrix


@dataclass(frozen=True)
class RowSample(Reduction):
    """Rows as stored, at given positions, and their weights.

    Parameters
    ----------
    rows : ndarray of int, shape (m,)
        Positions, ascending.

    Notes
    -----
    Result: ``(X, weight)``, shapes (m, d) and (m,); X in the dtype of the buffers, or CSR. Rows are
    kept before the feature map, which is applied again when they are used.
    """

    rows: NDArray[np.int64]

    def n_columns(self, design: DesignMatrix) -> int:
        """Count none: nothing is multiplied."""
        return 0

    def part_bytes(self, design: DesignMatrix) -> int:
        """Count the rows: all of them are held at the end."""
        row_bytes = design.row_bytes
        if not design.source.sparse:
            row_bytes = design.source.shape[1] * design.block_dtype.itemsize
        return int(self.rows.size * (row_bytes + 8))

    def held_bytes(self, design: DesignMatrix, working: int, waiting: int) -> int:
        """Count them twice, in pieces and put together: no two parts have a row in common."""
        return 2 * self.part_bytes(design)

    def start(self, design: DesignMatrix, device: Device) -> Part:
        """Begin without rows."""
        return {}

    def add(self, part: Part, tile: Tile, prepared: Any) -> Part:
        """Keep the wanted rows of the tile, filed under the tile's first row."""
        n_rows = tile.raw.shape[0]
        first, last = np.searchsorted(self.rows, [tile.start, tile.start + n_rows])
        if first == last:
            return part
        wanted = self.rows[first:last] - tile.start
        raw = tile.raw if hasattr(tile.raw, "indptr") else to_host(tile.raw)
        weight = np.ones(n_rows) if tile.weight is None else to_host(tile.weight)
        part[f"x{tile.start:020d}"] = raw[wanted]
        part[f"w{tile.start:020d}"] = weight[wanted]
        return part

    def combine(self, a: Part, b: Part) -> Part:
        """Keep the rows of both."""
        return a | b

    def finish(self, design: DesignMatrix, part: Part) -> tuple[Any, NDArray[np.float64]]:
        """Put the rows in order."""
        keys = sorted(key for key in part if key.startswith("x"))
        pieces = [part[key] for key in keys]
        weight = np.concatenate([part["w" + key[1:]] for key in keys])
        if design.source.sparse:
            from scipy.sparse import vstack

            return vstack(pieces, format="csr"), weight
        return np.concatenate(pieces), weight


def uniform_rows(n_rows: int, n_sample: int, seed: int) -> NDArray[np.int64]:
    """Draw distinct row numbers, ascending."""
    rng = np.random.Generator(np.random.Philox(seed))
    if n_sample >= n_rows:
        return np.arange(n_rows)
    return np.sort(rng.choice(n_rows, n_sample, replace=False, shuffle=False))
