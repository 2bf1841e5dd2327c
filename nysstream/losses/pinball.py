"""The pinball loss of quantile regression."""

from __future__ import annotations

from dataclasses import dataclass

from nysstream.arrays import namespace
from nysstream.losses.base import Array, Kinked, check_quantile, clipped, within


@dataclass(frozen=True)
class Pinball(Kinked):
    r"""Cost :math:`\tau` per unit of prediction too low, :math:`1 - \tau` per unit too high.

    Its minimisers over constants are the :math:`\tau`-quantiles of the targets. The conjugate is
    :math:`u y` on :math:`-\tau \le u \le 1 - \tau`.

    Parameters
    ----------
    quantile : float, default 0.5
        :math:`\tau`, strictly between 0 and 1; the default gives half the absolute residual.
    """

    quantile: float = 0.5
    requirement = "the pinball loss needs finite targets"

    def __post_init__(self) -> None:
        check_quantile("Pinball", self.quantile)

    @property
    def slopes(self) -> tuple[float, float]:
        """Give the costs per unit of predictions too low and too high."""
        return -self.quantile, 1.0 - self.quantile

    def value(self, z: Array, y: Array) -> Array:
        """Evaluate the loss."""
        excess = z - y
        return self.slope(z, y) * excess

    def slope(self, z: Array, y: Array) -> Array:
        """Give the cost per unit, signed; zero where the prediction is exact."""
        xp = namespace(z)
        excess = z - y
        zeros = xp.zeros_like(excess)
        return xp.where(
            excess > 0, zeros + (1.0 - self.quantile), xp.where(excess < 0, zeros - self.quantile, zeros)
        )

    def curvature(self, z: Array, y: Array) -> Array:
        """Give zeros."""
        return namespace(z).zeros_like(z)

    def conjugate(self, u: Array, y: Array) -> Array:
        """Evaluate the conjugate."""
        return within((u >= -self.quantile) & (u <= 1.0 - self.quantile), u * y)

    def prox(self, v: Array, step: Array | float, y: Array) -> Array:
        """Move towards the target, by at most the step times the cost per unit."""
        return v - clipped(v - y, -self.quantile * step, (1.0 - self.quantile) * step)
