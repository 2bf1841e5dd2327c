"""The Huber loss."""

from __future__ import annotations

from dataclasses import dataclass

from nysstream.arrays import namespace
from nysstream.losses.base import Array, Loss, check_positive, clipped, within


@dataclass(frozen=True)
class Huber(Loss):
    r"""Squares of small residuals, absolute values of large ones.

    :math:`\tfrac12 r^2` where :math:`|r| \le \delta`, else :math:`\delta (|r| - \delta/2)`, with
    :math:`r = z - y`. The conjugate is :math:`u y + u^2/2` on :math:`|u| \le \delta`.

    Parameters
    ----------
    delta : float, default 1
        Residual from which the loss grows linearly, in the units of the targets.
    """

    delta: float = 1.0
    curvature_bound = 1.0
    requirement = "the Huber loss needs finite targets"

    def __post_init__(self) -> None:
        check_positive("Huber", "delta", self.delta)

    def value(self, z: Array, y: Array) -> Array:
        """Evaluate the loss."""
        residual = z - y
        bounded = clipped(residual, -self.delta, self.delta)
        return bounded * (residual - 0.5 * bounded)

    def slope(self, z: Array, y: Array) -> Array:
        """Give the residual, clipped."""
        return clipped(z - y, -self.delta, self.delta)

    def curvature(self, z: Array, y: Array) -> Array:
        """Give one for small residuals, zero for large ones."""
        xp = namespace(z)
        return xp.astype(xp.abs(z - y) <= self.delta, z.dtype)

    def conjugate(self, u: Array, y: Array) -> Array:
        """Evaluate the conjugate, finite up to delta."""
        return within(namespace(u).abs(u) <= self.delta, u * y + 0.5 * u * u)
