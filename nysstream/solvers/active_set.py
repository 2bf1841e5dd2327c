"""Penalised least squares along a path of strengths, by sets of coefficients that are not zero."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.solvers.quadratic import Block, Vector

    Index = NDArray[np.intp]

#: Violations of optimality below this fraction of the largest right-hand side are rounding.
_VIOLATION = 1e-11
#: Added to the diagonal, relative to its mean, so that dependent columns do no harm.
_DAMPING = 1e-12
#: Whole steps for each strength before steps stop at the first change of sign.
_BOLD = 6
_MOST_ROUNDS = 200


def solve_path(matrix: Block, rhs: Vector, l1: Block, l2: Block, *, positive: bool = False) -> Block:
    r"""Minimise :math:`\tfrac12 w^\top (A + D_j) w - b^\top w + \lambda_j^\top |w|` for each j.

    Parameters
    ----------
    matrix : ndarray, shape (p, p)
        A, symmetric and positive semidefinite.
    rhs : ndarray, shape (p,)
        b.
    l1, l2 : ndarray, broadcastable to shape (p, k)
        Strengths :math:`\lambda_j` and diagonals :math:`D_j`; best in descending order, since each
        minimiser is the start of the next.
    positive : bool
        Whether coefficients must not be negative.

    Returns
    -------
    ndarray, shape (p, k)
        Minimisers up to rounding. Nothing here certifies them; where signs keep changing, the search is
        given up.

    Notes
    -----
    Signs are guessed for the coefficients that violate optimality at zero, and the linear system for given
    signs is solved; coefficients whose sign comes out otherwise leave. If that does not settle in a few
    rounds, steps are cut at the first change of sign, which descends.

    Cost: no pass. The Cholesky factor is kept while coefficients join it: about ``p^3`` flops for a whole
    path of lasso, ``a^3 / 3`` for each of k strengths where the diagonal changes, with a coefficients that
    are not zero, and ``p a`` for each check of optimality. Memory: ``16 a^2`` bytes beside the matrix.

    References
    ----------
    .. [1] Lee, Battle, Raina and Ng, "Efficient sparse coding algorithms", NIPS 2006.
    """
    p = rhs.size
    k = np.broadcast_shapes(np.shape(l1), np.shape(l2), (p, 1))[1]
    l1, l2 = np.broadcast_to(l1, (p, k)), np.broadcast_to(l2, (p, k))
    result = np.zeros((p, k))
    search = _Search(matrix, rhs, positive=positive)
    for j in range(k):
        result[:, j] = search.minimise(np.ascontiguousarray(l1[:, j]), np.ascontiguousarray(l2[:, j]))
    return result


class _Search:
    """The coefficients that are not zero, their signs, and the Cholesky factor of their matrix."""

    def __init__(self, matrix: Block, rhs: Vector, *, positive: bool) -> None:
        self.matrix, self.rhs, self.positive = matrix, rhs, positive
        self.damping = _DAMPING * float(np.trace(matrix)) / max(rhs.size, 1)
        self.noise = _VIOLATION * float(np.abs(rhs).max(initial=0.0))
        self.active: Index = np.empty(0, np.intp)
        self.sign: Vector = np.empty(0)
        self.w = np.zeros(rhs.size)
        self.factor = np.empty((0, 0), order="F")
        self.diagonal = np.empty(0)  # what was added to that of the matrix before it was factored

    def minimise(self, l1: Vector, l2: Vector) -> Vector:
        """Minimise for one strength, from the last minimiser."""
        for rounds in range(_MOST_ROUNDS):
            self._settle(l1, l2, bold=rounds < _BOLD)
            active = self.active
            gradient = self.matrix[:, active] @ self.w[active] - self.rhs
            excess = (-gradient if self.positive else np.abs(gradient)) - l1
            excess[active] = 0.0
            joining = np.flatnonzero(excess > self.noise)
            if joining.size == 0:
                break
            self.active = np.concatenate([active, joining])
            self.sign = np.concatenate([self.sign, -np.sign(gradient[joining])])
        return self.w.copy()

    def _settle(self, l1: Vector, l2: Vector, *, bold: bool) -> None:
        """Solve for given signs until they agree with the solution."""
        free = (l1 == 0) & (not self.positive)
        while self.active.size:
            active = self.active
            x = self._solve(self.rhs[active] - l1[active] * self.sign, l2[active])
            agrees = (x * self.sign > 0) | free[active]
            if not agrees.all() and not bold:
                now = self.w[active]
                away = np.where(agrees, 1.0, now)
                share = np.where(agrees, 1.0, away / np.where(away == x, 1.0, away - x))
                x = now + share.min() * (x - now)
                agrees |= share > share.min()
            self.w[active] = np.where(agrees, x, 0.0)
            if agrees.all():
                return
            self._leave(agrees)

    def _leave(self, staying: NDArray[np.bool_]) -> None:
        """Drop coefficients; the factor stays valid before the first of them."""
        self.active, self.sign = self.active[staying], self.sign[staying]
        first = int(np.argmin(staying))
        if first < self.diagonal.size:
            self.factor, self.diagonal = self.factor[:first, :first], self.diagonal[:first]

    def _solve(self, rhs: Vector, l2: Vector) -> Vector:
        """Solve with the matrix of the active coefficients, extending its factor where that is too small."""
        held = self.diagonal.size
        changed = np.flatnonzero(self.diagonal != l2[:held])
        if changed.size:
            held = int(changed[0])
        if held < l2.size:
            self._extend(held, l2)
        return np.asarray(scipy.linalg.cho_solve((self.factor, True), rhs, check_finite=False))

    def _extend(self, held: int, l2: Vector) -> None:
        old, new = self.active[:held], self.active[held:]
        block = self.matrix[np.ix_(new, new)]
        block[np.diag_indices_from(block)] += l2[held:] + self.damping
        factor = np.zeros((l2.size, l2.size), order="F")
        if held:
            factor[:held, :held] = self.factor[:held, :held]
            left = self._triangular(factor[:held, :held], self.matrix[np.ix_(old, new)])
            factor[held:, :held] = left.T
            block -= left.T @ left
        factor[held:, held:] = _cholesky(block)
        self.factor, self.diagonal = factor, l2.copy()

    def _triangular(self, lower: Block, right: Block) -> Block:
        solved: Any = scipy.linalg.solve_triangular(lower, right, lower=True, check_finite=False)
        return np.asarray(solved)


def _cholesky(block: Block) -> Block:
    """Factor a block that is positive definite but for rounding."""
    mean = float(np.trace(block)) / len(block)
    for jitter in (0.0, 1e-10, 1e-7, 1e-4):
        work = np.array(block, order="F")
        work[np.diag_indices_from(work)] += jitter * mean
        factor, info = scipy.linalg.lapack.dpotrf(work, lower=True, overwrite_a=True, clean=True)
        if info == 0:
            return np.asarray(factor)
    return np.asarray(np.diag(np.sqrt(np.maximum(np.diagonal(block), abs(mean) + 1e-300))))
