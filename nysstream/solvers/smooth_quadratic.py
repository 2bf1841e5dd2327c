"""Quadratics whose regularizer is quadratic too: conjugate gradients on the models of composite solvers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nysstream.operators.algebra import Dense
from nysstream.regularizers import Separable
from nysstream.sketching.preconditioner import Identity
from nysstream.solvers.base import Solver, Status
from nysstream.solvers.columns import dots
from nysstream.solvers.polish import polish
from nysstream.solvers.quadratic import Certified, CompositeQuadratic

if TYPE_CHECKING:
    from nysstream.regularizers import Regularizer
    from nysstream.solvers.quadratic import Block, Vector


def is_quadratic(regularizer: Regularizer) -> bool:
    """Whether a regularizer is a weighted sum of squares, without kinks or bounds."""
    if not isinstance(regularizer, Separable):
        return False
    unbounded = np.all(np.isneginf(regularizer.lower)) and np.all(np.isposinf(regularizer.upper))
    return bool(np.all(np.equal(regularizer.l1, 0.0)) and unbounded)


@dataclass(frozen=True, eq=False)
class CGState:
    """Iterates of all columns.

    Attributes
    ----------
    best, residual, direction, product : ndarray, shape (p, k)
        Iterate, residual, search direction, and the operator's product with the iterate.
    rho : ndarray, shape (k,)
        Inner products of residuals and preconditioned residuals.
    certified : Certified
        Of ``best``.
    iterations : int
    """

    best: Block
    residual: Block
    direction: Block
    product: Block
    rho: Vector
    certified: Certified
    iterations: int = 0


@dataclass(frozen=True)
class SmoothQuadratic(Solver[CompositeQuadratic, CGState]):
    """Solve :math:`(A + D) w = b`, with D the diagonal of an l2 penalty.

    A matrix in memory is factored; otherwise these are preconditioned conjugate gradients.

    Parameters
    ----------
    tol : float
        As for :class:`nysstream.solvers.admm.ADMM`.
    max_iterations : int

    Notes
    -----
    Cost: one product with the operator per step.
    """

    tol: float = 1e-4
    max_iterations: int = 1000

    needs: ClassVar[frozenset[str]] = frozenset({"psd"})

    def init(self, problem: CompositeQuadratic, start: Block | None) -> CGState:
        """Start at zero for no product, or elsewhere for one; at the solution where A is in memory."""
        W = np.zeros_like(problem.rhs) if start is None else np.array(start, dtype=np.float64)
        solved = polish(problem, W) if isinstance(problem.operator, Dense) else None
        if solved is not None:  # all coordinates are free: one factorisation solves it
            W = solved
        product = problem.operator.matmat(W) if W.any() else np.zeros_like(W)
        R = problem.rhs - product - self._penalty(problem) * W
        certified = problem.certify(W, product)
        V = R if np.all(certified.measure <= self.tol) else self._precondition(problem, R)
        return CGState(W, R, V, product, dots(R, V), certified)

    def step(self, problem: CompositeQuadratic, state: CGState) -> CGState:
        """Move along the direction, for one product."""
        D, penalty = state.direction, self._penalty(problem)
        AD = problem.operator.matmat(D)
        curvature = dots(D, AD + penalty * D)
        alpha = np.divide(state.rho, curvature, out=np.zeros_like(state.rho), where=curvature > 0)
        W, product = state.best + alpha * D, state.product + alpha * AD
        R = problem.rhs - product - penalty * W
        V = self._precondition(problem, R)
        rho = dots(R, V)
        beta = np.divide(rho, state.rho, out=np.zeros_like(rho), where=state.rho > 0)
        return replace(
            state,
            best=W,
            residual=R,
            direction=V + beta * D,
            product=product,
            rho=rho,
            certified=problem.certify(W, product),
            iterations=state.iterations + 1,
        )

    def check(self, problem: CompositeQuadratic, state: CGState) -> Status | None:
        """Stop when every column is certified, or at the iteration limit."""
        if np.all(state.certified.measure <= self.tol):
            return Status.CONVERGED
        return Status.MAX_ITERATIONS if state.iterations >= self.max_iterations else None

    def value(self, problem: CompositeQuadratic, state: CGState) -> Block:
        """Return the iterate."""
        return state.best

    def report(self, problem: CompositeQuadratic, state: CGState) -> dict[str, Any]:
        """Measure the worst column."""
        return {"iterations": state.iterations, "optimality": float(state.certified.optimality.max())}

    def _penalty(self, problem: CompositeQuadratic) -> Any:
        regularizer = problem.regularizer
        assert isinstance(regularizer, Separable)
        return regularizer.l2

    def _precondition(self, problem: CompositeQuadratic, R: Block) -> Block:
        # Preconditioners know one shift for all coordinates: a typical one.
        shift = max(float(np.median(self._penalty(problem))), 1e-9 * self._mean_diagonal(problem))
        return np.asarray((problem.preconditioner or Identity()).inverse(R, shift))

    def _mean_diagonal(self, problem: CompositeQuadratic) -> float:
        return (problem.operator.trace() or 1.0) / problem.operator.shape[0]
