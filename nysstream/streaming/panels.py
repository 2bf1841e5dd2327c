"""A symmetric matrix as panels of its lower triangle: half the memory and half the arithmetic."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.streaming.helping import spread
from nysstream.streaming.reduction import Array, Part, accumulate

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.arrays import Device
    from nysstream.streaming.design import DesignMatrix

#: Rows of a panel: products stay near the speed of square ones, and the blocks on the diagonal,
#: whose upper halves are computed in vain, stay few.
PANEL_ROWS = 256
#: Rows that a tile should have: the panels, in float64, are gone through once per tile, which must take
#: little time beside the products.
TALL_ROWS = 2048


def panel_edges(p: int) -> list[tuple[int, int]]:
    """Cut ``p`` rows into panels; panel ``(a, b)`` holds rows a to b and columns 0 to b."""
    return list(pairwise([*range(0, p, PANEL_ROWS), p]))


def panel_bytes(p: int) -> int:
    """Bytes of all panels in float64."""
    return sum(8 * (b - a) * b for a, b in panel_edges(p))


def panel_work_bytes(design: DesignMatrix, tile_rows: int) -> int:
    """Count the weighted columns and the product of the panels that are being multiplied at once."""
    return design.task_threads * design.dtype.itemsize * PANEL_ROWS * (design.shape[1] + tile_rows)


def empty_panels(p: int, device: Device, name: str = "gram") -> Part:
    """Make panels of zeros on the device, to be added to a part that may hold others by other names."""
    return {_key(a, name): device.zeros((b - a, b), np.float64) for a, b in panel_edges(p)}


def add_products(part: Part, Z: Array, weight: Array | None, name: str = "gram") -> None:
    """Add ``Z' diag(weight) Z``, multiplied in the dtype of Z, to the panels of ``part``."""

    def add(edges: tuple[int, int]) -> None:
        a, b = edges
        left = Z[:, a:b] if weight is None else Z[:, a:b] * weight[:, None]
        product = left.T @ Z[:, :b]
        if hasattr(product, "toarray"):  # a product of sparse rows
            product = product.toarray()
        part[_key(a, name)] = accumulate(part[_key(a, name)], product)

    spread(add, reversed(panel_edges(Z.shape[1])))  # the longest first


def move_panels(part: Part, left: NDArray[np.float64], right: NDArray[np.float64]) -> None:
    """Add ``left' right``, which must be symmetric, to the panels of ``part``, in place.

    Parameters
    ----------
    left, right : ndarray, shape (k, p)
    """
    for a, b in panel_edges(left.shape[1]):
        if _key(a) in part:
            part[_key(a)] += left[:, a:b].T @ right[:, :b]


def assemble(part: Part, p: int, name: str = "gram") -> NDArray[np.float64] | None:
    """Put the panels of ``part`` together into a full symmetric matrix; None if it holds none."""
    if _key(0, name) not in part:
        return None
    full = np.empty((p, p))
    for a, b in panel_edges(p):
        panel = part[_key(a, name)]
        full[a:b, :b] = panel
        full[:b, a:b] = panel.T
        full[a:b, a:b] = np.tril(panel[:, a:b]) + np.tril(panel[:, a:b], -1).T
    return full


def hessian(
    part: Part,
    design: DesignMatrix,
    cross: NDArray[np.float64],
    weight: float,
    *,
    fit_intercept: bool,
    name: str = "gram",
) -> NDArray[np.float64]:
    """Put a Hessian together from its panels: the intercept eliminated, and scaled as the design is.

    Parameters
    ----------
    part : Part
        Holds the panels of ``Z' H Z``.
    design : DesignMatrix
    cross : ndarray, shape (p,)
        The product of Z with the diagonal of H, before centring and scaling.
    weight : float
        The sum of that diagonal.
    fit_intercept : bool
        Whether there is an intercept to eliminate.
    name : str
        Of the panels.
    """
    full = assemble(part, design.shape[1], name)
    assert full is not None
    if fit_intercept and weight > 0:
        # The weighted means of the rows go with the intercept, wherever the origin is.
        full -= np.outer(cross / weight, cross)
    return full if design.centering is None else scaled_inplace(full, design.centering.scale)


def _key(a: int, name: str = "gram") -> str:
    return f"{name}-{a}"


def scaled_inplace(gram: NDArray[np.float64], scale: Any) -> NDArray[np.float64]:
    """Divide a symmetric matrix by ``scale`` on both sides, in place."""
    gram /= scale[:, None]
    gram /= scale[None, :]
    return gram
