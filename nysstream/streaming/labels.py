"""Class labels as they are stored, seen as numbers of classes and as weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nysstream.arrays import namespace
from nysstream.streaming.reduction import Array

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Labels:
    """The classes of a target, in ascending order.

    Parameters
    ----------
    classes : ndarray, shape (c,)
        As they are stored.
    weights : ndarray, shape (c,), optional
        What the rows of each class are weighted with.
    """

    classes: NDArray[np.float64]
    weights: NDArray[np.float64] | None = None

    def codes(self, target: Array) -> Array:
        """Give the number of each row's class, as a float64 array of shape (t, 1)."""
        xp = namespace(target)
        classes = xp.asarray(self.classes, device=getattr(target, "device", None))
        same = target[:, :1] == classes[None, :]
        return xp.astype(xp.argmax(xp.astype(same, xp.int8), axis=1), xp.float64)[:, None]

    def weigh(self, codes: Array, weight: Array | None) -> Array | None:
        """Multiply the rows' weights by those of their classes."""
        if self.weights is None:
            return weight
        xp = namespace(codes)
        of_class = xp.asarray(self.weights, device=getattr(codes, "device", None))
        factor = xp.take(of_class, xp.astype(codes[:, 0], xp.int64))
        return factor if weight is None else weight * factor
