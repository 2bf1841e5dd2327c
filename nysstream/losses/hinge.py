"""The hinge loss of support vector classification."""

from __future__ import annotations

from dataclasses import dataclass

from nysstream.arrays import namespace
from nysstream.losses.base import Array, Kinked, clipped, positive_part, within


@dataclass(frozen=True)
class Hinge(Kinked):
    r"""How far the margin falls short of one: :math:`\max(0, 1 - s z)` with :math:`s = 2y - 1`, y 0 or 1.

    The conjugate is :math:`s u` on :math:`-1 \le s u \le 0`.
    """

    classification = True
    requirement = "the hinge loss needs targets that are 0 or 1"

    def value(self, z: Array, y: Array) -> Array:
        """Evaluate the loss."""
        return positive_part(1.0 - (2.0 * y - 1.0) * z)

    def slope(self, z: Array, y: Array) -> Array:
        """Give minus the sign of the class inside the margin, zero on its border and outside."""
        xp = namespace(z)
        sign = 2.0 * y - 1.0
        return xp.where(sign * z < 1, -sign + xp.zeros_like(z), xp.zeros_like(z))

    def curvature(self, z: Array, y: Array) -> Array:
        """Give zeros."""
        return namespace(z).zeros_like(z)

    def conjugate(self, u: Array, y: Array) -> Array:
        """Evaluate the conjugate."""
        g = (2.0 * y - 1.0) * u
        return within((g <= 0) & (g >= -1), g)

    def prox(self, v: Array, step: Array | float, y: Array) -> Array:
        """Move towards the margin's border by at most the step."""
        sign = 2.0 * y - 1.0
        return v + sign * clipped(1.0 - sign * v, 0.0, step)

    def invalid(self, y: Array) -> Array:
        """Mark what is neither 0 nor 1."""
        return (y != 0) & (y != 1)

    def start(self, mean: Array) -> Array:
        """Give the sign of the more frequent class."""
        return namespace(mean).sign(2.0 * mean - 1.0)
