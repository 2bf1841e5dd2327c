"""Sums over coefficients: l1 and l2 penalties and bounds, in one class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.regularizers.base import ROUNDING, Face, Regularizer, Step
from nysstream.regularizers.settings import check_order, check_shapes, entries, pick, refuse

if TYPE_CHECKING:
    from nysstream.regularizers.base import Block, Vector


@dataclass(frozen=True, eq=False)
class Separable(Regularizer):
    r"""The sum of :math:`\lambda_1 |w| + \tfrac12 \lambda_2 w^2` over coefficients within bounds.

    Parameters
    ----------
    l1, l2 : float or ndarray, shape (1, k), (p, 1) or (p, k), default 0
        Strengths, at least 0 and finite.
    lower, upper : float or ndarray, shape (1, k), (p, 1) or (p, k), default minus infinity and infinity
        Bounds; infinite for none.

    Raises
    ------
    InputError
        If a strength is negative or not finite, if bounds cross, or if shapes do not go together; the
        message names the entry.

    Notes
    -----
    The proximal operator shrinks, scales, and clips, in this order. In one dimension that is exact:
    a convex function restricted to an interval has its minimum at the point of the interval nearest to
    its minimum.
    """

    l1: Any = 0.0
    l2: Any = 0.0
    lower: Any = -np.inf
    upper: Any = np.inf

    separable = True

    def __post_init__(self) -> None:
        owner = type(self).__name__
        for name in ("l1", "l2", "lower", "upper"):
            object.__setattr__(self, name, entries(owner, name, getattr(self, name)))
        for name in ("l1", "l2"):
            refuse(
                owner, name, getattr(self, name), lambda x: ~((x >= 0) & np.isfinite(x)), ">= 0 and finite"
            )
        refuse(owner, "lower", self.lower, np.isposinf, "below infinity")
        refuse(owner, "upper", self.upper, np.isneginf, "above minus infinity")
        check_shapes(owner, {name: getattr(self, name) for name in ("l1", "l2", "lower", "upper")})
        check_order(owner, self.lower, self.upper)

    @property
    def strong_convexity(self) -> float | Block:
        """Give the strength of the l2 penalty."""
        modulus: float | Block = self.l2
        return modulus

    def value(self, W: Block) -> Vector:
        """Evaluate each column; infinite outside the bounds."""
        total = np.sum(self.l1 * np.abs(W) + 0.5 * self.l2 * W**2, axis=0)
        inside = np.all((self.lower <= W) & (self.upper >= W), axis=0)
        return np.asarray(np.where(inside, total, np.inf))

    def prox(self, V: Block, step: Step) -> Block:
        """Shrink, scale, clip."""
        shrunk = soft(V, step * self.l1) / (1.0 + step * self.l2)
        return np.asarray(np.clip(shrunk, self.lower, self.upper))

    def distance(self, W: Block, G: Block) -> Vector:
        """Give the largest distance of an entry of -G from the subdifferential; infinite outside bounds."""
        inside = (self.lower <= W) & (self.upper >= W)
        return np.asarray(np.where(inside, self.excess(W, G), np.inf).max(axis=0, initial=0.0))

    def excess(self, W: Block, G: Block) -> Block:
        """Say for each entry how far -G lies beyond the subdifferential's interval; negative within it."""
        smooth = -G - self.l2 * W
        least = self.l1 * np.where(W > 0, 1.0, -1.0)
        most = self.l1 * np.where(W < 0, -1.0, 1.0)
        below = np.where(self.lower == W, -np.inf, least - smooth)
        above = np.where(self.upper == W, -np.inf, smooth - most)
        return np.asarray(np.maximum(below, above))

    @property
    def sparsifies(self) -> bool:
        """Whether zeros are to be expected: by an l1 penalty, or since a bound is zero."""
        return bool(np.any(np.asarray(self.l1) > 0) or np.any(self.lower == 0) or np.any(self.upper == 0))

    def conjugate(self, V: Block) -> Vector:
        """Evaluate at the maximiser, which is clipped like the proximal operator's."""
        excess = soft(V, self.l1)
        with np.errstate(divide="ignore", over="ignore"):
            best = np.divide(excess, self.l2, out=np.zeros_like(excess), where=excess != 0)
        best = np.clip(best, self.lower, self.upper)
        unbounded = np.isinf(best)
        w = np.where(unbounded, 0.0, best)
        with np.errstate(over="ignore"):
            terms = np.where(unbounded, np.inf, w * (V - self.l1 * np.sign(w) - 0.5 * self.l2 * w))
        return np.asarray(terms.sum(axis=0))

    def dual_scale(self, V: Block) -> Vector:
        """Divide the l1 strengths by entries that the bounds and the l2 penalty do not tame."""
        size = np.abs(V)
        open_ended = np.where(V > 0, np.isposinf(self.upper), np.isneginf(self.lower))
        over = open_ended & (np.equal(self.l2, 0.0)) & (size > self.l1)
        ratio = np.divide(self.l1 * np.ones_like(size), size, out=np.ones_like(size), where=over)
        return np.asarray(np.where(over, ratio * (1.0 - ROUNDING), 1.0).min(axis=0, initial=1.0))

    def columns(self, index: Any) -> Separable:
        """Restrict strengths and bounds that differ between columns."""
        settings = (self.l1, self.l2, self.lower, self.upper)
        return Separable(*(pick(x, index) for x in settings))

    def rows(self, index: Any) -> Separable:
        """Restrict it to some of the coefficients."""
        settings = (np.asarray(x) for x in (self.l1, self.l2, self.lower, self.upper))
        return Separable(*(x[index] if x.ndim == 2 and x.shape[0] > 1 else x for x in settings))

    def face(self, W: Block) -> Face:
        """Free what lies strictly within its bounds and, where there is an l1 penalty, is not zero."""
        free = (self.lower < W) & (self.upper > W) & ((W != 0) | np.equal(self.l1, 0.0))
        lower = np.where((self.l1 > 0) & (W > 0), np.maximum(self.lower, 0.0), self.lower)
        upper = np.where((self.l1 > 0) & (W < 0), np.minimum(self.upper, 0.0), self.upper)
        return Face(
            free,
            self.l1 * np.sign(W),
            np.broadcast_to(np.asarray(self.l2, np.float64), W.shape),
            np.where(free, lower, W),
            np.where(free, upper, W),
        )


def soft(V: Block, threshold: Any) -> Block:
    """Bring V towards zero by a threshold, at most to zero."""
    return np.asarray(np.sign(V) * np.maximum(np.abs(V) - threshold, 0.0))
