"""Conjugates of Tweedie deviances, by Newton's method from the side where it cannot overshoot."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from nysstream.arrays import namespace
from nysstream.losses.base import Array, exponential, positive_part, within

if TYPE_CHECKING:
    from collections.abc import Callable

#: Newton's method stops at steps of this relative size; the maximum is flat, so that the conjugate
#: errs by the square.
_SMALL = 1e-9
_MOST_STEPS = 100


def log_conjugate(u: Array, y: Array, power: float) -> Array:
    r"""Evaluate :math:`\sup_z u z - e^{(2-P)z}/(2-P) + y e^{(1-P)z}/(1-P)` for powers above 1 but 2.

    Parameters
    ----------
    u : array, shape (t, k)
    y : array, shape (t, k) or (t, 1)
        At least 0; positive for powers above 2.
    power : float
        P.

    Returns
    -------
    array, shape (t, k)

    Notes
    -----
    With :math:`t = z - \log y` and :math:`s = |t|`, the maximiser has :math:`e^{\rho s} (1 - e^{-s}) =
    |u| y^{P-2}`, where the rate :math:`\rho` is 2 - P for positive u, P - 1 for negative u. The
    logarithm of the left side is concave in s.
    """
    xp = namespace(u)
    a, b = 2.0 - power, power - 1.0
    u, y = u + xp.zeros_like(y), y + xp.zeros_like(u)
    ones, zeros = xp.ones_like(u), xp.zeros_like(u)
    general = (y > 0) & xp.isfinite(u) & (u != 0)
    if power > 2:
        general = general & (u < 0)
    log_y = xp.log(xp.where(y > 0, y, ones))
    level = xp.log(xp.abs(xp.where(general, u, ones))) - a * log_y
    rate = xp.where(u > 0, a * ones, b * ones) if power < 2 else b * ones
    s = xp.where(general, _root(level, rate), zeros)
    z = log_y + xp.where(u > 0, s, -s)
    with np.errstate(over="ignore"):
        rise = exponential(a * z)
        values = xp.where(general, u, zeros) * z - rise / a - y * exponential(-b * z) / b
    if power > 2:
        return within((u <= 0) & xp.isfinite(u), values)
    # Without a target: e^{az} = u.
    log_u = xp.log(xp.where((u > 0) & xp.isfinite(u), u, ones))
    bare = xp.where(u > 0, u * (log_u - 1.0) / a, zeros)
    return within(xp.isfinite(u) & ((y > 0) | (u >= 0)), xp.where(y > 0, values, bare))


def identity_conjugate(u: Array, y: Array, power: float) -> Array:
    r"""Evaluate :math:`\sup_{z \ge 0} u z - z^{2-P}/(2-P) + y z^{1-P}/(1-P)` for negative powers.

    Parameters
    ----------
    u : array, shape (t, k)
    y : array, shape (t, k) or (t, 1)
    power : float
        P.

    Returns
    -------
    array, shape (t, k)

    Notes
    -----
    The maximiser is zero, or the larger root of :math:`z^q (z - y) = u` with :math:`q = -P`. For positive y
    the left side is convex from where it rises; else its logarithm is convex in log z.
    """
    xp = namespace(u)
    q = -power
    u, y = u + xp.zeros_like(y), y + xp.zeros_like(u)
    ones, zeros = xp.ones_like(u), xp.zeros_like(u)
    finite = xp.isfinite(u)
    push = positive_part(xp.where(finite, u, zeros))
    size = push ** (1.0 / (q + 1.0))

    target = xp.where(y > 0, y, ones)
    pull = xp.where(finite, u, zeros)
    lowest = q * target / (q + 1.0)

    def positive_step(z: Array) -> Array:
        excess = z**q * (z - target) - pull
        rise = z ** (q - 1.0) * ((q + 1.0) * z - q * target)
        moved = z - excess / xp.where(rise > 0, rise, ones)
        return xp.where((rise > 0) & (moved > lowest), moved, lowest)

    offset = xp.where(y > 0, zeros, -y)
    level = xp.log(xp.where(push > 0, push, ones))

    def negative_step(w: Array) -> Array:
        z = exponential(w)
        excess = q * w + xp.log(z + offset) - level
        return w - excess / (q + z / (z + offset))

    larger = _iterate(positive_step, target + size)
    log_start = level / (q + 1.0)
    root = xp.where(y > 0, larger, xp.where(push > 0, exponential(_iterate(negative_step, log_start)), zeros))
    with np.errstate(over="ignore"):
        values = root * (pull - root**q * (root / (q + 2.0) - y / (q + 1.0)))
    values = positive_part(values)  # zero is a candidate, too
    return xp.where(finite, values, xp.where(u > 0, math.inf * ones, zeros))


def _root(level: Array, rate: Array) -> Array:
    """Solve ``rate * s + log(1 - e^-s) = level`` for positive s, which Newton's steps approach from below."""
    xp = namespace(level)
    zeros = xp.zeros_like(level)
    low = exponential(xp.where(level < 0, level, zeros) - rate)
    high = level / rate

    def step(s: Array) -> Array:
        gap = -xp.expm1(-s)
        return s - (rate * s + xp.log(gap) - level) / (rate + (1.0 - gap) / gap)

    return _iterate(step, xp.where(high > low, high, low))


def _iterate(step: Callable[[Array], Array], x: Array) -> Array:
    xp = namespace(x)
    for _ in range(_MOST_STEPS):
        before, x = x, step(x)
        if bool(xp.all(xp.abs(x - before) <= _SMALL * xp.abs(x))):
            break
    return x
