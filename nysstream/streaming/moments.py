"""The set-up reduction: everything that one pass can gather before a solver starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.arrays import namespace
from nysstream.errors import InputError
from nysstream.streaming.checking import check_finite, check_sums, check_weight
from nysstream.streaming.panels import (
    TALL_ROWS,
    add_products,
    assemble,
    empty_panels,
    move_panels,
    panel_bytes,
    panel_work_bytes,
)
from nysstream.streaming.reduction import (
    SQUARED_ENTRIES,
    Array,
    Part,
    Reduction,
    Tile,
    accumulate,
    cast,
    column_sums,
    weighted_squares,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from nysstream.arrays import Device
    from nysstream.streaming.design import DesignMatrix

Vector = Any  # ndarray of float64
_Move = tuple[float, Vector, Vector]


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
    summed_squares : ndarray, shape (p,)
        The same about the shifts that were subtracted before summing (zero for sparse rows):
        rounding errors are relative to these, so smaller sums about the means are noise.
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
    summed_squares: Vector
    cross: NDArray[np.float64]
    target_squares: Vector
    sketch: NDArray[np.float64]
    gram: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class SetUp(Reduction):
    r"""Means, variances, cross products with the targets, and the Nyström sketch, in one pass.

    Each partition works relative to a shift of its own, the mean of its first tile; when parts are
    merged, their sums move to the common mean. So no digits are lost however
    far the means are from zero, and no earlier pass is needed to know them.

    Parameters
    ----------
    test : callable, optional
        Gives the test matrix, ndarray of shape (p, s). A callable, so that tasks carry its recipe
        instead of the matrix; it must give the same bits in every process.
    n_test : int
        Its number of columns.
    given : ndarray, shape (p, k), optional
        Further columns of the test matrix: coefficients to start from, whose product with the Gram
        matrix comes last in the sketch.
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
    given: NDArray[np.float64] | None = None
    reads_target = True

    @property
    def n_vectors(self) -> int:
        """Columns of the sketch."""
        return self.n_test + (0 if self.given is None else self.given.shape[1])

    def n_columns(self, design: DesignMatrix) -> int:
        """One per test vector, target and the constant; the Gram matrix counts as wide."""
        return self.n_vectors + design.n_targets + 1

    def tall_rows(self, design: DesignMatrix) -> int:
        """Ask for taller tiles where the whole Gram matrix is added once per tile."""
        return TALL_ROWS if self.gram else super().tall_rows(design)

    def part_bytes(self, design: DesignMatrix) -> int:
        """Count products, means, shift and squares."""
        p = design.shape[1]
        return 8 * p * (self.n_columns(design) + 4) + (panel_bytes(p) if self.gram else 0)

    def work_bytes(self, design: DesignMatrix, tile_rows: int) -> int:
        """Count the shifted tile, a piece of it squared, and the test matrix as drawn and as sent."""
        p, itemsize = design.shape[1], design.dtype.itemsize
        return (
            super().work_bytes(design, tile_rows)
            + (4 * design.block_bytes if design.sparse else itemsize * (tile_rows * p + SQUARED_ENTRIES + p))
            + (8 + itemsize) * p * self.n_vectors
            + itemsize * tile_rows * self.n_vectors
            + (panel_work_bytes(design, tile_rows) if self.gram else 0)
        )

    def prepare(self, design: DesignMatrix, device: Device) -> Array | None:
        """Send the test matrix to the device, in the dtype of the products."""
        columns = [] if self.test is None else [self.test()]
        columns += [] if self.given is None else [self.given]
        if not columns:
            return None
        cast_columns = [part.astype(design.dtype, copy=False) for part in columns]
        return device.put(cast_columns[0] if len(columns) == 1 else np.hstack(cast_columns))

    def start(self, design: DesignMatrix, device: Device) -> Part:
        """Begin with zeros; the shift is set by the first tile that has weight."""
        p, q = design.shape[1], design.n_targets
        return {
            "rows": np.zeros(2),
            "products": device.zeros((p, self.n_vectors + q + 1), np.float64),
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
        if self.center and "target_shift" not in part:
            total = xp.sum(w)
            if bool(total > 0):  # rows without weight may hold anything
                part["target_shift"] = _mean(Y, w / total)
                if dense:
                    part["shift"] = _mean(Z, cast(w / total, Z.dtype))
        if "shift" in part:
            Z = Z - part["shift"]
        if "target_shift" in part:
            Y = Y - part["target_shift"]
        # Row weights multiply the narrow factor of each product, never the tile itself.
        right = xp.concat([Y, xp.ones((n_rows, 1), dtype=xp.float64, device=_device(w))], axis=1)
        weighted = right * w[:, None]
        # Sparse rows keep their means, which the narrow sums must not lose to rounding.
        exact = Z if dense else Z.astype(np.float64, copy=False)
        T = cast(weighted, exact.dtype)
        if prepared is not None:
            sketched = Z @ prepared
            if weight is not None:
                sketched *= cast(w, Z.dtype)[:, None]
            if dense:
                T = xp.concat([sketched, T], axis=1)
        products = exact.T @ T
        if prepared is not None and not dense:
            products = xp.concat([Z.T @ sketched, products], axis=1)
        part["products"] = accumulate(part["products"], products)
        if self.gram:
            add_products(part, Z, None if weight is None else cast(w, Z.dtype))
        squares = weighted_squares(exact, cast(w, exact.dtype))
        part["squares"] = accumulate(part["squares"], squares)
        part["targets"] = accumulate(part["targets"], right.T @ weighted)
        part["rows"] += np.array([n_rows, n_rows if weight is None else int(xp.sum(cast(w > 0, w.dtype)))])
        check_finite(tile, squares, part["targets"])
        if weight is not None and bool(xp.any(w < 0)):
            row = tile.start + int(xp.argmax(cast(w < 0, xp.int8)))
            message = f"the weight of row {row} is negative; weights must be zero or positive"
            raise InputError(message)
        return part

    def combine(self, a: Part, b: Part) -> Part:
        """Merge two parts: each goes to its own mean, and both to the common one, in one update."""
        (a, moves), (b, more) = self._about_mean(a), self._about_mean(b)
        # Rows without weight say nothing about where the means are.
        base, other = (b, a) if a["weight"] == 0 else (a, b)
        total = a["weight"] + b["weight"]
        share = other["weight"] / total if total > 0 else 0.0
        merged = {name: a[name] + b[name] for name in a}
        distances = []
        for shift, offset in (("shift", "offset"), ("target_shift", "target_offset")):
            # Shifts are subtracted first: near each other, they lose nothing.
            distance = (other[shift] - base[shift]) + (other[offset] - base[offset])
            merged |= {shift: base[shift], offset: base[offset] + share * distance}
            distances.append(distance)
        if self.center:
            self._move(merged, [*moves, *more, (base["weight"] * share, *distances)])
        return merged

    def combine_bytes(self, design: DesignMatrix) -> int:
        """Count the sum, its update, and the test matrix."""
        return self.part_bytes(design) + 2 * 8 * design.shape[1] * self.n_vectors

    def finish(self, design: DesignMatrix, part: Part) -> Statistics:
        """Return the statistics.

        Raises
        ------
        InputError
            If no row has a positive weight, or sums overflow or underflow.
        """
        part = self.settled(part)
        check_weight(design, part["weight"])
        check_sums(design, part)
        return self.statistics(part)

    def settled(self, part: Part) -> Part:
        """Give the sums of a part about its own means: what may be kept, and combined with others."""
        part, moves = self._about_mean(part)
        if moves:
            part = {name: np.array(value) for name, value in part.items()}
            self._move(part, moves)
        return part

    def statistics(self, part: Part) -> Statistics:
        """Read the statistics off a settled part of positive weight."""
        rows, weight = part["rows"], float(part["weight"])
        return Statistics(
            int(rows[0]),
            int(rows[1]),
            weight,
            part["shift"] + part["offset"],
            part["target_shift"] + part["target_offset"],
            np.maximum(part["squares"], 0.0),
            part["summed_squares"],
            part["cross"],
            _squares_of_targets(part, weight),
            part["sketch"],
            assemble(part, part["squares"].size),
        )

    def _about_mean(self, part: Part) -> tuple[Part, list[_Move]]:
        """Name the sums of one partition, and say what moves them from their shift to their mean.

        The mean is kept as shift and offset, which together have more digits than their sum.
        """
        if "offset" in part:
            return part, []
        s, products, targets = self.n_vectors, part["products"], part["targets"]
        weight = targets[-1, -1]
        per_weight = 1 / weight if weight > 0 else 0.0
        d, e = products[:, -1] * per_weight, targets[-1, :-1] * per_weight
        named = {
            "rows": part["rows"],
            "weight": weight,
            "shift": np.asarray(part.get("shift", np.zeros_like(d)), np.float64),
            "offset": d,
            "target_shift": np.asarray(part.get("target_shift", np.zeros_like(e)), np.float64),
            "target_offset": e,
            "squares": part["squares"],
            "summed_squares": part["squares"],
            "cross": products[:, s:-1],
            "target_squares": np.diagonal(targets)[:-1],
            "sketch": products[:, :s],
            **{name: value for name, value in part.items() if name.startswith("gram")},
        }
        return named, [(-weight, d, e)] if self.center else []

    def _move(self, part: Part, moves: list[_Move]) -> None:
        """Add multiples of the products of points ``d`` with targets ``e`` to the sums, in place."""
        factors, D, E = (np.array(values) for values in zip(*moves, strict=True))
        scaled = factors[:, None] * D
        part["squares"] += (scaled * D).sum(axis=0)
        part["cross"] += scaled.T @ E
        part["target_squares"] += factors @ E**2
        if self.test is not None:
            part["sketch"][:, : self.n_test] += scaled.T @ (D @ self.test())
        if self.given is not None:
            part["sketch"][:, self.n_test :] += scaled.T @ (D @ self.given)
        move_panels(part, scaled, D)


def _squares_of_targets(part: Part, weight: float) -> NDArray[np.float64]:
    """Give the sums of squares of the targets: zero for constant ones, whatever rounding left."""
    noise = 4 * np.finfo(np.float64).eps * (part["target_shift"] + part["target_offset"])
    squares = np.maximum(part["target_squares"], 0.0)
    return np.where(squares <= weight * noise**2, 0.0, squares)


def _device(x: Array) -> Any:
    return getattr(x, "device", None)


def _mean(X: Array, shares: Array) -> Array:
    """Give the mean of the rows in their own dtype, summed in float64.

    Summed in float32, the mean of many rows can be off by many deviations.
    """
    return cast(column_sums(X * shares[:, None]), X.dtype)
