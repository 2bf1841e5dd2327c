"""The reductions that solvers use: products, residuals, predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.arrays import namespace
from nysstream.errors import InputError
from nysstream.streaming.checking import check_finite
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
    from nysstream.streaming.design import DesignMatrix

Matrix = Any  # ndarray, shape (p, k)


@dataclass(frozen=True)
class GramProduct(Reduction):
    r"""The product :math:`\tilde X^\top H \tilde X V`, with H the weights.

    Here :math:`\tilde X = (Z - 1 m^\top) D^{-1}` is the design after centring and scaling, which
    happen by algebra.

    Parameters
    ----------
    vectors : ndarray, shape (p, k)

    Notes
    -----
    Result: ndarray, shape (p, k). Arithmetic: ``4 n p k`` flops.
    """

    vectors: Matrix
    reads_stored = False

    def check(self, design: DesignMatrix) -> None:
        """Refuse vectors of another length."""
        _check_vectors("vectors", self.vectors, design)

    def n_columns(self, design: DesignMatrix) -> int:
        """One per vector."""
        return int(self.vectors.shape[1])

    def prepare(self, design: DesignMatrix, device: Device) -> tuple[Array, Array | None]:
        """Send the scaled vectors, and their products with the means, in the dtype of the products."""
        scaled, offset = unscale(design, self.vectors)
        sent = None if offset is None else device.put(offset.astype(design.dtype))
        return device.put(scaled.astype(design.dtype)), sent

    def start(self, design: DesignMatrix, device: Device) -> Part:
        """Begin with zeros; the total is for the means."""
        k = self.n_columns(design)
        part = {"sum": zero_product(design, device, k)}
        if design.centering is not None:
            part["total"] = device.zeros((k,), np.float64)
        return part

    def add(self, part: Part, tile: Tile, prepared: tuple[Array, Array | None]) -> Part:
        """Multiply by the vectors and back while the tile is in cache."""
        vectors, offset = prepared
        T = tile.Z @ vectors
        if offset is not None:
            T -= offset
        if tile.weight is not None:
            T *= cast(tile.weight, T.dtype)[:, None]
        if "total" in part:
            part["total"] = accumulate(part["total"], column_sums(T))
        part["sum"] = accumulate(part["sum"], multiply_back(tile.Z, T))
        return part

    def finish(self, design: DesignMatrix, part: Part) -> NDArray[np.float64]:
        """Take off the rest of the mean, and scale."""
        return rescale(design, part["sum"], part.get("total"))


@dataclass(frozen=True)
class SquaredResidual(Reduction):
    r"""The gradient side :math:`\tilde X^\top H R` and the sum of squares of the residuals R.

    Column j of :math:`R = Y_{t_j} - \bar y_{t_j} - \tilde X w_j` belongs to target ``t_j``. Formed
    from the rows themselves rather than from stored sums, so that its rounding error is that of
    the small residual, not that of the large right-hand side.

    Parameters
    ----------
    vectors : ndarray, shape (p, k)
        In the coordinates of the centred and scaled design.
    targets : ndarray of int, shape (k,)

    Notes
    -----
    Result: ``(gradient, squares)``, ndarrays of shapes (p, k) and (k,). Meant for a design in
    double precision.
    """

    vectors: Matrix
    targets: NDArray[np.intp]
    needs_target = True
    reads_target = True

    def check(self, design: DesignMatrix) -> None:
        """Refuse a design without targets, vectors of another length, and targets it does not have."""
        super().check(design)
        _check_vectors("vectors", self.vectors, design)
        if len(self.targets) != self.vectors.shape[1]:
            message = (
                f"{len(self.targets)} target numbers for {self.vectors.shape[1]} vectors: give one for each"
            )
            raise InputError(message)
        for number in self.targets:
            if not 0 <= number < design.n_targets:
                message = f"target number {number} is out of range: there are {design.n_targets} targets"
                raise InputError(message)

    def n_columns(self, design: DesignMatrix) -> int:
        """One per vector."""
        return int(self.vectors.shape[1])

    def prepare(self, design: DesignMatrix, device: Device) -> tuple[Array, Array, Array]:
        """Send vectors, constants and target numbers to the device."""
        scaled, offset = unscale(design, self.vectors)
        constant = np.zeros(self.n_columns(design))
        if offset is not None:
            constant = constant - offset
        if design.centering is not None:
            constant = constant + design.centering.target_mean[self.targets]
        return device.put(scaled.astype(design.dtype)), device.put(constant), device.put(self.targets)

    def start(self, design: DesignMatrix, device: Device) -> Part:
        """Begin with zeros."""
        k = self.n_columns(design)
        return {
            "sum": zero_product(design, device, k),
            "total": device.zeros((k,), np.float64),
            "squares": device.zeros((k,), np.float64),
        }

    def add(self, part: Part, tile: Tile, prepared: tuple[Array, Array, Array]) -> Part:
        """Form the residuals of the tile and multiply back."""
        vectors, constant, targets = prepared
        fitted = tile.Z @ vectors
        R = namespace(tile.target).take(tile.target, targets, axis=1) - constant - fitted
        HR = R if tile.weight is None else R * tile.weight[:, None]
        part["squares"] = accumulate(part["squares"], column_sums(R * HR))
        part["total"] = accumulate(part["total"], column_sums(HR))
        part["sum"] = accumulate(part["sum"], multiply_back(tile.Z, cast(HR, fitted.dtype)))
        return part

    def finish(self, design: DesignMatrix, part: Part) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Take off the rest of the mean, and scale."""
        total = part["total"] if design.centering is not None else None
        return rescale(design, part["sum"], total), part["squares"]


