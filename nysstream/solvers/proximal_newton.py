"""Proximal Newton: quadratic models of the loss, minimised with the regularizer in memory or by NysADMM."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.errors import InputError
from nysstream.regularizers import Composed, Separable
from nysstream.sketching.shifted_inverse import ShiftedInverse
from nysstream.solvers.admm import ADMM, ADMMState
from nysstream.solvers.base import Solver, Status
from nysstream.solvers.columns import dots
from nysstream.solvers.composite import Composite, Curvature, Evaluation
from nysstream.solvers.movable import movable, moved
from nysstream.solvers.quadratic import CompositeQuadratic
from nysstream.solvers.smooth_quadratic import SmoothQuadratic, is_quadratic

if TYPE_CHECKING:
    from nysstream.regularizers import Regularizer
    from nysstream.solvers.quadratic import Block, Certified, Vector

#: Steps that may fail to improve on the certificate before rounding is blamed.
_PATIENCE = 4
#: A model is solved to this fraction of what it is to gain.
_FORCING = 0.1
#: Measure below which the next evaluation is made in double precision; or ten times the tolerance, if that is
#: more, so that the evaluation which meets it need not be repeated.
_PRECISE = 1e-4
#: Relative error of sums in single precision: objectives closer than this cannot be told apart.
_SINGLE = 1e-5


@dataclass(frozen=True, eq=False)
class NewtonState:
    """Iterates of all columns.

    Attributes
    ----------
    W, intercept : ndarray, shapes (p, k) and (k,)
    at : Evaluation
        Of the loss there.
    best, best_intercept : ndarray
        The best certified iterate.
    certified : Certified
        Of the best.
    models : tuple of CompositeQuadratic
        Being minimised; empty between two steps.
    inner : tuple
        One state of the inner solver per model.
    curvature : tuple of Curvature
        Of the models.
    penalties : tuple of (ndarray, float)
        Penalty parameters that the last models ended with, and those that ADMM would have begun with: their
        ratios suit the next models.
    multiplier : ndarray, shape (m, k), optional
        Where the regularizer is one of m linear combinations, its subgradients that the last models ended
        with.
    iterations, inner_iterations, failures : int
    """

    W: Block
    intercept: Vector
    at: Evaluation
    best: Block
    best_intercept: Vector
    certified: Certified
    models: tuple[CompositeQuadratic, ...] = ()
    inner: tuple[Any, ...] = ()
    curvature: tuple[Curvature, ...] = ()
    penalties: tuple[tuple[Vector, float], ...] = ()
    multiplier: Block | None = None
    iterations: int = 0
    inner_iterations: int = 0
    failures: int = 0


@dataclass(frozen=True)
class ProximalNewton(Solver[Composite, NewtonState]):
    r"""Minimise a quadratic model of the loss plus the regularizer; repeat at the minimiser.

    Parameters
    ----------
    tol : float
        Relative duality gap at which to stop; where there is no gap, relative distance from optimality.
    max_iterations : int
        Models at most.
    inner : ADMM
        Settings for the models; their tolerance is set as the outer iteration needs it.

    Notes
    -----
    Cost: one pass per model, which evaluates loss, gradient and curvature together and certifies the
    iterate; and the passes of the models' products where the curvature is an operator over the data.

    A model of least squares is the loss itself, up to the rounding of sums: the second pass verifies, in
    double precision, and later models refine.

    References
    ----------
    .. [1] Lee, Sun and Saunders, "Proximal Newton-type methods for minimizing composite functions",
       SIAM J. Optim., 2014.
    """

    tol: float = 1e-6
    max_iterations: int = 100
    inner: ADMM = field(default_factory=ADMM)

    def __post_init__(self) -> None:
        if not 0 <= self.tol < 1 or self.max_iterations < 1:
            message = (
                f"tol={self.tol}, max_iterations={self.max_iterations}: give a tolerance from 0 to 1 and a "
                "positive count"
            )
            raise InputError(message)

    def init(self, problem: Composite, start: tuple[Block, Vector] | None) -> NewtonState:
        """Start at zero for no pass where the loss is known there, or elsewhere for one."""
        p, k = problem.smooth.shape
        W, b = (np.zeros((p, k)), np.zeros(k)) if start is None else start
        regularizer = problem.regularizer
        W = regularizer.answer(W, regularizer.inner.prox(regularizer.reach(W), 1e-12))
        at = problem.smooth.evaluate(W, b, precise=False)
        certified = problem.certify(W, at)
        return NewtonState(W, b, at, W, b, certified)

    def step(self, problem: Composite, state: NewtonState) -> NewtonState:
        """Finish the models in memory and evaluate; or take one iteration of models over the data."""
        if not state.models and not state.at.precise and state.certified.measure.max() <= self.tol:
            return self._verify(problem, state)
        if not state.models:
            state = self._model(problem, state)
        solver = self._inner_solver(problem, state)
        in_memory = problem.smooth.in_memory
        while True:
            inner = tuple(
                solver.step(model, part) if solver.check(model, part) is None else part
                for model, part in zip(state.models, state.inner, strict=True)
            )
            state = replace(state, inner=inner, inner_iterations=state.inner_iterations + 1)
            if self._solved(solver, state):
                return self._advance(problem, state)
            if not in_memory:
                return state

    def check(self, problem: Composite, state: NewtonState) -> Status | None:
        """Stop when every column is certified, progress ends, or the limit is reached."""
        if state.at.precise and state.certified.measure.max() <= self.tol:
            return Status.CONVERGED
        if state.failures >= _PATIENCE:
            return Status.STALLED
        return Status.MAX_ITERATIONS if state.iterations >= self.max_iterations else None

    def value(self, problem: Composite, state: NewtonState) -> tuple[Block, Vector]:
        """Return the best certified coefficients and intercepts."""
        return state.best, state.best_intercept

    def report(self, problem: Composite, state: NewtonState) -> dict[str, Any]:
        """Measure the certificate of the worst column."""
        counts = {"iterations": state.iterations, "inner_iterations": state.inner_iterations}
        return counts | state.certified.record()

    def passes_ahead(self, problem: Composite, state: NewtonState) -> int:
        """Count the evaluation, and the products of an iteration over the data."""
        return 1 + (0 if problem.smooth.in_memory else self.inner.cg_steps)

    def passes_to_finish(self, problem: Composite, state: NewtonState) -> int:
        """Count the evaluation of a model that was being minimised."""
        return 1 if state.models else 0

    def finish(self, problem: Composite, state: NewtonState) -> NewtonState:
        """Evaluate where the model that was being minimised has got to."""
        return self._advance(problem, state) if state.models else state

    def _model(self, problem: Composite, state: NewtonState) -> NewtonState:
        at, k = state.at, state.W.shape[1]
        curvatures = at.model(movable(problem, state.W, state.at))
        state = replace(state, curvature=curvatures)
        if curvatures[0].stacked:
            return self._stacked_model(problem, state)
        shared = len(curvatures) == 1
        gradient = at.eliminate()
        models, inner = [], []
        solver = self._inner_solver(problem, state)
        regularizer = problem.regularizer.near(state.multiplier)
        for i, curvature in enumerate(curvatures):
            columns = np.arange(k) if shared else np.array([i])
            W, g, penalty = state.W[:, columns], gradient[:, columns], regularizer.columns(columns)
            constant = at.loss[columns]
            if curvature.movable is not None:
                assert isinstance(penalty, Separable)
                moving, whole = curvature.movable, penalty
                W, g, penalty = W[moving], g[moving], whole.rows(moving)
                constant = constant + whole.value(state.W[:, columns]) - penalty.value(W)
            product = curvature.there
            if product is None:
                product = curvature.operator.matmat(W) if W.any() else np.zeros_like(W)
            constant = constant - dots(g, W) + 0.5 * dots(W, product)
            preconditioner = curvature.preconditioner
            if isinstance(regularizer, Composed) and isinstance(preconditioner, ShiftedInverse):
                preconditioner = preconditioner.against(regularizer.matrix)
            model = CompositeQuadratic(
                curvature.operator,
                product - g,
                constant,
                penalty,
                preconditioner,
                curvature.exact,
                problem.smooth.least_squares,
                problem.scale[columns],
                curvature.diagonal,
                W if W.any() else None,
                product if W.any() else None,
            )
            models.append(model)
            inner.append(solver.init(model, W if W.any() else None))
        return self._begun(state, models, inner)

    def _stacked_model(self, problem: Composite, state: NewtonState) -> NewtonState:
        """Make one model of all columns, which the loss couples, with their intercepts."""
        at, curvature = state.at, state.curvature[0]
        extra = problem.smooth.intercept
        v = _stack(state.W, state.intercept, extra=extra)
        g = _stack(at.gradient, at.slope, extra=extra)
        product = curvature.operator.matmat(v) if v.any() else np.zeros_like(v)
        constant = at.loss[:1] - dots(g, v) + 0.5 * dots(v, product)
        regularizer = _stacked(problem.regularizer, state.W.shape, extra=extra)
        model = CompositeQuadratic(
            curvature.operator,
            product - g,
            constant,
            regularizer,
            curvature.preconditioner,
            curvature.exact,
            least_squares=False,
            scale=problem.scale[:1],
        )
        solver = self._inner_solver(problem, state)
        return self._begun(state, [model], [solver.init(model, v if v.any() else None)])

    def _begun(self, state: NewtonState, models: list[CompositeQuadratic], inner: list[Any]) -> NewtonState:
        """Begin to minimise models, with the penalty parameters that the last ones ended with."""
        if len(state.penalties) == len(inner):
            found = zip(models, inner, state.penalties, strict=True)
            inner = [
                part.with_penalty(rho * (self.inner.first_penalty(model) / first))
                for model, part, (rho, first) in found
            ]
        return replace(state, models=tuple(models), inner=tuple(inner))

    def _inner_solver(self, problem: Composite, state: NewtonState) -> Solver[CompositeQuadratic, Any]:
        """Ask of the models a fraction of what is missing, and no less than what rounding allows."""
        if problem.smooth.least_squares:  # the model is the loss itself
            forcing = 0.3 * self.tol
        else:
            forcing = _FORCING * min(1.0, float(state.certified.optimality.max()))
        tol = max(forcing, 1e-14)
        if is_quadratic(problem.regularizer):
            return SmoothQuadratic(tol=tol)
        return replace(self.inner, tol=tol)

    def _solved(self, solver: Solver[CompositeQuadratic, Any], state: NewtonState) -> bool:
        return all(
            solver.check(model, part) is not None
            for model, part in zip(state.models, state.inner, strict=True)
        )

    def _advance(self, problem: Composite, state: NewtonState) -> NewtonState:
        """Evaluate at the models' minimisers, for one pass; shorten steps that do not descend."""
        at, solver = state.at, self._inner_solver(problem, state)
        values = [solver.value(m, s) for m, s in zip(state.models, state.inner, strict=True)]
        if state.curvature[0].stacked:
            p, k = state.W.shape
            columns = values[0].reshape(k, -1).T
            W = np.ascontiguousarray(columns[:p])
            full = columns[p] - state.intercept if problem.smooth.intercept else np.zeros(k)
        else:
            W = np.hstack(
                [
                    value if c.movable is None else moved(state.W[:, [j]], c.movable, value)
                    for j, (c, value) in enumerate(zip(state.curvature, values, strict=True))
                ]
            )
            slope = at.slope + dots(at.cross, W - state.W)
            move = np.divide(slope, at.curvature, out=np.zeros_like(slope), where=at.curvature > 0)
            full = -move if problem.smooth.intercept else np.zeros_like(move)
        D = W - state.W
        parts = [part for part in state.inner if isinstance(part, ADMMState)]
        multiplier = None
        if isinstance(problem.regularizer, Composed):
            multiplier = np.hstack([part.rho * part.U for part in parts])
            problem = replace(problem, regularizer=problem.regularizer.near(multiplier))
        before = problem.objective(state.W, at.loss)
        # Near the end, or where progress has ended, single precision is what is in the way.
        precise = state.failures > 0 or float(state.certified.measure.max()) < max(_PRECISE, 10 * self.tol)
        length = self._realistic(problem, state, before)
        for _ in range(8):
            V, b = state.W + length * D, state.intercept + length * full
            V = np.where(length == 1, W, V)
            found = problem.smooth.evaluate(V, b, precise=precise)
            certified = problem.certify(V, found)
            noise = 1e-12 if found.precise and at.precise else _SINGLE
            fallen = certified.objective <= before + noise * np.abs(before)
            if problem.smooth.least_squares or fallen.all():
                break
            length = np.where(fallen, length, 0.3 * length)
        better, merged = state.certified.merge(certified)
        improved = merged.improves_on(state.certified)
        return replace(
            state,
            W=V,
            intercept=b,
            at=found,
            best=np.where(better, V, state.best),
            best_intercept=np.where(better, b, state.best_intercept),
            certified=merged,
            models=(),
            inner=(),
            penalties=tuple(
                (part.rho, self.inner.first_penalty(model))
                for model, part in zip(state.models, parts, strict=bool(parts))
            ),
            multiplier=multiplier,
            iterations=state.iterations + 1,
            failures=0 if improved else state.failures + 1,
        )

    def _realistic(self, problem: Composite, state: NewtonState, before: Vector) -> Vector:
        """Shorten steps whose models promise more than there is to gain: losses have least values.

        Far from the minimum of an exponential loss a whole step may be a million times too long, and the
        objective there beyond the largest number.
        """
        if problem.smooth.least_squares:
            return np.ones_like(before)
        after = np.hstack([part.certified.objective for part in state.inner])
        promised = np.maximum(before - after, 0.0)
        possible = before - problem.floor(state.at)
        beyond = np.isfinite(possible) & (promised > possible)
        return np.where(beyond, 0.5 * possible / np.where(beyond, promised, 1.0), 1.0)

    def _verify(self, problem: Composite, state: NewtonState) -> NewtonState:
        """Evaluate the best iterate again, in double precision."""
        at = problem.smooth.evaluate(state.best, state.best_intercept)
        problem = replace(problem, regularizer=problem.regularizer.near(state.multiplier))
        certified = problem.certify(state.best, at)
        return replace(
            state,
            W=state.best,
            intercept=state.best_intercept,
            at=at,
            certified=certified,
            iterations=state.iterations + 1,
        )


def _stack(W: Block, intercept: Vector, *, extra: bool) -> Block:
    """Put columns, each with its intercept if there are any, under one another."""
    whole = np.vstack([W, intercept]) if extra else W
    return np.ascontiguousarray(whole.T).reshape(-1, 1)


def _stacked(regularizer: Regularizer, shape: tuple[int, ...], *, extra: bool) -> Separable:
    """Give the penalty of stacked columns; their intercepts are free."""
    if not isinstance(regularizer, Separable):
        message = (
            f"{type(regularizer).__name__} does not go with losses that couple classes: give a sum over "
            "coefficients, such as ElasticNet"
        )
        raise InputError(message)

    def stack(setting: Any, free: float) -> Block:
        full = np.broadcast_to(setting, shape)
        return _stack(full, np.full(shape[1], free), extra=extra)

    names = {"l1": 0.0, "l2": 0.0, "lower": -np.inf, "upper": np.inf}
    return Separable(**{name: stack(getattr(regularizer, name), free) for name, free in names.items()})
