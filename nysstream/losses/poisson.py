"""The Poisson deviance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nysstream.arrays import namespace
from nysstream.losses.base import Array, Loss, exponential, log_of, within


@dataclass(frozen=True)
class Poisson(Loss):
    r"""Negative log-likelihood :math:`e^z - y z` of counts with mean :math:`e^z`.

    Half the Poisson deviance up to what does not depend on z, as scikit-learn minimises it; the least
    value is ``-conjugate_at_zero``, and the difference is half the deviance. The conjugate is
    :math:`v \log v - v` with :math:`v = u + y \ge 0`.
    """

    requirement = "Poisson needs targets >= 0"

    def value(self, z: Array, y: Array) -> Array:
        """Evaluate the loss."""
        return exponential(z) - y * z

    def slope(self, z: Array, y: Array) -> Array:
        """Give the mean less the target."""
        return exponential(z) - y

    def curvature(self, z: Array, y: Array) -> Array:
        """Give the mean."""
        return exponential(z)

    def value_slope_curvature(self, z: Array, y: Array) -> tuple[Array, Array, Array]:
        """Take one exponential for all three."""
        mean = exponential(z)
        return mean - y * z, mean - y, mean

    def conjugate(self, u: Array, y: Array) -> Array:
        """Evaluate the conjugate."""
        v = u + y
        xp = namespace(v)
        inside = v > 0
        log = xp.log(xp.where(inside, v, xp.ones_like(v)))
        with np.errstate(over="ignore"):  # a product, for it to be infinite where v is
            values = xp.where(inside, v, xp.zeros_like(v)) * (log - 1.0)
        return within(v >= 0, values)

    def invalid(self, y: Array) -> Array:
        """Mark negative and infinite targets, and NaN."""
        xp = namespace(y)
        return ~((y >= 0) & xp.isfinite(y))

    def predict(self, z: Array) -> Array:
        """Give the mean."""
        return exponential(z)

    def start(self, mean: Array) -> Array:
        """Give the logarithm of the means."""
        return log_of(mean)
