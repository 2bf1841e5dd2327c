"""One linear inequality."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.errors import InputError
from nysstream.regularizers.base import ROUNDING, Regularizer, Step
from nysstream.regularizers.settings import numbers, pick, refuse, vector

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.regularizers.base import Block, Vector


@dataclass(frozen=True, eq=False)
class Halfspace(Regularizer):
    r"""The constraint :math:`a^\top w \le b`.

    Parameters
    ----------
    normal : array-like, shape (p,)
        a, the same for all columns of coefficients; finite, not all zero.
    bound : float or array-like, shape (k,), default 0
        b, finite; one for all columns of coefficients, or one for each.
    """

    normal: Any
    bound: Any = 0.0

    def __post_init__(self) -> None:
        normal = numbers("Halfspace", "normal", self.normal)
        refuse("Halfspace", "normal", normal, np.isinf, "finite")
        if normal.ndim != 1 or not normal.any():
            message = f"Halfspace: normal has shape {normal.shape}; it must be (p,), with an entry not zero"
            raise InputError(message)
        bound = vector("Halfspace", "bound", self.bound)
        refuse("Halfspace", "bound", bound, np.isinf, "finite")
        object.__setattr__(self, "normal", normal)
        object.__setattr__(self, "bound", bound)

    def value(self, W: Block) -> Vector:
        """Give zero in the half-space, infinity outside."""
        allowed = ROUNDING * len(W) * (np.abs(self.normal) @ np.abs(W) + np.abs(self.bound))
        return np.asarray(np.where(self.normal @ W <= self.bound + allowed, 0.0, np.inf))

    def prox(self, V: Block, step: Step) -> Block:
        """Project: move along the normal by what is too much."""
        excess = np.maximum(self.normal @ V - self.bound, 0.0)
        return np.asarray(V - self.normal[:, None] * (excess / (self.normal @ self.normal)))

    def conjugate(self, V: Block) -> Vector:
        """Give the bound times t where V is t times the normal and t >= 0, up to rounding; else infinity."""
        t, along = self._multiple(V)
        return np.asarray(np.where(along, t * self.bound, np.inf))

    def dual_scale(self, V: Block) -> Vector:
        """Give one along the normal, else zero."""
        return np.asarray(np.where(self._multiple(V)[1], 1.0, 0.0))

    def columns(self, index: Any) -> Halfspace:
        """Restrict bounds that differ between columns."""
        return Halfspace(self.normal, pick(self.bound, index))

    def _multiple(self, V: Block) -> tuple[Vector, NDArray[np.bool_]]:
        t = np.maximum(self.normal @ V / (self.normal @ self.normal), 0.0)
        apart = np.linalg.norm(V - self.normal[:, None] * t, axis=0)
        return t, apart <= ROUNDING * len(V) * np.linalg.norm(V, axis=0)
