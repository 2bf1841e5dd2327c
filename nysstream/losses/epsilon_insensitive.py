"""The epsilon-insensitive loss of support vector regression."""

from __future__ import annotations

import math
from dataclasses import dataclass

from nysstream.arrays import namespace
from nysstream.errors import InputError
from nysstream.losses.base import Array, Kinked, clipped, positive_part, within


@dataclass(frozen=True)
class EpsilonInsensitive(Kinked):
    r"""Absolute residuals beyond a tolerance: :math:`\max(0, |z - y| - \epsilon)`.

    The conjugate is :math:`u y + \epsilon |u|` on :math:`|u| \le 1`.

    Parameters
    ----------
    epsilon : float, default 0.1
        Tolerance, in the units of the targets; at least 0.
    """

    epsilon: float = 0.1
    requirement = "the epsilon-insensitive loss needs finite targets"

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon < math.inf:
            message = f"EpsilonInsensitive: epsilon={self.epsilon} must be a finite number, at least 0"
            raise InputError(message)

    def value(self, z: Array, y: Array) -> Array:
        """Evaluate the loss."""
        return positive_part(namespace(z).abs(z - y) - self.epsilon)

    def slope(self, z: Array, y: Array) -> Array:
        """Give the sign of residuals beyond the tolerance, zero within."""
        xp = namespace(z)
        residual = z - y
        return xp.where(xp.abs(residual) > self.epsilon, xp.sign(residual), xp.zeros_like(residual))

    def curvature(self, z: Array, y: Array) -> Array:
        """Give zeros."""
        return namespace(z).zeros_like(z)

    def conjugate(self, u: Array, y: Array) -> Array:
        """Evaluate the conjugate."""
        size = namespace(u).abs(u)
        return within(size <= 1, u * y + self.epsilon * size)

    def prox(self, v: Array, step: Array | float, y: Array) -> Array:
        """Move towards the tolerated interval, by at most the step."""
        xp = namespace(v)
        residual = v - y
        beyond = positive_part(xp.abs(residual) - self.epsilon)
        return v - xp.sign(residual) * clipped(beyond, 0.0, step)
