"""The reduction: an additive function of row tiles, the only way in which data is consumed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np

from nysstream.arrays import namespace
from nysstream.errors import InputError

if TYPE_CHECKING:
    from nysstream.arrays import Device
    from nysstream.streaming.design import DesignMatrix

Array = Any  # any array of the Python array API standard
Part: TypeAlias = dict[str, Any]

_MANY_COLUMNS, _TALL_ROWS = 16, 1024
#: Entries that are squared at once: they stay in the processor's cache.
SQUARED_ENTRIES = 1 << 17


@dataclass(frozen=True)
class Tile:
    """A few rows of the design, on the device.

    Attributes
    ----------
    start : int
        Row of the design at which the tile begins.
    raw : array, shape (t, d), or None
        Rows as stored; may be None where no reduction of the pass reads them.
    Z : array or csr_array, shape (t, p)
        Rows after the feature map, less the design's shift, in the dtype of the products.
    target : array, shape (t, q), or None
        In float64.
    weight : array, shape (t,), or None
        In float64; None stands for ones.
    """

    start: int
    raw: Array
    Z: Array
    target: Array | None
    weight: Array | None


class Reduction(ABC):
    """An additive function of the rows.

    A pass calls :meth:`check` before anything is read, :meth:`prepare` and :meth:`start` once per
    partition, :meth:`add` for its tiles in order, and :meth:`combine` along a fixed tree;
    :meth:`finish` turns the last sum into the result. Parts are dictionaries of arrays: on the
    device while a partition runs, on the host afterwards. Tiles are multiplied in their own dtype
    and must be added up in float64.
    """

    #: Whether the design must have targets.
    needs_target: ClassVar[bool] = False
    #: Whether tiles must carry the rows as stored, before the feature map.
    reads_stored: ClassVar[bool] = True
    #: Whether tiles should carry the targets where the design has them.
    reads_target: ClassVar[bool] = False

    def check(self, design: DesignMatrix) -> None:
        """Refuse a design that the reduction cannot be run on, before anything is read.

        Raises
        ------
        InputError
            Names the argument and what would do.
        """
        if self.needs_target and design.target is None:
            message = (
                f"this pass needs targets, and the design over {design.source.name} has none: give target="
            )
            raise InputError(message)

    def prepare(self, design: DesignMatrix, device: Device) -> Any:
        """Move to the device what :meth:`add` needs beside the tile."""
        return None

    @abstractmethod
    def start(self, design: DesignMatrix, device: Device) -> Part:
        """Make an empty part on the device."""

    @abstractmethod
    def add(self, part: Part, tile: Tile, prepared: Any) -> Part:
        """Add a tile; may overwrite ``part``."""

    def combine(self, a: Part, b: Part) -> Part:
        """Add two host parts. Neither is overwritten: schedulers may run a task twice."""
        return {name: a[name] + b[name] for name in a}

    def finish(self, design: DesignMatrix, part: Part) -> Any:
        """Turn the sum over all rows into the result."""
        return part

    @abstractmethod
    def n_columns(self, design: DesignMatrix) -> int:
        """Count the vectors that tiles are multiplied with: wide products want taller tiles."""

    def tall_rows(self, design: DesignMatrix) -> int:
        """Count the rows that a tile should have at least; few where the cache decides.

        Products with many columns are bound by arithmetic. What matters for them is that the
        p x k product is added to its float64 sum rarely.
        """
        return _TALL_ROWS if self.n_columns(design) >= _MANY_COLUMNS else 0

    def part_bytes(self, design: DesignMatrix) -> int:
        """Bytes of one part."""
        return 8 * design.shape[1] * self.n_columns(design)

    def combine_bytes(self, design: DesignMatrix) -> int:
        """Bytes of result and temporary arrays while two parts are added."""
        return self.part_bytes(design)

    def held_bytes(self, design: DesignMatrix, working: int, waiting: int) -> int:
        """Bytes of so many parts that are computed or added at once, and of those that wait for it."""
        part = self.part_bytes(design)
        return working * max(part, self.combine_bytes(design)) + waiting * part

    def work_bytes(self, design: DesignMatrix, tile_rows: int) -> int:
        """Bytes of temporary arrays while one tile is added."""
        itemsize = design.dtype.itemsize
        return itemsize * self.n_columns(design) * (tile_rows + design.shape[1])


def accumulate(total: Array, product: Array) -> Array:
    """Add a product, of any floating dtype, to a float64 sum; in place where the library can."""
    if isinstance(total, np.ndarray):
        return np.add(total, product, out=total)
    total += cast(product, total.dtype)
    return total


def zero_product(design: DesignMatrix, device: Device, k: int) -> Array:
    """Make the zeros, shape (p, k), that :func:`multiply_back`'s products are added to, laid out alike."""
    p = design.shape[1]
    return device.zeros((p, k), np.float64) if design.sparse else device.zeros((k, p), np.float64).T


def multiply_back(Z: Array, T: Array) -> Array:
    """Give ``Z' T``: by way of ``T' Z``, since BLAS is up to twice as fast on rows as they lie."""
    return Z.T @ T if hasattr(Z, "indptr") else (T.T @ Z).T


def cast(x: Array, dtype: Any) -> Array:
    """Convert to a dtype of the array's own namespace, without a copy where it has it already."""
    return namespace(x).astype(x, dtype, copy=False)


def weighted_squares(Z: Array, weight: Array) -> Array:
    """Sum the weighted squares of the entries of each column, in the dtype of Z and a few rows at a time."""
    if hasattr(Z, "indptr"):
        return Z.multiply(Z).T @ weight
    n_rows, p = Z.shape
    step = max(1, SQUARED_ENTRIES // p)
    total = 0
    for i in range(0, n_rows, step):
        rows = slice(i, min(i + step, n_rows))
        piece = Z[rows, ...]
        total = total + (piece * piece).T @ weight[rows]
    return total


def column_sums(x: Array) -> Array:
    """Sum over rows, in float64."""
    xp = namespace(x)
    return xp.sum(x, axis=0, dtype=xp.float64)
