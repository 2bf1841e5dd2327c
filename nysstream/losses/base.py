"""The loss: what a prediction costs, with its derivatives and its convex conjugate."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import array_api_compat
import numpy as np

from nysstream.arrays import namespace
from nysstream.errors import InputError

Array = Any  # any array of the Python array API standard


class Loss(ABC):
    r"""A function :math:`\ell(z, y)` of a predictor z = Xw and a target y, applied entry by entry.

    Concrete losses are frozen dataclasses of settings. Predictors have shape (t, k), targets (t, k), or
    (t, 1) where all columns share one; results have the predictors' shape, dtype, namespace and device.
    Nothing overflows or turns into NaN at predictors as large as 1e4; infinity is given only where the
    value itself is beyond the largest number.

    Attributes
    ----------
    smooth : bool
        Whether the slope is continuous. Losses that are not are :class:`Kinked`.
    convex : bool
        Whether the loss is convex in z. Where it is not, bounds by the conjugate still hold, but are
        not attained.
    quadratic : bool
        Whether the loss is quadratic in z with constant curvature.
    classification : bool
        Whether targets are classes.
    coupled : bool
        Whether the columns of z belong to one observation, so that values have one column.
    requirement : str
        What targets must be, as the beginning of a message.
    """

    smooth: bool = True
    quadratic: bool = False
    classification: bool = False
    coupled: bool = False
    requirement: str

    @property
    def convex(self) -> bool:
        """Whether the loss is convex in z."""
        return True

    @property
    def curvature_bound(self) -> float | None:
        """Give the supremum of the curvature; None where it is unbounded or jumps."""
        return None

    @abstractmethod
    def value(self, z: Array, y: Array) -> Array:
        """Evaluate the loss, (t, k)."""

    @abstractmethod
    def slope(self, z: Array, y: Array) -> Array:
        """Differentiate by z, (t, k); at a kink, some subgradient."""

    @abstractmethod
    def curvature(self, z: Array, y: Array) -> Array:
        """Differentiate by z twice, (t, k); never negative.

        Zero where the loss is flat or linear, one-sided where the slope has a kink. Where the loss is
        not convex, the expectation over targets that have the predicted mean.
        """

    def value_slope_curvature(self, z: Array, y: Array) -> tuple[Array, Array, Array]:
        """Give value, slope and curvature at once, sharing what is expensive."""
        return self.value(z, y), self.slope(z, y), self.curvature(z, y)

    @abstractmethod
    def conjugate(self, u: Array, y: Array) -> Array:
        r"""Evaluate :math:`\sup_z u z - \ell(z, y)`, (t, k); infinite outside its domain."""

    def conjugate_at_zero(self, y: Array) -> Array:
        r"""Evaluate :math:`-\inf_z \ell(z, y)`, (t, k)."""
        return self.conjugate(namespace(y).zeros_like(y), y)

    def invalid(self, y: Array) -> Array:
        """Mark targets that the loss is not defined for, whatever block they come in.

        Returns
        -------
        array of bool, shape of y
        """
        return ~namespace(y).isfinite(y)

    def predict(self, z: Array) -> Array:
        """Give the expected target, or the probability of class 1; z itself where the loss has no such."""
        return z

    def start(self, mean: Array) -> Array:
        """Give the constant predictor for targets with these means, (k,); finite even for extreme means."""
        return mean


class Kinked(Loss):
    """A loss whose slope jumps, but whose proximal operator is known."""

    smooth = False

    @property
    def slopes(self) -> tuple[float, float]:
        """Give the least and the largest slope; the only other piece, if any, is flat."""
        return -1.0, 1.0

    @abstractmethod
    def prox(self, v: Array, step: Array | float, y: Array) -> Array:
        r"""Minimise :math:`\ell(z, y) + (z - v)^2 / (2\,\mathrm{step})` over z.

        Parameters
        ----------
        v : array, shape (t, k)
        step : float or array that broadcasts to (t, k)
        y : array, shape (t, k) or (t, 1)

        Returns
        -------
        array, shape (t, k)
        """


def positive_part(x: Array) -> Array:
    """Give the larger of x and zero, entry by entry."""
    xp = namespace(x)
    return xp.where(x > 0, x, xp.zeros_like(x))


def clipped(x: Array, lower: Array | float, upper: Array | float) -> Array:
    """Bring x between two bounds, each a number or an array of x's shape."""
    xp = namespace(x)
    x = xp.where(x < lower, xp.zeros_like(x) + lower, x)
    return xp.where(x > upper, xp.zeros_like(x) + upper, x)


def exponential(x: Array) -> Array:
    """Give e^x; infinity without a warning where that is beyond the largest number."""
    with np.errstate(over="ignore"):
        return namespace(x).exp(x)


def x_log_x(x: Array) -> Array:
    """Give x log x, continued by zero to x <= 0."""
    xp = namespace(x)
    inside = x > 0
    return xp.where(inside, x, xp.zeros_like(x)) * xp.log(xp.where(inside, x, xp.ones_like(x)))


def within(domain: Array, values: Array) -> Array:
    """Give the values inside a conjugate's domain, and infinity outside it."""
    xp = namespace(values)
    return xp.where(domain, values, math.inf * xp.ones_like(values))


def log_of(mean: Array) -> Array:
    """Give log(mean) for means as small as zero."""
    xp = namespace(mean)
    tiny = float(xp.finfo(mean.dtype).smallest_normal)
    return xp.log(clipped(mean, tiny, math.inf))


def counts(k: int, like: Array) -> Array:
    """Give 0, ..., k - 1 as numbers of the dtype and on the device of another array."""
    return namespace(like).arange(k, dtype=like.dtype, device=array_api_compat.device(like))


def check_positive(loss: str, setting: str, value: float) -> None:
    """Refuse a setting that is not a positive, finite number."""
    if not (0 < value < math.inf):
        message = f"{loss}: {setting}={value} must be a positive, finite number"
        raise InputError(message)


def check_quantile(loss: str, value: float) -> None:
    """Refuse what is not strictly between 0 and 1."""
    if not 0 < value < 1:
        message = f"{loss}: quantile={value} must lie strictly between 0 and 1"
        raise InputError(message)
