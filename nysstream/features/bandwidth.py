"""Length scales from data: the median distance between rows."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from scipy.spatial.distance import pdist

from nysstream.errors import InputError

Metric = Literal["euclidean", "cityblock"]

#: Rows compared; half a million distances fix their median to a fraction of a percent.
ROWS_COMPARED = 1000


def median_distance(sample: Any, metric: Metric) -> float:
    """Return the median distance between distinct rows of a sample.

    Parameters
    ----------
    sample : ndarray or csr_array, shape (k, d)
        At most 1000 evenly spaced rows are compared.
    metric : {"euclidean", "cityblock"}

    Returns
    -------
    float
        Above zero: where more than half of the pairs are duplicates, the mean of the other
        distances.

    Raises
    ------
    InputError
        If no two rows differ, or a value is not finite.
    """
    n_rows = sample.shape[0]
    if n_rows > ROWS_COMPARED:
        sample = sample[np.linspace(0, n_rows - 1, ROWS_COMPARED).astype(np.intp)]
    distances = _distances(sample, metric)
    if not np.isfinite(distances).all():
        message = "length_scale='median': the sampled rows hold values that are not finite; clean them"
        raise InputError(message)
    positive = distances[distances > 0]
    if positive.size == 0:
        message = (
            f"length_scale='median': the {n_rows} sampled rows are all identical, so no distance can be "
            "taken from them; give length_scale as a number"
        )
        raise InputError(message)
    median = float(np.median(distances))
    return median if median > 0 else float(positive.mean())


def _distances(sample: Any, metric: Metric) -> NDArray[np.float64]:
    if not issparse(sample):
        return np.asarray(pdist(np.asarray(sample, dtype=np.float64), metric))
    rows: Any = sample
    if not np.isfinite(rows.data).all():
        return np.array([np.nan])
    from sklearn.metrics import pairwise_distances  # a second of import, for sparse rows only

    square = pairwise_distances(rows.astype(np.float64), metric=metric)
    return np.asarray(square[np.triu_indices_from(square, 1)])
