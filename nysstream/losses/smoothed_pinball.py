"""The pinball loss with its kink rounded off."""

from __future__ import annotations

from dataclasses import dataclass

from nysstream.arrays import namespace
from nysstream.losses.base import Array, Loss, check_positive, check_quantile, clipped, within


@dataclass(frozen=True)
class SmoothedPinball(Loss):
    r"""The pinball loss, quadratic on an interval of a given width about the target.

    With :math:`r = z - y` the slope is :math:`r / \omega` clipped to :math:`[-\tau, 1 - \tau]`. The loss is
    at most :math:`\tfrac12 \omega \max(\tau, 1 - \tau)^2` below :class:`Pinball`, and nowhere above it.
    The conjugate is :math:`u y + \tfrac12 \omega u^2` on :math:`-\tau \le u \le 1 - \tau`.

    Parameters
    ----------
    quantile : float, default 0.5
        :math:`\tau`, strictly between 0 and 1.
    width : float, default 1
        :math:`\omega`, in the units of the targets.
    """

    quantile: float = 0.5
    width: float = 1.0
    requirement = "the smoothed pinball loss needs finite targets"

    def __post_init__(self) -> None:
        check_quantile("SmoothedPinball", self.quantile)
        check_positive("SmoothedPinball", "width", self.width)

    @property
    def curvature_bound(self) -> float:
        """Give the curvature of the quadratic piece."""
        return 1.0 / self.width

    def value(self, z: Array, y: Array) -> Array:
        """Evaluate the loss."""
        slope = self.slope(z, y)
        return slope * (z - y - 0.5 * self.width * slope)

    def slope(self, z: Array, y: Array) -> Array:
        """Give the residual over the width, clipped."""
        return clipped((z - y) / self.width, -self.quantile, 1.0 - self.quantile)

    def curvature(self, z: Array, y: Array) -> Array:
        """Give one over the width where the loss is quadratic, else zero."""
        xp = namespace(z)
        scaled = (z - y) / self.width
        inside = (scaled >= -self.quantile) & (scaled <= 1.0 - self.quantile)
        return xp.astype(inside, z.dtype) / self.width

    def conjugate(self, u: Array, y: Array) -> Array:
        """Evaluate the conjugate."""
        inside = (u >= -self.quantile) & (u <= 1.0 - self.quantile)
        return within(inside, u * y + 0.5 * self.width * u * u)
