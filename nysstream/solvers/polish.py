"""Solving on the face of the regularizer where iterates have settled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.linalg

from nysstream.operators.algebra import Dense

if TYPE_CHECKING:
    from nysstream.solvers.quadratic import Block, CompositeQuadratic


def polish(problem: CompositeQuadratic, W: Block) -> Block | None:
    """Minimise over the coordinates that are free to move, the others fixed where they are.

    Parameters
    ----------
    problem : CompositeQuadratic
        With its matrix in memory.
    W : ndarray, shape (p, k)

    Returns
    -------
    ndarray, shape (p, k), or None
        Points that obey the regularizer; None where it has no such faces or the matrix is not in
        memory. They are better than W only if W's face is the right one: certify them.

    Notes
    -----
    Cost: no pass; ``a^3 / 3`` flops for a column with a free coordinates.
    """
    if not isinstance(problem.operator, Dense):
        return None
    face = problem.regularizer.face(W)
    if face is None:
        return None
    matrix = np.asarray(problem.operator.matrix)
    result = W.copy()
    for j in range(W.shape[1]):
        free = np.flatnonzero(face.free[:, j])
        if free.size == 0:
            continue
        fixed = np.flatnonzero(~face.free[:, j] & (W[:, j] != 0))
        rhs = problem.rhs[free, j] - face.slope[free, j]
        if fixed.size:
            rhs = rhs - matrix[np.ix_(free, fixed)] @ W[fixed, j]
        part = matrix[np.ix_(free, free)].astype(np.float64)
        diagonal = np.diag_indices_from(part)
        # Proximal to W, so that dependent columns do no harm.
        damping = 1e-10 * float(part[diagonal].mean())
        part[diagonal] += face.curvature[free, j] + damping
        try:
            factor = scipy.linalg.cho_factor(part, lower=True, overwrite_a=True, check_finite=False)
        except np.linalg.LinAlgError:
            continue
        result[free, j] = scipy.linalg.cho_solve(factor, rhs + damping * W[free, j], check_finite=False)
    lower, upper = face.lower, face.upper
    return np.clip(result, lower, upper)
