"""What estimators with a loss and a penalty share: settings, the fit, and what it leaves behind."""

from __future__ import annotations

import warnings
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator, MultiOutputMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import column_or_1d
from sklearn.utils.validation import check_array

from nysstream.errors import InputError, MemoryBudgetError
from nysstream.estimators.composite_plan import LOSS_METHODS, LossPlan, plan_loss
from nysstream.estimators.inputs import is_streamed, training_sources
from nysstream.estimators.least_squares import set_up
from nysstream.estimators.linear import LinearModel
from nysstream.estimators.planning import Plan, plan_fit
from nysstream.estimators.results import composite_result
from nysstream.estimators.sampled_hessians import sampled_design
from nysstream.estimators.settings import check_settings, training_design
from nysstream.estimators.smooth_losses import GeneralLoss, LeastSquaresLoss, needs_sums_only
from nysstream.estimators.stochastic import STOCHASTIC, plan_stochastic, solve_stochastic
from nysstream.estimators.targets import check_targets
from nysstream.regularizers import Separable
from nysstream.sketching.random_matrices import as_seed
from nysstream.solvers import Result, solve
from nysstream.solvers.admm import ADMM
from nysstream.solvers.composite import Composite
from nysstream.solvers.proximal_newton import ProximalNewton
from nysstream.streaming import Outcome, RowSample, SetUp, centering_of, reduce
from nysstream.streaming.cache import clear_cache
from nysstream.streaming.outset import Outset, target_statistics
from nysstream.streaming.prefetch import slot_pool
from nysstream.trace import Trace, tracing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.losses import Loss
    from nysstream.streaming import DesignMatrix

    Vector = NDArray[np.float64]
    Block = NDArray[np.float64]


@dataclass
class Penalty:
    """Strengths of a separable penalty on the coefficients, for a loss that is a sum over the rows.

    Attributes
    ----------
    l1, l2 : float or ndarray, shape (k,)
    lower, upper : float or ndarray, shape (p,)
    """

    l1: Any = 0.0
    l2: Any = 0.0
    lower: Any = -np.inf
    upper: Any = np.inf

    def scaled(self, scale: Vector, *, standardize: bool) -> Separable:
        """Give the penalty as a function of the coefficients of columns divided by ``scale``.

        Those coefficients are ``scale`` times larger. With ``standardize`` it is they that are penalised.
        """
        finite = np.where(np.isfinite(scale), scale, 1.0)[:, None]
        by = np.ones_like(finite) if standardize else finite
        l1, l2 = (np.atleast_1d(np.asarray(value, np.float64))[None, :] for value in (self.l1, self.l2))
        bounds = []
        for bound in (self.lower, self.upper):
            full = np.broadcast_to(np.asarray(bound, np.float64), scale.shape)[:, None]
            bounds.append(np.where(np.isfinite(full), full * finite, full))
        return Separable(l1 / by, l2 / by**2, *bounds)


@dataclass(eq=False, repr=False)
class Settings:
    """Settings that all streamed estimators share; see any of them."""

    _: KW_ONLY
    features: Any = None
    rank: Any = "auto"
    standardize: bool = False
    fit_intercept: bool = True
    solver: str = "auto"
    tol: float = 1e-6
    max_passes: int | None = None
    time_limit: float | None = None
    precision: str = "single"
    memory: Any = None
    device: Any = None
    random_state: Any = 0
    callback: Any = None


