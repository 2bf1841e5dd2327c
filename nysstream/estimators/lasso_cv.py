"""Lasso and the elastic net whose strength is chosen by cross-validation, from one set-up pass."""

from __future__ import annotations

import numbers
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from sklearn.base import RegressorMixin

from nysstream.errors import InputError, NysstreamWarning
from nysstream.estimators.lasso import check_strength
from nysstream.estimators.least_squares import LeastSquares, normal_equations
from nysstream.estimators.linear import LinearModel
from nysstream.estimators.penalised import Penalised, Penalty
from nysstream.estimators.penalty_path import PenaltyPath, held_out_errors, plan_path, strongest
from nysstream.estimators.planning import Plan
from nysstream.estimators.results import composite_result
from nysstream.estimators.settings import check_alphas, training_design
from nysstream.estimators.smooth_losses import LeastSquaresLoss
from nysstream.estimators.splitting import as_folds
from nysstream.solvers.composite import Composite
from nysstream.streaming import FoldSetUp, SetUp, reduce
from nysstream.streaming.cache import clear_cache
from nysstream.streaming.prefetch import slot_pool
from nysstream.trace import Trace, tracing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.losses import Loss
    from nysstream.solvers import Result
    from nysstream.streaming import Folds, Statistics

    Vector = NDArray[np.float64]
    Block = NDArray[np.float64]


