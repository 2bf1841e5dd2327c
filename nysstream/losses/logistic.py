"""The logistic loss."""

from __future__ import annotations

from dataclasses import dataclass

from nysstream.arrays import namespace
from nysstream.losses.base import Array, Loss, clipped, positive_part, within, x_log_x


@dataclass(frozen=True)
class Logistic(Loss):
    r"""Negative log-likelihood :math:`\log(1 + e^z) - y z` of classes y, 0 or 1.

    Written with the margin :math:`m = (2y - 1) z` as :math:`\log(1 + e^{-m})`, which keeps its digits
    where the class is predicted with confidence. The conjugate is :math:`q \log q + (1-q) \log(1-q)`
    with :math:`q = u + y` in [0, 1].
    """

    classification = True
    curvature_bound = 0.25
    requirement = "the logistic loss needs targets that are 0 or 1"

    def value(self, z: Array, y: Array) -> Array:
        """Evaluate the loss."""
        return self.value_slope_curvature(z, y)[0]

    def slope(self, z: Array, y: Array) -> Array:
        """Give the probability of class 1 less the target."""
        return self.value_slope_curvature(z, y)[1]

    def curvature(self, z: Array, y: Array) -> Array:
        """Give the product of the classes' probabilities."""
        xp = namespace(z)
        e = xp.exp(-xp.abs(z))
        return e / ((1.0 + e) * (1.0 + e))

    def value_slope_curvature(self, z: Array, y: Array) -> tuple[Array, Array, Array]:
        """Take one exponential for all three."""
        xp = namespace(z)
        sign = 2.0 * y - 1.0
        margin = sign * z
        e = xp.exp(-xp.abs(margin))
        wrong = xp.where(margin > 0, e, xp.ones_like(e)) / (1.0 + e)  # probability of the other class
        value = positive_part(-margin) + xp.log1p(e)
        return value, -sign * wrong, e / ((1.0 + e) * (1.0 + e))

    def conjugate(self, u: Array, y: Array) -> Array:
        """Evaluate the negative entropy."""
        xp = namespace(u)
        wrong = (1.0 - 2.0 * y) * u
        inside = (wrong >= 0) & (wrong <= 1)
        p = xp.where(inside, wrong, xp.zeros_like(wrong))
        # The log of 1 - p from p itself: p has digits where 1 - p has none.
        rest = (1.0 - p) * xp.log1p(-xp.where(p < 1, p, xp.zeros_like(p)))
        return within(inside, x_log_x(p) + rest)

    def invalid(self, y: Array) -> Array:
        """Mark what is neither 0 nor 1."""
        return (y != 0) & (y != 1)

    def predict(self, z: Array) -> Array:
        """Give the probability of class 1."""
        xp = namespace(z)
        e = xp.exp(-xp.abs(z))
        return xp.where(z > 0, xp.ones_like(e), e) / (1.0 + e)

    def start(self, mean: Array) -> Array:
        """Give the logit of the means, at most about 36 in size."""
        xp = namespace(mean)
        eps = float(xp.finfo(mean.dtype).eps)
        share = clipped(mean, eps, 1.0 - eps)
        return xp.log(share) - xp.log1p(-share)
