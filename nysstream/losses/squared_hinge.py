"""The squared hinge loss of support vector classification."""

from __future__ import annotations

from dataclasses import dataclass

from nysstream.arrays import namespace
from nysstream.losses.base import Array, Loss, positive_part, within


@dataclass(frozen=True)
class SquaredHinge(Loss):
    r"""The square of what the margin lacks: :math:`\max(0, 1 - s z)^2` with :math:`s = 2y - 1`, y 0 or 1.

    The conjugate is :math:`g + g^2/4` with :math:`g = s u \le 0`.
    """

    classification = True
    curvature_bound = 2.0
    requirement = "the squared hinge loss needs targets that are 0 or 1"

    def value(self, z: Array, y: Array) -> Array:
        """Evaluate the loss."""
        return self.value_slope_curvature(z, y)[0]

    def slope(self, z: Array, y: Array) -> Array:
        """Give the derivative."""
        return self.value_slope_curvature(z, y)[1]

    def curvature(self, z: Array, y: Array) -> Array:
        """Give two inside the margin, zero on its border and outside."""
        return self.value_slope_curvature(z, y)[2]

    def value_slope_curvature(self, z: Array, y: Array) -> tuple[Array, Array, Array]:
        """Form the margin once."""
        sign = 2.0 * y - 1.0
        lacking = positive_part(1.0 - sign * z)
        xp = namespace(z)
        return lacking * lacking, -2.0 * sign * lacking, 2.0 * xp.astype(lacking > 0, z.dtype)

    def conjugate(self, u: Array, y: Array) -> Array:
        """Evaluate the conjugate."""
        g = (2.0 * y - 1.0) * u
        return within(g <= 0, g + 0.25 * g * g)

    def invalid(self, y: Array) -> Array:
        """Mark what is neither 0 nor 1."""
        return (y != 0) & (y != 1)

    def start(self, mean: Array) -> Array:
        """Give the minimiser for classes in these shares."""
        return 2.0 * mean - 1.0
