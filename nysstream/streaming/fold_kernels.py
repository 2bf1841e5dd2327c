"""The reductions of cross-validation: every training set in the same pass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.arrays import namespace
from nysstream.errors import InputError
from nysstream.streaming.folds import Folds, RowFolds
from nysstream.streaming.kernels import SquaredResidual
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
    from nysstream.streaming.centering import Centering
    from nysstream.streaming.design import DesignMatrix

Matrix = Any  # ndarray, shape (p, k)


@dataclass(frozen=True, eq=False)
class TrainingColumns:
    r"""Which rows each column of a block sees, and how they are centred and scaled for it.

    Column j sees the rows outside fold :math:`f_j`; where :math:`f_j` is ``n_splits``, all rows.

    Parameters
    ----------
    folds : Folds
    left_out : ndarray of int, shape (k,)
        The :math:`f_j`.
    centerings : tuple of Centering, or None
        For each fold those of the rows outside it, and last those of all rows.
    """

    folds: Folds
    left_out: NDArray[np.intp]
    centerings: tuple[Centering, ...] | None

    def take(self, columns: NDArray[np.intp]) -> TrainingColumns:
        """Keep some columns."""
        return replace(self, left_out=self.left_out[columns])

    def unscale(self, design: DesignMatrix, V: Matrix) -> tuple[Matrix, NDArray[np.float64] | None]:
        """Turn vectors of the centred and scaled training sets into those of the rows, and offsets."""
        if self.centerings is None:
            return V, None
        U, offset = np.empty(V.shape), np.empty(V.shape[1])
        for centering, columns in self._sets():
            U[:, columns] = V[:, columns] / centering.scale[:, None]
            offset[columns] = _rest(design, centering) @ U[:, columns]
        return U, offset

    def rescale(self, design: DesignMatrix, product: Matrix, total: NDArray[np.float64]) -> Matrix:
        """Turn ``Z' T`` into the products with the centred and scaled sets, given the column sums of T."""
        if self.centerings is None:
            return product
        result = np.empty(product.shape)
        for centering, columns in self._sets():
            centred = product[:, columns] - np.outer(_rest(design, centering), total[columns])
            result[:, columns] = centred / centering.scale[:, None]
        return result

    def constants(self, targets: NDArray[np.intp]) -> NDArray[np.float64]:
        """Give the mean target of each column's training set."""
        result = np.zeros(targets.size)
        for centering, columns in self._sets() if self.centerings is not None else ():
            result[columns] = centering.target_mean[targets[columns]]
        return result

    def _sets(self) -> list[tuple[Centering, NDArray[np.intp]]]:
        assert self.centerings is not None
        columns = [np.flatnonzero(self.left_out == f) for f in range(len(self.centerings))]
        return [(c, j) for c, j in zip(self.centerings, columns, strict=True) if j.size]


class _Training:
    """What tells a task which rows of a tile each column sees."""

    def __init__(self, columns: TrainingColumns, design: DesignMatrix, device: Device) -> None:
        self._rows = RowFolds(columns.folds, design)
        self._left_out = device.put(columns.left_out)
        self._device = device

    def sees(self, tile: Tile) -> Array:
        """Give a boolean array (t, k)."""
        folds = self._device.put(np.ascontiguousarray(self._rows.of_tile(tile)))
        return folds[:, None] != self._left_out[None, :]


@dataclass(frozen=True)
class FoldGramProduct(Reduction):
    r"""The products :math:`\tilde X_j^\top H \tilde X_j v_j` with the training set of each column.

    Parameters
    ----------
    vectors : ndarray, shape (p, k)
    columns : TrainingColumns

    Notes
    -----
    Result: ndarray, shape (p, k). Arithmetic: ``4 n p k`` flops.
    """

    vectors: Matrix
    columns: TrainingColumns

    def check(self, design: DesignMatrix) -> None:
        """Refuse vectors that do not belong to the design or to the columns."""
        _check(self.vectors, self.columns, design)

    def n_columns(self, design: DesignMatrix) -> int:
        """One per vector."""
        return int(self.vectors.shape[1])

    def work_bytes(self, design: DesignMatrix, tile_rows: int) -> int:
        """Count the unscaled vectors, what each column sees, and the folds of the rows."""
        k = self.n_columns(design)
        seen = 2 * k * (8 * design.shape[1] + tile_rows * design.dtype.itemsize)
        return super().work_bytes(design, tile_rows) + seen + RowFolds.nbytes(self.columns.folds, design)

    def prepare(self, design: DesignMatrix, device: Device) -> tuple[Array, Array | None, _Training]:
        """Send the scaled vectors, and their products with the means, in the dtype of the products."""
        scaled, offset = self.columns.unscale(design, self.vectors)
        sent = None if offset is None else device.put(offset.astype(design.dtype))
        return device.put(scaled.astype(design.dtype)), sent, _Training(self.columns, design, device)

    def start(self, design: DesignMatrix, device: Device) -> Part:
        """Begin with zeros; the total is for the means."""
        k = self.n_columns(design)
        return {
            "sum": zero_product(design, device, k),
            "total": device.zeros((k,), np.float64),
        }

    def add(self, part: Part, tile: Tile, prepared: tuple[Array, Array | None, _Training]) -> Part:
        """Multiply by the vectors and back while the tile is in cache."""
        vectors, offset, training = prepared
        T = tile.Z @ vectors
        if offset is not None:
            T -= offset
        T *= cast(training.sees(tile), T.dtype)
        if tile.weight is not None:
            T *= cast(tile.weight, T.dtype)[:, None]
        part["total"] = accumulate(part["total"], column_sums(T))
        part["sum"] = accumulate(part["sum"], multiply_back(tile.Z, T))
        return part

    def finish(self, design: DesignMatrix, part: Part) -> NDArray[np.float64]:
        """Take off the means, and scale."""
        return np.asarray(self.columns.rescale(design, part["sum"], part["total"]))


