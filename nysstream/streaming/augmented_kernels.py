"""The reduction of the augmented Lagrangian: losses with kinks, their multipliers, and Newton's matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.arrays import namespace
from nysstream.streaming.kernels import rescale, unscale
from nysstream.streaming.panels import (
    TALL_ROWS,
    add_products,
    empty_panels,
    hessian,
    panel_bytes,
    panel_work_bytes,
)
from nysstream.streaming.reduction import Part, Tile, cast
from nysstream.streaming.row_steps import Costs, Multipliers, RowStep

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.arrays import Device
    from nysstream.streaming.design import DesignMatrix
    from nysstream.streaming.rowstate import RowState

Matrix = Any  # ndarray, shape (p, k)
Vector = Any  # ndarray, shape (k,)

#: Lengths of steps whose value is looked at, as shares of the whole one, which comes first.
LENGTHS = (1.0, 0.7, 0.5, 0.35, 0.25, 0.15, 0.08, 0.04, 0.02, 0.01)
#: What their sums are called.
_ENVELOPES = tuple(f"envelope-{i}" for i in range(len(LENGTHS)))
#: A multiplier this close to the end of its range is at the end, relative to what it is a difference of.
_AT_END = 1e-14


@dataclass(frozen=True, eq=False)
class AugmentedSums:
    r"""What one pass tells about coefficients under the multipliers so far, and under new ones.

    Attributes
    ----------
    loss : ndarray, shape (k,)
        Weighted sums of the costs.
    multipliers : Multipliers
        Slopes of the envelopes under the multipliers so far.
    envelopes : ndarray, shape (lengths, k)
        Sums of the envelopes under the multipliers so far, at shorter steps too.
    envelope : ndarray, shape (k,)
        The same under the new multipliers, as is what follows.
    gradient, total : ndarray, shape (p, k) and (k,)
        Product of the rows with the envelopes' slopes, and their sum.
    cross : ndarray, shape (p, k)
    curvature : ndarray, shape (k,)
        Mixed and second derivatives with respect to the intercepts; of the latter no less than was asked for.
    hessians : dict of int to ndarray, shape (p, p)
        With the intercepts eliminated.
    n_support : int
    rows : RowState
    """

    loss: Vector
    multipliers: Multipliers
    envelopes: NDArray[np.float64]
    envelope: Vector
    gradient: Matrix
    total: Vector
    cross: Matrix
    curvature: Vector
    hessians: dict[int, NDArray[np.float64]]
    n_support: int
    rows: RowState


@dataclass(frozen=True, eq=False)
class AugmentedStep(RowStep):
    r"""Evaluate the costs' envelopes at coefficients, and move the multipliers on.

    With predictors :math:`a = \tilde X w + b`, the rows' factors c and scaled multipliers u, the envelope is
    :math:`\min_s c\, \ell(s) + \tfrac\sigma2 (a + u - s)^2`, its slope :math:`\lambda = \sigma (a + u - s)`.
    Where multipliers are to be updated, :math:`\lambda` takes the place of :math:`\sigma u`.

    Parameters
    ----------
    costs : Costs
    vectors : ndarray, shape (p, k)
    intercept : ndarray, shape (k,)
    directions : ndarray, shape (p, k)
        Steps that led to the vectors; zero where their length is settled.
    direction_intercept : ndarray, shape (k,)
    sigma, next_sigma : ndarray, shape (k,)
        Penalty parameters of the multipliers so far, and of new ones.
    update : ndarray of bool, shape (k,)
        Columns whose multipliers are updated; the others must have the same parameter twice.
    least : ndarray, shape (k,)
        Lower bound of the intercepts' curvature.
    fit_intercept : bool
    hessians : tuple of int
        Columns whose matrices are summed.
    before : RowState, optional
        Two scaled multipliers for each row and column, those before and after the last pass; zeros without.
    chosen : ndarray of bool, shape (k,)
        Columns that go on with those after it.
    number : int
        Of the pass, by which journals tell it from others: the numbers of the rows follow from those before.
    after : RowState, optional
        Takes the new multipliers, where tasks run in this process.

    Notes
    -----
    Result: :class:`AugmentedSums`. Arithmetic: ``12 n p k`` flops, and ``m p^2`` for the m rows of each
    column whose multipliers are inside their range; ``32 k`` bytes of each row's state are read and written.
    """

    costs: Costs
    vectors: Matrix
    intercept: Vector
    directions: Matrix
    direction_intercept: Vector
    sigma: Vector
    next_sigma: Vector
    update: NDArray[np.bool_]
    least: Vector
    fit_intercept: bool
    hessians: tuple[int, ...]
    before: RowState | None
    chosen: NDArray[np.bool_]
    number: int = 0
    after: RowState | None = None
    further_sums = (*_ENVELOPES, "envelope")

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        arrays = (self.vectors, self.intercept, self.directions, self.direction_intercept, self.sigma)
        choices = (self.next_sigma, self.update, self.least, self.chosen, self.hessians, self.fit_intercept)
        return ("augmented", self.costs, *arrays, *choices, self.number)

    @property
    def n_numbers(self) -> int:
        """Multipliers before and after."""
        return 2 * self.costs.n_columns

    def n_columns(self, design: DesignMatrix) -> int:
        """Four per vector: multipliers of either sign, slopes, and curvatures."""
        return 4 * self.costs.n_columns

    def tall_rows(self, design: DesignMatrix) -> int:
        """Ask for taller tiles where whole matrices are added once per tile."""
        return TALL_ROWS if self.hessians else super().tall_rows(design)

    def part_bytes(self, design: DesignMatrix) -> int:
        """Count the products, the matrices, and the rows' numbers where they come back."""
        return super().part_bytes(design) + len(self.hessians) * panel_bytes(design.shape[1])

    def work_bytes(self, design: DesignMatrix, tile_rows: int) -> int:
        """Count what envelopes make of a tile, in float64, and the rows of a matrix."""
        p, k = design.shape[1], self.costs.n_columns
        inside = design.dtype.itemsize * tile_rows * p
        panels = panel_work_bytes(design, tile_rows) + inside if self.hessians else 0
        return super().work_bytes(design, tile_rows) + 32 * 8 * tile_rows * k + panels

    def prepare(self, design: DesignMatrix, device: Device) -> tuple[Any, ...]:
        """Send vectors and constants to the device."""
        scaled, offset = unscale(design, np.hstack([self.vectors, self.directions]))
        constant = np.concatenate([self.intercept, self.direction_intercept])
        constant = constant if offset is None else constant - offset
        sent = (constant, self.sigma[None, :], self.next_sigma[None, :])
        masks = (self.update[None, :], self.chosen[None, :])
        return device, device.put(scaled.astype(design.dtype)), *(device.put(x) for x in (*sent, *masks))

    def start(self, design: DesignMatrix, device: Device) -> Part:
        """Begin with zeros."""
        part = super().start(design, device)
        for j in self.hessians:
            part |= empty_panels(design.shape[1], device, f"{j}:gram")
        return part

    def add(self, part: Part, tile: Tile, prepared: tuple[Any, ...]) -> Part:
        """Evaluate the envelopes at a tile, and multiply slopes and curvatures back."""
        device, vectors, constant, sigma, next_sigma, update, chosen = prepared
        k, loss = self.costs.n_columns, self.costs.loss
        fitted = tile.Z @ vectors
        xp = namespace(constant)
        z = cast(fitted, xp.float64) + constant[None, :]
        a, step = z[:, :k], z[:, k:]
        factors, y = self.costs.of(tile)
        if self.before is None:
            u = xp.zeros_like(a)
        else:
            kept = self.read(self.before, tile, device)
            u = xp.where(chosen, kept[:, k:], kept[:, :k])

        def envelope(v: Any, s: Any, sigma: Any) -> Any:
            return factors * loss.value(s, y) + 0.5 * sigma * (v - s) ** 2

        values = {}
        for name, length in zip(_ENVELOPES[1:], LENGTHS[1:], strict=True):
            v = a + (length - 1.0) * step + u
            values[name] = envelope(v, loss.prox(v, factors / sigma, y), sigma)
        v = a + u
        copy = loss.prox(v, factors / sigma, y)
        multiplier = sigma * (v - copy)
        values[_ENVELOPES[0]] = envelope(v, copy, sigma)
        new = xp.where(update, multiplier / next_sigma, u)
        self.hand_over(part, tile, xp.concat([u, new], axis=1))
        v = a + new
        s = loss.prox(v, factors / next_sigma, y)
        slope = next_sigma * (v - s)
        (least, most), rounding = loss.slopes, _AT_END * next_sigma * (xp.abs(v) + xp.abs(s))
        free = (slope != 0) & (slope > least * factors + rounding) & (slope < most * factors - rounding)
        curvature = xp.where(free, next_sigma + xp.zeros_like(a), xp.zeros_like(a))
        values["envelope"] = envelope(v, s, next_sigma)
        T = self.gather(part, tile, (factors, y), a, multiplier, copy, values, [slope, curvature])
        for j in self.hessians:
            weight = T[:, 3 * k + j]
            (rows,) = xp.nonzero(weight > 0)
            if rows.shape[0]:
                Z = tile.Z[rows] if hasattr(tile.Z, "indptr") else xp.take(tile.Z, rows, axis=0)
                add_products(part, Z, cast(xp.take(weight, rows), fitted.dtype), f"{j}:gram")
        return part

    def finish(self, design: DesignMatrix, part: Part) -> AugmentedSums:
        """Take off the means and scale; eliminate the intercepts from the matrices."""
        k = self.costs.n_columns
        products = rescale(design, part["products"], part["totals"])
        gradient, cross = products[:, 2 * k : 3 * k], products[:, 3 * k :]
        total, curvature = part["totals"][2 * k : 3 * k], part["totals"][3 * k :]
        at_least = np.maximum(curvature, self.least)
        hessians = {}
        for j in self.hessians:
            c, total_j = part["products"][:, 3 * k + j], curvature[j]
            full = hessian(part, design, c, total_j, fit_intercept=self.fit_intercept, name=f"{j}:gram")
            if self.fit_intercept and curvature[j] > 0:
                # What the lower bound of the curvature leaves of them.
                full += np.outer(cross[:, j] * (1 / curvature[j] - 1 / at_least[j]), cross[:, j])
            hessians[j] = full
        return AugmentedSums(
            part["loss"],
            Multipliers.of(part, products, k),
            np.stack([part[name] for name in _ENVELOPES]),
            part["envelope"],
            gradient,
            total,
            cross,
            at_least,
            hessians,
            int(part["support"][0]),
            self.collected(design, part),
        )
