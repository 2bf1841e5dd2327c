"""Kernel functions of pairs of rows, evaluated a tile at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from scipy.spatial.distance import cdist

from nysstream.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

KernelName = Literal["linear", "poly", "rbf", "laplacian", "matern12", "matern32", "matern52"]
KERNELS: tuple[KernelName, ...] = get_args(KernelName)
_ROOTS = {"matern12": 1.0, "matern32": 3.0**0.5, "matern52": 5.0**0.5}


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows made ready for a kernel: scaled, in its dtype, with what it needs of each beside them.

    Attributes
    ----------
    scaled : ndarray, shape (n, d)
    squares : ndarray, shape (n,)
        Half the squared norms of the scaled rows; empty for kernels of inner products.
    """

    scaled: NDArray[Any]
    squares: NDArray[Any]

    def __len__(self) -> int:
        return len(self.scaled)

    def __getitem__(self, rows: Any) -> Rows:
        return Rows(self.scaled[rows], self.squares[rows] if self.squares.size else self.squares)


@dataclass(frozen=True)
class Kernel:
    r"""A positive semidefinite function of two rows.

    Parameters
    ----------
    name : str
        ``"linear"``: :math:`x^\top y`. ``"poly"``: :math:`(\gamma x^\top y + c)^q`. ``"rbf"``:
        :math:`\exp(-\gamma \|x - y\|^2)`. ``"laplacian"``: :math:`\exp(-\gamma \|x - y\|_1)`.
        ``"matern12"``, ``"matern32"``, ``"matern52"``: Matérn kernels of smoothness 1/2, 3/2 and 5/2, with
        length scale :math:`(2 \gamma)^{-1/2}`, which is that of ``"rbf"`` too.
    gamma : float, default 1.0
    degree : float, default 3
    coef0 : float, default 1.0
        Not negative, without which the polynomial is no positive semidefinite function.
    precision : {"single", "double"}
        Dtype of the tiles.

    Examples
    --------
    >>> import numpy as np
    >>> kernel = Kernel("rbf", gamma=0.5, precision="double")
    >>> kernel(np.array([[0.0], [1.0]]), np.array([[0.0]])).round(4).tolist()
    [[1.0], [0.6065]]
    """

    name: KernelName
    gamma: float = 1.0
    degree: float = 3
    coef0: float = 1.0
    precision: Literal["single", "double"] = "single"

    def __post_init__(self) -> None:
        if self.name not in KERNELS:
            message = f"kernel={self.name!r} is not known: use one of {', '.join(KERNELS)}"
            raise InputError(message)
        if not (np.isfinite(self.gamma) and self.gamma > 0):
            message = f"gamma={self.gamma!r} is out of range: give a positive number"
            raise InputError(message)
        if self.name == "poly" and not (self.degree >= 1 and float(self.degree).is_integer()):
            message = f"degree={self.degree!r}: give a whole number, 1 or more"
            raise InputError(message)
        if self.name == "poly" and not (np.isfinite(self.coef0) and self.coef0 >= 0):
            message = f"coef0={self.coef0!r}: a negative one makes no positive semidefinite kernel"
            raise InputError(message)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the tiles."""
        return np.dtype(np.float32 if self.precision == "single" else np.float64)

    @property
    def row_dtype(self) -> np.dtype[Any]:
        """Dtype of the rows that tiles are made of.

        Kernels that depend on the distance itself, not on its square, are made of rows in double precision:
        the root would magnify the rounding of small distances.
        """
        return self.dtype if self.name in ("linear", "poly", "rbf") else np.dtype(np.float64)

    @property
    def shift_invariant(self) -> bool:
        """Whether the kernel depends on the difference of the rows only."""
        return self.name not in ("linear", "poly")

    def rows(self, X: NDArray[Any], origin: NDArray[np.float64] | None = None) -> Rows:
        """Make rows ready.

        Parameters
        ----------
        X : ndarray, shape (n, d)
        origin : ndarray, shape (d,), optional
            Near the rows: subtracted for kernels of differences, whose rounding grows with the distance
            from zero.
        """
        scale = {"linear": 1.0, "laplacian": self.gamma, "poly": self.gamma**0.5}.get(
            self.name, (2 * self.gamma) ** 0.5
        )
        if origin is not None and self.shift_invariant:
            X = np.subtract(X, origin, dtype=np.float64)  # before rounding to the dtype
        Z = np.array(X, self.row_dtype, order="C")
        if scale != 1.0:
            Z *= scale
        squares = np.empty(0, Z.dtype)
        if self.shift_invariant and self.name != "laplacian":
            squares = np.einsum("ij,ij->i", Z, Z) / 2
        return Rows(Z, squares)

    def tile(self, A: Rows, B: Rows) -> NDArray[Any]:
        """Evaluate the kernel for every row of A with every row of B.

        Returns
        -------
        ndarray, shape (len(A), len(B))

        Notes
        -----
        Cost: ``2 * len(A) * len(B) * d`` flops, and one evaluation per pair.
        """
        if self.name == "laplacian":
            T: NDArray[Any] = cdist(A.scaled, B.scaled, "cityblock")
            return np.asarray(np.exp(np.negative(T, out=T), out=T), self.dtype)
        T = A.scaled @ B.scaled.T
        if self.name == "poly":
            T += T.dtype.type(self.coef0)
            return np.asarray(T ** int(self.degree))
        if self.name == "linear":
            return np.asarray(T)
        T -= A.squares[:, None]
        T -= B.squares[None, :]
        np.minimum(T, 0, out=T)  # minus half the scaled squared distance
        if self.name == "rbf":
            return np.asarray(np.exp(T, out=T))
        T *= -2.0
        r = _ROOTS[self.name] * np.sqrt(T, out=T)
        K = np.exp(-r)
        if self.name == "matern32":
            K *= 1 + r
        elif self.name == "matern52":
            K *= 1 + r + r * r / 3
        return np.asarray(K, self.dtype)

    def diagonal(self, A: Rows) -> NDArray[np.float64]:
        """Evaluate the kernel for every row with itself, shape (n,)."""
        if self.shift_invariant:
            return np.ones(len(A))
        squares = np.einsum("ij,ij->i", A.scaled, A.scaled, dtype=np.float64)
        return np.asarray(squares if self.name == "linear" else (squares + self.coef0) ** int(self.degree))

    def __call__(self, X: NDArray[Any], Y: NDArray[Any]) -> NDArray[Any]:
        """Evaluate the kernel for every row of X with every row of Y, shape (n, m)."""
        origin = np.asarray(X, np.float64).mean(axis=0)
        return self.tile(self.rows(X, origin), self.rows(Y, origin))
