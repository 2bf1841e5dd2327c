"""The Gram matrix of a design, as an operator whose products are passes over the data."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.arrays import like, to_host
from nysstream.operators.base import LinearOperator, Precision
from nysstream.streaming import (
    Centering,
    DesignMatrix,
    GramProduct,
    SetUp,
    centering_of,
    pass_needs,
    reduce,
)
from nysstream.streaming.affordable import Room

if TYPE_CHECKING:
    from nysstream.features import FeatureMap
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


def gram(
    X: Any,
    *,
    features: FeatureMap | None = None,
    weight: Any = None,
    center: bool = False,
    standardize: bool = False,
    precision: Precision = "single",
    memory: int | str | None = None,
    device: str | None = None,
    n_vectors: int = 1,
) -> GramOperator:
    r"""View :math:`X^\top H X` as a linear operator, for problems of your own.

    Parameters
    ----------
    X : array-like, RowSource, zarr.Array, h5py.Dataset or dask.array.Array, shape (n, d)
    features : FeatureMap, optional
        Applied to the rows as they stream by.
    weight : as X, shape (n,), optional
        The diagonal of H; ones by default.
    center, standardize : bool
        Subtract the (weighted) column means; divide by the columns' standard deviations.
    precision : {"single", "double"}
    memory : int or str, optional
        Limit for the process. What block buffers and sums leave of it keeps blocks resident.
    device : str, optional
    n_vectors : int
        Vectors that will be multiplied at once, for the memory account.

    Returns
    -------
    GramOperator
        Shape ``(p, p)``; use it with :func:`nysstream.nystrom` and :func:`nysstream.pcg`, or as
        SciPy's ``LinearOperator`` by ``as_scipy()``.

    Raises
    ------
    InputError
        If shapes or dtypes cannot be used.
    MemoryBudgetError
        If a pass does not fit.

    Notes
    -----
    Cost: no read, or one pass with ``center`` or ``standardize``; later one pass per product.

    Examples
    --------
    >>> import numpy as np
    >>> A = gram(np.eye(3), weight=np.array([1.0, 2.0, 3.0]))
    >>> (A @ np.ones(3)).tolist()
    [1.0, 2.0, 3.0]
    """
    design = DesignMatrix(X, None, weight, precision=precision, device=device)
    if features is not None:
        if features.needs_sample:
            features = features.fit(design.sample_rows())
        design = replace(design, features=features)
    needs = _needs(design, n_vectors, center=center, standardize=standardize)
    budget = Room.of(memory).budget(needs, "ask for fewer features or smaller chunks")
    budget.check()
    design = design.with_cache(budget.spare)
    if center or standardize:
        (statistics,) = reduce(design, SetUp(center=center), name="moments")
        centering = centering_of(design, statistics, center=center, standardize=standardize)
        design = replace(design, centering=centering)
    return GramOperator(design)


def _needs(design: DesignMatrix, n_vectors: int, *, center: bool, standardize: bool) -> dict[str, int]:
    """Count the bytes of a product, and of the pass for the means where there is one."""
    p = design.shape[1]
    product = GramProduct(np.broadcast_to(np.float64(0), (p, n_vectors)))
    if not center and not standardize:
        return pass_needs(design, product)
    zeros = np.zeros(p)
    shift = zeros if center and not design.sparse else None
    shifted = replace(design, centering=Centering(zeros, np.ones(p), np.zeros(0), shift))
    products, moments = pass_needs(shifted, product), pass_needs(design, SetUp(center=center))
    return {name: max(products[name], moments[name]) for name in products}
