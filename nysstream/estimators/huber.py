"""Regression that outliers do not spoil, on data that do not fit in memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from sklearn.base import RegressorMixin

from nysstream.errors import InputError
from nysstream.estimators.composite_plan import LossPlan, plan_loss, sample_size
from nysstream.estimators.lasso import check_strength
from nysstream.estimators.linear import LinearModel
from nysstream.estimators.penalised import Penalised, Penalty
from nysstream.estimators.results import composite_result
from nysstream.estimators.sampled_hessians import sampled_design
from nysstream.estimators.settings import training_design
from nysstream.journal import settled, unrecorded
from nysstream.losses import Huber, Loss
from nysstream.sketching.random_matrices import as_seed
from nysstream.solvers import Result, solve
from nysstream.solvers.scale_newton import Point, ScaleNewton, ScaleProblem
from nysstream.streaming import Outcome, RowSample, SetUp, centering_of, reduce, uniform_rows
from nysstream.streaming.cache import clear_cache
from nysstream.streaming.prefetch import slot_pool
from nysstream.streaming.scale_kernel import ScaleSums, ScaleValues
from nysstream.trace import Trace, tracing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.streaming import DesignMatrix, Statistics

    Vector = NDArray[np.float64]

#: Accuracy of the solution for sampled rows, which only starts that for all.
_ROUGH = 1e-4
#: The scale stays above this share of the targets' deviation.
_LEAST_SCALE = 1e-9


@dataclass(eq=False)
class _Rows(ScaleProblem):
    """Huber's loss with a scale over the rows of a design."""

    design: DesignMatrix
    penalty: Vector
    epsilon: float
    smallest_scale: float
    intercept: bool
    passes: int = field(default=0, init=False)

    def validate(self, needs: frozenset[str]) -> None:
        """Refuse nothing: settings were checked."""

    def evaluate(self, point: Point, *, precise: bool) -> ScaleValues:
        """Make one pass."""
        design = self.design.with_precision("double") if precise else self.design
        sums = ScaleSums(point.vector, point.intercept, point.scale, self.epsilon, self.intercept)
        values: ScaleValues
        (values,) = reduce(design, sums, name="certify" if precise else "evaluate")
        self.passes += 1
        return values


