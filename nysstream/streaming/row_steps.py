"""What reductions share that keep numbers for each row: the costs of errors, and who keeps the numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.arrays import namespace, to_host
from nysstream.errors import InputError
from nysstream.streaming.reduction import Array, Part, Reduction, Tile
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
        The hinge or the :math:`\epsilon`-insensitive loss: flat, and linear with slopes up to one beyond a
        kink.
    factors : ndarray, shape (c, k) or (1, k)
        For the rows of each class; zero where a column does not see them.
    labels : Labels, optional
        Of classes; their weights are not looked at, but are part of the factors.
    targets : ndarray, shape (c, k), optional
        What the rows of each class are to be; without it, and without labels, the target itself.
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
            return factors, tile.target[:, :1]
        assert self.targets is not None
        codes = xp.astype(self.labels.codes(tile.target)[:, 0], xp.int64)
        targets = xp.asarray(self.targets, device=place)
        return xp.take(factors, codes, axis=0), xp.take(targets, codes, axis=0)


class RowStep(Reduction):
    """A reduction that reads numbers of every row, and gives new ones.

    The new numbers go into ``after``, where tasks run in this process; else they come back with the sums.
    """

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


def by_sign(costs: Costs, multiplier: Array, copy: Array, factors: Array, y: Array) -> tuple[Array, ...]:
    """Split multipliers by sign: give both parts, and the conjugates that belong to each.

    ``copy`` is where the costs have these slopes: there the inequality of Fenchel and Young is an equation.
    """
    xp = namespace(multiplier)
    zeros = xp.zeros_like(multiplier)
    conjugate = multiplier * copy - factors * costs.loss.value(copy, y)
    up, down = multiplier > 0, multiplier < 0
    return (
        xp.where(up, multiplier, zeros),
        xp.where(down, -multiplier, zeros),
        xp.where(up, conjugate, zeros),
        xp.where(down, conjugate, zeros),
    )


def weighed(weight: Array | None, values: dict[str, Any]) -> dict[str, Any]:
    """Multiply columns by the rows' weights."""
    return values if weight is None else {name: weight[:, None] * x for name, x in values.items()}


def supporting(multiplier: Array, weight: Array | None) -> float:
    """Count the rows of positive weight that have a multiplier other than zero in any column."""
    xp = namespace(multiplier)
    rows = xp.any(multiplier != 0, axis=1)
    rows = rows if weight is None else rows & (weight > 0)
    return float(xp.sum(xp.astype(rows, xp.float64)))
