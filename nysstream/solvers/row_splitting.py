"""Losses with kinks: operator splitting over the rows, one pass and one matrix for all iterations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nysstream.sketching.preconditioner import Preconditioner
from nysstream.solvers.kinked import Certificate, KinkedProblem, KinkedSolver, KinkedState
from nysstream.streaming.rowstate import RowState
from nysstream.streaming.split_kernels import SplitStep, SplitSums

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.sketching.preconditioner import Array, Shift

    Vector = NDArray[np.float64]
    Block = NDArray[np.float64]

#: Iterations between two looks at the balance of the residuals, at least, and the factor by which these may
#: differ before the penalty parameter follows.
_BALANCE_EVERY, _IMBALANCE = 10, 3.0
#: The first penalty parameter, as a share of what goes with errors of unit size.
_FIRST = 0.5


@dataclass(frozen=True, eq=False)
class Majorant(Preconditioner):
    r"""The inverse of :math:`U \Lambda U^\top + (\epsilon + \rho) I`, above a matrix plus :math:`\rho I`.

    Parameters
    ----------
    vectors : ndarray, shape (p, r)
    values : ndarray, shape (r,)
        A Nyström approximation of the matrix.
    error : float
        Bound on the largest eigenvalue of what it leaves.
    """

    vectors: Block
    values: Vector
    error: float

    def inverse(self, V: Array, shift: Shift) -> Array:
        """Apply the inverse to a block ``(p, k)``."""
        rest = self.error + np.asarray(shift, np.float64)
        inside = self.vectors.T @ V
        share = inside / (self.values[:, None] + rest) - inside / rest
        return V / rest + self.vectors @ share


@dataclass(frozen=True, eq=False)
class SplitState(KinkedState):
    """Iterates between two passes.

    Attributes
    ----------
    W : ndarray, shape (p, k)
    intercept : ndarray, shape (k,)
        Of the centred design.
    sigma : float
    rows : RowState or ndarray of shape (k,)
        Copies plus multipliers of the rows; the same for all before the first pass.
    sigma_before : float
        What these were made with.
    certificate : Certificate
    iterations, since_balance : int
    """

    W: Block
    intercept: Vector
    sigma: float
    rows: RowState | Vector
    sigma_before: float
    certificate: Certificate
    iterations: int = 0
    since_balance: int = 0


@dataclass(frozen=True)
class RowSplitting(KinkedSolver[SplitState]):
    r"""Alternate between a system in the coefficients and the losses' proximal operators at the rows.

    .. math::
        (G + \rho I) w &= \tilde X^\top H (s - u), \qquad \rho = 1 / \sigma \\
        v &= \alpha (\tilde X w + b) + (1 - \alpha) s + u \\
        s &= \mathrm{prox}_{c \ell / \sigma}(v), \qquad u = v - s

    Parameters
    ----------
    tol : float
        Relative duality gap at which a column has converged.
    max_iterations : int
    relaxation : float
        The :math:`\alpha` above.

    Notes
    -----
    Cost: one pass for each iteration. Two numbers for each row and column are held, ``40 p k`` float64, and
    the inverse.

    This is ADMM on the dual [1]_: multipliers :math:`\lambda = \sigma u` are a point in its box, and the
    system is what Woodbury's identity makes of one with the kernel matrix. It is solved by a step from the
    last w, by what the pass has found there, so that rounding of G does not matter, and something larger than
    G will do instead [2]_.

    References
    ----------
    .. [1] Boyd, Parikh, Chu, Peleato and Eckstein, "Distributed optimization and statistical learning via the
       alternating direction method of multipliers", 2011.
    .. [2] Zhao, Frangella and Udell, "NysADMM: faster composite convex optimization via low-rank
       approximation", ICML 2022.
    """

    tol: float = 1e-3
    max_iterations: int = 2000
    relaxation: float = 1.8

    needs: ClassVar[frozenset[str]] = frozenset({"matrix"})

    def init(self, problem: KinkedProblem, start: Any) -> SplitState:
        """Start at zero coefficients, for no pass."""
        certificate, sigma = Certificate.of(problem), _FIRST * float(problem.sigma.mean())
        first = certificate.intercept
        return SplitState(certificate.best, first, sigma, first, sigma, certificate)

    def step(self, problem: KinkedProblem, state: SplitState) -> SplitState:
        """Make one iteration."""
        if self.must_be_precise(state.certificate):
            state = replace(state, certificate=state.certificate.forget())
        return self._iterate(problem, state)

    def finish(self, problem: KinkedProblem, state: SplitState) -> SplitState:
        """Certify the best coefficients in double precision."""
        if self.passes_to_finish(problem, state) == 0:
            return state
        known = state.certificate
        at_best = replace(state, W=known.best, intercept=known.intercept, certificate=known.forget())
        return self._iterate(problem, at_best)

    def _iterate(self, problem: KinkedProblem, state: SplitState) -> SplitState:
        step = SplitStep(
            problem.costs,
            state.W,
            state.intercept,
            state.sigma,
            state.rows,
            state.sigma_before,
            self.relaxation,
            state.iterations,
        )
        sums: SplitSums = problem.run(step, precise=state.certificate.precise)
        certificate = state.certificate.add(
            state.W,
            state.intercept,
            sums.loss,
            sums.multipliers,
            sums.n_support,
            zero_sum=problem.fit_intercept,
        )
        state = replace(
            state,
            rows=sums.rows,
            sigma_before=state.sigma,
            certificate=certificate,
            iterations=state.iterations + 1,
            since_balance=state.since_balance + 1,
        )
        state = self._balance(state, sums)
        assert problem.matrix is not None
        gradient = state.W / state.sigma + sums.apart + sums.multipliers.product / state.sigma
        W = state.W - problem.matrix.inverse(gradient, 1.0 / state.sigma)
        if not problem.fit_intercept:
            return replace(state, W=W)
        slope = sums.total_apart + sums.multipliers.total / state.sigma
        return replace(state, W=W, intercept=state.intercept - slope / problem.weight)

    def _balance(self, state: SplitState, sums: SplitSums) -> SplitState:
        """Let the penalty parameter follow the ratio of the residuals; one for all columns."""
        apart, copies, moved, scaled = sums.norms
        busy = (state.certificate.relative_gap > self.tol) & np.all(sums.norms > 0, axis=0)
        if state.since_balance < _BALANCE_EVERY or not busy.any():
            return state
        ratio = (apart[busy] / copies[busy]) / (moved[busy] / scaled[busy])
        change = float(np.exp(0.5 * np.log(ratio).mean()))
        if 1 / _IMBALANCE <= change <= _IMBALANCE:
            return state
        return replace(state, sigma=state.sigma * float(np.clip(change, 0.1, 10.0)), since_balance=0)
