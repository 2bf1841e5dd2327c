"""A preconditioner of sampled rows: few rows seen by a pass, factored in memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.features import Identity
from nysstream.sketching.factored import Factored, SampledRows, add_squares

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from nysstream.sketching.preconditioner import Preconditioner
    from nysstream.streaming import DesignMatrix

#: Bytes of features that are multiplied at once, and the fewest rows: each product reads and writes
#: the whole matrix.
_BLOCK_BYTES, _BLOCK_ROWS = 32 << 20, 512


def factor_sample(
    design: DesignMatrix,
    total_weight: float,
    X: Any,
    weight: NDArray[np.float64],
    n_shifts: int,
    *,
    all_shifted: bool,
) -> Preconditioner | None:
    """Make a preconditioner of the sampled rows, scaled up to the weight of all.

    Parameters
    ----------
    design : DesignMatrix
        Centred and scaled.
    total_weight : float
        Of all rows.
    X : ndarray or sparse array, shape (m, d)
        Sampled rows, before the feature map.
    weight : ndarray, shape (m,)
    n_shifts : int
        Different shifts to expect.
    all_shifted : bool
        Whether all of them are positive.

    Returns
    -------
    Preconditioner or None
        None where the sample says nothing.

    Notes
    -----
    Cost: no pass. ``m p min(m, p)`` flops in the dtype of the design, and memory as
    :func:`sample_needs` counts it.
    """
    kept = np.flatnonzero(weight > 0)
    m, p = kept.size, design.shape[1]
    if m == 0 or (m < p and not all_shifted):  # what the sample does not see would be divided by zero
        return None
    blocks = _featured(design, X, weight * (total_weight / float(weight.sum())), kept)
    if m < p:
        rows = np.empty((m, p), design.dtype)
        done = 0
        for Z in blocks:
            rows[done : done + len(Z)] = Z
            done += len(Z)
        return SampledRows(rows, n_shifts)
    gram = np.zeros((p, p), design.dtype, order="F")
    for Z in blocks:
        add_squares(gram, Z)
    if not np.isfinite(gram.diagonal()).all():
        return None
    # Directions missing from the sample may be there in the whole: keep them reachable.
    return Factored(gram, max(design.eps, float(np.finfo(np.float32).eps)), n_shifts)


def _featured(
    design: DesignMatrix, X: Any, weight: NDArray[np.float64], kept: NDArray[np.intp]
) -> Iterator[NDArray[Any]]:
    """Yield rows of the centred and scaled design, times the roots of their weights."""
    dtype, centering = design.dtype, design.centering
    step = _block_rows(design)
    for start in range(0, kept.size, step):
        which = kept[start : start + step]
        raw = X[which]
        if hasattr(raw, "toarray") and not design.features.accepts_sparse:
            raw = raw.toarray()
        Z = design.features(raw.astype(dtype, copy=False))
        if hasattr(Z, "toarray"):
            Z = Z.toarray()
        if centering is None:
            Z = Z * np.sqrt(weight[which])[:, None].astype(dtype)
        else:
            Z = Z - centering.mean.astype(dtype)
            Z *= np.sqrt(weight[which])[:, None].astype(dtype)
            Z /= centering.scale.astype(dtype)
        yield np.ascontiguousarray(Z)


def _block_rows(design: DesignMatrix) -> int:
    return max(_BLOCK_ROWS, _BLOCK_BYTES // (design.dtype.itemsize * design.shape[1]))


def sample_needs(design: DesignMatrix, m: int, n_matrices: int) -> tuple[dict[str, int], int]:
    """Count bytes while ``m`` rows are factored, by what holds them, and those of the preconditioner.

    ``n_matrices`` is what :func:`nysstream.sketching.factored.matrices_held` says.
    """
    p, itemsize = design.shape[1], design.dtype.itemsize
    small = min(m, p)
    rows = min(m, _block_rows(design))
    inputs = design.source.shape[1]
    work = rows * (3 * itemsize * p + 2 * itemsize * inputs)
    if not isinstance(design.features, Identity):
        work += design.features.work_bytes(rows, inputs, itemsize)
    kept = itemsize * m * p if m < p else 0
    matrix = n_matrices * itemsize * small * small
    sample = math.ceil(m * (_row_bytes(design) + 8))
    return {"sample": sample, "factor": kept + matrix + work}, kept + matrix


def _row_bytes(design: DesignMatrix) -> float:
    if design.source.sparse:
        return design.row_bytes
    return design.source.shape[1] * design.block_dtype.itemsize
