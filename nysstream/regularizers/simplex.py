"""The simplex."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.regularizers.base import ROUNDING, Regularizer, Step
from nysstream.regularizers.settings import pick, positive

if TYPE_CHECKING:
    from nysstream.regularizers.base import Block, Vector


@dataclass(frozen=True, eq=False)
class Simplex(Regularizer):
    """Coefficients that are not negative and add up to a total.

    Parameters
    ----------
    total : float or array-like, shape (k,), default 1
        Positive; one for all columns of coefficients, or one for each.
    """

    total: Any = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "total", positive("Simplex", "total", self.total))

    def value(self, W: Block) -> Vector:
        """Give zero on the simplex, infinity elsewhere."""
        error = np.abs(W.sum(axis=0) - self.total)
        inside = (W >= 0).all(axis=0) & (error <= ROUNDING * len(W) * self.total)
        return np.asarray(np.where(inside, 0.0, np.inf))

    def prox(self, V: Block, step: Step) -> Block:
        """Project."""
        return onto_simplex(V, self.total)

    def conjugate(self, V: Block) -> Vector:
        """Give the total times the largest entry."""
        return np.asarray(self.total * V.max(axis=0))

    def dual_scale(self, V: Block) -> Vector:
        """Give ones: the conjugate is finite."""
        return np.ones(V.shape[1])

    def columns(self, index: Any) -> Simplex:
        """Restrict totals that differ between columns."""
        return Simplex(pick(self.total, index))


def onto_simplex(V: Block, total: Any) -> Block:
    r"""Find the nearest points :math:`w \ge 0` with :math:`\sum_i w_i` given, for every column.

    Parameters
    ----------
    V : ndarray, shape (p, k)
    total : float or ndarray, shape (k,)

    Returns
    -------
    ndarray, shape (p, k)

    Notes
    -----
    Cost: a sort of every column, and two blocks of their size. Columns are moved to have their largest
    entry at zero first, so that entries much larger than the total lose no digits.

    References
    ----------
    .. [1] Held, Wolfe and Crowder, "Validation of subgradient optimization", 1974.
    """
    shifted = V - V.max(axis=0)
    descending = -np.sort(-shifted, axis=0)
    excess = np.cumsum(descending, axis=0) - total
    ranks = np.arange(1.0, len(V) + 1.0)[:, None]
    kept = len(V) - 1 - np.argmax((descending * ranks > excess)[::-1], axis=0)
    threshold = np.take_along_axis(excess, kept[None, :], axis=0)[0] / (kept + 1.0)
    return np.asarray(np.maximum(shifted - threshold, 0.0))
