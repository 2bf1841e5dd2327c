"""A penalty that sets groups of coefficients to zero together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.errors import InputError
from nysstream.regularizers.base import ROUNDING, Regularizer, Step
from nysstream.regularizers.settings import negative, pick, refuse, vector

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.regularizers.base import Block, Vector


@dataclass(frozen=True, eq=False)
class GroupLasso(Regularizer):
    r"""The penalty :math:`\lambda \sum_g \omega_g \|w_g\|_2` over groups of coefficients.

    Parameters
    ----------
    strength : float or array-like, shape (k,)
        One for all columns of coefficients, or one for each.
    groups : array-like of int, shape (p,)
        Label of each coefficient's group.
    weights : array-like, shape (n_groups,), optional
        Factors of the strength, in ascending order of the labels; ones by default. Square roots of the
        groups' sizes are customary where sizes differ.
    """

    strength: Any
    groups: Any
    weights: Any = None

    def __post_init__(self) -> None:
        strength = vector("GroupLasso", "strength", self.strength)
        refuse("GroupLasso", "strength", strength, negative, ">= 0 and finite")
        groups = np.array(self.groups)
        if groups.ndim != 1 or groups.size == 0 or groups.dtype.kind not in "iu":
            message = (
                f"GroupLasso: groups has shape {groups.shape} and dtype {groups.dtype}; give one whole "
                "number per coefficient"
            )
            raise InputError(message)
        labels = np.unique(groups)
        weights = (
            np.ones(labels.size) if self.weights is None else vector("GroupLasso", "weights", self.weights)
        )
        if np.shape(weights) != labels.shape:
            message = f"GroupLasso: weights has shape {np.shape(weights)}; there are {labels.size} groups"
            raise InputError(message)
        refuse("GroupLasso", "weights", weights, negative, ">= 0 and finite")
        for name, value in {"strength": strength, "groups": groups, "weights": weights}.items():
            object.__setattr__(self, name, value)

    def value(self, W: Block) -> Vector:
        """Evaluate each column."""
        return np.asarray(self.strength * (self.weights @ self._norms(W)))

    def prox(self, V: Block, step: Step) -> Block:
        """Shorten each group."""
        norms = self._norms(V)
        left = np.maximum(norms - step * self._thresholds(), 0.0)
        factor = np.divide(left, norms, out=np.zeros_like(norms), where=norms > 0)
        return np.asarray(V * factor[self._member])

    def conjugate(self, V: Block) -> Vector:
        """Give zero where no group is longer than its strength, else infinity."""
        inside = np.all(self._norms(V) <= self._thresholds(), axis=0)
        return np.asarray(np.where(inside, 0.0, np.inf))

    def dual_scale(self, V: Block) -> Vector:
        """Divide strengths by lengths."""
        norms = self._norms(V)
        limits = self._thresholds() * np.ones_like(norms)
        over = norms > limits
        ratio = np.divide(limits, norms, out=np.ones_like(norms), where=over)
        return np.asarray(np.where(over, ratio * (1.0 - ROUNDING * len(V)), 1.0).min(axis=0))

    def columns(self, index: Any) -> GroupLasso:
        """Restrict strengths that differ between columns."""
        return GroupLasso(pick(self.strength, index), self.groups, self.weights)

    def _thresholds(self) -> Block:
        return np.asarray(self.weights[:, None] * self.strength)

    def _norms(self, W: Block) -> Block:
        """Give the length of each group in each column, (n_groups, k)."""
        if len(W) != self.groups.size:
            message = f"GroupLasso: groups names {self.groups.size} coefficients, and there are {len(W)}"
            raise InputError(message)
        return np.asarray(np.sqrt(np.add.reduceat(W[self._order] ** 2, self._starts, axis=0)))

    @cached_property
    def _member(self) -> NDArray[np.intp]:
        return np.asarray(np.unique(self.groups, return_inverse=True)[1])

    @cached_property
    def _order(self) -> NDArray[np.intp]:
        return np.argsort(self._member, kind="stable")

    @cached_property
    def _starts(self) -> NDArray[np.intp]:
        return np.asarray(np.searchsorted(self._member[self._order], np.arange(self.weights.size)))