@dataclass(eq=False, repr=False)
class HuberRegressor(RegressorMixin, Penalised):
    r"""Linear regression with Huber's loss and a scale of its own, streamed from disk.

    Minimises, as :class:`sklearn.linear_model.HuberRegressor` does, over coefficients, intercept and scale

    .. math::
        \sum_i h_i \left(\sigma + H_\epsilon\!\left(\frac{\phi(x_i)^\top w + b - y_i}{\sigma}\right)
        \sigma\right) + \alpha \|w\|^2,

    where :math:`H_\epsilon(t)` is :math:`t^2` up to :math:`\epsilon` and :math:`2 \epsilon |t| - \epsilon^2`
    beyond, with sample weights :math:`h` and feature map :math:`\phi`. The scale makes the division
    into outliers and others independent of the units of the targets.

    Parameters
    ----------
    epsilon : float, default 1.35
        Residuals of more than this many scales are outliers; above 1.
    alpha : float, default 1e-4
        Strength of the l2 penalty; not negative.
    features, standardize, fit_intercept, max_passes, time_limit, precision
        As for :class:`nysstream.ElasticNet`.
    rank : "auto"
        Nothing is sketched.
    solver : {"auto", "newton"}
        Newton's method in all variables together; its Hessian is summed in the passes that are made anyway.
    tol : float, default 1e-6
        Relative duality gap at which to stop; for ``alpha=0`` the largest derivative by a coefficient of a
        column of unit variance, the intercept or the scale, relative to the sum of the weights.
    memory, device, random_state, callback
        As for :class:`nysstream.ElasticNet`.

    Attributes
    ----------
    coef_ : ndarray, shape (p,)
    intercept_ : float
    scale_ : float
        :math:`\sigma`.
    outliers_ : ndarray of bool, shape (n,)
        Rows whose residuals exceed ``epsilon * scale_``; only where X and y are in memory.
    features_ : FeatureMap
    n_features_in_ : int
    n_iter_ : int
    result_ : FitResult
        ``stats`` also has ``scale`` and ``n_outliers``.

    Notes
    -----
    Cost: one pass to set up and one for each Newton step, of which a start from sampled rows leaves two or
    three; ``n p^2`` flops each, and ``32 p^2`` bytes.

    Where all rows but outliers lie on a plane, the scale stays at 1e-9 of the targets' deviation, and
    rounding allows the derivatives no better than 1e-5.

    References
    ----------
    .. [1] Huber and Ronchetti, "Robust Statistics", 2nd edition, 2009.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.arange(40.0).reshape(20, 2) ** 2
    >>> y = X @ [1.0, -2.0] + np.sin(np.arange(20)) + np.where(np.arange(20) == 3, 1e4, 0.0)
    >>> model = HuberRegressor().fit(X, y)
    >>> model.coef_.round(1).tolist(), np.flatnonzero(model.outliers_).tolist()
    ([1.0, -2.0], [3])
    """

    methods: ClassVar[tuple[str, ...]] = ("newton",)
    #: Fitted attributes that a model file holds beside the coefficients.
    chosen: ClassVar[tuple[str, ...]] = ("scale_",)
    score = LinearModel.score  # scikit-learn's holds all rows

    epsilon: float = 1.35
    alpha: float = 1e-4

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the model; arguments, errors and warnings are those of :meth:`nysstream.ElasticNet.fit`."""
        self._check_settings()
        sources = self._sources(X, y, sample_weight)
        trace = Trace(listener=self.callback)
        with tracing(trace):
            try:
                design = training_design(self, *sources, smallest_alpha=1.0)
                plan = self._plan(design)
                result, n_outliers = self._fit_scale(plan, trace)
            finally:
                slot_pool.clear()
                clear_cache()
        self.features_ = design.features
        self.n_iter_ = max(1, int(result.stats["iterations"]))
        self.result_ = composite_result(plan, result, trace, self.coef_, 1.0, coupled=False)
        self.result_.stats.update(scale=self.scale_, n_outliers=n_outliers)
        if hasattr(self, "outliers_"):  # of an earlier fit
            delattr(self, "outliers_")
        source, target, _ = sources
        if source.resident and target.resident:
            y_all = np.asarray(target.read(slice(0, target.shape[0])), np.float64)[:, 0]
            self.outliers_ = np.abs(self.predict(X) - y_all) > self.epsilon * self.scale_
        self._warn_unconverged(result)
        return self

    def _plan(self, design: DesignMatrix) -> LossPlan:
        return plan_loss(design, memory=self.memory, rank=self.rank, n_columns=1, method="newton")

    def _fit_scale(self, plan: LossPlan, trace: Trace) -> tuple[Result[Any], int]:
        design = plan.design
        rows = self._start_rows(plan)
        gather: list[Any] = [SetUp(center=self.fit_intercept), *([] if rows is None else [RowSample(rows)])]
        statistics, *sampled = reduce(design, *gather, name="set-up")
        centering = centering_of(
            design, statistics, center=self.fit_intercept, standardize=True, asked=self.standardize
        )
        assert centering is not None
        centred = replace(design, centering=replace(centering, target_mean=np.zeros(design.n_targets)))
        spread = float(np.sqrt(statistics.target_squares[0] / statistics.weight))
        penalty = self._penalty(1.0).scaled(centering.scale, standardize=self.standardize).l2[:, 0] / 2
        problem = _Rows(
            centred,
            penalty,
            float(self.epsilon),
            max(_LEAST_SCALE * spread, 10 * float(np.finfo(np.float64).eps)),
            self.fit_intercept,
        )
        start = self._start(problem, rows, sampled, statistics, max(spread, problem.smallest_scale))

        def show(_: Any, record: dict[str, Any]) -> None:
            gap = record["duality_gap"]
            trace.residual = record["optimality"] if gap is None else gap

        result = solve(
            problem,
            ScaleNewton(tol=self.tol),
            start=start,
            max_passes=None if self.max_passes is None else self.max_passes - len(trace.passes),
            time_limit=None if self.time_limit is None else self.time_limit - trace.seconds,
            callback=show,
        )
        point: Point = result.value
        coef = (point.vector / centering.scale)[None, :]
        self._keep(coef, point.intercept - coef @ centering.mean, centering.mean)
        self.scale_ = float(point.scale)
        self.target_mean_ = np.zeros(1)
        return result, int(result.state.values.sums["n_outside"])

    def _start_rows(self, plan: LossPlan) -> NDArray[np.int64] | None:
        """Choose the rows that the start is computed from, as many as the memory set aside for a cache."""
        design, m = plan.design, sample_size(plan.design)
        row_bytes = design.row_bytes + design.shape[1] * design.dtype.itemsize + 24
        fit = bool(design.source.resident or m * row_bytes <= design.cache_bytes // 2)
        # Runs of one job begin at the same point, whatever memory each of them has.
        chosen = settled("start", lambda earlier: earlier.get("sampled", fit), lambda yes: {"sampled": yes})
        return uniform_rows(design.shape[0], m, as_seed(self.random_state)) if chosen else None

    def _start(
        self, problem: _Rows, rows: Any, sampled: list[Any], statistics: Statistics, spread: float
    ) -> Point:
        """Solve for sampled rows, in memory; without them, begin at the mean and the deviation."""
        mean = float(statistics.target_mean[0]) if self.fit_intercept else 0.0
        point = Point(np.zeros(problem.design.shape[1]), mean, spread)
        if rows is None or not np.any(sampled[0][1] > 0):
            return point
        with unrecorded():  # rows in memory: no passes over the data, and not to be counted as such
            outcome = Outcome(self._loss(), np.zeros(1, np.intp))
            sample = sampled_design(problem.design, rows, sampled[0], outcome, statistics.weight)
            part = replace(problem, design=sample.design, penalty=problem.penalty / sample.factor)
            rough: Point = solve(part, ScaleNewton(tol=_ROUGH), start=point).value
        return rough

    def _loss(self) -> Loss:
        return Huber(self.epsilon)

    def _penalty(self, weight: float) -> Penalty:
        return Penalty(0.0, 2 * self.alpha)

    def _unit(self, weight: float) -> float:
        return 1.0

    def _check_own_settings(self) -> None:
        check_strength("alpha", self.alpha)
        check_strength("epsilon", self.epsilon)
        if self.epsilon <= 1:
            message = (
                f"epsilon={self.epsilon!r} is out of range: the scale would be zero unless it is above 1"
            )
            raise InputError(message)
