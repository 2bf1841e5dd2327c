"""The Gram matrix of a design, as an operator whose products are passes over the data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.arrays import like, to_host
from nysstream.operators.base import LinearOperator, Precision
from nysstream.streaming import DesignMatrix, GramProduct, reduce

if TYPE_CHECKING:
    from nysstream.operators.base import Array


class GramOperator(LinearOperator):
    r"""The operator :math:`\tilde X^\top H \tilde X` of a design matrix, with H its weights.

    Parameters
    ----------
    design : DesignMatrix

    Notes
    -----
    Cost: one pass per product, whatever the number of vectors; sums are float64.
    """

    psd = True

    def __init__(self, design: DesignMatrix) -> None:
        self.design = design
        p = design.shape[1]
        self.shape = (p, p)
        self.dtype = np.dtype(np.float64)
        self.eps = design.eps
        self.passes = 0

    def matmat(self, V: Array, *, precision: Precision | None = None) -> Array:
        """Multiply a block of vectors (p, k); ``precision="double"`` upcasts on the device."""
        design = self.design if precision is None else self.design.with_precision(precision)
        vectors: Any = np.ascontiguousarray(to_host(V), dtype=np.float64)
        (product,) = reduce(design, GramProduct(vectors), name="product")
        self.passes += 1
        return like(V, product)
