"""Losses with kinks: an augmented Lagrangian, a step of Newton's method and of multipliers in every pass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg

from nysstream.solvers.columns import dots
from nysstream.solvers.kinked import Certificate, KinkedProblem, KinkedSolver, KinkedState
from nysstream.streaming.augmented_kernels import LENGTHS, AugmentedStep, AugmentedSums
from nysstream.streaming.rowstate import RowState

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]
    Block = NDArray[np.float64]

#: The first penalty parameter, as a share of what goes with errors of unit size; its growth after good steps
#: and after steps that were too long; and its bound, in the same unit.
_FIRST, _GROWTH, _CUT, _LARGEST = 0.1, 2.0, 0.7, 1e7
#: A step must gain this part of what its model promises, up to rounding.
_ARMIJO = 0.1
_ROUNDING = {4: 1e-6, 8: 1e-11}
#: A step was good that leaves less than this part of the gap to gain before multipliers change; these change
#: when the next one promises no more than the gap.
_LEFT, _PROMISED = 0.1, 1.0
#: Lower bound of the intercepts' curvature, as a share of that at which all rows are free.
_LEAST_FREE = 3e-4


@dataclass(frozen=True, eq=False)
class AugmentedState(KinkedState):
    """Iterates between two passes.

    Attributes
    ----------
    W : ndarray, shape (p, k)
    intercept : ndarray, shape (k,)
        Of the centred design.
    directions : ndarray, shape (p, k)
    direction_intercept : ndarray, shape (k,)
        Where the next pass goes.
    length : ndarray, shape (k,)
        How far; below one where the whole step did not gain.
    value, slope : ndarray, shape (k,)
        Of the augmented Lagrangian at W, and of it along the directions.
    sigma, next_sigma : ndarray, shape (k,)
        Penalty parameters of the multipliers, and of those that the next pass makes.
    update : ndarray of bool, shape (k,)
        Columns whose multipliers change in the next pass.
    rows : RowState or None
        Scaled multipliers of the rows before and after the last pass.
    chosen : ndarray of bool, shape (k,)
        Columns that go on with the latter.
    certificate : Certificate
    iterations : int
    """

    W: Block
    intercept: Vector
    directions: Block
    direction_intercept: Vector
    length: Vector
    value: Vector
    slope: Vector
    sigma: Vector
    next_sigma: Vector
    update: NDArray[np.bool_]
    rows: RowState | None
    chosen: NDArray[np.bool_]
    certificate: Certificate
    iterations: int = 0


@dataclass(frozen=True)
class AugmentedLagrangian(KinkedSolver[AugmentedState]):
    r"""Minimise envelopes of the losses by Newton's method, and let multipliers undo what they smooth.

    .. math::
        L_u(w, b) = \tfrac12 \|w\|^2
        + \sum_i h_i \min_s c_i \ell(s) + \tfrac\sigma2 (\tilde x_i^\top w + b + u_i - s)^2

    Parameters
    ----------
    tol : float
        Relative duality gap at which a column has converged.
    max_iterations : int

    Notes
    -----
    Cost: one pass for each iteration, and ``m p^2`` flops for the m rows inside the kink of each column, few
    near the end. Four numbers for each row and column are held, ``40 p k`` float64, and a matrix of p columns
    for each.

    The method of [1]_, but that a pass takes a step of each kind: at the point that Newton's step leads to,
    it evaluates :math:`L` for the multipliers so far, by which the step is judged, and gradient and matrix
    for the multipliers that follow from it. So no problem of fixed multipliers is solved to its end. Shorter
    steps are evaluated along with the whole one; if that does not gain, the next pass goes to the best of
    them, with the multipliers as they were.

    Every slope of an envelope is a multiplier in the box of the dual. Their sum is brought to zero by
    shrinking those of the sign that prevails, and the bound is taken at the best convex combination of the
    last ones.

    References
    ----------
    .. [1] Li, Sun and Toh, "A highly efficient semismooth Newton augmented Lagrangian method for solving
       Lasso problems", SIAM J. Optim., 2018.
    """

    tol: float = 1e-3
    max_iterations: int = 500

    def init(self, problem: KinkedProblem, start: Any) -> AugmentedState:
        """Start at zero coefficients, for no pass."""
        certificate, k = Certificate.of(problem), problem.costs.n_columns
        sigma, none = _FIRST * problem.sigma, np.zeros(k)
        return AugmentedState(
            certificate.best,
            certificate.intercept,
            np.zeros_like(certificate.best),
            none,
            np.ones(k),
            none + np.inf,
            none,
            sigma,
            sigma,
            np.zeros(k, np.bool_),
            None,
            np.ones(k, np.bool_),
            certificate,
        )

    def step(self, problem: KinkedProblem, state: AugmentedState) -> AugmentedState:
        """Go where the last step leads, and find the next one."""
        if self.must_be_precise(state.certificate):
            # Values of different precision do not compare.
            known = np.full_like(state.value, np.inf)
            state = replace(state, certificate=state.certificate.forget(), value=known)
        busy = np.flatnonzero(~(state.certificate.relative_gap <= self.tol))
        return self._iterate(problem, state, tuple(busy.tolist()))

    def finish(self, problem: KinkedProblem, state: AugmentedState) -> AugmentedState:
        """Certify the best coefficients in double precision."""
        if self.passes_to_finish(problem, state) == 0:
            return state
        known = state.certificate
        at_best = replace(
            state,
            W=known.best,
            intercept=known.intercept,
            directions=np.zeros_like(known.best),
            direction_intercept=np.zeros_like(state.slope),
            value=np.full_like(state.value, np.inf),
            certificate=known.forget(),
        )
        return self._iterate(problem, at_best, ())

    def _iterate(
        self, problem: KinkedProblem, state: AugmentedState, columns: tuple[int, ...]
    ) -> AugmentedState:
        """Make one iteration, in which some columns are given further directions."""
        W = state.W + state.length * state.directions
        b = state.intercept + state.length * state.direction_intercept
        sums = self._pass(problem, state, W, b, columns)
        certificate = state.certificate.add(
            W, b, sums.loss, sums.multipliers, sums.n_support, zero_sum=problem.fit_intercept
        )
        whole = state.length == 1.0
        value = 0.5 * dots(W, W) + sums.envelopes[0]
        rounding = _ROUNDING[8 if state.certificate.precise else 4]
        gained = value <= state.value + _ARMIJO * state.slope + rounding * np.abs(value)
        gained |= ~whole | np.isinf(state.value)
        left = 0.5 * np.sum((W + sums.multipliers.product) ** 2, axis=0)
        good = gained & whole & (left <= _LEFT * certificate.gap)
        if problem.fit_intercept:
            # With no row free, the lower bound of their curvature alone moves intercepts, and grows along.
            good &= np.abs(sums.multipliers.total) * problem.unit <= certificate.gap
        change = np.where(good, _GROWTH, np.where(whole, 1.0, _CUT))
        moved = self._direct(problem, state, W, b, sums)
        update = gained & (-moved.slope <= _PROMISED * certificate.gap)
        update &= np.isin(np.arange(update.size), columns)
        sigma = np.where(gained, state.next_sigma, state.sigma)
        next_sigma = np.minimum(sigma * change, _LARGEST * problem.sigma)
        return replace(
            state,
            W=np.where(gained, W, state.W),
            intercept=np.where(gained, b, state.intercept),
            directions=np.where(gained, moved.directions, state.directions),
            direction_intercept=np.where(gained, moved.direction_intercept, state.direction_intercept),
            length=np.where(gained, 1.0, _best_length(state, sums)),
            value=np.where(gained, moved.value, state.value),
            slope=np.where(gained, moved.slope, state.slope),
            sigma=sigma,
            next_sigma=np.where(update, next_sigma, sigma),
            update=update,
            rows=sums.rows,
            chosen=gained,
            certificate=certificate,
            iterations=state.iterations + 1,
        )

    def _pass(
        self, problem: KinkedProblem, state: AugmentedState, W: Block, b: Vector, columns: tuple[int, ...]
    ) -> AugmentedSums:
        trying = state.length == 1.0
        step = AugmentedStep(
            problem.costs,
            W,
            b,
            np.where(trying, state.directions, 0.0),
            np.where(trying, state.direction_intercept, 0.0),
            state.sigma,
            state.next_sigma,
            state.update,
            _LEAST_FREE * problem.weight * state.next_sigma,
            problem.fit_intercept,
            columns,
            state.rows,
            state.chosen,
            state.iterations,
        )
        sums: AugmentedSums = problem.run(step, precise=state.certificate.precise)
        return sums

    def _direct(
        self, problem: KinkedProblem, state: AugmentedState, W: Block, b: Vector, sums: AugmentedSums
    ) -> AugmentedState:
        """Find the steps of the columns whose matrices were summed."""
        gradient = W + sums.gradient
        D, d = np.zeros_like(W), np.zeros_like(b)
        for j, matrix in sums.hessians.items():
            right, h = gradient[:, j], sums.curvature[j]
            if problem.fit_intercept:
                right = right - sums.cross[:, j] * (sums.total[j] / h)
            D[:, j] = -_solve(matrix, right)
            if problem.fit_intercept:
                d[j] = -(sums.total[j] + sums.cross[:, j] @ D[:, j]) / h
        value = 0.5 * dots(W, W) + sums.envelope
        slope = dots(gradient, D) + sums.total * d
        return replace(state, directions=D, direction_intercept=d, value=value, slope=slope)


def _solve(matrix: Block, right: Vector) -> Vector:
    """Solve with a matrix plus the identity; overwrites the matrix."""
    unit = float(np.mean(np.diagonal(matrix)))
    for jitter in (0.0, 1e-7 * unit, 1e-5 * unit):  # rounding in single precision may outweigh the identity
        shifted = np.array(matrix, order="F")
        shifted[np.diag_indices_from(shifted)] += 1.0 + jitter
        factor, info = scipy.linalg.lapack.dpotrf(shifted, lower=True, overwrite_a=True)
        if info == 0:
            return np.asarray(scipy.linalg.cho_solve((factor, True), right, check_finite=False))
    return np.asarray(right / (1.0 + unit))


def _best_length(state: AugmentedState, sums: AugmentedSums) -> Vector:
    """Give the length of the step, but the whole, that gains most."""
    lengths = np.array(LENGTHS)[1:, None]
    W, D = state.W, state.directions
    squares = dots(W, W) + 2 * lengths * dots(W, D) + lengths**2 * dots(D, D)
    return np.asarray(lengths[np.argmin(0.5 * squares + sums.envelopes[1:], axis=0), 0])
