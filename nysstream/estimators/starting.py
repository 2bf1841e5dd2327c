"""Coefficients to start from, whose product with the operator came with the set-up pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.streaming import DesignMatrix

#: A start is multiplied by a factor unless it is this near to one.
_NEAR_ONE = 0.01
#: A residual this many times its rounding error is known well enough to start from.
_NOISE = 100.0


@dataclass(frozen=True, eq=False)
class Start:
    """Where to start, one column per system.

    Attributes
    ----------
    value : ndarray, shape (p, k)
        Coefficients of the centred and scaled design.
    product : ndarray, shape (p, k)
        Of the operator with them.
    eps : float
        Relative rounding error of the product.
    """

    value: NDArray[np.float64]
    product: NDArray[np.float64]
    eps: float

    @classmethod
    def of(cls, design: DesignMatrix, coef: NDArray[np.float64], product: NDArray[np.float64]) -> Self:
        """Turn coefficients ``(p, k)`` of the columns as they are, and their products, into a start."""
        if design.centering is None:
            return cls(coef, product, design.eps)
        scale = design.centering.scale[:, None]
        varies = np.isfinite(scale)  # a constant column has infinite scale, and no part in the problem
        value = np.where(varies, coef * np.where(varies, scale, 0.0), 0.0)
        return cls(value, product / scale, design.eps)

    def scaled(self, rhs: NDArray[np.float64], shifts: NDArray[np.float64]) -> Start:
        """Scale each column to the least energy on its ray, which is never worse than zero."""
        energy = np.sum(self.value * (self.product + shifts * self.value), axis=0)
        gain = np.sum(self.value * rhs, axis=0)
        factor = np.divide(gain, energy, out=np.zeros_like(energy), where=energy > 0)
        # Nearer to one than rounding of the product allows to say, it is one.
        factor = np.where(np.abs(factor - 1) < _NEAR_ONE, 1.0, factor)
        return Start(self.value * factor, self.product * factor, self.eps)

    def residual(
        self, rhs: NDArray[np.float64], shifts: NDArray[np.float64], rtol: float
    ) -> NDArray[np.float64] | None:
        """Compute the residuals; None if one is so small that only double precision can tell."""
        residual = rhs - self.product - shifts * self.value
        size = np.linalg.norm(rhs, axis=0)
        noise = self.eps * (size + np.linalg.norm(self.product, axis=0))
        near = np.linalg.norm(residual, axis=0) <= np.maximum(2 * rtol * size, _NOISE * noise)
        return None if np.any(near & (size > 0)) else np.asarray(residual)