@dataclass(frozen=True)
class FoldSquaredResidual(Reduction):
    r"""The gradient sides, the squared residuals, and the squared errors on the rows held out.

    Column j belongs to target ``t_j``. Its residuals on the rows that it sees make gradient and
    squares, as in :class:`SquaredResidual`; those on the rows of the fold that it leaves out are
    the errors of its predictions there.

    Parameters
    ----------
    vectors : ndarray, shape (p, k)
        In the coordinates of each column's centred and scaled training set.
    targets : ndarray of int, shape (k,)
    columns : TrainingColumns

    Notes
    -----
    Result: ``(gradient, squares, errors)``, ndarrays of shapes (p, k), (k,) and (k,). Meant for a
    design in double precision.
    """

    vectors: Matrix
    targets: NDArray[np.intp]
    columns: TrainingColumns
    needs_target = True
    reads_target = True

    def check(self, design: DesignMatrix) -> None:
        """Refuse what does not belong together."""
        SquaredResidual(self.vectors, self.targets).check(design)
        _check(self.vectors, self.columns, design)

    def n_columns(self, design: DesignMatrix) -> int:
        """One per vector."""
        return int(self.vectors.shape[1])

    def work_bytes(self, design: DesignMatrix, tile_rows: int) -> int:
        """Count the unscaled vectors, residuals in several forms, and the folds of the rows."""
        k = self.n_columns(design)
        seen = 8 * k * (2 * design.shape[1] + 5 * tile_rows)
        return super().work_bytes(design, tile_rows) + seen + RowFolds.nbytes(self.columns.folds, design)

    def prepare(self, design: DesignMatrix, device: Device) -> tuple[Array, Array, Array, _Training]:
        """Send vectors, constants and target numbers to the device."""
        scaled, offset = self.columns.unscale(design, self.vectors)
        constant = self.columns.constants(self.targets)
        if offset is not None:
            constant = constant - offset
        training = _Training(self.columns, design, device)
        return (
            device.put(scaled.astype(design.dtype)),
            device.put(constant),
            device.put(self.targets),
            training,
        )

    def start(self, design: DesignMatrix, device: Device) -> Part:
        """Begin with zeros."""
        k = self.n_columns(design)
        vectors = {name: device.zeros((k,), np.float64) for name in ("total", "squares", "errors")}
        return {"sum": zero_product(design, device, k), **vectors}

    def add(self, part: Part, tile: Tile, prepared: tuple[Array, Array, Array, _Training]) -> Part:
        """Form the residuals of the tile, and multiply back those of the rows that each column sees."""
        vectors, constant, targets, training = prepared
        fitted = tile.Z @ vectors
        R = namespace(tile.target).take(tile.target, targets, axis=1) - constant - fitted
        HR = R if tile.weight is None else R * tile.weight[:, None]
        seen = training.sees(tile)
        part["errors"] = accumulate(part["errors"], column_sums(R * HR * cast(~seen, R.dtype)))
        HR = HR * cast(seen, R.dtype)
        part["squares"] = accumulate(part["squares"], column_sums(R * HR))
        part["total"] = accumulate(part["total"], column_sums(HR))
        part["sum"] = accumulate(part["sum"], multiply_back(tile.Z, cast(HR, fitted.dtype)))
        return part

    def finish(
        self, design: DesignMatrix, part: Part
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Take off the means, and scale."""
        gradient = self.columns.rescale(design, part["sum"], part["total"])
        return np.asarray(gradient), part["squares"], part["errors"]


def _rest(design: DesignMatrix, centering: Centering) -> NDArray[np.float64]:
    """Give the mean less what the tiles' shift has taken off already."""
    shared = design.centering
    if shared is None or shared.shift is None:
        return centering.mean
    return centering.mean - shared.shift


def _check(vectors: Matrix, columns: TrainingColumns, design: DesignMatrix) -> None:
    p = design.shape[1]
    if vectors.ndim != 2 or vectors.shape[0] != p or vectors.shape[1] != columns.left_out.size:
        message = (
            f"vectors has shape {vectors.shape}; these columns need shape ({p}, {columns.left_out.size})"
        )
        raise InputError(message)
    columns.folds.check(design.shape[0])