@dataclass(frozen=True)
class Predict(Reduction):
    """The predictions ``Z coef + intercept`` of every row, in order.

    Parameters
    ----------
    coef : ndarray, shape (p, k)
        In the coordinates of the feature map's output.
    intercept : ndarray, shape (k,)

    Notes
    -----
    Result: ndarray, shape (n, k), so memory grows with the rows: run it over a window of rows.
    """

    coef: Matrix
    intercept: NDArray[np.float64]

    def check(self, design: DesignMatrix) -> None:
        """Refuse coefficients of another length."""
        _check_vectors("coef", self.coef, design)

    def n_columns(self, design: DesignMatrix) -> int:
        """One per output."""
        return int(self.coef.shape[1])

    def part_bytes(self, design: DesignMatrix) -> int:
        """Count the predictions."""
        return 8 * design.shape[0] * self.n_columns(design)

    def prepare(self, design: DesignMatrix, device: Device) -> tuple[Array, Array]:
        """Send the coefficients to the device."""
        return device.put(self.coef.astype(design.dtype)), device.put(self.intercept)

    def start(self, design: DesignMatrix, device: Device) -> Part:
        """Begin without rows."""
        return {}

    def add(self, part: Part, tile: Tile, prepared: tuple[Array, Array]) -> Part:
        """File the tile's predictions under its first row."""
        coef, intercept = prepared
        part[f"{tile.start:020d}"] = tile.Z @ coef + intercept
        return part

    def combine(self, a: Part, b: Part) -> Part:
        """Keep the rows of both."""
        return a | b

    def finish(self, design: DesignMatrix, part: Part) -> NDArray[np.float64]:
        """Put the rows in order."""
        return np.concatenate([part[key] for key in sorted(part)]).astype(np.float64, copy=False)


@dataclass(frozen=True)
class PredictionError(Reduction):
    """Weighted sums of squares of prediction errors and of the targets.

    Parameters
    ----------
    coef : ndarray, shape (p, k)
    intercept : ndarray, shape (k,)
    center : ndarray, shape (k,)
        Near the targets' means, so that their variance loses no digits.

    Notes
    -----
    Result: ``(errors, squares, weight)``: sums of squared errors and of squared deviations of the
    targets from their means, ndarrays of shape (k,), and the sum of the weights.
    """

    coef: Matrix
    intercept: NDArray[np.float64]
    center: NDArray[np.float64]
    needs_target = True
    reads_target = True

    def check(self, design: DesignMatrix) -> None:
        """Refuse a design without targets, and coefficients of another shape."""
        super().check(design)
        _check_vectors("coef", self.coef, design)
        if self.coef.shape[1] != design.n_targets:
            message = (
                f"coef has {self.coef.shape[1]} columns; give one for each of {design.n_targets} targets"
            )
            raise InputError(message)

    def n_columns(self, design: DesignMatrix) -> int:
        """One per output."""
        return int(self.coef.shape[1])

    def prepare(self, design: DesignMatrix, device: Device) -> tuple[Array, Array, Array]:
        """Send coefficients and centres to the device."""
        return device.put(self.coef.astype(design.dtype)), device.put(self.intercept), device.put(self.center)

    def start(self, design: DesignMatrix, device: Device) -> Part:
        """Begin with zeros."""
        k = self.n_columns(design)
        return {name: device.zeros((k,), np.float64) for name in ("errors", "sums", "squares", "weight")}

    def add(self, part: Part, tile: Tile, prepared: tuple[Array, Array, Array]) -> Part:
        """Add the tile's squares."""
        coef, intercept, center = prepared
        assert tile.target is not None
        target, xp = tile.target, namespace(tile.target)
        w = xp.ones_like(target[:, :1]) if tile.weight is None else tile.weight[:, None]
        error = tile.Z @ coef + intercept - target
        deviation = target - center
        sums = {"errors": w * error**2, "sums": w * deviation, "squares": w * deviation**2, "weight": w}
        part = {name: part[name] + column_sums(values) for name, values in sums.items()}
        check_finite(tile, part["errors"], part["squares"])
        return part

    def finish(
        self, design: DesignMatrix, part: Part
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
        """Take the mean off the targets' squares."""
        weight = float(part["weight"][0])
        if weight <= 0:
            message = "all weights are zero; at least one must be positive"
            raise InputError(message)
        squares = part["squares"] - part["sums"] ** 2 / weight
        # What is left of targets that are constant, but not near the centre, is rounding.
        noise = 64 * np.finfo(np.float64).eps * part["squares"]
        return part["errors"], np.where(squares <= noise, 0.0, squares), weight


def _check_vectors(name: str, vectors: Matrix, design: DesignMatrix) -> None:
    p = design.shape[1]
    if vectors.ndim != 2 or vectors.shape[0] != p:
        message = f"{name} has shape {vectors.shape}; this design needs shape ({p}, k)"
        raise InputError(message)


def unscale(design: DesignMatrix, V: Matrix) -> tuple[Matrix, NDArray[np.float64] | None]:
    """Turn vectors of the centred and scaled design into those of its rows, and their offsets.

    ``X̃ V = Z U - 1 c'`` with ``U = D^-1 V`` and ``c = m' U``, the mean less what tiles carry already.
    """
    if design.centering is None:
        return V, None
    U = V / design.centering.scale[:, None]
    return U, design.centering.rest @ U


def rescale(design: DesignMatrix, product: Matrix, total: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Turn ``Z' T`` into ``X̃' T``, given the column sums of T."""
    if design.centering is None or total is None:
        return np.asarray(product)
    result = product - np.outer(design.centering.rest, total)
    return np.asarray(result / design.centering.scale[:, None])
