"""The Hessian of a loss over a design, as an operator whose products are passes over the data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.arrays import like, to_host
from nysstream.operators.base import LinearOperator, Precision
from nysstream.streaming import HessianProduct, reduce

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.operators.base import Array
    from nysstream.streaming import DesignMatrix, Outcome


class HessianOperator(LinearOperator):
    r"""The operator :math:`\tilde X^\top H \tilde X`, with H the loss's curvature at given coefficients.

    Parameters
    ----------
    design : DesignMatrix
    outcome : Outcome
        Of one column.
    at : ndarray, shape (p, 1)
    intercept : ndarray, shape (1,)
    fit_intercept : bool
        Whether the intercept is eliminated from the Hessian.
    factor : float
        Of the products, where the design is a sample of the rows.

    Notes
    -----
    Cost: one pass per product, whatever the number of vectors. The curvature is formed again in each, from
    ``at``, so that nothing is kept per row.
    """

    psd = True

    def __init__(
        self,
        design: DesignMatrix,
        outcome: Outcome,
        at: NDArray[np.float64],
        intercept: NDArray[np.float64],
        *,
        fit_intercept: bool,
        factor: float = 1.0,
    ) -> None:
        self.design = design
        self.outcome = outcome
        self.factor = factor
        self.at = np.ascontiguousarray(at)
        self.intercept = intercept
        self.fit_intercept = fit_intercept
        p = design.shape[1]
        self.shape = (p, p)
        self.dtype = np.dtype(np.float64)
        self.eps = design.eps
        self.passes = 0

    def matmat(self, V: Array, *, precision: Precision | None = None) -> Array:
        """Multiply a block of vectors (p, k); ``precision="double"`` upcasts on the device."""
        design = self.design if precision is None else self.design.with_precision(precision)
        vectors: Any = np.ascontiguousarray(to_host(V), dtype=np.float64)
        of = np.zeros(vectors.shape[1], np.intp)
        reduction = HessianProduct(self.outcome, self.at, self.intercept, vectors, of, self.fit_intercept)
        (product,) = reduce(design, reduction, name="product")
        self.passes += 1
        return like(V, self.factor * product)


class CoupledHessian(LinearOperator):
    r"""The Hessian of a loss that couples its columns, on stacked columns: one problem of many coordinates.

    A vector holds, class after class, p coefficients and, with intercepts, one more.

    Parameters
    ----------
    design : DesignMatrix
    outcome : Outcome
    at : ndarray, shape (p, k)
    intercept : ndarray, shape (k,)
    fit_intercept : bool
    diagonal : float
        The trace, or an estimate of it.
    factor : float
        Of the products, where the design is a sample of the rows.

    Notes
    -----
    Cost: one pass per product.
    """

    psd = True

    def __init__(
        self,
        design: DesignMatrix,
        outcome: Outcome,
        at: NDArray[np.float64],
        intercept: NDArray[np.float64],
        *,
        fit_intercept: bool,
        diagonal: float,
        factor: float = 1.0,
    ) -> None:
        self.design = design
        self.outcome = outcome
        self.at = np.ascontiguousarray(at)
        self.intercept = intercept
        self.fit_intercept = fit_intercept
        self.diagonal = diagonal
        self.factor = factor
        p, k = at.shape
        self.rows = p + fit_intercept
        self.shape = (self.rows * k, self.rows * k)
        self.dtype = np.dtype(np.float64)
        self.eps = design.eps
        self.passes = 0

    def trace(self) -> float:
        """Return the trace that was given."""
        return self.diagonal

    def matmat(self, V: Array, *, precision: Precision | None = None) -> Array:
        """Multiply a block of stacked vectors, shape (k * (p + 1), m)."""
        design = self.design if precision is None else self.design.with_precision(precision)
        p, k = self.at.shape
        host = np.asarray(to_host(V), dtype=np.float64)
        m = host.shape[1]
        # Vectors in groups of k columns: (rows, m * k).
        columns = host.reshape(k, self.rows, m).transpose(1, 2, 0).reshape(self.rows, m * k)
        offsets = np.ascontiguousarray(columns[p]) if self.fit_intercept else np.zeros(m * k)
        reduction = HessianProduct(
            self.outcome,
            self.at,
            self.intercept,
            np.ascontiguousarray(columns[:p]),
            np.tile(np.arange(k), m),
            self.fit_intercept,
            offsets,
        )
        (product,) = reduce(design, reduction, name="product")
        self.passes += 1
        product = product[: self.rows].reshape(self.rows, m, k).transpose(2, 0, 1).reshape(-1, m)
        return like(V, self.factor * product)
