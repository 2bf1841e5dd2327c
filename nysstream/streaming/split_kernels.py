"""The reduction of operator splitting: losses with kinks, and a number for each row and column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.arrays import namespace
from nysstream.streaming.kernels import rescale, unscale
from nysstream.streaming.reduction import Part, Tile, cast
from nysstream.streaming.row_steps import Costs, Multipliers, RowStep
from nysstream.streaming.rowstate import RowState

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.arrays import Device
    from nysstream.streaming.design import DesignMatrix

Matrix = Any  # ndarray, shape (p, k)
Vector = Any  # ndarray, shape (k,)


@dataclass(frozen=True, eq=False)
class SplitSums:
    """What one pass tells about coefficients, and about the multipliers that it has made of them.

    Attributes
    ----------
    loss : ndarray, shape (k,)
        Weighted sums of the costs, at the coefficients of the pass.
    multipliers : Multipliers
    apart : ndarray, shape (p, k)
        Product of the rows with the differences of predictors and copies.
    total_apart : ndarray, shape (k,)
    norms : ndarray, shape (4, k)
        Of the differences, of the copies about the intercept, of their last move, and of the scaled
        multipliers.
    n_support : int
        Rows of positive weight with a multiplier other than zero in any column.
    rows : RowState
        Numbers for each row with which the next pass begins.
    """

    loss: Vector
    multipliers: Multipliers
    apart: Matrix
    total_apart: Vector
    norms: NDArray[np.float64]
    n_support: int
    rows: RowState


@dataclass(frozen=True, eq=False)
class SplitStep(RowStep):
    r"""Evaluate the costs at coefficients, and move the rows' copies and multipliers on.

    For predictors :math:`a = \tilde X w + b`, and with the rows' factors c, copies and scaled multipliers are

    .. math:: v = \alpha a + (1 - \alpha) s + u, \qquad s = \mathrm{prox}_{c \ell / \sigma}(v), \qquad
        u = v - s

    so that v alone has to be kept. The metric are the rows' weights: a row of weight two is two rows.

    Parameters
    ----------
    costs : Costs
    vectors : ndarray, shape (p, k)
    intercept : ndarray, shape (k,)
    sigma : float
        Penalty parameter; multipliers are :math:`\lambda = \sigma u`.
    before : RowState or ndarray of shape (k,)
        The v of the last pass; the same for all rows before the first.
    sigma_before : float
        What that was made with.
    relaxation : float
        The :math:`\alpha` above.
    number : int
        Of the pass, by which journals tell it from others: the numbers of the rows follow from those before.
    after : RowState, optional
        Takes the new v, where tasks run in this process.

    Notes
    -----
    Result: :class:`SplitSums`. Arithmetic: ``8 n p k`` flops, the loss and its proximal operator at every
    row; ``16 k`` bytes of state for each row are read and written.
    """

    costs: Costs
    vectors: Matrix
    intercept: Vector
    sigma: float
    before: RowState | NDArray[np.float64]
    sigma_before: float
    relaxation: float = 1.0
    number: int = 0
    after: RowState | None = None
    further_sums = ("apart", "copies", "moved", "scaled")

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        constants = (self.sigma, self.sigma_before, self.relaxation, self.number)
        return ("split", self.costs, self.vectors, self.intercept, *constants)

    def n_columns(self, design: DesignMatrix) -> int:
        """Three per vector: multipliers of either sign, and differences."""
        return 3 * self.costs.n_columns

    def work_bytes(self, design: DesignMatrix, tile_rows: int) -> int:
        """Count what the proximal operator makes of a tile, in float64."""
        return super().work_bytes(design, tile_rows) + 24 * 8 * tile_rows * self.costs.n_columns

    def prepare(self, design: DesignMatrix, device: Device) -> tuple[Any, ...]:
        """Send vectors and constants to the device."""
        scaled, offset = unscale(design, self.vectors)
        constant = self.intercept if offset is None else self.intercept - offset
        sent = [np.ascontiguousarray(x, np.float64) for x in (constant, self.intercept)]
        return device, device.put(scaled.astype(design.dtype)), *map(device.put, sent)

    def add(self, part: Part, tile: Tile, prepared: tuple[Any, ...]) -> Part:
        """Move the rows of a tile on, and multiply their numbers back."""
        device, vectors, constant, intercept = prepared
        fitted = tile.Z @ vectors
        xp = namespace(constant)
        a = cast(fitted, xp.float64) + constant[None, :]
        factors, y = self.costs.of(tile)
        loss, sigma = self.costs.loss, self.sigma
        if isinstance(self.before, RowState):
            v = self.read(self.before, tile, device)
        else:
            v = xp.zeros_like(a) + device.put(self.before)[None, :]
        last = loss.prox(v, factors / self.sigma_before, y)
        u = (v - last) * (self.sigma_before / sigma)
        v = self.relaxation * a + (1.0 - self.relaxation) * last + u
        self.hand_over(part, tile, v)
        s = loss.prox(v, factors / sigma, y)
        squares = {
            "apart": (a - s) ** 2,
            "copies": (s - intercept[None, :]) ** 2,
            "moved": (s - last) ** 2,
            "scaled": (v - s) ** 2,
        }
        self.gather(part, tile, (factors, y), a, sigma * (v - s), s, squares, [a - s])
        return part

    def finish(self, design: DesignMatrix, part: Part) -> SplitSums:
        """Take off the means and scale; put the rows in order where they came back."""
        products = rescale(design, part["products"], part["totals"])
        k = self.costs.n_columns
        return SplitSums(
            part["loss"],
            Multipliers.of(part, products, k),
            products[:, 2 * k :],
            part["totals"][2 * k :],
            np.sqrt(np.stack([part[name] for name in self.further_sums])),
            int(part["support"][0]),
            self.collected(design, part),
        )
