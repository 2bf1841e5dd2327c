"""What reductions share that keep numbers for each row: the costs of errors, and who keeps the numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from nysstream.arrays import namespace, to_host
from nysstream.errors import InputError
from nysstream.streaming.reduction import (
    Array,
    Part,
    Reduction,
    Tile,
    accumulate,
    cast,
    column_sums,
    multiply_back,
    zero_product,
)
from nysstream.streaming.rowstate import RowState

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.arrays import Device
    from nysstream.losses.base import Kinked
    from nysstream.streaming.design import DesignMatrix
    from nysstream.streaming.labels import Labels

#: Under which a tile's numbers come back, followed by its first row.
_ROWS = "rows-"


@dataclass(frozen=True, eq=False)
class Costs:
    r"""What an error costs in every row and column: a factor times a loss.

    Parameters
    ----------
    loss : Kinked
        Linear on either side, and flat between; the conjugate is positively homogeneous by sign.
    factors : ndarray, shape (c, k) or (1, k)
        For the rows of each class; zero where a column does not see them.
    labels : Labels, optional
        Of classes; their weights are not looked at, but are part of the factors.
    targets : ndarray, shape (c, k), optional
        What the rows of each class are to be; without it, and without labels, the targets themselves: one for
        all columns, or one for each.
    """

    loss: Kinked
    factors: NDArray[np.float64]
    labels: Labels | None = None
    targets: NDArray[np.float64] | None = None

    @property
    def n_columns(self) -> int:
        """Predictors."""
        return int(self.factors.shape[1])

    def of(self, tile: Tile) -> tuple[Array, Array]:
        """Give the factors, (t, k) or (1, k), and the targets, (t, k) or (t, 1), of a tile."""
        assert tile.target is not None
        xp, place = namespace(tile.target), getattr(tile.target, "device", None)
        factors = xp.asarray(self.factors, device=place)
        if self.labels is None:
            return factors, tile.target
        assert self.targets is not None
        codes = xp.astype(self.labels.codes(tile.target)[:, 0], xp.int64)
        targets = xp.asarray(self.targets, device=place)
        return xp.take(factors, codes, axis=0), xp.take(targets, codes, axis=0)


class RowStep(Reduction):
    """A reduction that reads numbers of every row, gives new ones, and sums multipliers by sign.

    The new numbers go into ``after``, where tasks run in this process; else they come back with the sums.
    """

    #: Names of further sums of columns, each of shape (k,).
    further_sums: ClassVar[tuple[str, ...]] = ()

    needs_target = True
    reads_target = True
    reads_stored = False
    costs: Costs
    vectors: NDArray[np.float64]
    intercept: NDArray[np.float64]
    after: RowState | None

    @property
    def n_numbers(self) -> int:
        """Numbers of each row."""
        return self.costs.n_columns

    def check(self, design: DesignMatrix) -> None:
        """Refuse a design without targets, and vectors of another shape."""
        super().check(design)
        p, k = design.shape[1], self.costs.n_columns
        if self.vectors.shape != (p, k) or self.intercept.shape != (k,):
            message = (
                f"vectors have shape {self.vectors.shape}, intercepts {self.intercept.shape}: this design "
                f"and these costs need ({p}, {k}) and ({k},)"
            )
            raise InputError(message)

    def part_bytes(self, design: DesignMatrix) -> int:
        """Count the products, and the rows' numbers where they come back."""
        rows = 0 if self.after is not None else 8 * design.shape[0] * self.n_numbers
        return super().part_bytes(design) + rows

    def start(self, design: DesignMatrix, device: Device) -> Part:
        """Begin with zeros."""
        k, width = self.costs.n_columns, self.n_columns(design)
        sums = ("loss", "conjugate-above", "conjugate-below", *self.further_sums)
        return {
            "products": zero_product(design, device, width),
            "totals": device.zeros((width,), np.float64),
            "support": np.zeros(1),
            **{name: device.zeros((k,), np.float64) for name in sums},
        }

    def read(self, before: RowState, tile: Tile, device: Device) -> Array:
        """Read the numbers of a tile's rows."""
        n_rows = tile.Z.shape[0]
        return device.put(before.read(slice(tile.start, tile.start + n_rows)))

    def hand_over(self, part: Part, tile: Tile, numbers: Array) -> None:
        """Give the new numbers of a tile's rows."""
        if self.after is not None:
            self.after.write(tile.start, to_host(numbers))
        else:
            part[f"{_ROWS}{tile.start:020d}"] = to_host(numbers)

    def gather(
        self,
        part: Part,
        tile: Tile,
        known: tuple[Array, Array],
        fitted: Array,
        multiplier: Array,
        copy: Array,
        values: dict[str, Array],
        back: list[Array],
    ) -> Array:
        """Add what a tile has told.

        Parameters
        ----------
        part : Part
        tile : Tile
        known : tuple of array
            Factors and targets of the tile, as :class:`Costs` gives them.
        fitted : array, shape (t, k)
            Predictors, at which errors are counted.
        multiplier, copy : array, shape (t, k)
            Slopes of the costs, and where the costs have them.
        values : dict of str to array, shape (t, k)
            What the further sums are of.
        back : list of array, shape (t, k)
            What the rows are multiplied with, beside the multipliers by sign, which come first.

        Returns
        -------
        array, shape (t, n_columns)
            What they were multiplied with, weights included.
        """
        loss, (factors, y) = self.costs.loss, known
        xp = namespace(multiplier)
        zeros = xp.zeros_like(multiplier)
        up, down = multiplier > 0, multiplier < 0
        # Where the costs have these slopes, the inequality of Fenchel and Young is an equation.
        conjugate = multiplier * copy - factors * loss.value(copy, y)
        sides = [xp.where(up, multiplier, zeros), xp.where(down, -multiplier, zeros)]
        values = values | {
            "loss": factors * loss.value(fitted, y),
            "conjugate-above": xp.where(up, conjugate, zeros),
            "conjugate-below": xp.where(down, conjugate, zeros),
        }
        T = xp.concat([*sides, *back], axis=1)
        if tile.weight is not None:
            weight = tile.weight[:, None]
            T, values = weight * T, {name: weight * x for name, x in values.items()}
        for name, x in values.items():
            part[name] = part[name] + column_sums(x)
        part["support"] += _supporting(multiplier, tile.weight)
        part["totals"] = part["totals"] + column_sums(T)
        part["products"] = accumulate(part["products"], multiply_back(tile.Z, cast(T, tile.Z.dtype)))
        return T

    def combine(self, a: Part, b: Part) -> Part:
        """Add the sums, and keep the rows of both."""
        return a | {name: a[name] + value if name in a else value for name, value in b.items()}

    def collected(self, design: DesignMatrix, part: Part) -> RowState:
        """Give the new numbers of all rows."""
        if self.after is not None:
            return self.after
        rows = RowState((design.shape[0], self.n_numbers))
        for name in sorted(name for name in part if name.startswith(_ROWS)):
            rows.write(int(name[len(_ROWS) :]), part[name])
        return rows


