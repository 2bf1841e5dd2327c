"""The pass of regression with an unknown scale: Huber's loss, its derivatives in coefficients and scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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
from nysstream.streaming.reduction import Array, Part, Reduction, Tile, accumulate, cast

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.arrays import Device
    from nysstream.streaming.design import DesignMatrix

    Vector = NDArray[np.float64]
    Block = NDArray[np.float64]

_SUMS = ("weight", "inside", "squares", "residuals", "sizes", "slope", "inner", "target", "n_outside")


@dataclass(frozen=True, eq=False)
class ScaleSums(Reduction):
    r"""Sums that give Huber's loss with a scale, :math:`\sum_i h_i \sigma (1 + H_\epsilon(r_i / \sigma))`.

    :math:`H_\epsilon(t)` is :math:`t^2` up to :math:`\epsilon` and :math:`2 \epsilon |t| - \epsilon^2`
    beyond; residuals :math:`r = \tilde x^\top w + b - y` with the centred and scaled design.

    Parameters
    ----------
    vector : ndarray, shape (p,)
    intercept : float
    scale : float
        :math:`\sigma`, positive.
    epsilon : float
    fit_intercept : bool
        Whether the Hessian is that of the minimum over the intercept.

    Notes
    -----
    Result: :class:`ScaleValues`. Arithmetic: ``n p^2 + 10 n p`` flops.
    """

    vector: Vector
    intercept: float
    scale: float
    epsilon: float
    fit_intercept: bool = True
    needs_target = True
    reads_target = True
    reads_stored = False

    def n_columns(self, design: DesignMatrix) -> int:
        """Three: the gradient, and the sums over rows that are no outliers, also times residuals."""
        return 3

    def tall_rows(self, design: DesignMatrix) -> int:
        """Ask for taller tiles: the Hessian is added once per tile."""
        return TALL_ROWS

    def part_bytes(self, design: DesignMatrix) -> int:
        """Count products and the Hessian."""
        return int(super().part_bytes(design) + panel_bytes(design.shape[1]))

    def work_bytes(self, design: DesignMatrix, tile_rows: int) -> int:
        """Count residuals in several forms, and a panel."""
        panels = panel_work_bytes(design, tile_rows)
        return super().work_bytes(design, tile_rows) + 12 * 8 * tile_rows + panels

    def prepare(self, design: DesignMatrix, device: Device) -> tuple[Array, float]:
        """Send the vector to the device."""
        scaled, offset = unscale(design, self.vector[:, None])
        constant = self.intercept if offset is None else self.intercept - float(offset[0])
        return device.put(scaled.astype(design.dtype)), constant

    def start(self, design: DesignMatrix, device: Device) -> Part:
        """Begin with zeros."""
        p = design.shape[1]
        sums = {name: device.zeros((1,), np.float64) for name in _SUMS}
        return {"products": device.zeros((p, 3), np.float64), **sums, **empty_panels(p, device)}

    def add(self, part: Part, tile: Tile, prepared: tuple[Array, float]) -> Part:
        """Form the residuals of the tile, tell outliers, and multiply back."""
        vector, constant = prepared
        fitted = tile.Z @ vector
        assert tile.target is not None
        y = tile.target[:, 0]
        xp = namespace(y)
        r = cast(fitted, xp.float64)[:, 0] + constant - y
        h = xp.ones_like(r) if tile.weight is None else tile.weight
        r = xp.where(h > 0, r, xp.zeros_like(r))  # rows without weight may hold anything
        inside = xp.abs(r) <= self.epsilon * self.scale
        zero = xp.zeros_like(r)
        bound = 2 * self.epsilon
        psi = xp.where(inside, 2 * r / self.scale, xp.where(r > 0, bound + zero, zero - bound))
        hin, hpsi = xp.where(inside, h, zero), h * psi
        values = {
            "weight": h,
            "inside": hin,
            "squares": hin * r * r,
            "residuals": hin * r,
            "sizes": xp.where(inside, zero, h * xp.abs(r)),
            "slope": hpsi,
            "inner": hpsi * xp.where(h > 0, y, zero),
            "target": xp.where(h > 0, h * y, zero),
            "n_outside": xp.astype(~inside & (h > 0), xp.float64),
        }
        for name, column in values.items():
            part[name] = part[name] + xp.sum(column)
        T = xp.stack([hpsi, hin, hin * r], axis=1)
        part["products"] = accumulate(part["products"], tile.Z.T @ cast(T, fitted.dtype))
        add_products(part, tile.Z, cast(hin, fitted.dtype))
        return part

    def finish(self, design: DesignMatrix, part: Part) -> ScaleValues:
        """Take off the means and scale; eliminate the intercept from the Hessian."""
        s = {name: float(part[name][0]) for name in _SUMS}
        totals = np.array([s["slope"], s["inside"], s["residuals"]])
        raw = part["products"]
        gram = hessian(part, design, raw[:, 1], s["inside"], fit_intercept=self.fit_intercept)
        products = rescale(design, raw, totals)
        return ScaleValues(products[:, 0], products[:, 1], products[:, 2], gram, s)


@dataclass(frozen=True, eq=False)
class ScaleValues:
    """What :class:`ScaleSums` gives.

    Attributes
    ----------
    gradient : ndarray, shape (p,)
        Of the loss in the coefficients.
    inside, residuals : ndarray, shape (p,)
        Products of the design with ones, and with residuals, over rows that are no outliers.
    gram : ndarray, shape (p, p)
        Of the rows that are no outliers, less what the intercept takes on.
    sums : dict of str to float
        ``weight`` of all rows, and ``inside`` that of rows that are no outliers; their ``squares`` and
        ``residuals``; ``sizes`` of the outliers' residuals; the ``slope``, derivative by the intercept; the
        ``inner`` product of slopes and targets; the ``target``; the count ``n_outside``.
    """

    gradient: Vector
    inside: Vector
    residuals: Vector
    gram: Block
    sums: dict[str, float]
