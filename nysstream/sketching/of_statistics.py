"""From the sums of a set-up pass to a sketch of the centred and scaled rows."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import numpy as np

from nysstream.errors import AccuracyWarning
from nysstream.sketching.sketch import Sketch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.streaming import DesignMatrix, Statistics

#: Relative rounding error beyond which a sketch is noise.
_LOST = 0.05


def sketch_of(
    statistics: Statistics,
    test: NDArray[np.float64],
    n_test: int,
    scale: NDArray[np.float64],
    *,
    eps: float,
    growth: float = 1.0,
) -> Sketch | None:
    """Make the sketch of the Gram matrix of scaled rows; None where rounding hides it.

    Parameters
    ----------
    statistics : Statistics
        Their sketch may hold further columns, which are left aside.
    test : ndarray, shape (p, s)
        Test vectors, and after them probes.
    n_test : int
        How many are test vectors.
    scale : ndarray, shape (p,)
        What columns are divided by; a constant column has infinite scale.
    eps : float
        Relative rounding error of the products.
    growth : float
        By how much errors grow where rows are added one after the other.

    Notes
    -----
    Deferred standardisation: with ``Omega = D Omega_0``,
    ``D^-1 (Z'HZ Omega_0) = (D^-1 Z'HZ D^-1) Omega``. A column of infinite scale vanishes from the
    scaled rows, and from the sketch.
    """
    finite = np.where(np.isfinite(scale), scale, 0.0)
    omega = test * finite[:, None]
    product = statistics.sketch[:, : test.shape[1]] / scale[:, None]
    trace = float(np.sum(statistics.squares / scale**2))
    eps *= _cancellation(test[:, :n_test], statistics, scale, growth)
    if eps > _LOST:
        return None
    probed = test.shape[1] > n_test
    return Sketch(
        omega[:, :n_test],
        product[:, :n_test],
        eps,
        trace,
        omega[:, n_test:] if probed else None,
        product[:, n_test:] if probed else None,
    )


def sketch_of_pass(
    design: DesignMatrix,
    statistics: Statistics,
    test: NDArray[np.float64],
    n_test: int,
    scale: NDArray[np.float64],
) -> Sketch | None:
    """Make the sketch that a pass has gathered; where rounding hides it, warn and give None."""
    sketch = sketch_of(statistics, test, n_test, scale, eps=design.eps, growth=growth_of(design))
    if sketch is None:
        message = (
            "the means of some columns are so large beside their spread that rounding hides the sketch: the "
            "solver runs without it; subtract such means first, or use precision='double'"
        )
        warnings.warn(message, AccuracyWarning, stacklevel=4)
    return sketch


def growth_of(design: DesignMatrix) -> float:
    """Say by how much rounding errors grow in a pass."""
    # Sparse rows are added one after the other, dense ones many at a time.
    return math.sqrt(design.block_rows) if design.sparse else 1.0


def _cancellation(
    test: NDArray[np.float64], statistics: Statistics, scale: NDArray[np.float64], growth: float
) -> float:
    """Estimate by how much centring magnifies the rounding errors of the sketch.

    Products were summed about other points than the means, and rounded accordingly; columns of
    infinite scale took part.
    """
    weights = np.sum(test**2, axis=1)
    finite = np.isfinite(scale)

    def size(squares: NDArray[np.float64], taking_part: NDArray[np.bool_]) -> float:
        return math.sqrt(np.sum(squares / scale**2) * np.sum((squares * weights)[taking_part]))

    centred = size(statistics.squares, finite)
    if centred == 0:
        return 1.0
    summed = size(statistics.summed_squares, np.ones_like(finite))
    return 1 + 4 * growth * max(0.0, summed / centred - 1)
