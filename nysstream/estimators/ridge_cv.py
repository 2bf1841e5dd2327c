"""Ridge regression whose regularisation strength is chosen by cross-validation, in shared passes."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.exceptions import ConvergenceWarning

from nysstream.errors import InputError, MemoryBudgetError
from nysstream.estimators.cross_validation import CrossValidation, check_scoring, score_folds, set_up_folds
from nysstream.estimators.inputs import training_sources
from nysstream.estimators.least_squares import warn_not_unique
from nysstream.estimators.linear import LinearModel
from nysstream.estimators.planning import FOLD_METHODS, Plan, plan_fit
from nysstream.estimators.results import fit_result
from nysstream.estimators.settings import check_alphas, check_settings, training_design
from nysstream.estimators.splitting import as_folds
from nysstream.journal import settled
from nysstream.sketching.random_matrices import as_seed
from nysstream.solvers import PCG, Result, Status, solve
from nysstream.streaming import Folds
from nysstream.streaming.cache import clear_cache
from nysstream.streaming.prefetch import slot_pool
from nysstream.trace import Progress, Trace, tracing

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from nysstream.features import FeatureMap

SOLVERS = ("auto", *FOLD_METHODS)
SCORINGS = ("r2", "neg_mean_squared_error")


class RidgeCV(LinearModel, MultiOutputMixin, RegressorMixin, BaseEstimator):
    r"""Ridge regression with its alpha chosen by cross-validation, streamed from disk.

    Every training set and every alpha, and the fits to all rows, are systems that are solved side
    by side: they share one set-up pass and one pass per iteration. The pass that verifies the
    solutions scores them on the rows held out. Coefficients are those of
    :class:`nysstream.Ridge` with ``alpha_``, on all rows.

    Parameters
    ----------
    alphas : array-like, shape (n_alphas,), default (0.1, 1.0, 10.0)
        Non-negative.
    cv : int, Folds, scikit-learn splitter or iterable of splits, default 5
        A number of folds means runs of consecutive rows, as scikit-learn's ``KFold``. For rows in
        an order that means something: :class:`HashedFolds`, :class:`GroupedFolds`,
        :class:`GivenFolds`. Splitters, and lists of ``(train, test)``, must hold out every row
        exactly once and train on all others.
    features : FeatureMap or str, optional
        Applied to each row as it streams by; settings such as ``length_scale="median"`` look at a
        sample of all rows, but never at the targets.
    rank : int or "auto", default "auto"
        Columns of the sketches.
    standardize : bool, default False
        Penalise the coefficients of columns scaled to unit variance; each training set by its own
        means and variances.
    fit_intercept : bool, default True
    solver : {"auto", "gram", "nystrom", "cg"}
        What the set-up pass gathers of each fold to precondition with: the whole Gram matrix, a
        Nyström sketch, or nothing.
    scoring : {"r2", "neg_mean_squared_error"}, optional
        Greater is better; by default R2. Several targets count alike, and share one alpha.
    tol : float, default 1e-6
        Relative residual of every system, recomputed in double precision.
    max_passes : int, optional
        Limit on reads of the data, the set-up pass included.
    time_limit : float, optional
        Limit on seconds.
    precision : {"single", "double"}, default "single"
        Of products with float32 data and with random features; residuals and scores are always
        double.
    memory : int or str, optional
        Limit for the whole process; half of what is available if None. Where not all systems fit
        at once, the alphas are solved for in groups, each with passes of its own.
    device : str, optional
        ``"cpu"`` or ``"cuda"``; None takes a GPU where there is one.
    random_state : int, numpy.random.Generator or None, default 0
        Of the sketches. Feature maps and folds have their own.
    callback : callable, optional
        Called with :class:`nysstream.trace.Progress` as rows are done.

    Attributes
    ----------
    alpha_ : float
        With the best mean score over the folds; the first of equals.
    best_score_ : float
        That mean.
    cv_results_ : dict of ndarray
        ``"alphas"`` (L,), ``"scores"`` (L, K) for every alpha and fold, and their ``"mean"`` and
        ``"std"`` over the folds (L,).
    coef_ : ndarray, shape (p,) or (q, p)
        Of the features.
    intercept_ : float or ndarray, shape (q,)
    features_ : FeatureMap
        With data-dependent settings resolved.
    n_features_in_ : int
        Columns of X.
    n_iter_ : int
        Iterations of the solver.
    result_ : FitResult
        History, trace and statistics of the fit; spectrum and objective are those of all rows.

    Notes
    -----
    Cost: one pass to set up, one per iteration of the hardest system, one to verify and score.
    Memory: per fold the sums of the set-up (a Gram matrix, or ``p * rank`` numbers), and
    ``12 p`` numbers per system, of which there are ``(n_folds + 1) * n_alphas * n_targets``.

    Departures from scikit-learn's ``RidgeCV``: there is no generalised cross-validation, so ``cv``
    is never None; sample weights count in fitting and in scoring, where ``GridSearchCV`` scores
    without them unless metadata routing says otherwise; folds are weighted alike in the mean.

    References
    ----------
    .. [1] Frangella, Tropp and Udell, "Randomized Nyström Preconditioning", SIAM J. Matrix Anal.
       Appl., 2023.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.arange(40.0).reshape(20, 2) ** 2
    >>> model = RidgeCV([1e-3, 1e6]).fit(X, X @ [1.0, -2.0] + 3.0)
    >>> model.alpha_, model.coef_.round(2).tolist()
    (0.001, [1.0, -2.0])
    """

    #: Fitted attributes that a model file holds beside the coefficients.
    chosen: ClassVar[tuple[str, ...]] = ("alpha_", "best_score_", "cv_results_")

    def __init__(
        self,
        alphas: Any = (0.1, 1.0, 10.0),
        *,
        cv: Any = 5,
        features: FeatureMap | str | None = None,
        rank: int | str = "auto",
        standardize: bool = False,
        fit_intercept: bool = True,
        solver: Literal["auto", "gram", "nystrom", "cg"] = "auto",
        scoring: Literal["r2", "neg_mean_squared_error"] | None = None,
        tol: float = 1e-6,
        max_passes: int | None = None,
        time_limit: float | None = None,
        precision: Literal["single", "double"] = "single",
        memory: int | str | None = None,
        device: str | None = None,
        random_state: Any = 0,
        callback: Callable[[Progress], None] | None = None,
    ) -> None:
        self.alphas = alphas
        self.cv = cv
        self.features = features
        self.rank = rank
        self.standardize = standardize
        self.fit_intercept = fit_intercept
        self.solver = solver
        self.scoring = scoring
        self.tol = tol
        self.max_passes = max_passes
        self.time_limit = time_limit
        self.precision = precision
        self.memory = memory
        self.device = device
        self.random_state = random_state
        self.callback = callback

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def plan(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> Plan:
        """Say how a fit would run: memory, passes, systems at once. Reads at most a sample of rows."""
        self._check_settings()
        return self._plan(*training_sources(self, X, y, sample_weight), groups)[0]

    def fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> Self:
        """Score every alpha by cross-validation, and fit to all rows with the best.

        Parameters
        ----------
        X : array-like, sparse array, RowSource, zarr.Array, h5py.Dataset or dask.array.Array, shape (n, d)
            A path is opened by :func:`nysstream.open`.
        y : as X, shape (n,) or (n, q)
        sample_weight : as y, shape (n,), or float, optional
            In fitting and in scoring.
        groups : array-like, shape (n,), optional
            For a scikit-learn splitter that needs them.

        Raises
        ------
        InputError
            If an argument or a value of the data cannot be used, or a fold has no rows or no
            weight.
        MemoryBudgetError
            If the job does not fit ``memory``; before anything is read.
        SourceError
            If the data cannot be read.

        Warns
        -----
        ConvergenceWarning
            If a limit came first; scores and coefficients are those of the best solutions so far.
        AccuracyWarning
            If the answer is not unique.
        """
        self._check_settings()
        sources = training_sources(self, X, y, sample_weight)
        trace = Trace(listener=self.callback)
        alphas = np.atleast_1d(np.asarray(self.alphas, dtype=np.float64))
        with tracing(trace):
            plan, folds, size = self._plan(*sources, groups)
            try:
                problem = set_up_folds(
                    plan,
                    folds,
                    center=self.fit_intercept,
                    standardize=self.standardize,
                    seed=as_seed(self.random_state),
                    shifts=alphas,
                    rank=self.rank,
                )
                check_scoring(problem, self.scoring or "r2")
                warn_not_unique(problem.whole, alphas)
                solved = []
                for i in range(0, alphas.size, size):
                    solved.append(self._solve(problem, alphas[i : i + size], trace))
            finally:
                slot_pool.clear()
                clear_cache()
        scores = np.concatenate([group.scores for group in solved])
        mean = scores.mean(axis=1)
        best = int(np.argmax(mean))
        self.alpha_ = float(alphas[best])
        self.best_score_ = float(mean[best])
        self.cv_results_ = {"alphas": alphas, "scores": scores, "mean": mean, "std": scores.std(axis=1)}
        q = plan.design.n_targets
        targets, own = np.arange(q), slice(best % size * q, (best % size + 1) * q)
        W, squares = solved[best // size].value[:, own], solved[best // size].squares[own]
        coef, intercept = problem.whole.coefficients(W, targets)
        single = sources[1].vector
        self.coef_ = coef[0] if single else coef
        if not self.fit_intercept:
            self.intercept_ = 0.0
        else:
            self.intercept_ = float(intercept[0]) if single else intercept
        self.target_mean_ = problem.whole.statistics.target_mean
        self.features_ = plan.design.features
        result = _join([group.result for group in solved])
        self.n_iter_ = max(1, int(result.stats["iterations"]))
        objective = squares + self.alpha_ * np.sum(W**2, axis=0)
        self.result_ = fit_result(plan, problem.whole, result, trace, np.full(q, self.alpha_), objective)
        if not self.result_.converged:
            reached = result.stats["relative_residual"]
            message = f"{result.status.value} Relative residual {reached:.1e}, asked {self.tol:.1e}."
            warnings.warn(message, ConvergenceWarning, stacklevel=2)
        return self

    def _solve(self, problem: CrossValidation, alphas: NDArray[np.float64], trace: Trace) -> _Solved:
        """Solve for some alphas and all training sets, as columns of one block PCG, and score them."""
        q = problem.design.n_targets
        targets, shifts = np.tile(np.arange(q), alphas.size), np.repeat(alphas, q)
        self._expect(trace, problem, float(alphas.min()))
        result = solve(
            problem.system(targets, shifts),
            PCG(rtol=self.tol),
            start=problem.start(targets, shifts),
            max_passes=None if self.max_passes is None else self.max_passes - len(trace.passes),
            time_limit=None if self.time_limit is None else self.time_limit - trace.seconds,
            callback=lambda _, record: setattr(trace, "residual", record["relative_residual"]),
        )
        if result.status is Status.INTERRUPTED:  # without its scores there is no alpha to choose
            raise KeyboardInterrupt
        squares, errors = problem.squares(result.value, targets)
        scores = score_folds(problem, errors, alphas.size, self.scoring or "r2")
        return _Solved(scores, result.value[:, -targets.size :], squares[-targets.size :], result)

    def _expect(self, trace: Trace, problem: CrossValidation, smallest: float) -> None:
        """Predict the number of passes, for progress."""
        nystrom = problem.whole.nystrom
        if nystrom is not None and smallest > 0 and self.tol > 0:
            predicted = nystrom.predicted_iterations(smallest, self.tol)
            if predicted < problem.design.shape[1]:
                trace.expected_passes = len(trace.passes) + predicted + 1

    def _check_settings(self) -> None:
        check_alphas("alphas", self.alphas)
        check_settings(self, SOLVERS)
        if self.scoring is not None and self.scoring not in SCORINGS:
            message = f"scoring={self.scoring!r} is not known: use one of {', '.join(SCORINGS)}"
            raise InputError(message)

    def _plan(self, source: Any, target: Any, weight: Any, groups: Any) -> tuple[Plan, Folds, int]:
        """Settle features and folds; plan for as many alphas at once as memory allows, and count them."""
        alphas = np.atleast_1d(np.asarray(self.alphas, dtype=np.float64))
        folds = as_folds(self.cv, source.shape[0], target=target, groups=groups)
        design = training_design(self, source, target, weight, smallest_alpha=float(alphas.min()))

        def choose(earlier: dict[str, Any]) -> tuple[Plan, int]:
            size = earlier.get("at_once", alphas.size)
            while True:
                try:
                    plan = plan_fit(
                        design,
                        memory=self.memory,
                        rank=self.rank,
                        n_systems=(folds.n_splits + 1) * size * design.n_targets,
                        method=self.solver,
                        shift=float(alphas.min()),
                        n_shifts=np.unique(alphas).size,
                        tol=self.tol,
                        folds=folds,
                    )
                except MemoryBudgetError:
                    if size == 1:
                        raise
                    size = -(-size // 2)
                else:
                    return plan, size

        plan, size = settled("alphas", choose, lambda found: {"at_once": found[1]})
        return plan, folds, size


@dataclass(frozen=True)
class _Solved:
    """Some alphas: their scores (L, K), and solutions (p, L q) and squares (L q,) over all rows."""

    scores: NDArray[np.float64]
    value: NDArray[np.float64]
    squares: NDArray[np.float64]
    result: Result[Any]


def _join(results: list[Result[Any]]) -> Result[Any]:
    """See solves that ran one after the other as one."""
    worst = next((r for r in results if not r.converged), results[0])
    stats = worst.stats | {
        "iterations": sum(r.stats["iterations"] for r in results),
        "relative_residual": max(r.stats["relative_residual"] for r in results),
    }
    history = [record for r in results for record in r.history]
    return replace(worst, stats=stats, history=history)
