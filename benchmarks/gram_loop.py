"""The strongest simple rival for least squares: the Gram matrix, summed over a store in a loop of NumPy.

One pass over a Zarr array of features with BLAS on all cores, and Cholesky: what somebody writes who
knows that few columns make a small problem. Products are in float32 and sums in float64, as in ours.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def solve(store: str, n_rows: int, alpha: float, block_rows: int = 2048) -> tuple[Any, float]:
    """Solve ridge regression with intercept on the arrays ``x`` and ``y`` of a Zarr group.

    Returns
    -------
    coef : ndarray, shape (p,)
    intercept : float
    """
    import scipy.linalg
    import zarr

    group: Any = zarr.open_group(store, mode="r")
    X, y = group["x"], np.asarray(group["y"][:n_rows], np.float32)
    p = X.shape[1]
    gram, cross, total = np.zeros((p, p)), np.zeros(p), np.zeros(p)
    center = y.mean()
    for start in range(0, n_rows, block_rows):
        stop = min(start + block_rows, n_rows)
        rows = X[start:stop]
        gram += rows.T @ rows  # NumPy sees that one is the other's transpose, and computes half
        cross += rows.T @ (y[start:stop] - center)
        total += rows.sum(axis=0, dtype=np.float64)
    mean = total / n_rows
    gram -= n_rows * np.outer(mean, mean)
    gram[np.diag_indices(p)] += alpha
    cross -= mean * float((y - center).sum(dtype=np.float64))
    coef = scipy.linalg.solve(gram, cross, assume_a="pos", overwrite_a=True)
    return coef, float(y.mean(dtype=np.float64) - mean @ coef)
