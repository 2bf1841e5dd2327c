"""The reductions of composite solvers: losses with their derivatives, and products with their Hessian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.arrays import namespace
from nysstream.errors import InputError
from nysstream.streaming.kernels import rescale, unscale
from nysstream.streaming.panels import (
    TALL_ROWS,
    add_products,
    empty_panels,
    hessian,
    panel_bytes,
    panel_work_bytes,
)
from nysstream.streaming.reduction import (
    Array,
    Part,
    Reduction,
    Tile,
    accumulate,
    cast,
    column_sums,
    multiply_back,
    zero_product,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.arrays import Device
    from nysstream.losses import Loss
    from nysstream.streaming.design import DesignMatrix
    from nysstream.streaming.labels import Labels

Matrix = Any  # ndarray, shape (p, k)

#: Multiples of the slopes at which conjugates are summed, beside zero: a dual point is bounded by chords
#: between them, and near an optimum it is a little less than the slopes.
SHRUNK = (0.9, 0.99, 1.0)
_CONJUGATES = tuple(f"conjugate-{i}" for i in range(1 + 3 * len(SHRUNK)))


@dataclass(frozen=True, eq=False)
class Outcome:
    """How targets become what a loss expects, for every column of predictors.

    Parameters
    ----------
    loss : Loss
    columns : ndarray of int, shape (k,)
        Column of the target; for labels, number of the class that counts as one.
    labels : Labels, optional
    """

    loss: Loss
    columns: NDArray[np.intp]
    labels: Labels | None = None

    def of(self, tile: Tile) -> tuple[Array, Array | None]:
        """Give targets, (t, k) or (t, 1), and weights, (t,), of a tile."""
        target = tile.target
        assert target is not None
        xp = namespace(target)
        columns = xp.asarray(self.columns, device=getattr(target, "device", None))
        if self.labels is None:
            return xp.take(target, columns, axis=1), tile.weight
        codes = self.labels.codes(target)
        weight = self.labels.weigh(codes, tile.weight)
        if self.loss.coupled:
            return codes, weight
        return xp.astype(codes == xp.astype(columns, xp.float64)[None, :], xp.float64), weight


@dataclass(frozen=True, eq=False)
class LossSums(Reduction):
    r"""The loss at given coefficients, its gradient, what certifies it, and Hessians where asked for.

    Predictors are :math:`z = \tilde X w + b` with the centred and scaled design.

    Parameters
    ----------
    outcome : Outcome
    vectors : ndarray, shape (p, k)
    intercept : ndarray, shape (k,)
    fit_intercept : bool
        Whether derivatives with respect to the intercepts are wanted.
    hessians : tuple of int
        Columns whose Hessians are summed.

    Notes
    -----
    Result: :class:`LossValues`. Arithmetic: ``4 n p k`` flops, ``n p^2`` for each Hessian, and the loss
    at every row.
    """

    outcome: Outcome
    vectors: Matrix
    intercept: NDArray[np.float64]
    fit_intercept: bool = True
    hessians: tuple[int, ...] = ()
    needs_target = True
    reads_target = True
    reads_stored = False

    def check(self, design: DesignMatrix) -> None:
        """Refuse a design without targets, and vectors of another length."""
        super().check(design)
        if self.vectors.shape != (design.shape[1], self.intercept.size):
            message = (
                f"vectors have shape {self.vectors.shape} and {self.intercept.size} intercepts: this design "
                f"needs shape ({design.shape[1]}, k) and k of them"
            )
            raise InputError(message)

    @property
    def _n_products(self) -> int:
        """Count what is multiplied back: slopes; with intercepts curvatures too; and moves."""
        if not self.fit_intercept:
            return 1
        return 2 if self.outcome.loss.coupled else 3

    def n_columns(self, design: DesignMatrix) -> int:
        """Three per vector: the gradient, and the products of curvatures and of moves."""
        return 3 * int(self.vectors.shape[1])

    def tall_rows(self, design: DesignMatrix) -> int:
        """Ask for taller tiles where whole Hessians are added once per tile."""
        return TALL_ROWS if self.hessians else super().tall_rows(design)

    def part_bytes(self, design: DesignMatrix) -> int:
        """Count gradients, curvatures' products and Hessians."""
        hessians: int = len(self.hessians) * panel_bytes(design.shape[1])
        return super().part_bytes(design) + hessians

    def work_bytes(self, design: DesignMatrix, tile_rows: int) -> int:
        """Count predictors, targets and the loss's derivatives of a tile, in float64."""
        k = self.vectors.shape[1]
        panel = panel_work_bytes(design, tile_rows) if self.hessians else 0
        return super().work_bytes(design, tile_rows) + int(20 * 8 * tile_rows * k) + panel

    def prepare(self, design: DesignMatrix, device: Device) -> tuple[Array, Array]:
        """Send vectors and constants to the device."""
        scaled, offset = unscale(design, self.vectors)
        constant = self.intercept if offset is None else self.intercept - offset
        return device.put(scaled.astype(design.dtype)), device.put(np.ascontiguousarray(constant))

    def start(self, design: DesignMatrix, device: Device) -> Part:
        """Begin with zeros."""
        p, k = self.vectors.shape
        # Gradients, curvatures and moves side by side: the rows are multiplied once.
        part = {"products": zero_product(design, device, k * self._n_products)}
        for name in ("loss", "slope", "curvature", "move", *_CONJUGATES):
            part[name] = device.zeros((k,), np.float64)
        for j in self.hessians:
            part |= empty_panels(p, device, f"{j}:gram")
        return part

    def add(self, part: Part, tile: Tile, prepared: tuple[Array, Array]) -> Part:
        """Evaluate the loss on the tile and multiply its derivatives back."""
        vectors, constant = prepared
        loss = self.outcome.loss
        fitted = tile.Z @ vectors
        xp = namespace(constant)
        z = cast(fitted, xp.float64) + constant[None, :]
        y, weight = self.outcome.of(tile)
        value, slope, curvature = loss.value_slope_curvature(z, y)
        sums = {"loss": value, "slope": slope, "curvature": curvature}
        sums["conjugate-0"] = loss.conjugate(xp.zeros_like(slope), y)
        moves = [xp.zeros_like(slope)]
        if self.fit_intercept and not loss.coupled:
            # By as much as this, slopes may move and stay where the conjugate is finite.
            sums["move"] = xp.minimum(curvature, xp.abs(slope))
            moves += [-sums["move"], sums["move"]]
        for i, s in enumerate(SHRUNK):
            for j, move in enumerate(moves):
                sums[f"conjugate-{1 + 3 * i + j}"] = loss.conjugate(s * (slope + move), y)
        if weight is not None:
            sums = {name: _weighted(xp, weight, values) for name, values in sums.items()}
        for name, values in sums.items():
            part[name] = part[name] + column_sums(values)  # of shape (1,) where classes are coupled
        wanted = ("slope", "curvature", "move")[: self._n_products]
        T = xp.concat([sums[name] for name in wanted], axis=1)
        part["products"] = accumulate(part["products"], multiply_back(tile.Z, cast(T, fitted.dtype)))
        for j in self.hessians:
            add_products(part, tile.Z, cast(sums["curvature"][:, j], fitted.dtype), f"{j}:gram")
        return part

    def finish(self, design: DesignMatrix, part: Part) -> LossValues:
        """Take off the means and scale; eliminate the intercepts from the Hessians."""
        p = design.shape[1]
        k, total = self.intercept.size, part["curvature"]
        blocks = [part["products"][:, i : i + k] for i in range(0, part["products"].shape[1], k)]
        gradient, cross, toward = blocks + [np.zeros((p, k))] * (3 - len(blocks))
        hessians = tuple(
            hessian(part, design, cross[:, j], total[j], fit_intercept=self.fit_intercept, name=f"{j}:gram")
            for j in self.hessians
        )
        conjugate = np.stack([np.broadcast_to(part[name], part["slope"].shape) for name in _CONJUGATES])
        return LossValues(
            np.broadcast_to(part["loss"], part["slope"].shape),
            rescale(design, gradient, part["slope"]),
            part["slope"],
            part["curvature"],
            rescale(design, cross, part["curvature"]),
            part["move"],
            rescale(design, toward, part["move"]),
            conjugate,
            hessians,
        )


