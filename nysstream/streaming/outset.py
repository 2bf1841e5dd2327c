"""The losses at zero coefficients, from the set-up pass: there they depend on the targets alone."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.arrays import get_device
from nysstream.journal import key_of
from nysstream.sources import as_source
from nysstream.sources.base import RowPart
from nysstream.streaming.design import DesignMatrix
from nysstream.streaming.loss_kernels import LossSums, LossValues
from nysstream.streaming.moments import SetUp
from nysstream.streaming.reduction import Tile

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.sources import RowSource
    from nysstream.streaming.centering import Centering
    from nysstream.streaming.loss_kernels import Outcome
    from nysstream.streaming.moments import Statistics
    from nysstream.streaming.reduction import Reduction

    Vector = NDArray[np.float64]

#: Targets read at a time.
_ROWS = 1 << 18


def target_statistics(design: DesignMatrix) -> Statistics:
    """Sum targets and weights, as the set-up pass does, but without the rows.

    Notes
    -----
    Cost: one read of targets and weights, which are small beside the rows; it is no pass.
    """
    statistics: Statistics = _over_targets(design, SetUp())
    return statistics


class Outset:
    """A design whose targets bring along the derivatives of the losses at zero coefficients.

    What the set-up pass sums for a target, it sums for the slopes: their product with the centred rows is
    the gradient. So no pass is spent on evaluating where solvers start.

    Parameters
    ----------
    design : DesignMatrix
        With targets.
    outcome : Outcome
    intercept : ndarray, shape (k,)
        Where the intercepts start.
    fit_intercept : bool

    Attributes
    ----------
    design : DesignMatrix
        To be set up.
    """

    def __init__(
        self, design: DesignMatrix, outcome: Outcome, intercept: Vector, *, fit_intercept: bool
    ) -> None:
        assert design.target is not None
        self.outcome, self.intercept, self.fit_intercept = outcome, intercept, fit_intercept
        self._plain = design
        self.design = replace(
            design, target=_Derivatives(design.target, outcome, intercept, fit_intercept=fit_intercept)
        )

    def values(self, statistics: Statistics, centering: Centering | None) -> LossValues:
        """Give the sums of the losses at zero from what the set-up pass has found.

        Parameters
        ----------
        statistics : Statistics
            Of this design.
        centering : Centering, optional
            By which it will be seen.

        Notes
        -----
        Cost: one read of targets and weights.
        """
        k, p = self.intercept.size, statistics.squares.size
        values: LossValues = _over_targets(
            self._plain, LossSums(self.outcome, np.zeros((1, k)), self.intercept, self.fit_intercept)
        )
        products = statistics.cross[:, self._plain.n_targets :]
        if centering is not None:
            products = products / centering.scale[:, None]
        gradient, cross, toward = (
            products[:, i : i + k] if i < products.shape[1] else np.zeros((p, k)) for i in (0, k, 2 * k)
        )
        return replace(values, gradient=gradient, cross=cross, toward=toward)


class _Derivatives(RowPart):
    """Targets, and beside them slopes, with intercepts curvatures, and moves, at fixed predictors."""

    def __init__(
        self, target: RowSource, outcome: Outcome, intercept: Vector, *, fit_intercept: bool
    ) -> None:
        super().__init__(target, target.shape[0])
        self.outcome, self.intercept = outcome, intercept
        # As in LossSums.
        self.count = (2 if outcome.loss.coupled else 3) if fit_intercept else 1
        self.shape = (target.shape[0], target.shape[1] + self.count * intercept.size)
        self.dtype, self.vector = np.dtype(np.float64), False
        self.chunk_start, self.name = target.chunk_start, target.name

    @functools.cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the targets, with what is made of them."""
        made = key_of(self.outcome, self.intercept, self.count)
        return f"{self.source.fingerprint}-{made}"

    def read(self, rows: slice, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Read targets, and take the derivatives there."""
        target = self.source.read(rows, np.empty((rows.stop - rows.start, self.source.shape[1])))
        ones = np.ones(len(target))
        y, weight = self.outcome.of(Tile(rows.start, None, None, target, ones))
        assert weight is not None
        z = np.broadcast_to(self.intercept, (len(target), self.intercept.size))
        _, slope, curvature = self.outcome.loss.value_slope_curvature(z, y)
        found = [slope, curvature, np.minimum(curvature, np.abs(slope))][: self.count]
        columns = [target, *(weight[:, None] * values for values in found)]
        return np.concatenate(columns, axis=1, out=out)


def _over_targets(design: DesignMatrix, reduction: Reduction) -> Any:
    """Run a reduction over the targets and weights, beside a column of zeros."""
    assert design.target is not None
    device, n_rows = get_device("cpu"), design.shape[0]
    bare = DesignMatrix(
        as_source(np.zeros((1, 1))), as_source(np.zeros((1, design.n_targets))), device=device
    )
    prepared, part = reduction.prepare(bare, device), reduction.start(bare, device)
    with np.errstate(over="ignore", invalid="ignore"):
        for a in range(0, n_rows, _ROWS):
            rows = slice(a, min(a + _ROWS, n_rows))
            Z = np.zeros((rows.stop - a, 1))
            target = np.asarray(design.target.read(rows), np.float64)
            weight = None if design.weight is None else np.asarray(design.weight.read(rows), np.float64)[:, 0]
            part = reduction.add(part, Tile(a, Z, Z, target, weight), prepared)
        return reduction.finish(bare, part)
