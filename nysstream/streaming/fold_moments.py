"""The set-up of cross-validation: the statistics of every training set from one pass."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.arrays import namespace, single_threaded_blas
from nysstream.errors import InputError
from nysstream.streaming.folds import Folds, RowFolds
from nysstream.streaming.moments import SetUp, Statistics
from nysstream.streaming.reduction import Array, Part, Reduction, Tile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from nysstream.arrays import Device
    from nysstream.streaming.design import DesignMatrix


@dataclass(frozen=True, eq=False)
class FoldStatistics:
    """What one pass leaves of each fold, to be merged into training sets.

    Parameters
    ----------
    set_up : SetUp
    design : DesignMatrix
    parts : list of dict
        One per fold.
    """

    set_up: SetUp
    design: DesignMatrix
    parts: list[Part]

    def whole(self) -> Statistics:
        """Give the statistics of all rows."""
        with single_threaded_blas():
            return self.set_up.finish(self.design, functools.reduce(self.set_up.combine, self.parts))

    def training_sets(self) -> Iterator[Statistics]:
        """Give the statistics of the rows outside each fold, one fold after the other.

        Notes
        -----
        Parts are merged, never subtracted: about ``K log2 K`` mergers of K folds, and ``log2 K``
        parts beside them.
        """
        yield from self._outside(self.parts, None)

    def _outside(self, parts: list[Part], rest: Part | None) -> Iterator[Statistics]:
        """Merge all but one of ``parts``, for each of them, with the ``rest``."""
        if len(parts) == 1:
            assert rest is not None
            with single_threaded_blas():
                statistics = self.set_up.finish(self.design, rest)
            yield statistics
            return
        half = len(parts) // 2
        for inside, outside in ((parts[:half], parts[half:]), (parts[half:], parts[:half])):
            with single_threaded_blas():
                others = outside if rest is None else [rest, *outside]
                merged = functools.reduce(self.set_up.combine, others)
            yield from self._outside(inside, merged)

    def held_out(self, fold: int, *, gram: bool = False) -> Statistics:
        """Give the statistics of the rows of a fold, without their Gram matrix unless that is asked for."""
        own = self.parts[fold].items()
        part = {name: x for name, x in own if gram or not name.startswith("gram")}
        return self.set_up.finish(self.design, part)


@dataclass(frozen=True)
class FoldSetUp(Reduction):
    """The set-up of every fold in one pass.

    Parameters
    ----------
    set_up : SetUp
        What is gathered of each fold.
    folds : Folds

    Notes
    -----
    Result: :class:`FoldStatistics`. Memory: ``n_splits`` times that of ``set_up``; arithmetic:
    the same.
    """

    set_up: SetUp
    folds: Folds
    reads_target = True

    def check(self, design: DesignMatrix) -> None:
        """Refuse folds that do not fit the rows."""
        self.set_up.check(design)
        self.folds.check(design.shape[0])

    def n_columns(self, design: DesignMatrix) -> int:
        """As for one fold: each row belongs to one."""
        return self.set_up.n_columns(design)

    def tall_rows(self, design: DesignMatrix) -> int:
        """Ask for enough rows of each fold in a tile."""
        return self.set_up.tall_rows(design) * (self.folds.n_splits if self.folds.scattered else 1)

    def part_bytes(self, design: DesignMatrix) -> int:
        """Count all folds."""
        return self.folds.n_splits * self.set_up.part_bytes(design)

    def combine_bytes(self, design: DesignMatrix) -> int:
        """Count all folds."""
        return self.folds.n_splits * self.set_up.combine_bytes(design)

    def work_bytes(self, design: DesignMatrix, tile_rows: int) -> int:
        """Count the rows of a fold picked from the tile, and the folds of the rows."""
        picked = design.block_bytes if design.sparse else tile_rows * design.shape[1] * design.dtype.itemsize
        return (
            self.set_up.work_bytes(design, tile_rows)
            + (picked if self.folds.scattered else 0)
            + RowFolds.nbytes(self.folds, design)
        )

    def prepare(self, design: DesignMatrix, device: Device) -> tuple[Any, RowFolds, DesignMatrix, Device]:
        """Prepare the set-up, and work out the folds."""
        return self.set_up.prepare(design, device), RowFolds(self.folds, design), design, device

    def start(self, design: DesignMatrix, device: Device) -> Part:
        """Begin without folds: each begins with its first row."""
        return {}

    def add(self, part: Part, tile: Tile, prepared: tuple[Any, RowFolds, DesignMatrix, Device]) -> Part:
        """Add the rows of each fold to its sums."""
        inner, rows, design, device = prepared
        folds = rows.of_tile(tile)
        for fold in np.unique(folds):
            own = _of_fold(part, fold) or self.set_up.start(design, device)
            try:
                own = self.set_up.add(own, _pick(tile, np.flatnonzero(folds == fold), device), inner)
            except InputError:
                # The picked rows do not know their numbers: let the whole tile name the culprit.
                self.set_up.add(self.set_up.start(design, device), tile, inner)
                raise
            part |= {_key(fold, name): value for name, value in own.items()}
        return part

    def combine(self, a: Part, b: Part) -> Part:
        """Merge the parts of each fold."""
        merged = a | b
        for fold in range(self.folds.n_splits):
            one, other = _of_fold(a, fold), _of_fold(b, fold)
            if one and other:
                both = self.set_up.combine(one, other)
                merged = {key: x for key, x in merged.items() if not key.startswith(_key(fold, ""))}
                merged |= {_key(fold, name): value for name, value in both.items()}
        return merged

    def finish(self, design: DesignMatrix, part: Part) -> FoldStatistics:
        """Separate the folds.

        Raises
        ------
        InputError
            If a fold has no rows, or none of positive weight.
        """
        parts = [_of_fold(part, fold) for fold in range(self.folds.n_splits)]
        empty = [fold for fold, own in enumerate(parts) if not own]
        if empty:
            message = (
                f"fold {empty[0]} of {self.folds.n_splits} holds no rows: use fewer folds, or other ones"
            )
            raise InputError(message)
        light = [fold for fold, own in enumerate(parts) if own["rows"][1] == 0]
        if light:
            message = f"all weights in fold {light[0]} of {self.folds.n_splits} are zero: use other folds"
            raise InputError(message)
        return FoldStatistics(self.set_up, design, parts)


def _key(fold: int, name: str) -> str:
    return f"{fold}/{name}"


def _of_fold(part: Part, fold: int) -> Part:
    prefix = _key(fold, "")
    return {key.removeprefix(prefix): value for key, value in part.items() if key.startswith(prefix)}


def _pick(tile: Tile, rows: NDArray[np.intp], device: Device) -> Tile:
    """Make a tile of some rows of a tile: a view where they are consecutive."""
    if rows.size == tile.Z.shape[0]:
        return tile
    first, stop = int(rows[0]), int(rows[-1]) + 1
    if stop - first == rows.size:
        run = slice(first, stop)
        return Tile(
            tile.start + first,
            tile.raw[run] if hasattr(tile.raw, "indptr") else tile.raw[run, ...],
            tile.Z[run] if hasattr(tile.Z, "indptr") else tile.Z[run, ...],
            None if tile.target is None else tile.target[run, ...],
            None if tile.weight is None else tile.weight[run],
        )
    index = device.put(rows)

    def pick(x: Array) -> Array:
        if x is None or hasattr(x, "indptr"):
            return None if x is None else x[rows]
        return namespace(x).take(x, index, axis=0)

    Z = pick(tile.Z)
    # Raw rows only serve to name bad values; the caller does that from the whole tile.
    return Tile(tile.start + first, Z, Z, pick(tile.target), pick(tile.weight))
