"""Linear operators on p-space: what solvers see of the data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.sparse.linalg import LinearOperator as ScipyLinearOperator

if TYPE_CHECKING:
    from numpy.typing import NDArray

Array = Any  # any array of the Python array API standard
Precision = Literal["single", "double"]


class LinearOperator(ABC):
    """A square or rectangular linear map that multiplies blocks of vectors.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
        Dtype of the products.
    psd : bool
        Whether the operator is declared symmetric positive semidefinite. Solvers that need it
        refuse an operator that does not declare it.
    eps : float
        Relative rounding error of one product in the default precision; sets the shift of a
        sketch and where a residual can no longer be trusted.
    passes : int
        Reads of the underlying data made so far by this operator's products.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    psd: bool = False
    eps: float = float(np.finfo(np.float64).eps)
    passes: int = 0

    @abstractmethod
    def matmat(self, V: Array, *, precision: Precision | None = None) -> Array:
        """Multiply a block of vectors ``(p, k)``.

        ``precision="double"`` asks for products in float64 whatever the operator's default.
        """

    def take(self, columns: NDArray[np.intp]) -> LinearOperator:
        """Return what multiplies a block made of these columns of a larger one.

        Solvers ask for it when they have finished the other columns. It is the operator itself, unless
        its columns differ; its products count among the ``passes`` of the operator.
        """
        return self

    def place(self, host: np.ndarray[Any, Any]) -> Array:
        """Move a host array to the namespace and device where the operator multiplies."""
        return host

    def trace(self) -> float | None:
        """Return the trace if it is known without a product, else None."""
        return None

    def __matmul__(self, V: Array) -> Array:
        if V.ndim == 1:
            return self.matmat(V[:, None])[:, 0]
        return self.matmat(V)

    def as_scipy(self) -> ScipyLinearOperator:
        """View the operator as ``scipy.sparse.linalg.LinearOperator`` (symmetric ones only)."""
        return ScipyLinearOperator(
            self.shape, matvec=self.__matmul__, rmatvec=self.__matmul__, matmat=self.matmat, dtype=self.dtype
        )