@dataclass(frozen=True, eq=False)
class Multipliers:
    r"""Sums over multipliers :math:`\lambda_i`, slopes of the rows' costs, by their sign.

    Attributes
    ----------
    above, below : ndarray, shape (p, k)
        Products of the rows with the positive ones, and with the sizes of the negative ones.
    total_above, total_below : ndarray, shape (k,)
    conjugate_above, conjugate_below : ndarray, shape (k,)
        Sums of the costs' conjugates.
    """

    above: NDArray[np.float64]
    below: NDArray[np.float64]
    total_above: NDArray[np.float64]
    total_below: NDArray[np.float64]
    conjugate_above: NDArray[np.float64]
    conjugate_below: NDArray[np.float64]

    @classmethod
    def of(cls, part: Part, products: NDArray[np.float64], k: int) -> Multipliers:
        """Find them among the sums and products of a pass, where they come first."""
        sides = products[:, :k], products[:, k : 2 * k], part["totals"][:k], part["totals"][k : 2 * k]
        return cls(*sides, part["conjugate-above"], part["conjugate-below"])

    @property
    def product(self) -> NDArray[np.float64]:
        """Product of the rows with all multipliers, (p, k)."""
        return np.asarray(self.above - self.below)

    @property
    def total(self) -> NDArray[np.float64]:
        """Sum of the multipliers, (k,)."""
        return np.asarray(self.total_above - self.total_below)

    def feasible(self, *, zero_sum: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Give a dual point near the multipliers: its coefficients, (p, k), and sums of conjugates, (k,).

        Where their sum must be zero, those of the sign that prevails shrink. Conjugates shrink along, since
        they are positively homogeneous.
        """
        above = below = np.ones_like(self.total_above)
        if zero_sum:
            total = np.minimum(self.total_above, self.total_below)
            above, below = (
                np.divide(total, side, out=np.zeros_like(total), where=side > 0)
                for side in (self.total_above, self.total_below)
            )
        conjugate = above * self.conjugate_above + below * self.conjugate_below
        return below * self.below - above * self.above, conjugate


def _supporting(multiplier: Array, weight: Array | None) -> float:
    """Count the rows of positive weight that have a multiplier other than zero in any column."""
    xp = namespace(multiplier)
    rows = xp.any(multiplier != 0, axis=1)
    rows = rows if weight is None else rows & (weight > 0)
    return float(xp.sum(xp.astype(rows, xp.float64)))
