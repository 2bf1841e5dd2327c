"""The Gram matrices of cross-validation's training sets, one per column of a block."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.arrays import like, to_host
from nysstream.operators.base import LinearOperator, Precision
from nysstream.streaming import reduce
from nysstream.streaming.fold_kernels import FoldGramProduct, TrainingColumns

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.operators.base import Array
    from nysstream.streaming import DesignMatrix


class FoldGramOperator(LinearOperator):
    r"""Multiplies each column of a block by the Gram matrix of its own training set.

    Parameters
    ----------
    design : DesignMatrix
        Of all rows.
    columns : TrainingColumns
        The training set of each column.

    Notes
    -----
    Cost: one pass per block, whatever the number of columns and of training sets.
    """

    psd = True

    def __init__(self, design: DesignMatrix, columns: TrainingColumns) -> None:
        self.design = design
        self.columns = columns
        p = design.shape[1]
        self.shape = (p, p)
        self.dtype = np.dtype(np.float64)
        self.eps = design.eps
        self.passes = 0
        self._whole = self

    def take(self, columns: NDArray[np.intp]) -> FoldGramOperator:
        """Return what multiplies a block made of these columns."""
        part = FoldGramOperator(self.design, self.columns.take(columns))
        part._whole = self._whole
        return part

    def matmat(self, V: Array, *, precision: Precision | None = None) -> Array:
        """Multiply a block of vectors (p, k); ``precision="double"`` upcasts on the device."""
        design = self.design if precision is None else self.design.with_precision(precision)
        vectors: Any = np.ascontiguousarray(to_host(V), dtype=np.float64)
        (product,) = reduce(design, FoldGramProduct(vectors, self.columns), name="product")
        self._whole.passes += 1
        return like(V, product)
