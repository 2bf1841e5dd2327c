"""Folds: which rows cross-validation holds out together."""

from __future__ import annotations

import numbers
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nysstream.errors import InputError
from nysstream.sources import RowSource, as_source

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.streaming.design import DesignMatrix
    from nysstream.streaming.partition import Partition
    from nysstream.streaming.reduction import Tile

_MAX_SEED = 1 << 64
_MOST_FOLDS = 1 << 16


class Folds(ABC):
    """A rule that puts every row into one of ``n_splits`` folds.

    The fold of a row depends on the row alone, not on how the rows are chunked or read. Instances
    are small and picklable: tasks carry the rule, not the folds of all rows.
    """

    n_splits: int

    #: Whether neighbouring rows belong to different folds.
    scattered: ClassVar[bool] = True

    def check(self, n_rows: int) -> None:
        """Refuse a number of rows that the rule does not fit, before anything is read.

        Raises
        ------
        InputError
        """
        if not 2 <= self.n_splits <= n_rows:
            message = (
                f"n_splits={self.n_splits} folds of n_samples={n_rows} rows: there must be at least two "
                "folds, and at most as many as rows"
            )
            raise InputError(message)

    @abstractmethod
    def of_rows(self, rows: slice, n_rows: int) -> NDArray[np.int64]:
        """Give the folds of a run of rows among ``n_rows``, ndarray of shape (stop - start,)."""

    @property
    def row_bytes(self) -> int:
        """Bytes per row, the folds themselves included, while :meth:`of_rows` runs."""
        return 16


