"""Means and scales: how centring and standardising become algebra."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nysstream.errors import DataWarning

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
    design: DesignMatrix, statistics: Statistics, *, center: bool, standardize: bool
) -> Centering | None:
    """Derive the means and scales by which the design is seen.

    Constant columns get an infinite scale once they are centred: they are zero then, and so are
    their coefficients.
    """
    if not center and not standardize:
        return None
    p = design.shape[1]
    mean = statistics.mean if center else np.zeros(p)
    variance = statistics.squares / statistics.weight
    if not center:  # the sums are about zero then
        variance = np.maximum(variance - statistics.mean**2, 0.0)
    deviation = np.sqrt(variance)
    constant = deviation <= 10 * design.eps * np.abs(mean)
    scale = np.ones(p)
    if standardize:
        scale = deviation.copy()
        if constant.any():
            columns = ", ".join(map(str, np.flatnonzero(constant)[:5]))
            message = (
                f"{int(constant.sum())} columns are constant ({columns}...); they cannot be standardised "
                "and get the coefficient 0"
            )
            warnings.warn(message, DataWarning, stacklevel=2)
    if center or standardize:
        scale[constant] = math.inf
    shift = None
    if center and not design.sparse:
        varying = ~constant
        far = np.abs(mean[varying]) > _FAR[design.dtype.itemsize] * deviation[varying]
        if far.any():
            # Rounded to the tiles' dtype, so that the remainder is known exactly.
            shift = mean.astype(design.dtype).astype(np.float64)
    target_mean = statistics.target_mean if center else np.zeros(design.n_targets)
    return Centering(mean, scale, target_mean, shift)
