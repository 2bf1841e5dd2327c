"""Tweedie deviances."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from nysstream.arrays import namespace
from nysstream.errors import InputError
from nysstream.losses.base import Array, Loss, clipped, exponential, log_of
from nysstream.losses.gamma import Gamma
from nysstream.losses.poisson import Poisson
from nysstream.losses.squared import Squared
from nysstream.losses.tweedie_conjugate import identity_conjugate, log_conjugate


@dataclass(frozen=True)
class Tweedie(Loss):
    r"""Half the Tweedie deviance of a power P, up to what does not depend on z, as scikit-learn minimises it.

    Of targets with mean :math:`\mu` and a variance proportional to :math:`\mu^P`, it is
    :math:`\mu^{2-P} / (2-P) - y \mu^{1-P} / (1-P)`. The link is the logarithm for powers from 1, where
    :math:`\mu = e^z`, and the identity for powers up to 0; this is scikit-learn's ``link="auto"``.

    Parameters
    ----------
    power : float, default 1.5
        0 is the normal distribution (:class:`Squared`), 1 :class:`Poisson`, 2 :class:`Gamma`, 3 the
        inverse Gaussian. None exists between 0 and 1.

    Raises
    ------
    InputError
        If the power is between 0 and 1, or not finite.

    Notes
    -----
    Convex for powers 0 and 1 to 2. For the others the curvature is that expected of targets with the
    predicted mean (Fisher's scoring), and the conjugate bounds the loss, but not tightly. Powers below 0
    need positive means: the loss is infinite at z < 0. Conjugates of powers other than 0, 1 and 2 have no
    closed form; a few steps of Newton's method, which approach the root from one side, find them.
    """

    power: float = 1.5
    requirement: str = field(init=False, repr=False, compare=False)
    quadratic: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not math.isfinite(self.power) or 0 < self.power < 1:
            message = f"Tweedie: power={self.power} has no distribution; give 0, less, or 1 and more"
            raise InputError(message)
        needs = "finite targets" if self.power <= 0 else "targets >= 0" if self.power < 2 else "targets > 0"
        object.__setattr__(self, "requirement", f"Tweedie with power {self.power:g} needs {needs}")
        object.__setattr__(self, "quadratic", self.power == 0)

    @property
    def convex(self) -> bool:
        """Whether the power is 0 or from 1 to 2."""
        return self.power == 0 or 1 <= self.power <= 2

    @property
    def curvature_bound(self) -> float | None:
        """Give one for power 0."""
        return 1.0 if self.power == 0 else None

    def value(self, z: Array, y: Array) -> Array:
        """Evaluate the loss."""
        return self.value_slope_curvature(z, y)[0]

    def slope(self, z: Array, y: Array) -> Array:
        """Give the derivative; minus infinity where the mean would be negative."""
        return self.value_slope_curvature(z, y)[1]

    def curvature(self, z: Array, y: Array) -> Array:
        """Give the second derivative, or its expectation where the loss is not convex."""
        return self.value_slope_curvature(z, y)[2]

    def value_slope_curvature(self, z: Array, y: Array) -> tuple[Array, Array, Array]:
        """Take each power once for all three."""
        if self._named is not None:
            return self._named.value_slope_curvature(z, y)
        with np.errstate(over="ignore"):
            if self.power < 0:
                return self._identity(z, y)
            return self._between(z, y) if self.power < 2 else self._beyond(z, y)

    def conjugate(self, u: Array, y: Array) -> Array:
        """Evaluate the conjugate."""
        if self._named is not None:
            return self._named.conjugate(u, y)
        return identity_conjugate(u, y, self.power) if self.power < 0 else log_conjugate(u, y, self.power)

    def invalid(self, y: Array) -> Array:
        """Mark targets that have no density under the power."""
        finite = namespace(y).isfinite(y)
        if self.power <= 0:
            return ~finite
        return ~(finite & (y >= 0 if self.power < 2 else y > 0))

    def predict(self, z: Array) -> Array:
        """Give the mean."""
        return z if self.power <= 0 else exponential(z)

    def start(self, mean: Array) -> Array:
        """Give what the link makes of the means; those of negative powers are brought above zero."""
        if self.power > 0:
            return log_of(mean)
        tiny = float(namespace(mean).finfo(mean.dtype).eps)
        return mean if self.power == 0 else clipped(mean, tiny, math.inf)

    @property
    def _named(self) -> Loss | None:
        named: dict[float, Loss] = {0.0: Squared(), 1.0: Poisson(), 2.0: Gamma()}
        return named.get(float(self.power))

    def _identity(self, z: Array, y: Array) -> tuple[Array, Array, Array]:
        xp = namespace(z)
        q = -self.power
        inside = z >= 0
        mean = xp.where(inside, z, xp.zeros_like(z))
        weight = mean**q  # one over the variance
        value = weight * mean * (mean / (q + 2.0) - y / (q + 1.0))
        outside = math.inf * xp.ones_like(value)
        return (
            xp.where(inside, value, outside),
            xp.where(inside, weight * (mean - y), -outside),
            xp.where(inside, weight, xp.zeros_like(weight)),
        )

    def _between(self, z: Array, y: Array) -> tuple[Array, Array, Array]:
        a, b = 2.0 - self.power, self.power - 1.0
        xp = namespace(z)
        rise, fall = exponential(a * z), exponential(-b * z)
        fall = xp.where(y > 0, y * xp.where(y > 0, fall, xp.zeros_like(fall)), xp.zeros_like(fall))
        return rise / a + fall / b, rise - fall, a * rise + b * fall

    def _beyond(self, z: Array, y: Array) -> tuple[Array, Array, Array]:
        # As products: both terms of the sums may be infinite.
        a, b = 2.0 - self.power, self.power - 1.0
        rise, ratio = exponential(a * z), y * exponential(-z)
        return rise * (1.0 / a + ratio / b), rise * (1.0 - ratio), rise
