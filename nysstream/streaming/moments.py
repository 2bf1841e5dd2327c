"""The set-up reduction: everything that one pass can gather before a solver starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.arrays import namespace, to_host
from nysstream.errors import InputError
from nysstream.streaming.panels import (
    PANEL_ROWS,
    add_products,
    assemble,
    empty_panels,
    move_panels,
    panel_bytes,
)
from nysstream.streaming.reduction import Array, Part, Reduction, Tile, accumulate, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from nysstream.arrays import Device
    from nysstream.streaming.design import DesignMatrix

Vector = Any  # ndarray of float64


@dataclass(frozen=True)
class Statistics:
    r"""Weighted sums over the rows: what ridge regression needs of the data.

    With weights :math:`h_i`, means :math:`m` and :math:`\bar y`, and test matrix :math:`\Omega`.
    Where the set-up was asked not to centre, the sums are not: zero stands for both means in them.

    Attributes
    ----------
    n_rows : int
    n_weighted : int
        Rows of positive weight.
    weight : float
        Sum of the weights.
    mean : ndarray, shape (p,)
    target_mean : ndarray, shape (q,)
    squares : ndarray, shape (p,)
        :math:`\sum_i h_i (z_i - m)^2`, the diagonal of the Gram matrix.
    cross : ndarray, shape (p, q)
        :math:`\sum_i h_i (z_i - m)(y_i - \bar y)^\top`.
    target_squares : ndarray, shape (q,)
        :math:`\sum_i h_i (y_i - \bar y)^2`.
    sketch : ndarray, shape (p, s)
        :math:`\sum_i h_i (z_i - m)(z_i - m)^\top \Omega`.
    gram : ndarray, shape (p, p), or None
        :math:`\sum_i h_i (z_i - m)(z_i - m)^\top`, where it was asked for.
    """

    n_rows: int
    n_weighted: int
    weight: float
    mean: Vector
    target_mean: Vector
    squares: Vector
    cross: NDArray[np.float64]
    target_squares: Vector
    sketch: NDArray[np.float64]
    gram: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class SetUp(Reduction):
    r"""Means, variances, cross products with the targets, and the Nyström sketch, in one pass.

    Each partition works relative to a shift of its own, the mean of its first tile, and ends
    relative to its own mean; means and sums are then merged pairwise. So no digits are lost however
    far the means are from zero, and no earlier pass is needed to know them.

    Parameters
    ----------
    test : callable, optional
        Gives the test matrix, ndarray of shape (p, s). A callable, so that tasks carry its recipe
        instead of the matrix; it must give the same bits in every process.
    n_test : int
        Its number of columns.
    center : bool
        Whether to work relative to the means.
    gram : bool
        Whether to sum the whole Gram matrix.

    Notes
    -----
    Result: :class:`Statistics`. Checks every value of the rows, targets and weights.
    Arithmetic: ``4 n p (s + q + 1)`` flops, and ``n p^2`` for the Gram matrix.

    References
    ----------
    .. [1] Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
       variances", 1979.
    .. [2] Tropp, Yurtsever, Udell and Cevher, "Fixed-rank approximation of a positive-semidefinite
       matrix from streaming data", 2017.
    """

    test: Callable[[], NDArray[np.float64]] | None = None
    n_test: int = 0
    center: bool = True
    gram: bool = False
    reads_target = True

    def n_columns(self, design: DesignMatrix) -> int:
        """One per test vector, target and the constant; the Gram matrix counts as wide."""
        return self.n_test + design.n_targets + 1

    def tall_rows(self, design: DesignMatrix) -> int:
        """Ask for taller tiles where the whole Gram matrix is added once per tile."""
        return 4096 if self.gram else super().tall_rows(design)

    def part_bytes(self, design: DesignMatrix) -> int:
        """Count products, means, shift and squares."""
        p = design.shape[1]
        return 8 * p * (self.n_columns(design) + 3) + (panel_bytes(p) if self.gram else 0)

    def work_bytes(self, design: DesignMatrix, tile_rows: int) -> int:
        """Count the shifted and the squared tile, and the test matrix in the tiles' dtype."""
        p, itemsize = design.shape[1], design.dtype.itemsize
        return (
            super().work_bytes(design, tile_rows)
            + 2 * itemsize * tile_rows * p
            + itemsize * p * self.n_test
            + (itemsize * PANEL_ROWS * (p + tile_rows) if self.gram else 0)
        )

    def prepare(self, design: DesignMatrix, device: Device) -> Array | None:
        """Send the test matrix to the device, in the dtype of the products."""
        return None if self.test is None else device.put(self.test().astype(design.dtype))

    def start(self, design: DesignMatrix, device: Device) -> Part:
        """Begin with zeros; the shift is set by the first tile."""
        p, q = design.shape[1], design.n_targets
        return {
            "rows": np.zeros(2),
            "products": device.zeros((p, self.n_test + q + 1), np.float64),
            "squares": device.zeros((p,), np.float64),
            "targets": device.zeros((q + 1, q + 1), np.float64),
            **(empty_panels(p, device) if self.gram else {}),
        }

    def add(self, part: Part, tile: Tile, prepared: Array | None) -> Part:
        """Add the products of the tile with the test matrix, the targets, and ones."""
        Z, weight = tile.Z, tile.weight
        dense = not hasattr(Z, "indptr")
        xp = namespace(Z if dense else Z.data)
        n_rows = Z.shape[0]
        w = xp.ones(n_rows, dtype=xp.float64, device=_device(part["squares"])) if weight is None else weight
        Y = xp.zeros((n_rows, 0), dtype=xp.float64, device=_device(w)) if tile.target is None else tile.target
        if "shift" not in part:
            center = self.center and dense
            part["shift"] = (
                xp.mean(Z, axis=0) if center else xp.zeros(Z.shape[1], dtype=Z.dtype, device=_device(w))
            )
            part["target_shift"] = xp.mean(Y, axis=0) if self.center else xp.zeros(Y.shape[1], dtype=Y.dtype)
        if self.center and dense:
            Z = Z - part["shift"]
        # Row weights multiply the narrow factor of each product, never the tile itself.
        right = xp.concat(
            [Y - part["target_shift"], xp.ones((n_rows, 1), dtype=xp.float64, device=_device(w))], axis=1
        )
        weighted = right * w[:, None]
        T = cast(weighted, Z.dtype)
        if prepared is not None:
            sketched = Z @ prepared
            if weight is not None:
                sketched *= cast(w, Z.dtype)[:, None]
            T = xp.concat([sketched, T], axis=1)
        part["products"] = accumulate(part["products"], Z.T @ T)
        if self.gram:
            add_products(part, Z, None if weight is None else cast(w, Z.dtype))
        squares = (Z * Z if dense else Z.multiply(Z)).T @ cast(w, Z.dtype)
        part["squares"] = accumulate(part["squares"], squares)
        part["targets"] = accumulate(part["targets"], right.T @ weighted)
        part["rows"] += np.array([n_rows, n_rows if weight is None else int(xp.sum(w > 0))])
        _check_finite(tile, squares, part["targets"])
        if weight is not None and bool(xp.any(w < 0)):
            row = tile.start + int(xp.argmax(cast(w < 0, xp.int8)))
            message = f"the weight of row {row} is negative; weights must be zero or positive"
            raise InputError(message)
        return part

    def combine(self, a: Part, b: Part) -> Part:
        """Merge two parts: move each to its own mean, then both to the common one."""
        a, b = self._settle(a), self._settle(b)
        total = a["weight"] + b["weight"]
        share = b["weight"] / total if total > 0 else 0.5
        d, e = b["mean"] - a["mean"], b["target_mean"] - a["target_mean"]
        merged = {name: a[name] + b[name] for name in a}
        merged |= {"mean": a["mean"] + share * d, "target_mean": a["target_mean"] + share * e}
        return self._move(merged, a["weight"] * share, d, e) if self.center else merged

    def finish(self, design: DesignMatrix, part: Part) -> Statistics:
        """Return the statistics.

        Raises
        ------
        InputError
            If no row has a positive weight.
        """
        part = self._settle(part)
        weight = float(part["weight"])
        if weight <= 0:
            name = "" if design.weight is None else f" in {design.weight.name}"
            message = f"all weights{name} are zero; at least one must be positive"
            raise InputError(message)
        rows = part["rows"]
        return Statistics(
            int(rows[0]),
            int(rows[1]),
            weight,
            part["mean"],
            part["target_mean"],
            np.maximum(part["squares"], 0.0),
            part["cross"],
            part["target_squares"],
            part["sketch"],
            assemble(part, design.shape[1]),
        )

    def _settle(self, part: Part) -> Part:
        """Express the sums of one partition relative to its own mean."""
        if "mean" in part:
            return part
        s, targets = self.n_test, part["targets"]
        shift, target_shift = (
            np.asarray(part["shift"], np.float64),
            np.asarray(part["target_shift"], np.float64),
        )
        weight, total = targets[-1, -1], part["products"][:, -1]
        some = weight > 0
        d = total / weight if some else np.zeros_like(total)
        e = targets[-1, :-1] / weight if some else np.zeros_like(target_shift)
        settled = {
            "rows": part["rows"],
            "weight": weight,
            "mean": shift + d,
            "target_mean": target_shift + e,
            "squares": part["squares"],
            "cross": part["products"][:, s:-1],
            "target_squares": np.diagonal(targets)[:-1],
            "sketch": part["products"][:, :s],
            **{name: value for name, value in part.items() if name.startswith("gram")},
        }
        return self._move(settled, -weight, d, e) if self.center else settled

    def _move(self, part: Part, factor: float, d: Vector, e: Vector) -> Part:
        """Add ``factor`` times the products of one point, ``d`` with target ``e``, to the sums."""
        moved = part | {
            "squares": part["squares"] + factor * d * d,
            "cross": part["cross"] + factor * np.outer(d, e),
            "target_squares": part["target_squares"] + factor * e * e,
        }
        if self.test is not None:
            moved["sketch"] = part["sketch"] + np.outer(factor * d, d @ self.test())
        return moved | move_panels(part, factor, d)


def _device(x: Array) -> Any:
    return getattr(x, "device", None)


def _check_finite(tile: Tile, squares: Array, targets: Array) -> None:
    """Find the first value that is not finite, if sums say that there is one.

    Raises
    ------
    InputError
        Names the array, row and column.
    """
    if np.isfinite(to_host(squares)).all() and np.isfinite(to_host(targets)).all():
        return
    raw = tile.raw.toarray() if hasattr(tile.raw, "toarray") else to_host(tile.raw)
    arrays = [("the data", raw), ("the targets", tile.target), ("the weights", tile.weight)]
    for kind, array in arrays:
        if array is None:
            continue
        values = to_host(array).reshape(len(raw), -1)
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            row, column = int(bad[0][0]), int(bad[0][1])
            value = values[row, column]
            where = f"row {tile.start + row}" + (f", column {column}" if values.shape[1] > 1 else "")
            message = (
                f"{kind} contain {'NaN' if np.isnan(value) else 'infinity'} ({where}); "
                "replace or remove such values: a single one would spoil every sum"
            )
            raise InputError(message)
    message = (
        f"products of rows {tile.start} to {tile.start + len(raw) - 1} overflow {squares.dtype}: "
        "scale the columns, or use precision='double'"
    )
    raise InputError(message)
