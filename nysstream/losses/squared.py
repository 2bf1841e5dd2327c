"""Least squares."""

from __future__ import annotations

from dataclasses import dataclass

from nysstream.arrays import namespace
from nysstream.losses.base import Array, Loss


@dataclass(frozen=True)
class Squared(Loss):
    r"""Half the squared residual, :math:`\tfrac12 (z - y)^2`. Its conjugate is :math:`u y + u^2 / 2`."""

    quadratic = True
    curvature_bound = 1.0
    requirement = "least squares needs finite targets"

    def value(self, z: Array, y: Array) -> Array:
        """Evaluate the loss."""
        residual = z - y
        return 0.5 * residual * residual

    def slope(self, z: Array, y: Array) -> Array:
        """Give the residual."""
        return z - y

    def curvature(self, z: Array, y: Array) -> Array:
        """Give ones."""
        return namespace(z).ones_like(z)

    def value_slope_curvature(self, z: Array, y: Array) -> tuple[Array, Array, Array]:
        """Form the residual once."""
        residual = z - y
        return 0.5 * residual * residual, residual, namespace(z).ones_like(z)

    def conjugate(self, u: Array, y: Array) -> Array:
        """Evaluate the conjugate, finite everywhere."""
        return u * y + 0.5 * u * u