class _ChosenStrength(RegressorMixin, Penalised):
    """Penalised least squares with the strength of least error on rows held out."""

    methods: ClassVar[tuple[str, ...]] = ("gram",)
    least_squares: ClassVar[bool] = True
    score = LinearModel.score  # scikit-learn's holds all rows

    alphas: Any
    eps: float
    cv: Any
    positive: bool
    l1_ratio_: float

    def plan(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> Plan:
        """Say how a fit would run: memory, passes, concurrency. Reads at most a sample of rows."""
        self._check_settings()
        return self._plan_folds(*self._sources(X, y, sample_weight), groups)[0]

    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> Self:
        """Choose the strength by cross-validation, and fit to all rows with it.

        Parameters
        ----------
        X : array-like, sparse array, RowSource, zarr.Array, h5py.Dataset or dask.array.Array, shape (n, d)
            A path is opened by :func:`nysstream.open`.
        y : as X, shape (n,)
        sample_weight : as y, shape (n,), or float, optional
            In fitting and in errors.
        groups : array-like, shape (n,), optional
            For a scikit-learn splitter that needs them.

        Raises
        ------
        InputError
            If an argument or a value of the data cannot be used, or a fold has no rows or no weight.
        MemoryBudgetError
            If the folds' Gram matrices do not fit ``memory``; before anything is read.
        SourceError
            If the data cannot be read.

        Warns
        -----
        ConvergenceWarning
            If a limit came first; the best coefficients so far are kept, with their certificate.
        """
        self._check_settings()
        sources = self._sources(X, y, sample_weight)
        trace = Trace(listener=self.callback)
        with tracing(trace):
            try:
                plan, folds = self._plan_folds(*sources, groups)
                result, weight = self._choose(plan, folds, trace)
            finally:
                slot_pool.clear()
                clear_cache()
        self.features_ = plan.design.features
        self.n_iter_ = max(1, int(result.stats["iterations"]))
        unit = self._unit(weight)
        self.result_ = composite_result(plan, result, trace, self.coef_, unit, coupled=False)
        self._warn_unconverged(result)
        return self

    def _choose(self, plan: Plan, folds: Folds, trace: Trace) -> tuple[Result[Any], float]:
        """Make the set-up pass, walk the paths of all training sets, and refit."""
        gather = SetUp(center=self.fit_intercept, gram=True)
        (statistics,) = reduce(plan.design, FoldSetUp(gather, folds), name="set-up")
        whole = self._problem(plan, statistics.whole())
        ratios, grids = self._ratios(), self._grids(whole)
        errors = np.empty((*grids.shape, folds.n_splits))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NysstreamWarning)  # given for all rows already
            for f, training in enumerate(statistics.training_sets()):
                path = self._path(self._problem(plan, training))
                for i, ratio in enumerate(ratios):
                    W = path.solve(grids[i], ratio, tol=self.tol)
                    errors[i, :, f] = held_out_errors(
                        statistics.held_out(f, gram=True), *path.coefficients(W), centred=self.fit_intercept
                    )
        del statistics
        i, j = divmod(int(np.argmin(errors.mean(axis=2))), grids.shape[1])
        self.alpha_, self.l1_ratio_ = float(grids[i, j]), float(ratios[i])
        automatic = isinstance(self.alphas, numbers.Integral)
        several = automatic and len(ratios) > 1
        self.alphas_ = grids if several else grids[0]
        self.mse_path_ = errors if len(ratios) > 1 else errors[0]
        return self._refit(whole, grids[i, : j + 1], trace)

    def _refit(self, whole: LeastSquares, strengths: Vector, trace: Trace) -> tuple[Result[Any], float]:
        """Solve for the last of some strengths, and verify by a pass in double precision."""
        path = self._path(whole)
        W = path.solve(strengths, self.l1_ratio_, tol=self.tol)[:, -1:]
        smooth = LeastSquaresLoss(whole, np.zeros(1, np.intp))
        scale = np.abs(whole.cross).max(axis=0)
        composite = Composite(
            smooth, path.regularizer(strengths[-1:], self.l1_ratio_), np.where(scale > 0, scale, 1.0)
        )
        result = self._solve(composite, trace, (W, np.zeros(1)))
        coef, intercept = whole.coefficients(result.value[0], np.zeros(1, np.intp))
        centering = whole.design.centering
        assert centering is not None
        self._keep(coef, intercept, centering.mean)
        self.target_mean_ = whole.statistics.target_mean
        return result, whole.statistics.weight

    def _problem(self, plan: Plan, statistics: Statistics) -> LeastSquares:
        return normal_equations(
            plan, statistics, center=self.fit_intercept, standardize=True, shifts=np.zeros(1), rank=self.rank
        )

    def _path(self, problem: LeastSquares) -> PenaltyPath:
        return PenaltyPath(problem, standardize=self.standardize, positive=self.positive)

    def _grids(self, whole: LeastSquares) -> Block:
        """Give the strengths for each ratio, in descending order."""
        ratios = self._ratios()
        if not isinstance(self.alphas, numbers.Integral):
            given = np.sort(np.atleast_1d(np.asarray(self.alphas, np.float64)))[::-1]
            return np.tile(given, (ratios.size, 1))
        most = strongest(whole, standardize=self.standardize, positive=self.positive)
        tiny = float(np.finfo(np.float64).resolution)  # as scikit-learn does where nothing is to be shrunk
        count = int(self.alphas)
        return np.stack(
            [
                np.geomspace(most / ratio, most / ratio * self.eps, count)
                if most > tiny
                else np.full(count, tiny)
                for ratio in ratios
            ]
        )

    def _ratios(self) -> Vector:
        """Give the shares of the l1 penalty to be tried."""
        return np.ones(1)

    def _loss(self) -> Loss:
        raise NotImplementedError  # least squares

    def _penalty(self, weight: float) -> Penalty:
        l1, l2 = self.alpha_ * self.l1_ratio_, self.alpha_ * (1 - self.l1_ratio_)
        return Penalty(l1 * weight, l2 * weight, 0.0 if self.positive else -np.inf)

    def _check_own_settings(self) -> None:
        check_strength("eps", self.eps, 1.0)
        if self.eps == 0:
            message = "eps=0: give the ratio of the smallest alpha to the largest, for example 1e-3"
            raise InputError(message)
        if isinstance(self.alphas, bool) or not isinstance(self.alphas, numbers.Integral):
            check_alphas("alphas", self.alphas)
        elif int(self.alphas) < 1:
            message = f"alphas={self.alphas!r}: give a positive number of them, or an array"
            raise InputError(message)

    def _plan_folds(self, source: Any, target: Any, weight: Any, groups: Any) -> tuple[Plan, Folds]:
        folds = as_folds(self.cv, source.shape[0], target=target, groups=groups)
        design = training_design(self, source, target, weight, smallest_alpha=1.0)
        count = self.alphas if isinstance(self.alphas, numbers.Integral) else np.size(self.alphas)
        return plan_path(design, folds, memory=self.memory, n_columns=int(count)), folds


