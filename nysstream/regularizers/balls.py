"""Balls about zero whose norms couple the coefficients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.regularizers.base import ROUNDING, Regularizer, Step
from nysstream.regularizers.settings import pick, positive
from nysstream.regularizers.simplex import onto_simplex

if TYPE_CHECKING:
    from nysstream.regularizers.base import Block, Vector


@dataclass(frozen=True, eq=False)
class L1Ball(Regularizer):
    r"""The constraint :math:`\|w\|_1 \le \mathrm{radius}`.

    Parameters
    ----------
    radius : float or array-like, shape (k,), default 1
        Positive; one for all columns of coefficients, or one for each.
    """

    radius: Any = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "radius", positive("L1Ball", "radius", self.radius))

    def value(self, W: Block) -> Vector:
        """Give zero in the ball, infinity outside."""
        size = np.abs(W).sum(axis=0)
        return np.asarray(np.where(size <= self.radius * (1 + ROUNDING * len(W)), 0.0, np.inf))

    def prox(self, V: Block, step: Step) -> Block:
        """Project: the sizes of entries onto a simplex, where they add up to more than the radius."""
        sizes = np.abs(V)
        onto = np.sign(V) * onto_simplex(sizes, self.radius)
        return np.where(sizes.sum(axis=0) <= self.radius, V, onto)

    def conjugate(self, V: Block) -> Vector:
        """Give the radius times the largest size of an entry."""
        return np.asarray(self.radius * np.abs(V).max(axis=0))

    def dual_scale(self, V: Block) -> Vector:
        """Give ones: the conjugate is finite."""
        return np.ones(V.shape[1])

    def columns(self, index: Any) -> L1Ball:
        """Restrict radii that differ between columns."""
        return L1Ball(pick(self.radius, index))


@dataclass(frozen=True, eq=False)
class L2Ball(Regularizer):
    r"""The constraint :math:`\|w\|_2 \le \mathrm{radius}`.

    Parameters
    ----------
    radius : float or array-like, shape (k,), default 1
        Positive; one for all columns of coefficients, or one for each.
    """

    radius: Any = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "radius", positive("L2Ball", "radius", self.radius))

    def value(self, W: Block) -> Vector:
        """Give zero in the ball, infinity outside."""
        inside = np.linalg.norm(W, axis=0) <= self.radius * (1 + ROUNDING * len(W))
        return np.asarray(np.where(inside, 0.0, np.inf))

    def prox(self, V: Block, step: Step) -> Block:
        """Project: shrink what is longer than the radius."""
        norms = np.linalg.norm(V, axis=0)
        return np.asarray(V * (self.radius / np.maximum(norms, self.radius)))

    def conjugate(self, V: Block) -> Vector:
        """Give the radius times the length."""
        return np.asarray(self.radius * np.linalg.norm(V, axis=0))

    def dual_scale(self, V: Block) -> Vector:
        """Give ones: the conjugate is finite."""
        return np.ones(V.shape[1])

    def columns(self, index: Any) -> L2Ball:
        """Restrict radii that differ between columns."""
        return L2Ball(pick(self.radius, index))
