"""Means and scales: how centring and standardising become algebra."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nysstream.errors import DataWarning
from nysstream.features import Identity

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.streaming.design import DesignMatrix
    from nysstream.streaming.moments import Statistics

#: Means this many standard deviations from zero are subtracted from each row, rather than by
#: algebra, which would lose the corresponding digits.
_FAR = {4: 8.0, 8: 1e4}


@dataclass(frozen=True)
class Centering:
    """Weighted column means and scales that turn rows ``z`` into ``(z - mean) / scale``.

    Attributes
    ----------
    mean : ndarray, shape (p,)
    scale : ndarray, shape (p,)
    target_mean : ndarray, shape (q,)
    shift : ndarray, shape (p,), or None
        What is subtracted from each row before products are formed; the rest of the mean is
        taken off afterwards, by algebra. None where the means are small beside the spread, so
        that the algebra alone loses no digits.
    """

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    target_mean: NDArray[np.float64]
    shift: NDArray[np.float64] | None = None

    @property
    def rest(self) -> NDArray[np.float64]:
        """The part of the mean that the shift leaves to algebra."""
        return self.mean if self.shift is None else self.mean - self.shift


def centering_of(
    design: DesignMatrix, statistics: Statistics, *, center: bool, standardize: bool, asked: bool = True
) -> Centering | None:
    """Derive the means and scales by which the design is seen.

    Constant columns get an infinite scale once they are centred: they are zero then, and so are
    their coefficients. Where nothing is centred, they are left as they are. Who ``asked`` for standardised
    columns is warned that these are not.
    """
    if not center and not standardize:
        return None
    p = design.shape[1]
    mean = statistics.mean if center else np.zeros(p)
    deviation, constant = _deviations(design, statistics, center=center)
    if center and design.sparse and np.any(constant & (deviation > 0)):
        columns = _listed(constant & (deviation > 0))
        message = (
            f"columns {columns} of sparse rows vary too little about their large means to be told from "
            "constants; their coefficients are 0; subtract such means first"
        )
        warnings.warn(message, DataWarning, stacklevel=2)
    scale = np.ones(p)
    if standardize:
        scale[~constant] = deviation[~constant]
    if center:
        scale[constant] = math.inf
        if standardize and asked and constant.any():
            message = (
                f"{np.count_nonzero(constant)} of {p} columns are constant and cannot be standardised "
                f"({_listed(constant)}); their coefficients are 0"
            )
            warnings.warn(message, DataWarning, stacklevel=2)
    shift = None
    if center and not design.sparse:
        varying = ~constant
        far = np.abs(mean[varying]) > _FAR[design.dtype.itemsize] * deviation[varying]
        if far.any():
            # Rounded to the tiles' dtype, so that the remainder is known exactly.
            shift = mean.astype(design.dtype).astype(np.float64)
    target_mean = statistics.target_mean if center else np.zeros(design.n_targets)
    return Centering(mean, scale, target_mean, shift)


def _deviations(
    design: DesignMatrix, statistics: Statistics, *, center: bool
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Give the columns' standard deviations, and which are zero up to rounding."""
    variance = statistics.squares / statistics.weight
    if not center:  # the sums are about zero then
        variance = np.maximum(variance - statistics.mean**2, 0.0)
    deviation = np.sqrt(variance)
    # Sparse rows are summed one after the other, in float64; equal values round the same way.
    eps = math.sqrt(design.block_rows) * float(np.finfo(np.float64).eps) if design.sparse else design.eps
    noise = 16 * eps * statistics.summed_squares / statistics.weight
    # Stored values differ by eps at least, where they differ; features are computed, with some error.
    least = 0.1 if isinstance(design.features, Identity) else 10.0
    return deviation, (variance <= noise) | (deviation <= least * design.eps * np.abs(statistics.mean))


def _listed(columns: NDArray[np.bool_]) -> str:
    """Name the first few of the marked columns."""
    numbers = np.flatnonzero(columns)
    return ", ".join(map(str, numbers[:5])) + (", ..." if numbers.size > 5 else "")