@dataclass(frozen=True, eq=False)
class LossValues:
    """What :class:`LossSums` gives; every array has a column per predictor.

    Attributes
    ----------
    loss : ndarray, shape (k,)
    gradient : ndarray, shape (p, k)
    slope, curvature : ndarray, shape (k,)
        First and second derivatives with respect to the intercepts.
    cross : ndarray, shape (p, k)
        Mixed second derivatives; zeros without intercepts.
    move : ndarray, shape (k,)
        Sums of what each slope may move by within the domain of the conjugate.
    toward : ndarray, shape (p, k)
        Products of the moves with the rows.
    conjugate : ndarray, shape (1 + 3 m, k)
        Sums of conjugates at zero; and for each factor of :data:`SHRUNK` at so many times the slopes, the
        slopes less the moves, and the slopes plus the moves.
    hessians : tuple of ndarray, shape (p, p)
        In the coefficients, the intercepts eliminated.
    """

    loss: NDArray[np.float64]
    gradient: NDArray[np.float64]
    slope: NDArray[np.float64]
    curvature: NDArray[np.float64]
    cross: NDArray[np.float64]
    move: NDArray[np.float64]
    toward: NDArray[np.float64]
    conjugate: NDArray[np.float64]
    hessians: tuple[NDArray[np.float64], ...] = ()


