"""The Gamma deviance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nysstream.arrays import namespace
from nysstream.losses.base import Array, Loss, exponential, log_of, within


@dataclass(frozen=True)
class Gamma(Loss):
    r"""Negative log-likelihood :math:`z + y e^{-z}` of Gamma distributed targets with mean :math:`e^z`.

    Half the Gamma deviance up to what does not depend on z, as scikit-learn minimises it. The conjugate
    is :math:`v (\log(v / y) - 1)` with :math:`v = 1 - u \ge 0`.
    """

    requirement = "Gamma needs targets > 0"

    def value(self, z: Array, y: Array) -> Array:
        """Evaluate the loss."""
        return z + _ratio(z, y)

    def slope(self, z: Array, y: Array) -> Array:
        """Give one less the ratio of target and mean."""
        return 1.0 - _ratio(z, y)

    def curvature(self, z: Array, y: Array) -> Array:
        """Give the ratio of target and mean."""
        return _ratio(z, y)

    def value_slope_curvature(self, z: Array, y: Array) -> tuple[Array, Array, Array]:
        """Take one exponential for all three."""
        ratio = _ratio(z, y)
        return z + ratio, 1.0 - ratio, ratio

    def conjugate(self, u: Array, y: Array) -> Array:
        """Evaluate the conjugate."""
        v = 1.0 - u
        xp = namespace(v)
        inside = v > 0
        log = xp.log(xp.where(inside, v, xp.ones_like(v))) - xp.log(y)
        with np.errstate(over="ignore"):
            return within(v >= 0, xp.where(inside, v, xp.zeros_like(v)) * (log - 1.0))

    def invalid(self, y: Array) -> Array:
        """Mark what is not positive and finite."""
        xp = namespace(y)
        return ~((y > 0) & xp.isfinite(y))

    def predict(self, z: Array) -> Array:
        """Give the mean."""
        return exponential(z)

    def start(self, mean: Array) -> Array:
        """Give the logarithm of the means."""
        return log_of(mean)


def _ratio(z: Array, y: Array) -> Array:
    with np.errstate(over="ignore"):
        return y * exponential(-z)
