"""The best convex combination of dual points: a bound that costs no pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nysstream.solvers.columns import dots

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]
    Block = NDArray[np.float64]

#: Points that are held: the best combination so far, and the last ones.
BUNDLE = 10
#: Exchanges between two points, at most.
_EXCHANGES = 1000


@dataclass(frozen=True, eq=False)
class DualBundle:
    r"""Points of concave duals :math:`-\tfrac12 \|w\|^2 - c`, one of each column, and their combination.

    Where w is linear in the multipliers, and c convex, the combination of points is no better than what the
    multipliers' combination gives. Zero is a point.

    Attributes
    ----------
    points : ndarray, shape (m, p, k)
        The w; first the best combination.
    conjugates : ndarray, shape (m, k)
        The c.
    number : int
        Points added so far.
    """

    points: NDArray[np.float64]
    conjugates: NDArray[np.float64]
    number: int = 0

    @classmethod
    def empty(cls, p: int, k: int) -> DualBundle:
        """Begin with zeros."""
        return cls(np.zeros((BUNDLE, p, k)), np.zeros((BUNDLE, k)))

    @property
    def value(self) -> Vector:
        """Give the dual objectives of the best combination."""
        return np.asarray(-0.5 * dots(self.points[0], self.points[0]) - self.conjugates[0])

    def add(self, point: Block, conjugate: Vector) -> DualBundle:
        """Take a new point in place of the oldest, and combine again; the value never falls."""
        points, conjugates = self.points.copy(), self.conjugates.copy()
        place = 1 + self.number % (len(points) - 1)
        points[place], conjugates[place] = point, conjugate
        shares = _combine(points, conjugates)
        points[0] = np.einsum("mk,mpk->pk", shares, points)
        conjugates[0] = np.sum(shares * conjugates, axis=0)
        return DualBundle(points, conjugates, self.number + 1)


def _combine(points: NDArray[np.float64], conjugates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Minimise :math:`½ s'As + c's` over the simplex for every column, by exchanges between two points."""
    m, _, k = points.shape
    columns = np.arange(k)
    A = np.einsum("ipk,jpk->kij", points, points, optimize=True)
    shares = np.zeros((k, m))
    shares[:, 0] = 1.0
    for _ in range(_EXCHANGES):
        slopes = np.einsum("kij,kj->ki", A, shares) + conjugates.T
        to = np.argmin(slopes, axis=1)
        of = np.argmax(np.where(shares > 0, slopes, -np.inf), axis=1)
        gain = slopes[columns, of] - slopes[columns, to]
        if np.all(gain <= 1e-12 * np.abs(slopes).max(axis=1)):
            break
        curvature = A[columns, of, of] + A[columns, to, to] - 2 * A[columns, of, to]
        best = np.divide(gain, curvature, out=np.full(k, np.inf), where=curvature > 0)
        moved = np.where(gain > 0, np.minimum(best, shares[columns, of]), 0.0)
        shares[columns, of] -= moved
        shares[columns, to] += moved
    return np.asarray(shares.T)
