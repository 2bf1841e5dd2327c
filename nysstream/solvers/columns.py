"""Columns of blocks (p, k): chosen, replaced, scaled and measured in any array namespace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.arrays import like, namespace, to_host

if TYPE_CHECKING:
    from numpy.typing import NDArray

Array = Any  # any array of the Python array API standard


def take(X: Array, columns: NDArray[np.intp]) -> Array:
    """Choose columns, in ascending order; all of them are ``X`` itself."""
    if columns.size == X.shape[1]:
        return X
    return namespace(X).take(X, like(X, columns), axis=1)


def put(X: Array, columns: NDArray[np.intp], new: Array) -> Array:
    """Replace columns in a copy; the standard has no assignment by integer arrays."""
    if columns.size == 0:
        return X
    if columns.size == X.shape[1]:
        return new
    order = np.arange(X.shape[1])
    order[columns] = X.shape[1] + np.arange(columns.size)
    xp = namespace(X)
    return xp.take(xp.concat([X, new], axis=1), like(X, order), axis=1)


def replaced(x: NDArray[Any], where: NDArray[np.intp], new: Any) -> NDArray[Any]:
    """Replace entries in a copy of a host vector."""
    x = x.copy()
    x[where] = new
    return x


def row(X: Array, x: NDArray[np.float64]) -> Array:
    """Move one number per column beside ``X``, shaped to scale its columns."""
    return like(X, np.ascontiguousarray(x, dtype=np.float64))[None, :]


def dots(X: Array, Y: Array) -> NDArray[np.float64]:
    """Inner products of corresponding columns, on the host."""
    return to_host(namespace(X).sum(X * Y, axis=0))


def norms(X: Array) -> NDArray[np.float64]:
    """Euclidean norms of the columns, on the host."""
    return np.sqrt(dots(X, X))
