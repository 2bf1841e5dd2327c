"""NysADMM: composite problems by the alternating direction method of multipliers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nysstream.errors import InputError
from nysstream.sketching.preconditioner import Identity
from nysstream.solvers.base import Solver, Status
from nysstream.solvers.columns import dots, norms
from nysstream.solvers.polish import polish
from nysstream.solvers.quadratic import Certified, CompositeQuadratic

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.solvers.quadratic import Block, Vector

#: Iterations between two looks at the balance of the residuals, at most.
_BALANCE_EVERY = 10
#: Residuals may differ by this factor before the penalty parameter follows.
_IMBALANCE = 5.0
#: Iterations between two products with the iterate itself, which undo drift.
_REFRESH_EVERY = 20


@dataclass(frozen=True, eq=False)
class ADMMState:
    """Iterates of all columns.

    Attributes
    ----------
    W, product : ndarray, shape (p, k)
        The smooth copy and, where conjugate gradients are run, its product with the operator.
    Z, U : ndarray, shape (p, k)
        The copy that obeys the regularizer, and the scaled dual variable; of shape (m, k) where the
        regularizer is one of m linear combinations.
    rho : ndarray, shape (k,)
    best : ndarray, shape (p, k)
        The certified copies.
    certified : Certified
        Of ``best``.
    primal, dual : ndarray, shape (k,)
        Norms of the last residuals.
    iterations : int
    since_balance : int
    polished : int
        Iteration at which the active face was last tried.
    """

    W: Block
    product: Block
    Z: Block
    U: Block
    rho: Vector
    best: Block
    certified: Certified
    primal: Vector
    dual: Vector
    iterations: int = 0
    since_balance: int = 0
    polished: int = 0

    def with_penalty(self, rho: Vector) -> ADMMState:
        """Go on with another penalty parameter; the multiplier stays."""
        return replace(self, rho=rho, U=self.U * (self.rho / rho), since_balance=0)


@dataclass(frozen=True)
class ADMM(Solver[CompositeQuadratic, ADMMState]):
    r"""Alternate between a linear system, a proximal map, and a running sum of their disagreement.

    .. math::
        (A + \rho I) w &= b + \rho (z - u) \\
        z &= \mathrm{prox}_{r/\rho}(\hat w + u), \qquad \hat w = a w + (1 - a) z \\
        u &= u + \hat w - z

    Parameters
    ----------
    tol : float
        Relative duality gap at which a column has converged; where there is no gap, relative
        distance from optimality.
    max_iterations : int
    relaxation : float
        The a above, between 1 and 2.
    penalty : float or None
        First :math:`\rho`; by default a tenth of the mean of A's diagonal.
    cg_steps : int
        Most steps of conjugate gradients in one iteration. They stop earlier, at a tolerance that
        decreases summably with the residuals.

    Notes
    -----
    Cost: no pass where the preconditioner is exact; else one per step of conjugate gradients for all
    columns together, ``12 * p * k`` float64 in the state and during a step.

    The answer is z, which obeys the regularizer exactly: zeros are zeros, and bounds hold. It is
    certified by a column of its own that rides along in the next pass.

    Where the regularizer is one of linear combinations :math:`M w - c`, z and u are such, and the systems'
    matrix is :math:`A + \rho M^\top M`. The answer is the w nearest to the smooth copy for which
    :math:`M w - c = z`, or the smooth copy where there may be none. A preconditioner that is no inverse is
    asked for a shift of :math:`\rho` times the mean eigenvalue of :math:`M^\top M`.

    Departures from the references:

    1. Systems are solved from the residual that the last ones left, so that one step of conjugate
       gradients an iteration may do.
    2. Where A is in memory, the face of the regularizer on which z has settled is solved on directly
       now and then, and the solution kept if it certifies better.

    References
    ----------
    .. [1] Zhao, Frangella and Udell, "NysADMM: faster composite convex optimization via low-rank
       approximation", ICML 2022.
    .. [2] Diamandis, Frangella, Zhao, Stellato and Udell, "GeNIOS: an (almost) second-order operator
       splitting solver for large-scale convex optimization", 2023.
    """

    tol: float = 1e-4
    max_iterations: int = 4000
    relaxation: float = 1.6
    penalty: float | None = None
    cg_steps: int = 2

    needs: ClassVar[frozenset[str]] = frozenset({"psd"})

    def __post_init__(self) -> None:
        if not 0 <= self.tol < 1 or self.max_iterations < 0 or self.cg_steps < 1:
            message = (
                f"tol={self.tol}, max_iterations={self.max_iterations}, cg_steps={self.cg_steps}: give a "
                "tolerance from 0 to 1 and positive counts"
            )
            raise InputError(message)
        if not 0 < self.relaxation < 2:
            message = f"relaxation={self.relaxation}: ADMM needs a number between 0 and 2"
            raise InputError(message)
        if self.penalty is not None and not self.penalty > 0:
            message = f"penalty={self.penalty}: it must be positive"
            raise InputError(message)

    def init(self, problem: CompositeQuadratic, start: Block | None) -> ADMMState:
        """Start at zero for no pass, or elsewhere for one."""
        (p, k), regularizer = problem.rhs.shape, problem.regularizer
        ones = np.ones(k)
        W = np.zeros((p, k)) if start is None else np.array(start, dtype=np.float64)
        Z = regularizer.inner.prox(regularizer.reach(W), 1.0 if start is None else 1e-12)
        W = regularizer.answer(W, Z)
        product = problem.multiply([W])[0] if W.any() else np.zeros((p, k))
        certified = problem.certify(W, product)
        rho = ones * self.first_penalty(problem)
        # The dual variable for which Z would be a fixed point of the smooth step.
        U = np.zeros_like(Z) if start is None else regularizer.subgradient(problem.rhs - product) / rho
        return ADMMState(W, product, Z, U, rho, W, certified, np.inf * ones, np.inf * ones)

    def step(self, problem: CompositeQuadratic, state: ADMMState) -> ADMMState:
        """Make one iteration, or ten where they cost no pass."""
        if problem.exact:
            return self._many(problem, state)
        candidates = problem.regularizer.answer(state.W, state.Z)
        solved = self._conjugate_gradients(problem, state, candidates)
        state, extra = self._iterate(problem, state, solved)
        state = self._keep(problem, state, candidates, extra)
        return self._balance(problem, state) if state.since_balance >= _BALANCE_EVERY else state

    def check(self, problem: CompositeQuadratic, state: ADMMState) -> Status | None:
        """Stop when every column is certified, or at the iteration limit."""
        if self.unfinished(state.certified).size == 0:
            return Status.CONVERGED
        return Status.MAX_ITERATIONS if state.iterations >= self.max_iterations else None

    def unfinished(self, certified: Certified) -> NDArray[np.intp]:
        """List the columns that are not certified yet."""
        return np.flatnonzero(~(certified.measure <= self.tol))

    def value(self, problem: CompositeQuadratic, state: ADMMState) -> Block:
        """Return the best certified copies."""
        return state.best

    def report(self, problem: CompositeQuadratic, state: ADMMState) -> dict[str, Any]:
        """Measure the certificate of the worst column."""
        return {
            "iterations": state.iterations,
            "objective": state.certified.objective,
            "relative_gap": float(state.certified.relative_gap.max()),
            "optimality": float(state.certified.optimality.max()),
        }

    def passes_ahead(self, problem: CompositeQuadratic, state: ADMMState) -> int:
        """Count the reads of one more iteration."""
        return 0 if problem.exact else self.cg_steps

    def first_penalty(self, problem: CompositeQuadratic) -> float:
        """Give the penalty parameter to begin with."""
        if self.penalty is not None:
            return self.penalty
        diagonal, trace = problem.diagonal, problem.operator.trace()
        if diagonal is None and trace is not None:
            diagonal = trace / problem.operator.shape[0]
        if diagonal is None:
            diagonal = float(np.abs(problem.rhs).max() ** 2 / max(float(problem.constant.max()), 1e-300))
        return max(0.1 * diagonal / problem.regularizer.stretch, 1e-300)

    def _many(self, problem: CompositeQuadratic, state: ADMMState) -> ADMMState:
        preconditioner = problem.preconditioner
        assert preconditioner is not None
        for _ in range(_BALANCE_EVERY):
            W = preconditioner.inverse(self._rhs(problem, state), state.rho)
            state, _ = self._iterate(problem, state, (W, state.product, None))
        candidates = problem.regularizer.answer(state.W, state.Z)
        state = self._keep(problem, state, candidates, problem.operator.matmat(candidates))
        if state.iterations >= 2 * state.polished:  # ever more rarely: it costs as much as a factorisation
            state = replace(state, polished=state.iterations)
            faces = polish(problem, state.Z)
            if faces is not None:
                state = self._keep(problem, state, faces, problem.operator.matmat(faces))
        return self._balance(problem, state)

    def _iterate(
        self,
        problem: CompositeQuadratic,
        state: ADMMState,
        solved: tuple[Block, Block, Block | None],
    ) -> tuple[ADMMState, Block]:
        """Make the proximal and the dual step, given the solution of the linear system."""
        W, product, extra = solved
        regularizer = problem.regularizer
        reached = regularizer.reach(W)
        mixed = self.relaxation * reached + (1 - self.relaxation) * state.Z
        Z = regularizer.inner.prox(mixed + state.U, 1.0 / state.rho)
        U = state.U + mixed - Z
        # The smooth part's gradient at W and the multiplier must cancel.
        dual = state.rho * norms(regularizer.back(Z - state.Z))
        state = replace(
            state,
            W=W,
            product=product,
            Z=Z,
            U=U,
            primal=norms(reached - Z),
            dual=dual,
            iterations=state.iterations + 1,
            since_balance=state.since_balance + 1,
        )
        return state, np.empty((0, 0)) if extra is None else extra

    def _rhs(self, problem: CompositeQuadratic, state: ADMMState) -> Block:
        regularizer = problem.regularizer
        return problem.rhs + state.rho * regularizer.back(state.Z - state.U + regularizer.offset)

    def _conjugate_gradients(
        self, problem: CompositeQuadratic, state: ADMMState, candidates: Block
    ) -> tuple[Block, Block, Block]:
        """Improve W by a few steps; the first product also certifies candidates."""
        rho, W, AW = state.rho, state.W, state.product
        precondition = problem.preconditioner or Identity()
        regularizer = problem.regularizer
        shift = rho * regularizer.stretch
        k = W.shape[1]

        def bent(V: Block) -> Block:
            return rho * regularizer.back(regularizer.reach(V) + regularizer.offset)

        rhs = self._rhs(problem, state)
        extra = np.empty((0, 0))
        refresh = state.iterations % _REFRESH_EVERY == _REFRESH_EVERY - 1
        R = rhs - AW - bent(W)
        size = norms(rhs)
        tolerance = size * np.minimum(1.0, np.sqrt(state.primal * state.dual)) / (1 + state.iterations) ** 1.2
        D = V = precondition.inverse(R, shift)
        rz = dots(R, V)
        for i in range(self.cg_steps):
            points = [] if i else [candidates, W] if refresh else [candidates]
            AD, *products = problem.multiply(points, [D])
            if products:
                extra = products[0]
                AW = products[1] if refresh else AW
            Q = AD + bent(D)
            curvature = dots(D, Q)
            alpha = np.divide(dots(D, R), curvature, out=np.zeros(k), where=curvature > 0)
            W, AW = W + alpha * D, AW + alpha * AD
            R = rhs - AW - bent(W)
            if np.all(norms(R) <= np.maximum(tolerance, 1e-12 * size)):
                break
            V = precondition.inverse(R, shift)
            new = dots(R, V)
            D = V + np.divide(new, rz, out=np.zeros(k), where=rz > 0) * D
            rz = new
        return W, AW, extra

    def _keep(
        self, problem: CompositeQuadratic, state: ADMMState, candidates: Block, product: Block
    ) -> ADMMState:
        """Certify candidates and keep those that are better than the best so far."""
        with_dual = replace(problem, regularizer=problem.regularizer.near(state.rho * state.U))
        better, certified = state.certified.merge(with_dual.certify(candidates, product))
        return replace(state, best=np.where(better, candidates, state.best), certified=certified)

    def _balance(self, problem: CompositeQuadratic, state: ADMMState) -> ADMMState:
        """Let the penalty parameter follow the ratio of the residuals, relative to their sizes."""
        reached = norms(problem.regularizer.reach(state.W))
        primal = state.primal / np.maximum(np.maximum(reached, norms(state.Z)), 1e-300)
        dual = state.dual / np.maximum(state.rho * norms(problem.regularizer.back(state.U)), 1e-300)
        ratio = np.sqrt(np.divide(primal, dual, out=np.ones_like(primal), where=(dual > 0) & (primal > 0)))
        if problem.exact:  # one factorisation serves all columns
            busy = self.unfinished(state.certified)
            ratio = np.full_like(ratio, np.exp(np.log(ratio[busy]).mean()) if busy.size else 1.0)
        ratio = np.where((ratio > _IMBALANCE) | (ratio < 1 / _IMBALANCE), np.clip(ratio, 0.1, 10.0), 1.0)
        return state.with_penalty(state.rho * ratio)