@dataclass(frozen=True)
class ContiguousFolds(Folds):
    """Runs of consecutive rows, of sizes that differ by one at most: scikit-learn's ``KFold``.

    Parameters
    ----------
    n_splits : int
    """

    n_splits: int = 5
    scattered: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_count(self.n_splits)

    def of_rows(self, rows: slice, n_rows: int) -> NDArray[np.int64]:
        """Count the folds that end at or before each row."""
        sizes = np.full(self.n_splits, n_rows // self.n_splits)
        sizes[: n_rows % self.n_splits] += 1
        return np.searchsorted(np.cumsum(sizes), np.arange(rows.start, rows.stop), side="right")


@dataclass(frozen=True)
class HashedFolds(Folds):
    """Rows dealt at random, by a hash of the row's number.

    For rows stored in an order that means something, such as sorted by the target. Folds have
    about equal sizes.

    Parameters
    ----------
    n_splits : int
    seed : int
    """

    n_splits: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        _check_count(self.n_splits)
        _check_seed(self.seed)

    def of_rows(self, rows: slice, n_rows: int) -> NDArray[np.int64]:
        """Hash the numbers of the rows."""
        return _deal(np.arange(rows.start, rows.stop, dtype=np.uint64), self.n_splits, self.seed)


@dataclass(frozen=True, eq=False)
class GroupedFolds(Folds):
    """Groups of rows dealt at random, by a hash of the group: no group is ever split.

    Parameters
    ----------
    n_splits : int
    groups : RowSource or array-like, shape (n,)
        Numbers that are equal for the rows of a group, such as a customer or a day; read beside
        the rows in every pass.
    seed : int

    Notes
    -----
    Groups of very unequal sizes make folds of unequal sizes.
    """

    n_splits: int
    groups: RowSource
    seed: int = 0

    def __post_init__(self) -> None:
        _check_count(self.n_splits)
        _check_seed(self.seed)
        object.__setattr__(self, "groups", _vector("groups", self.groups))

    def check(self, n_rows: int) -> None:
        """Refuse groups of another number of rows."""
        super().check(n_rows)
        _check_rows("groups", self.groups, n_rows)

    def of_rows(self, rows: slice, n_rows: int) -> NDArray[np.int64]:
        """Hash the groups of the rows."""
        groups: Any = self.groups.read(rows)[:, 0]
        if groups.dtype.kind == "f":
            if not np.isfinite(groups).all():
                row = rows.start + int(np.argmin(np.isfinite(groups)))
                message = (
                    f"the group of row {row} in {self.groups.name} is not finite; give every row a group"
                )
                raise InputError(message)
            groups = (groups.astype(np.float64) + 0.0).view(np.uint64)  # both zeros are one group
        else:
            groups = groups.astype(np.int64).view(np.uint64)
        return _deal(groups, self.n_splits, self.seed)

    @property
    def row_bytes(self) -> int:
        """Count the groups beside the hashes."""
        return 32


@dataclass(frozen=True, eq=False)
class GivenFolds(Folds):
    """Folds given row by row.

    Parameters
    ----------
    folds : RowSource or array-like, shape (n,)
        Whole numbers from 0 to ``n_splits - 1``.
    n_splits : int, optional
        By default one more than the largest number, which must be in memory.
    """

    folds: RowSource
    n_splits: int = 0

    def __post_init__(self) -> None:
        source = _vector("folds", self.folds)
        object.__setattr__(self, "folds", source)
        if self.n_splits == 0:
            if not source.resident:
                message = f"{source.name} is not in memory: say how many folds there are, n_splits="
                raise InputError(message)
            # Numbers that are no folds are named when their rows are read.
            largest = np.nanmax(np.asarray(source.read(slice(0, source.shape[0]))), initial=1)
            object.__setattr__(self, "n_splits", int(min(largest, _MOST_FOLDS - 2)) + 1)
        _check_count(self.n_splits)

    def check(self, n_rows: int) -> None:
        """Refuse folds of another number of rows."""
        super().check(n_rows)
        _check_rows("folds", self.folds, n_rows)

    def of_rows(self, rows: slice, n_rows: int) -> NDArray[np.int64]:
        """Read the folds of the rows."""
        given: Any = self.folds.read(rows)[:, 0]
        with np.errstate(invalid="ignore"):  # NaN is no fold, whatever it is cast to
            found: NDArray[np.int64] = given.astype(np.int64)
        wrong = np.flatnonzero((found != given) | (found < 0) | (found >= self.n_splits))
        if wrong.size:
            message = (
                f"the fold of row {rows.start + int(wrong[0])} in {self.folds.name} is {given[wrong[0]]}; "
                f"give whole numbers from 0 to {self.n_splits - 1}"
            )
            raise InputError(message)
        return found


class RowFolds:
    """The folds of a design's rows, worked out once per partition by the task that runs it."""

    def __init__(self, folds: Folds, design: DesignMatrix) -> None:
        self._folds = folds
        self._partitions: tuple[Partition, ...] = design.partitions
        self._n_rows = design.shape[0]
        self._rows = slice(0, 0)
        self._found = np.empty(0, np.int64)

    def of_tile(self, tile: Tile) -> NDArray[np.int64]:
        """Give the folds of the rows of a tile, on the host."""
        if not self._rows.start <= tile.start < self._rows.stop:
            self._rows = next(p.rows for p in self._partitions if p.rows.stop > tile.start)
            self._found = self._folds.of_rows(self._rows, self._n_rows)
        first = tile.start - self._rows.start
        found: NDArray[np.int64] = self._found[first : first + tile.Z.shape[0]]
        return found

    @staticmethod
    def nbytes(folds: Folds, design: DesignMatrix) -> int:
        """Bytes for the longest partition."""
        longest: int = max(p.rows.stop - p.rows.start for p in design.partitions)
        return folds.row_bytes * longest


def _deal(keys: NDArray[np.uint64], n_splits: int, seed: int) -> NDArray[np.int64]:
    """Hash 64-bit keys to folds, by the finaliser of SplitMix64 on the key and the seed."""
    x = keys + np.uint64((int(seed) * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % _MAX_SEED)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    x ^= x >> np.uint64(31)
    # The upper half, scaled: a remainder would use the lower bits alone.
    return (((x >> np.uint64(32)) * np.uint64(n_splits)) >> np.uint64(32)).astype(np.int64)


def _vector(name: str, values: Any) -> RowSource:
    source = as_source(values if hasattr(values, "shape") else np.asarray(values))
    if source.shape[1] != 1 or source.sparse:
        message = f"{name} has shape {source.shape}; give one number per row"
        raise InputError(message)
    return source


def _check_count(n_splits: Any) -> None:
    whole = isinstance(n_splits, numbers.Integral) and not isinstance(n_splits, bool)
    if not whole or not 2 <= int(n_splits) < _MOST_FOLDS:
        message = f"n_splits={n_splits!r}: give a whole number of folds, at least 2"
        raise InputError(message)


def _check_seed(seed: Any) -> None:
    whole = isinstance(seed, numbers.Integral) and not isinstance(seed, bool)
    if not whole or not 0 <= int(seed) < _MAX_SEED:
        message = f"seed={seed!r}: give a whole number from 0 to 2**64 - 1"
        raise InputError(message)


def _check_rows(name: str, source: RowSource, n_rows: int) -> None:
    if source.shape[0] != n_rows:
        message = f"{source.name} holds {name} for {source.shape[0]} rows, the data have {n_rows}"
        raise InputError(message)
