"""Whether rows lie in a random order: targets of blocks beside what chance allows."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.errors import OrderWarning

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.streaming.design import DesignMatrix

#: Share of the targets' variance that lies between blocks from which batches suffer.
_SHARE = 0.2
#: Standard deviations of that share, for rows in a random order, that are no chance.
_UNLIKELY = 8.0
#: Targets read at a time.
_ROWS = 1 << 18


def variance_between_blocks(
    design: DesignMatrix, *, classes: NDArray[Any] | None = None
) -> tuple[float, float]:
    """Give the share of the targets' variance that lies between blocks, and what chance makes of it.

    Parameters
    ----------
    design : DesignMatrix
        With targets.
    classes : ndarray, shape (c,), optional
        Where targets are labels: then the shares of the classes are compared.

    Returns
    -------
    share : float
        From 0 to 1; the largest of all columns of the target.
    chance : float
        A share that rows in a random order do not exceed.

    Notes
    -----
    Cost: one read of the targets.
    """
    assert design.target is not None
    edges = np.array([a for partition in design.partitions for a, _ in partition.blocks])
    n_rows, n_blocks = design.shape[0], edges.size
    width = design.n_targets if classes is None else classes.size
    sums, squares, center = np.zeros((n_blocks, width)), np.zeros(width), None
    for a in range(0, n_rows, _ROWS):
        stop = min(a + _ROWS, n_rows)
        y = np.asarray(design.target.read(slice(a, stop)), np.float64)
        values = y if classes is None else (y[:, :1] == classes[None, :]).astype(np.float64)
        center = values.mean(axis=0) if center is None else center
        values = values - center
        squares += np.sum(values**2, axis=0)
        first = int(np.searchsorted(edges, a, side="right")) - 1
        inside = edges[(edges > a) & (edges < stop)]
        sums[first : first + inside.size + 1] += np.add.reduceat(
            values, np.concatenate([[0], inside - a]), axis=0
        )
    sizes = np.diff([*edges, n_rows])[:, None]
    mean = sums.sum(axis=0) / n_rows
    total = squares - n_rows * mean**2
    between = np.sum(sizes * (sums / sizes - mean) ** 2, axis=0)
    shares = np.divide(between, total, out=np.zeros(width), where=total > 1e-12 * np.maximum(squares, 1e-300))
    freedom = n_blocks - 1
    return float(shares.max(initial=0.0)), (freedom + _UNLIKELY * math.sqrt(2 * max(freedom, 1))) / n_rows


def warn_if_sorted(design: DesignMatrix, window_blocks: int, *, classes: NDArray[Any] | None = None) -> None:
    """Warn where batches drawn from a few blocks would differ far more than ones of all rows.

    Warns
    -----
    OrderWarning
    """
    n_blocks = sum(len(partition.blocks) for partition in design.partitions)
    if n_blocks <= window_blocks or design.target is None:
        return  # all rows are mixed
    share, chance = variance_between_blocks(design, classes=classes)
    if share > max(_SHARE, chance):
        what = "frequencies of classes" if classes is not None else "means of the targets"
        message = (
            f"the rows of {design.source.name} are not in a random order: {what} differ between its blocks, "
            f"which explain {share:.0%} of the variance, so batches are unlike one another and stochastic "
            "methods slow; shuffle once with `nysstream convert --shuffle`"
        )
        warnings.warn(message, OrderWarning, stacklevel=2)
