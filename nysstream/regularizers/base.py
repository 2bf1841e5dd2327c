"""The regularizer: what coefficients cost, with its proximal operator and its convex conjugate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

#: What rounding may add to a sum of p terms, relative to their sizes, is p times this.
ROUNDING = 4 * float(np.finfo(np.float64).eps)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]  # shape (k,): one number per column
    Block = NDArray[np.float64]  # shape (p, k)

Step = Any  # float, or ndarray


@dataclass(frozen=True, eq=False)
class Face:
    r"""The coordinates in which a regularizer is smooth near some coefficients, and what it is there.

    As a function of the free coordinates, as long as they stay within the bounds, it is a sum of
    :math:`\mathrm{slope}\, w + \tfrac12 \mathrm{curvature}\, w^2`.

    Attributes
    ----------
    free : ndarray of bool, shape (p, k)
    slope, curvature : ndarray, shape (p, k)
    lower, upper : ndarray, shape (p, k)
        Where free, the ends of the interval; where not, both are the coefficient.
    """

    free: NDArray[np.bool_]
    slope: Block
    curvature: Block
    lower: Block
    upper: Block


class Regularizer(ABC):
    """A closed convex function of each column of coefficients W, shape (p, k), in float64.

    Concrete ones are frozen dataclasses. Strengths are one for all columns or one for each.
    Constraints are regularizers whose values are 0 or infinite.

    Attributes
    ----------
    separable : bool
        Whether it is a sum over coefficients, so that steps may differ between them.
    offset : ndarray, shape (m, 1), or float
        What regularizers of linear combinations subtract from them, see
        :class:`nysstream.regularizers.Composed`.
    """

    separable: bool = False
    offset: Any = 0.0

    @property
    def strong_convexity(self) -> float | Block:
        """Give the modulus of strong convexity: a number, or an array that broadcasts to (p, k)."""
        return 0.0

    @abstractmethod
    def value(self, W: Block) -> Vector:
        """Evaluate each column, (k,).

        Infinite where a constraint is violated: one on single coefficients by any amount, one on sums by
        more than their rounding errors. What :meth:`prox` returns violates none.
        """

    @abstractmethod
    def prox(self, V: Block, step: Step) -> Block:
        r"""Minimise :math:`r(w_j) + \|w_j - v_j\|^2 / (2\,\mathrm{step}_j)` for every column.

        Parameters
        ----------
        V : ndarray, shape (p, k)
        step : float or ndarray, shape (k,)
            Positive. Where the regularizer is separable, any array that broadcasts to (p, k).

        Returns
        -------
        ndarray, shape (p, k)
        """

    def distance(self, W: Block, G: Block) -> Vector:
        r"""Measure how far W is from optimal where the smooth part has gradient G, (k,).

        Zero at a minimum. Here the residual :math:`\|w - \mathrm{prox}(w - g, 1)\|_\infty`, which suits
        regularizers that couple coefficients; separable ones give the largest distance of an entry of
        :math:`-g` from the subdifferential instead.
        """
        return np.asarray(np.abs(W - self.prox(W - G, 1.0)).max(axis=0, initial=0.0))

    @abstractmethod
    def conjugate(self, V: Block) -> Vector:
        r"""Evaluate :math:`\sup_w v_j^\top w - r(w)` for every column, (k,); infinite outside its domain."""

    @abstractmethod
    def dual_scale(self, V: Block) -> Vector:
        """Give the largest s in [0, 1] for which the conjugate at ``s * V`` is finite, (k,).

        It is finite there in floating point, too.
        """

    @abstractmethod
    def columns(self, index: Any) -> Regularizer:
        """Restrict to some columns.

        Parameters
        ----------
        index : slice, or ndarray of int or bool, shape (m,)
        """

    def face(self, W: Block) -> Face | None:
        """Describe where it is smooth near W; None where it is no quadratic of single coefficients."""
        return None

    # What is otherwise only where a regularizer is one of linear combinations of the coefficients.

    @property
    def inner(self) -> Regularizer:
        """Give the regularizer whose proximal operator is known: itself."""
        return self

    @property
    def stretch(self) -> float:
        """Give the mean eigenvalue of :meth:`back` after :meth:`reach`."""
        return 1.0

    def reach(self, W: Block) -> Block:
        """Give what :attr:`inner` is a function of: the coefficients."""
        return W

    def back(self, V: Block) -> Block:
        """Multiply with the transpose of the linear part of :meth:`reach`."""
        return V

    def answer(self, W: Block, Z: Block) -> Block:
        """Give the coefficients to be certified, of those at hand and what :attr:`inner` makes of them."""
        return Z

    def near(self, multiplier: Block | None) -> Regularizer:
        """Take note of subgradients that a solver has found."""
        return self

    def subgradient(self, V: Block) -> Block:
        """Give the subgradients of :attr:`inner` that negative gradients V ask for."""
        return V

    def violation(self, W: Block) -> Vector:
        """Give how far constraints are violated where :meth:`value` does not show it, (k,)."""
        return np.zeros(W.shape[1])
