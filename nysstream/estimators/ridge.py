"""Ridge regression on data that do not fit in memory."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.exceptions import ConvergenceWarning

from nysstream.errors import InputError, MemoryBudgetError
from nysstream.estimators.inputs import training_sources
from nysstream.estimators.kept_problem import keep_products, method_of, set_up_kept
from nysstream.estimators.least_squares import LeastSquares, set_up, warn_not_unique
from nysstream.estimators.linear import LinearModel
from nysstream.estimators.planning import METHODS, SMALL, Plan, plan_fit
from nysstream.estimators.results import fit_result
from nysstream.estimators.ridge_in_batches import RidgeInBatches, pair_targets
from nysstream.estimators.settings import check_alphas, check_settings, training_design
from nysstream.estimators.stochastic import STOCHASTIC
from nysstream.features import FeatureMap
from nysstream.sketching.nystrom_sketch import NystromSketch
from nysstream.sketching.origin import Origin
from nysstream.sketching.random_matrices import as_seed
from nysstream.solvers import PCG, Result, Status, solve
from nysstream.streaming.cache import clear_cache
from nysstream.streaming.prefetch import slot_pool
from nysstream.trace import Progress, Trace, tracing

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from nysstream.sources import RowSource

SOLVERS = ("auto", *METHODS, *STOCHASTIC)


class Ridge(LinearModel, MultiOutputMixin, RegressorMixin, BaseEstimator):
    r"""Least squares with an l2 penalty, streamed from disk, by Nyström preconditioned CG.

    Minimises :math:`\sum_i h_i \|y_i - b - \phi(x_i)^\top w\|^2 + \alpha \|w\|^2`, with sample
    weights :math:`h`, feature map :math:`\phi` and unpenalised intercept :math:`b`: the objective
    of :class:`sklearn.linear_model.Ridge`.

    Parameters
    ----------
    alpha : float or array-like, shape (n_alphas,) or (n_targets,), default 1.0
        Non-negative. With one-dimensional y, several alphas give one model each, from the same
        passes. With two-dimensional y there is one alpha for all targets, or one per target.
    features : FeatureMap or str, optional
        Applied to each row as it streams by, such as ``Fourier(4000, length_scale="median")`` or
        ``"fourier:4000,length_scale=median"``.
    rank : int or "auto", default "auto"
        Columns of the sketch. Automatic: as many as pay, then the leading ones that are needed.
    standardize : bool, default False
        Penalise the coefficients of columns scaled to unit variance. ``coef_`` belongs to the
        columns as they are all the same.
    fit_intercept : bool, default True
    solver : str, default "auto"
        What the one set-up pass gathers to precondition with: ``"gram"`` the whole Gram matrix,
        ``"nystrom"`` a Nyström sketch, ``"subsampled"`` a sample of rows to be factored, ``"cg"``
        nothing. Automatic: the Gram matrix for up to 1024 columns; beyond, what a cost model expects
        to be soonest. Or a stochastic method, as for :class:`nysstream.LogisticRegression`: then
        ``tol`` is a relative duality gap.
    tol : float, default 1e-6
        Relative residual of the normal equations at which to stop, recomputed in double precision.
    max_passes : int, optional
        Limit on reads of the data, the set-up pass included.
    time_limit : float, optional
        Limit on seconds.
    precision : {"single", "double"}, default "single"
        Of products with float32 data and with random features; residuals are always double, and so
        is everything where an alpha is zero.
    memory : int or str, optional
        Limit for the whole process, for example ``"2GiB"``; half of what is available if None.
    device : str, optional
        ``"cpu"`` or ``"cuda"``; None takes a GPU where there is one.
    random_state : int, numpy.random.Generator or None, default 0
        Of the sketch. Feature maps have their own.
    warm_start : bool, default False
        Start from the coefficients of the previous fit, which costs no pass; one model may start
        several. The Gram matrix needs no start.
    keep_statistics : bool, default False
        Keep all sums over the rows, in the saved model too, so that :func:`nysstream.update` can add
        rows to them.
    callback : callable, optional
        Called with :class:`nysstream.trace.Progress` as rows are done.

    Attributes
    ----------
    coef_ : ndarray, shape (p,) or (k, p)
        Of the features.
    intercept_ : float or ndarray, shape (k,)
    features_ : FeatureMap
        With data-dependent settings resolved.
    n_features_in_ : int
        Columns of X.
    n_iter_ : int
        Iterations of the solver.
    statistics_ : NystromSketch
        All sums over the rows; there with ``keep_statistics=True``, and where the method was the Gram
        matrix of at most 1024 columns.
    result_ : FitResult
        History, trace, spectrum and statistics of the fit.

    Notes
    -----
    Cost: one pass for means, right-hand sides and sketch together; one per iteration; one to
    verify. Memory: a few vectors of length p per model, ``p * rank`` numbers, and block buffers;
    it does not grow with the rows.

    References
    ----------
    .. [1] Frangella, Tropp and Udell, "Randomized Nyström Preconditioning", SIAM J. Matrix Anal.
       Appl., 2023.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.arange(12.0).reshape(6, 2) ** 2
    >>> model = Ridge(alpha=1e-3).fit(X, X @ [1.0, -2.0] + 3.0)
    >>> model.coef_.round(3).tolist(), round(model.intercept_, 2)
    ([1.0, -2.0], 3.0)
    """

    def __init__(
        self,
        alpha: Any = 1.0,
        *,
        features: FeatureMap | str | None = None,
        rank: int | str = "auto",
        standardize: bool = False,
        fit_intercept: bool = True,
        solver: str = "auto",
        tol: float = 1e-6,
        max_passes: int | None = None,
        time_limit: float | None = None,
        precision: Literal["single", "double"] = "single",
        memory: int | str | None = None,
        device: str | None = None,
        random_state: Any = 0,
        warm_start: bool = False,
        keep_statistics: bool = False,
        callback: Callable[[Progress], None] | None = None,
    ) -> None:
        self.alpha = alpha
        self.features = features
        self.rank = rank
        self.standardize = standardize
        self.fit_intercept = fit_intercept
        self.solver = solver
        self.tol = tol
        self.max_passes = max_passes
        self.time_limit = time_limit
        self.precision = precision
        self.memory = memory
        self.device = device
        self.random_state = random_state
        self.warm_start = warm_start
        self.keep_statistics = keep_statistics
        self.callback = callback

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def plan(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Say how a fit would run: memory, passes, concurrency. Reads at most a sample of rows."""
        self._check_settings()
        if self.solver in STOCHASTIC:
            return RidgeInBatches.of(self).plan(X, y, sample_weight)
        return self._plan(*training_sources(self, X, y, sample_weight))[0]

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
            If a limit came first; the best coefficients so far are kept.
        AccuracyWarning
            If the answer is not unique.
        """
        self._check_settings()
        if self.solver in STOCHASTIC:
            RidgeInBatches.of(self).fit(X, y, sample_weight).hand_over(self)
            return self
        return self._run(*training_sources(self, X, y, sample_weight))

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Add rows, and fit all rows added so far.

        Parameters
        ----------
        X, y, sample_weight
            As for :meth:`fit`: further rows.

        Raises
        ------
        InputError
            If an argument or a value of the data cannot be used, or earlier rows were fitted without
            their Gram matrix being kept.
        MemoryBudgetError
            If the Gram matrix does not fit.

        Notes
        -----
        Cost: the rows given are read once. Keeps the Gram matrix of the features, whatever ``solver``
        says, ``4 p^2`` bytes: earlier rows are not read again, and so the residual is that of the
        kept sums, which products in single precision round.
        """
        self._check_settings()
        sketch: NystromSketch | None = getattr(self, "statistics_", None)
        if hasattr(self, "coef_") and (sketch is None or method_of(sketch)[0] != "gram"):
            message = (
                "partial_fit adds to the Gram matrix of all rows so far, which the fit before did not keep: "
                "fit with keep_statistics=True and solver='gram', or give all rows to nysstream.update"
            )
            raise InputError(message)
        sources = training_sources(self, X, y, sample_weight, reset=sketch is None)
        try:
            return self._run(*sources, sketch=sketch, read=slice(0, sources[0].shape[0]))
        except MemoryBudgetError as error:
            message = (
                f"partial_fit keeps the whole Gram matrix, which does not fit: {error}. Or fit all rows with "
                "keep_statistics=True, and add rows with nysstream.update, which can do with a sketch"
            )
            raise MemoryBudgetError(message) from error

    def _run(
        self,
        source: RowSource,
        target: RowSource,
        weight: RowSource | None,
        *,
        sketch: NystromSketch | None = None,
        read: slice | None = None,
    ) -> Self:
        """Fit, to all rows or to sums that the rows ``read`` are added to."""
        trace = Trace(listener=self.callback)
        with tracing(trace):
            plan, targets, shifts = self._plan(source, target, weight, sketch, read)
            settings: dict[str, Any] = {
                "center": self.fit_intercept,
                "standardize": self.standardize,
                "seed": as_seed(self.random_state),
                "shifts": shifts,
                "rank": self.rank,
                "start": self._previous(plan.design.shape[1], targets.size),
            }
            try:
                if "kept sums" in plan.budget.needs:
                    new = slice(0, plan.design.shape[0]) if read is None else read
                    problem, sketch = set_up_kept(plan, sketch, new, alone=read is not None, **settings)
                else:
                    problem = set_up(plan, **settings)
                warn_not_unique(problem, shifts)
                self._expect(trace, problem, shifts)
                result = self._solve(problem, targets, shifts, trace)
                if result.status is Status.INTERRUPTED:  # who interrupts does not want one more pass
                    squares = np.full(targets.size, np.nan)
                else:
                    squares = problem.squares(result.value, targets)
                if sketch is not None:
                    keep_products(problem, sketch, result.value, targets)
                    if self.keep_statistics and read is None:
                        sketch.origin = Origin.of(plan.design)
            finally:
                slot_pool.clear()
                clear_cache()
        coef, intercept = problem.coefficients(result.value, targets)
        if sketch is not None:
            self.statistics_ = sketch
        elif hasattr(self, "statistics_"):
            del self.statistics_  # of an earlier fit
        single = target.vector and np.ndim(self.alpha) == 0
        self.coef_ = coef[0] if single else coef
        if not self.fit_intercept:
            self.intercept_ = 0.0
        else:
            self.intercept_ = float(intercept[0]) if single else intercept
        self.target_mean_ = problem.statistics.target_mean[targets]
        self.features_ = plan.design.features
        self.n_iter_ = max(1, int(result.stats["iterations"]))
        objective = squares + shifts * np.sum(result.value**2, axis=0)
        self.result_ = fit_result(plan, problem, result, trace, shifts, objective)
        if not self.result_.converged:
            reached = result.stats["relative_residual"]
            message = f"{result.status.value} Relative residual {reached:.1e}, asked {self.tol:.1e}."
            warnings.warn(message, ConvergenceWarning, stacklevel=3)
        return self

    def _solve(
        self, problem: LeastSquares, targets: NDArray[np.intp], shifts: NDArray[np.float64], trace: Trace
    ) -> Result[Any]:
        """Solve for every pair of target and shift, as columns of one block PCG."""
        return solve(
            problem.system(targets, shifts, rtol=self.tol),
            PCG(rtol=self.tol),
            start=problem.start(targets, shifts),
            max_passes=None if self.max_passes is None else self.max_passes - len(trace.passes),
            time_limit=None if self.time_limit is None else self.time_limit - trace.seconds,
            callback=lambda _, record: setattr(trace, "residual", record["relative_residual"]),
        )

    def _check_settings(self) -> None:
        check_alphas("alpha", self.alpha)
        check_settings(self, SOLVERS)
        if self.keep_statistics and self.solver in STOCHASTIC:
            message = f"keep_statistics=True: solver={self.solver!r} gathers no sums to keep; use another"
            raise InputError(message)

    def _plan(
        self,
        source: RowSource,
        target: RowSource,
        weight: RowSource | None,
        sketch: NystromSketch | None = None,
        read: slice | None = None,
    ) -> tuple[Plan, NDArray[np.intp], NDArray[np.float64]]:
        """Settle the feature map and pair targets with alphas, then plan."""
        alphas = np.asarray(self.alpha, dtype=np.float64)
        features = None if sketch is None else sketch.features
        smallest = float(alphas.min())
        design = training_design(self, source, target, weight, smallest_alpha=smallest, features=features)
        targets, shifts = pair_targets(alphas, design.n_targets, vector=target.vector)
        starts = sketch is not None or self._previous(design.shape[1], targets.size) is not None
        few = design.shape[1] <= SMALL
        method, rank = str(self.solver), self.rank
        if sketch is not None:
            method, rank = method_of(sketch)
        elif read is not None:
            method = "gram"
        plan = plan_fit(
            design,
            memory=self.memory,
            rank=rank,
            n_systems=targets.size,
            method=method,
            shift=float(shifts.min()),
            n_shifts=np.unique(shifts).size,
            n_start=targets.size if starts else 0,
            tol=self.tol,
            keep=True if self.keep_statistics or read is not None else None if few else False,
        )
        return plan, targets, shifts

    def _previous(self, p: int, k: int) -> NDArray[np.float64] | None:
        """Give the coefficients of the previous fit, (p, k), where they are to be started from."""
        if not self.warm_start or not hasattr(self, "coef_"):
            return None
        coef = np.atleast_2d(np.asarray(self.coef_, dtype=np.float64)).T
        if coef.shape[1] == 1:
            coef = np.repeat(coef, k, axis=1)
        if coef.shape != (p, k):
            message = (
                f"warm_start=True, but the previous fit has {coef.shape[0]} coefficients for each of "
                f"{coef.shape[1]} models, and this one {p} for each of {k}: start anew with warm_start=False"
            )
            raise InputError(message)
        return coef

    def _expect(self, trace: Trace, problem: LeastSquares, shifts: NDArray[np.float64]) -> None:
        """Predict the number of passes, for progress."""
        if problem.nystrom is not None and shifts.min() > 0 and self.tol > 0:
            predicted = problem.nystrom.predicted_iterations(float(shifts.min()), self.tol)
            if predicted < problem.design.shape[1]:
                trace.expected_passes = len(trace.passes) + predicted + 1