@dataclass(frozen=True, eq=False)
class HessianProduct(Reduction):
    r"""The product :math:`\tilde X^\top H_j \tilde X v` with the loss's curvature at given coefficients.

    Parameters
    ----------
    outcome : Outcome
    at : ndarray, shape (p, k)
        Coefficients at which the curvature is taken.
    intercept : ndarray, shape (k,)
    vectors : ndarray, shape (p, m)
    of : ndarray of int, shape (m,)
        For each vector, the column of ``at`` whose curvature it is multiplied with. Where the loss
        couples its columns, vectors come in groups of k.
    fit_intercept : bool
        Whether the intercepts are eliminated.
    offsets : ndarray, shape (m,), optional
        Directions of the intercepts that go with the vectors; then nothing is eliminated, and the result
        has one more row, of the intercepts.

    Notes
    -----
    Result: ndarray, shape (p, m). Arithmetic: ``4 n p (k / 2 + m)`` flops. Nothing is kept per row: the
    predictors are formed again from the rows, which are being read anyway.
    """

    outcome: Outcome
    at: Matrix
    intercept: NDArray[np.float64]
    vectors: Matrix
    of: NDArray[np.intp]
    fit_intercept: bool = True
    offsets: NDArray[np.float64] | None = None
    needs_target = True
    reads_target = True
    reads_stored = False

    @property
    def _eliminates(self) -> bool:
        return self.fit_intercept and self.offsets is None and not self.outcome.loss.coupled

    def n_columns(self, design: DesignMatrix) -> int:
        """One per vector, and one per column of coefficients."""
        return int(self.vectors.shape[1] + self.at.shape[1])

    def work_bytes(self, design: DesignMatrix, tile_rows: int) -> int:
        """Count predictors and derivatives, in float64, beside the products."""
        return super().work_bytes(design, tile_rows) + 8 * 8 * tile_rows * self.n_columns(design)

    def prepare(self, design: DesignMatrix, device: Device) -> tuple[Array, ...]:
        """Send coefficients, vectors and their constants to the device."""
        scaled, offset = unscale(design, np.hstack([self.at, self.vectors]))
        none = np.zeros(self.vectors.shape[1])
        constant = np.concatenate([self.intercept, none if self.offsets is None else self.offsets])
        if offset is not None:
            constant = constant - offset
        return device.put(scaled.astype(design.dtype)), device.put(constant), device.put(self.of)

    def start(self, design: DesignMatrix, device: Device) -> Part:
        """Begin with zeros."""
        m = self.vectors.shape[1]
        part = {"sum": zero_product(design, device, m), "total": device.zeros((m,), np.float64)}
        if self._eliminates:
            part |= {"cross": zero_product(design, device, self.at.shape[1])}
            part |= {"curvature": device.zeros((self.at.shape[1],), np.float64)}
        return part

    def add(self, part: Part, tile: Tile, prepared: tuple[Array, ...]) -> Part:
        """Multiply the tile by coefficients and vectors, weigh, and multiply back."""
        vectors, constant, of = prepared
        k = self.at.shape[1]
        fitted = tile.Z @ vectors
        xp = namespace(constant)
        z = cast(fitted, xp.float64) + constant[None, :]
        y, weight = self.outcome.of(tile)
        at, T = z[:, :k], z[:, k:]
        if self.outcome.loss.coupled:
            loss: Any = self.outcome.loss
            product = loss.curvature_product
            groups = [product(at, y, T[:, i : i + k]) for i in range(0, T.shape[1], k)]
            HT, h = xp.concat(groups, axis=1), None
        else:
            h = self.outcome.loss.curvature(at, y)
            HT = xp.take(h, of, axis=1) * T
        if weight is not None:
            HT = HT * weight[:, None]
        part["sum"] = accumulate(part["sum"], multiply_back(tile.Z, cast(HT, fitted.dtype)))
        part["total"] = part["total"] + column_sums(HT)
        if self._eliminates and h is not None:
            h = h if weight is None else h * weight[:, None]
            part["cross"] = accumulate(part["cross"], multiply_back(tile.Z, cast(h, fitted.dtype)))
            part["curvature"] = part["curvature"] + column_sums(h)
        return part

    def finish(self, design: DesignMatrix, part: Part) -> NDArray[np.float64]:
        """Take off the means and scale; eliminate the intercepts."""
        product = rescale(design, part["sum"], part["total"])
        if self.offsets is not None:
            return np.vstack([product, part["total"]])
        if not self._eliminates:
            return product
        cross = rescale(design, part["cross"], part["curvature"])
        h = part["curvature"][self.of]
        share = np.divide(part["total"], h, out=np.zeros_like(h), where=h > 0)
        return np.asarray(product - cross[:, self.of] * share)


def _weighted(xp: Any, weight: Array, values: Array) -> Array:
    """Multiply by weights; where they are zero the result is, even of infinity."""
    w = weight[:, None]
    return xp.where(w == 0, xp.zeros_like(values), w * values)
