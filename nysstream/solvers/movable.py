"""Which coefficients a model moves, where a penalty keeps most of them at zero."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nysstream.regularizers import Separable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.solvers.composite import Composite, Evaluation, Movable
    from nysstream.solvers.quadratic import Block

#: A model of fewer coefficients must be of this share of them at most.
_MOST = 0.7
#: Zeros this near to leaving, relative to the l1 penalty's strength, may move.
_NEAR = 0.3


def movable(problem: Composite, W: Block, at: Evaluation) -> Movable:
    """Choose the coefficients of each column that the next model moves; None for all.

    Those that are not zero, and the zeros nearest to leaving, or beyond it.
    """
    regularizer, smooth = problem.regularizer, problem.smooth
    if not (isinstance(regularizer, Separable) and regularizer.sparsifies):
        return None
    n_movable = smooth.n_movable(int(np.count_nonzero(W, axis=0).max()))
    if n_movable is None or n_movable > _MOST * len(W):
        return None
    excess = regularizer.excess(W, at.gradient)
    order = np.where(W != 0, np.inf, excess)
    near = order > -_NEAR * regularizer.l1
    near[np.argmax(order, axis=0), np.arange(order.shape[1])] = True
    chosen = []
    for j in range(order.shape[1]):
        index = np.flatnonzero(near[:, j])
        if index.size > n_movable:
            by = order[index, j]
            if 3 * np.isposinf(by).sum() > 2 * n_movable:  # they must not keep all others from moving
                by = excess[index, j]
            index = np.sort(index[np.argsort(-by, kind="stable")[:n_movable]])
        chosen.append(index)
    return tuple(chosen)


def moved(W: Block, index: NDArray[np.intp], value: Block) -> Block:
    """Put new values of some coefficients among the others."""
    W = W.copy()
    W[index] = value
    return W
