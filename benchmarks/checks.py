"""Whether a ridge regression is solved: one test, in float64, for every solver alike. Needs NumPy only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BLOCK_ROWS = 2048


@dataclass(frozen=True)
class Check:
    """What an answer is worth.

    Attributes
    ----------
    relative_residual : float
        Of the normal equations, relative to their right-hand side.
    objective : float
        Sum of squared residuals, plus the penalty.
    """

    relative_residual: float
    objective: float


def blocks_of(X: Any, y: Any) -> Iterator[tuple[Any, Any]]:
    """Cut rows in memory, or mapped, into blocks."""
    for start in range(0, len(X), BLOCK_ROWS):
        yield X[start : start + BLOCK_ROWS], y[start : start + BLOCK_ROWS]


def check_ridge(
    blocks: Iterable[tuple[Any, Any]], coef: Any, alpha: float, *, intercept: float | None = None
) -> Check:
    r"""Recompute the residual of a ridge regression from its rows.

    Without an intercept that of :math:`(X'X + \alpha I) w = X'y`; with one, that of the same
    equations for columns and targets about their means, to which eliminating it leads.

    Parameters
    ----------
    blocks : iterable of (rows, targets)
        Once through the data; converted to float64 here.
    coef : array, shape (p,)
    alpha : float
    intercept : float, optional
    """
    w = np.asarray(coef, np.float64).reshape(-1)
    gradient, right, columns = np.zeros_like(w), np.zeros_like(w), np.zeros_like(w)
    squares = left_over = targets = 0.0
    n_rows = 0
    for rows, target in blocks:
        Z, y = np.asarray(rows, np.float64), np.asarray(target, np.float64).reshape(-1)
        error = y - Z @ w - (intercept or 0.0)
        gradient += Z.T @ error
        right += Z.T @ y
        squares += float(error @ error)
        n_rows += len(y)
        if intercept is not None:
            columns += Z.sum(axis=0)
            left_over += float(error.sum())
            targets += float(y.sum())
    if intercept is not None:
        mean = columns / n_rows
        gradient -= mean * left_over
        right -= mean * targets
    residual = np.linalg.norm(gradient - alpha * w) / np.linalg.norm(right)
    return Check(float(residual), squares + alpha * float(w @ w))
