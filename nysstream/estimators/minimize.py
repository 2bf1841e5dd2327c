"""Any loss with any regularizer, or an l2 penalty, minimised over data that do not fit in memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.base import MultiOutputMixin

from nysstream.errors import InputError
from nysstream.estimators.kinked import fit_penalised, plan_kinked
from nysstream.estimators.lasso import LEAST_SQUARES_METHODS
from nysstream.estimators.least_squares import set_up
from nysstream.estimators.penalised import Penalised, Penalty
from nysstream.estimators.sampled_hessians import sampled_design
from nysstream.estimators.smooth_losses import GeneralLoss, LeastSquaresLoss
from nysstream.estimators.stochastic import STOCHASTIC
from nysstream.losses import Kinked, Loss, Squared
from nysstream.regularizers import Composed, Regularizer, Separable
from nysstream.sketching.random_matrices import as_seed
from nysstream.solvers.composite import Composite
from nysstream.streaming import RowSample, SetUp, centering_of, reduce
from nysstream.streaming.row_steps import Costs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.estimators.results import FitResult
    from nysstream.solvers import Result
    from nysstream.streaming import DesignMatrix
    from nysstream.trace import Trace

    Vector = NDArray[np.float64]
    Block = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Minimum:
    """What :func:`nysstream.minimize` finds.

    Attributes
    ----------
    coef : ndarray, shape (p,) or (q, p)
        Of the features; what the regularizer forbids does not occur.
    intercept : float or ndarray, shape (q,)
    objective : float or list of float
        The sum of the losses and the regularizer. Where constraints are violated, that of the nearest point
        that obeys them, and the violation at twice the price of its multipliers.
    duality_gap : float or None
        Bound on how far the objective is from its minimum, relative to it; None where there is no bound.
    optimality : float
        Distance from optimality, relative to the gradient at zero coefficients; of a loss with a kink that of
        the coefficients from those of its multipliers, relative to their size.
    violation : float
        How far constraints on linear combinations are violated, relative to the combinations' size. Zero
        unless there is a ``matrix`` with dependent rows.
    result : FitResult
        Status, history, passes and statistics.
    """

    coef: NDArray[np.float64]
    intercept: Any
    objective: Any
    duality_gap: float | None
    optimality: float
    violation: float
    result: FitResult

    @property
    def converged(self) -> bool:
        """Whether the tolerance was met."""
        return self.result.converged


def minimize(
    loss: Any,
    X: Any,
    y: Any,
    regularizer: Any,
    *,
    matrix: Any = None,
    offset: Any = None,
    sample_weight: Any = None,
    fit_intercept: bool = False,
    features: Any = None,
    solver: str = "auto",
    rank: int | str = "auto",
    tol: float = 1e-6,
    max_passes: int | None = None,
    time_limit: float | None = None,
    precision: str = "single",
    memory: Any = None,
    device: str | None = None,
    random_state: Any = 0,
    callback: Any = None,
) -> Minimum:
    r"""Minimise :math:`\sum_i h_i \ell(\phi(x_i)^\top w + b, y_i) + r(M w - c)` in passes over the rows.

    Parameters
    ----------
    loss : Loss
        See :mod:`nysstream.losses`. Losses of two classes want targets 0 and 1. One with a kink
        (:class:`nysstream.losses.Hinge`, ``EpsilonInsensitive``, ``Pinball``) goes with
        :class:`nysstream.regularizers.L2` of one positive strength for all coefficients.
    X : array-like, sparse array, RowSource, zarr.Array, h5py.Dataset or dask.array.Array, shape (n, d)
    y : as X, shape (n,) or (n, q)
        One problem for each column, all from the same passes.
    regularizer : Regularizer
        r, a penalty or a constraint; see :mod:`nysstream.regularizers`.
    matrix : array-like or sparse array, shape (m, p), optional
        M, for a regularizer of m linear combinations of the coefficients: differences between neighbours
        for total variation, or the left-hand sides of inequalities. By default r is one of w itself.
    offset : float or array-like, shape (m,), optional
        c; zero by default.
    sample_weight : as y, shape (n,), or float, optional
        :math:`h`; ones if None.
    fit_intercept : bool
        Whether there is an intercept b, which the regularizer does not see.
    features : FeatureMap or str, optional
        :math:`\phi`, applied to each row as it streams by.
    solver : str
        For :class:`nysstream.losses.Squared` one of ``"auto"``, ``"gram"``, ``"admm"``, otherwise of
        ``"auto"``, ``"newton"``, ``"subsampled"``, ``"admm"``; as for :class:`nysstream.ElasticNet` and
        :class:`nysstream.LogisticRegression`. A loss with a kink goes with ``"auto"``,
        and a rank asks for operator splitting then.
    rank, tol, max_passes, time_limit, precision, memory, device, random_state, callback
        As for :class:`nysstream.ElasticNet`.

    Returns
    -------
    Minimum

    Raises
    ------
    InputError
        If the loss has a kink and the regularizer is another, if it couples its columns, if bounds on
        combinations contradict each other, or if an argument or a value of the data cannot be used.
    MemoryBudgetError
        If the job does not fit ``memory``; before anything is read.

    Warns
    -----
    ConvergenceWarning
        If a limit came first; the best coefficients so far are returned, with their certificate.

    Notes
    -----
    Cost: as for :class:`nysstream.ElasticNet` and :class:`nysstream.LogisticRegression`; of a loss with a
    kink, as for :class:`nysstream.SVC` with features. Columns are scaled for the solver where the loss is
    smooth and the regularizer a sum over coefficients; otherwise they had better have similar scales.

    With ``matrix`` the same passes are made. Where its rows are independent, constraints hold up to
    rounding, and combinations that should be zero are so; where not, up to ``violation``. Where its columns
    are independent there is a duality gap; where not, ``tol`` is about ``optimality``.

    Examples
    --------
    >>> import numpy as np
    >>> from nysstream.losses import Squared
    >>> from nysstream.regularizers import Simplex
    >>> X = np.eye(3)[[0, 1, 2, 0]]
    >>> minimize(Squared(), X, X @ [2.0, 1.0, -1.0], Simplex()).coef.round(3).tolist()
    [1.0, 0.0, 0.0]
    """
    if not isinstance(loss, Loss) or not isinstance(regularizer, Regularizer):
        message = (
            f"minimize({type(loss).__name__}, X, y, {type(regularizer).__name__}): the first argument must "
            "be of nysstream.losses, the fourth of nysstream.regularizers"
        )
        raise InputError(message)
    if loss.coupled:
        message = f"{type(loss).__name__} couples its columns: use LogisticRegression for several classes"
        raise InputError(message)
    if matrix is not None:
        regularizer = Composed(regularizer, matrix, 0.0 if offset is None else offset)
        if solver in STOCHASTIC:
            message = f"solver={solver!r} cannot split off a matrix: leave solver='auto', or take 'admm'"
            raise InputError(message)
    elif offset is not None:
        message = "offset is what is subtracted from matrix @ w, and there is no matrix: give one"
        raise InputError(message)
    kind = _SquaresCombination if isinstance(loss, Squared) else _Combination
    if isinstance(loss, Kinked):
        _check_kinked(loss, regularizer)
        kind = _KinkedCombination
    model = kind(
        loss,
        regularizer,
        features=features,
        rank=rank,
        fit_intercept=fit_intercept,
        solver=solver,
        tol=tol,
        max_passes=max_passes,
        time_limit=time_limit,
        precision=precision,
        memory=memory,
        device=device,
        random_state=random_state,
        callback=callback,
    ).fit(X, y, sample_weight)
    stats = model.result_.stats
    return Minimum(
        model.coef_,
        model.intercept_,
        stats["objective"],
        stats["duality_gap"],
        stats["optimality"],
        float(regularizer.violation(np.atleast_2d(model.coef_).T).max()),
        model.result_,
    )


@dataclass
class _Sum(Penalty):
    """A regularizer that is a sum over coefficients, so that columns may be scaled."""

    given: Separable = field(default_factory=Separable)

    def scaled(self, scale: Vector, *, standardize: bool) -> Separable:
        """Give it as a function of the coefficients of columns divided by ``scale``."""
        by, given = np.where(np.isfinite(scale), scale, 1.0)[:, None], self.given
        bounds = [np.where(np.isfinite(bound), bound * by, bound) for bound in (given.lower, given.upper)]
        return Separable(given.l1 / by, given.l2 / by**2, *bounds)


@dataclass(eq=False, repr=False)
class _Combination(MultiOutputMixin, Penalised):
    """A loss and a regularizer as they are given."""

    loss: Any = None
    regularizer: Any = None

    def _loss(self) -> Loss:
        loss: Loss = self.loss
        return loss

    def _unit(self, weight: float) -> float:
        return 1.0

    def _penalty(self, weight: float) -> Penalty:
        r = self.regularizer
        if not isinstance(r, Separable):
            return Penalty()
        return _Sum(lower=np.transpose(r.lower), upper=np.transpose(r.upper), given=r)

    def _sparsifies(self) -> bool:
        return isinstance(self.regularizer, Separable) and self.regularizer.sparsifies

    def _plan(self, design: DesignMatrix) -> Any:
        if isinstance(self.regularizer, Composed):
            self.regularizer.check(design.shape[1], design.n_targets)
        return super()._plan(design)

    def _fit_least_squares(self, design: DesignMatrix, trace: Trace) -> tuple[Result[Any], Any, float]:
        if isinstance(self.regularizer, Separable):
            return super()._fit_least_squares(design, trace)
        plan: Any = self._plan(design)
        problem = set_up(
            plan,
            center=self.fit_intercept,
            standardize=False,
            seed=as_seed(self.random_state),
            shifts=np.zeros(1),
            rank=self.rank,
        )
        targets = np.arange(design.n_targets)
        scale = np.abs(problem.cross).max(axis=0)
        smooth = LeastSquaresLoss(problem, targets)
        composite = Composite(smooth, self.regularizer, np.where(scale > 0, scale, 1.0))
        result = self._solve(composite, trace, None)
        mean, target_mean = problem.statistics.mean, problem.statistics.target_mean
        self._keep_all(result.value[0], target_mean, mean)
        self.target_mean_ = target_mean
        return result, plan, problem.statistics.weight

    def _fit_loss(self, design: DesignMatrix, trace: Trace) -> tuple[Result[Any], Any, float]:
        if isinstance(self.regularizer, Separable):
            return super()._fit_loss(design, trace)
        plan: Any = self._plan(design)
        design, seed = plan.design, as_seed(self.random_state)
        rows = plan.sample_rows(seed)
        gather: list[Any] = [SetUp(center=self.fit_intercept), *([] if rows is None else [RowSample(rows)])]
        statistics, *sampled = reduce(design, *gather, name="set-up")
        outcome, start, weight = self._outcome(self._loss(), statistics, design.target)
        centering = centering_of(design, statistics, center=self.fit_intercept, standardize=False)
        if centering is not None:
            design = replace(design, centering=replace(centering, target_mean=np.zeros(design.n_targets)))
        smooth = GeneralLoss(
            design,
            outcome,
            outcome.columns.size,
            method=plan.method,
            fit_intercept=self.fit_intercept,
            sample=None if rows is None else sampled_design(design, rows, sampled[0], outcome, weight),
            rank=plan.rank,
            rng=np.random.default_rng(seed),
        )
        zeros, r = np.zeros(smooth.shape), self.regularizer
        W = r.answer(zeros, r.inner.prox(r.reach(zeros), 1.0))
        b = start if self.fit_intercept else np.zeros(smooth.shape[1])
        scale = np.maximum(np.abs(smooth.begin(W, b).gradient).max(axis=0), 1e-300)
        result = self._solve(Composite(smooth, self.regularizer, scale), trace, (W, b))
        V, c = result.value
        self._keep_all(V, c, statistics.mean)
        self.target_mean_ = np.zeros(smooth.shape[1])
        return result, plan, weight

    def _keep_all(self, W: Block, intercept: Vector, mean: Vector) -> None:
        """Set the coefficients bit by bit, those of constant columns too: constraints hold on them all."""
        coef = np.ascontiguousarray(W.T)
        intercept = intercept - coef @ mean if self.fit_intercept else np.zeros(len(coef))
        self._set_coefficients(coef, intercept)


@dataclass(eq=False, repr=False)
class _SquaresCombination(_Combination):
    """The same for least squares, which need no second derivatives."""

    methods: ClassVar[tuple[str, ...]] = LEAST_SQUARES_METHODS
    least_squares: ClassVar[bool] = True


def _check_kinked(loss: Kinked, r: Regularizer) -> None:
    """Refuse what the solver of losses with kinks cannot take, which has half the squared norm for all."""
    if isinstance(r, Separable):
        free = np.all(np.isneginf(r.lower) & np.isposinf(r.upper))
        if free and not np.any(r.l1) and np.all(np.asarray(r.l2) > 0) and np.shape(r.l2)[:1] in ((), (1,)):
            return
    message = (
        f"{type(loss).__name__} has a kink: it goes with L2 of one positive strength for all coefficients, "
        f"not with this {type(r).__name__}. SmoothedPinball, for quantiles or absolute deviations, and "
        "SquaredHinge, for classes, go with any"
    )
    raise InputError(message)


@dataclass(eq=False, repr=False)
class _KinkedCombination(_Combination):
    """The same for losses with kinks; for the solver all is divided by the strength of the l2 penalty."""

    methods: ClassVar[tuple[str, ...]] = ()

    def _unit(self, weight: float) -> Any:
        return 1.0 / np.ravel(self.regularizer.l2)

    def _plan(self, design: DesignMatrix) -> Any:
        k, q = np.size(self.regularizer.l2), design.n_targets
        if k not in (1, q):
            message = f"L2 has {k} strengths for {q} targets: give one, or one for each"
            raise InputError(message)
        return plan_kinked(design, memory=self.memory, rank=self.rank, n_columns=q)

    def _fit_loss(self, design: DesignMatrix, trace: Trace) -> tuple[Result[Any], Any, float]:
        plan = self._plan(design)
        factors = np.broadcast_to(self._unit(0.0), (1, design.n_targets))
        return fit_penalised(self, plan, Costs(self.loss, factors), trace)