@dataclass(eq=False, repr=False)
class LassoCV(_ChosenStrength):
    r"""Lasso with its alpha chosen by cross-validation, streamed from disk in two passes.

    Minimises the objective of :class:`nysstream.Lasso`, as :class:`sklearn.linear_model.LassoCV` does.

    Parameters
    ----------
    alphas : int or array-like, shape (n_alphas,), default 100
        Strengths, or how many of them: evenly spaced on a logarithmic scale, down from the least at which
        all coefficients are zero.
    eps : float, default 1e-3
        Ratio of the smallest to the largest of those.
    cv : int, Folds, scikit-learn splitter or iterable of splits, default 5
        As for :class:`nysstream.RidgeCV`: every row is held out exactly once.
    positive : bool, default False
        Whether coefficients must not be negative.
    features, rank, standardize, fit_intercept, tol, max_passes, time_limit, precision
        As for :class:`nysstream.ElasticNet`. With ``standardize``, each training set by its own variances.
    solver : {"auto", "gram"}
        The Gram matrix of every fold, summed in the set-up pass.
    memory, device, random_state, callback
        As for :class:`nysstream.ElasticNet`.

    Attributes
    ----------
    alpha_ : float
        With the least mean error over the folds; the largest of equals.
    alphas_ : ndarray, shape (n_alphas,)
        In descending order.
    mse_path_ : ndarray, shape (n_alphas, n_folds)
        Mean squared errors on the rows held out, weighted by sample weights.
    coef_, intercept_, features_, n_features_in_, n_iter_, result_
        As for :class:`nysstream.ElasticNet`, of the fit to all rows; ``result_.stats["duality_gap"]``
        certifies it.

    Notes
    -----
    Cost: two passes, one to set up and one to verify; ``n p^2`` flops, and for each training set about
    ``p^3`` flops for a path of lasso and ``a^3 / 3`` for each strength of an elastic net with a nonzero
    coefficients. Memory: ``4 p^2`` bytes for each fold, and about ``50 p^2``; none grows with the rows.

    All paths, and the errors on rows held out, come from sums of the set-up pass. For float32 rows the
    products in those are rounded to single precision unless ``precision="double"``; the answer on all rows
    is verified, and refined if need be, in double precision either way.

    References
    ----------
    .. [1] Lee, Battle, Raina and Ng, "Efficient sparse coding algorithms", NIPS 2006.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((100, 4))
    >>> model = LassoCV(alphas=20).fit(X, X @ [2.0, -2.0, 0.0, 0.0] + rng.standard_normal(100))
    >>> model.coef_.round(1).tolist()
    [1.8, -1.9, 0.0, 0.1]
    """

    #: Fitted attributes that a model file holds beside the coefficients.
    chosen: ClassVar[tuple[str, ...]] = ("alpha_", "alphas_", "mse_path_")

    alphas: Any = 100
    eps: float = 1e-3
    cv: Any = 5
    positive: bool = False


@dataclass(eq=False, repr=False)
class ElasticNetCV(_ChosenStrength):
    r"""Elastic net with alpha and ``l1_ratio`` chosen by cross-validation, streamed in two passes.

    Minimises the objective of :class:`nysstream.ElasticNet`, as :class:`sklearn.linear_model.ElasticNetCV`
    does.

    Parameters
    ----------
    alphas : int or array-like, shape (n_alphas,), default 100
        As for :class:`LassoCV`; an automatic grid for each ``l1_ratio``.
    l1_ratio : float or array-like, shape (n_ratios,), default 0.5
        From 0, ridge, to 1, lasso. Zero needs alphas that are given.
    eps, cv, positive
        As for :class:`LassoCV`.
    features, rank, standardize, fit_intercept, solver, tol, max_passes, time_limit, precision
        As for :class:`LassoCV`.
    memory, device, random_state, callback
        As for :class:`LassoCV`.

    Attributes
    ----------
    alpha_, l1_ratio_ : float
        With the least mean error over the folds.
    alphas_ : ndarray, shape (n_alphas,), or (n_ratios, n_alphas) for several automatic grids
    mse_path_ : ndarray, shape (n_alphas, n_folds), or (n_ratios, n_alphas, n_folds) for several ratios
    coef_, intercept_, features_, n_features_in_, n_iter_, result_
        As for :class:`LassoCV`.

    Notes
    -----
    Cost: as for :class:`LassoCV`; all ratios share the two passes.
    """

    chosen: ClassVar[tuple[str, ...]] = ("alpha_", "l1_ratio_", "alphas_", "mse_path_")

    alphas: Any = 100
    l1_ratio: Any = 0.5
    eps: float = 1e-3
    cv: Any = 5
    positive: bool = False

    def _ratios(self) -> Vector:
        return np.atleast_1d(np.asarray(self.l1_ratio, np.float64))

    def _check_own_settings(self) -> None:
        super()._check_own_settings()
        check_alphas("l1_ratio", self.l1_ratio)
        for ratio in self._ratios():
            check_strength("l1_ratio", float(ratio), 1.0)
        if isinstance(self.alphas, numbers.Integral) and np.any(self._ratios() == 0):
            message = (
                f"l1_ratio={self.l1_ratio!r}: without an l1 penalty no alpha makes all coefficients zero, "
                "so that alphas must be given as an array"
            )
            raise InputError(message)