@dataclass(eq=False, repr=False)
class Penalised(LinearModel, BaseEstimator, Settings):
    """A loss over the rows and a penalty on the coefficients, minimised with a certificate."""

    #: Methods that ``solver`` may name, beside ``"auto"``.
    methods: ClassVar[tuple[str, ...]] = (*LOSS_METHODS, *STOCHASTIC)
    least_squares: ClassVar[bool] = False
    _single_target: bool = field(default=False, init=False)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    # What an estimator says about itself.

    def _loss(self) -> Loss:
        """Give the loss of one row."""
        raise NotImplementedError

    def _penalty(self, weight: float) -> Penalty:
        """Give the penalty to be added to the sum of the losses over rows of this total weight."""
        raise NotImplementedError

    def _unit(self, weight: float) -> float:
        """Give what the sum is divided by to make the objective of the documentation."""
        return weight

    def _check_own_settings(self) -> None:
        """Refuse settings of this estimator alone."""

    def _n_columns(self, n_targets: int) -> int:
        """Count the predictors that are solved for."""
        return n_targets

    # The fit.

    def plan(self, X: Any, y: Any, sample_weight: Any = None) -> Plan | LossPlan:
        """Say how a fit would run: memory, passes, concurrency. Reads at most a sample of rows."""
        self._check_settings()
        source, target, weight = self._sources(X, y, sample_weight)
        return self._plan(training_design(self, source, target, weight, smallest_alpha=1.0))

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the model.

        Parameters
        ----------
        X : array-like, sparse array, RowSource, zarr.Array, h5py.Dataset or dask.array.Array, shape (n, d)
            A path is opened by :func:`nysstream.open`.
        y : as X, shape (n,) or (n, q)
        sample_weight : as y, shape (n,), or float, optional

        Raises
        ------
        InputError
            If an argument or a value of the data cannot be used; names it.
        MemoryBudgetError
            If the job does not fit ``memory``; before anything is read.
        SourceError
            If the data cannot be read.

        Warns
        -----
        ConvergenceWarning
            If a limit came first; the best coefficients so far are kept, with their certificate.
        """
        self._check_settings()
        source, target, weight = self._sources(X, y, sample_weight)
        trace = Trace(listener=self.callback)
        with tracing(trace):
            try:
                design = training_design(self, source, target, weight, smallest_alpha=1.0)
                # In batches, least squares are a loss like others.
                whole = self.least_squares and self.solver not in STOCHASTIC
                fit = self._fit_least_squares if whole else self._fit_loss
                result, plan, total = fit(design, trace)
            finally:
                slot_pool.clear()
                clear_cache()
        self.features_ = design.features
        self.n_iter_ = max(1, int(result.stats["iterations"]))
        self.result_ = composite_result(
            plan,
            result,
            trace,
            self.coef_,
            self._unit(total),
            coupled=not self.least_squares and self._loss().coupled,
        )
        self._warn_unconverged(result)
        return self

    def _warn_unconverged(self, result: Result[Any]) -> None:
        """Warn, for whoever called ``fit``, if a limit came before the tolerance."""
        if self.result_.converged:
            return
        gap = self.result_.stats["duality_gap"]
        shown = self.result_.stats["optimality"] if gap is None else gap
        what = "Distance from optimality" if gap is None else "Relative duality gap"
        message = f"{result.status.value} {what} {shown:.1e}, asked {self.tol:.1e}."
        warnings.warn(message, ConvergenceWarning, stacklevel=3)

    def _sources(self, X: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
        single = not isinstance(self, MultiOutputMixin)
        if single and y is not None and not is_streamed(y) and not isinstance(y, str):
            y = column_or_1d(check_array(y, ensure_2d=False, input_name="y"), warn=True)
        source, target, weight = training_sources(self, X, y, sample_weight)
        if single and target.shape[1] != 1:
            message = f"{target.name} has {target.shape[1]} columns; {type(self).__name__} fits one target"
            raise InputError(message)
        self._single_target = target.vector or single
        if not self.least_squares:
            check_targets(self._loss(), target)
        return source, target, weight

    def _check_settings(self) -> None:
        check_settings(self, ("auto", *self.methods))
        self._check_own_settings()

    def _plan(self, design: DesignMatrix) -> Plan | LossPlan:
        k = self._n_columns(design.n_targets)
        if self.solver in STOCHASTIC:
            return plan_stochastic(
                design, memory=self.memory, rank=self.rank, n_columns=k, solver=self.solver
            )
        if not self.least_squares:
            return plan_loss(
                design,
                memory=self.memory,
                rank=self.rank,
                n_columns=k,
                method=self.solver,
                coupled=self._loss().coupled,
                sparsifies=self._sparsifies(),
            )
        names = {"auto": "auto", "gram": "gram", "admm": "nystrom"}
        method = names[self.solver]
        if method == "auto":
            try:
                return plan_fit(design, memory=self.memory, rank=self.rank, n_systems=2 * k, method="gram")
            except MemoryBudgetError:
                method = "nystrom"
        return plan_fit(design, memory=self.memory, rank=self.rank, n_systems=2 * k, method=method)

    def _sparsifies(self) -> bool:
        """Whether the penalty makes coefficients zero."""
        penalty = self._penalty(1.0)
        return Separable(penalty.l1, 0.0, np.min(penalty.lower), np.max(penalty.upper)).sparsifies

    def _solve(self, problem: Composite, trace: Trace, start: tuple[Block, Vector] | None) -> Result[Any]:
        if self.solver in STOCHASTIC:
            return solve_stochastic(self, problem, trace, start)

        def show(_: Any, record: dict[str, Any]) -> None:
            gap = record["duality_gap"]
            trace.residual = record["optimality"] if gap is None else gap
            trace.measure = "optimality" if gap is None else "gap"

        return solve(
            problem,
            ProximalNewton(tol=self.tol, inner=ADMM()),
            start=start,
            max_passes=None if self.max_passes is None else self.max_passes - len(trace.passes),
            time_limit=None if self.time_limit is None else self.time_limit - trace.seconds,
            callback=show,
        )

    def _fit_least_squares(self, design: DesignMatrix, trace: Trace) -> tuple[Result[Any], Any, float]:
        plan: Any = self._plan(design)
        problem = set_up(
            plan,
            center=self.fit_intercept,
            standardize=True,
            asked=self.standardize,
            seed=as_seed(self.random_state),
            shifts=np.zeros(1),
            rank=self.rank,
        )
        q = design.n_targets
        smooth = LeastSquaresLoss(problem, np.arange(q))
        centering, weight = problem.design.centering, problem.statistics.weight
        assert centering is not None
        regularizer = self._penalty(weight).scaled(centering.scale, standardize=self.standardize)
        scale = np.abs(problem.cross).max(axis=0)
        composite = Composite(smooth, regularizer, np.where(scale > 0, scale, 1.0))
        result = self._solve(composite, trace, None)
        coef, intercept = problem.coefficients(result.value[0], np.arange(q))
        self._keep(coef, intercept, centering.mean)
        self.target_mean_ = problem.statistics.target_mean
        return result, plan, weight

    def _fit_loss(self, design: DesignMatrix, trace: Trace) -> tuple[Result[Any], Any, float]:
        plan: Any = self._plan(design)
        design = plan.design
        loss = self._loss()
        rows = plan.sample_rows(as_seed(self.random_state))
        gather: list[Any] = [SetUp(center=self.fit_intercept), *([] if rows is None else [RowSample(rows)])]
        outcome, start, weight = self._outcome(loss, target_statistics(design), design.target)
        k = outcome.columns.size
        b = start if self.fit_intercept else np.zeros(k)
        outset = None
        if needs_sums_only(plan.method, coupled=loss.coupled):
            outset = Outset(design, outcome, b, fit_intercept=self.fit_intercept)
        statistics, *sampled = reduce(design if outset is None else outset.design, *gather, name="set-up")
        centering = centering_of(
            design, statistics, center=self.fit_intercept, standardize=True, asked=self.standardize
        )
        assert centering is not None
        centred = replace(design, centering=replace(centering, target_mean=np.zeros(design.n_targets)))
        sample = None
        if rows is not None:
            mapped = plan.method not in STOCHASTIC
            sample = sampled_design(centred, rows, sampled[0], outcome, weight, mapped=mapped)
        smooth = GeneralLoss(
            centred,
            outcome,
            k,
            method=plan.method,
            fit_intercept=self.fit_intercept,
            sample=sample,
            rank=plan.rank,
            most_movable=plan.most_movable,
            rng=np.random.default_rng(as_seed(self.random_state)),
        )
        W = np.zeros((design.shape[1], k))
        regularizer = self._penalty(weight).scaled(centering.scale, standardize=self.standardize)
        at = smooth.begin(W, b, None if outset is None else outset.values(statistics, centering))
        scale = np.maximum(np.abs(at.gradient).max(axis=0), 1e-300)
        if smooth.coupled:
            scale = np.full_like(scale, scale.max())
        result = self._solve(Composite(smooth, regularizer, scale), trace, (W, b))
        V, c = result.value
        coef = (V / centering.scale[:, None]).T
        self._keep(np.ascontiguousarray(coef), c - coef @ centering.mean, centering.mean)
        q = design.n_targets if self.least_squares else 0
        self.target_mean_ = statistics.target_mean[:q] if q else np.zeros(coef.shape[0])
        return result, plan, weight

    def _outcome(self, loss: Loss, statistics: Any, target: Any) -> tuple[Outcome, Vector, float]:
        """Say what targets mean, where intercepts start, and the rows' total weight."""
        q = statistics.target_mean.size
        start = np.asarray(loss.start(statistics.target_mean), np.float64)
        return Outcome(loss, np.arange(q)), start, statistics.weight

    def _keep(self, coef: Block, intercept: Vector, mean: Vector) -> None:
        """Set the coefficients; bounds hold exactly, whatever scaling and back has rounded."""
        penalty = self._penalty(1.0)
        clipped = np.clip(coef, penalty.lower, penalty.upper)
        if self.fit_intercept:
            intercept = intercept - (clipped - coef) @ mean
        self._set_coefficients(clipped, intercept if self.fit_intercept else np.zeros(len(coef)))

    def _set_coefficients(self, coef: Block, intercept: Vector) -> None:
        single = self._single_target
        self.coef_ = coef[0] if single else coef
        self.intercept_: Any = float(intercept[0]) if single else intercept
