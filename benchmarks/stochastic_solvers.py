"""How each package is run on a :class:`~benchmarks.stochastic_problems.Problem`, telling as it goes.

Every function takes the problem, rows, targets, the numbers of passes at which to tell, and what to tell:
``tell(coef, passes, seconds=None)``. Without ``seconds`` it is what a clock says that stands still while
answers are tested. Who can only be run to the end is run anew for each number. Packages are imported inside.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.stochastic_problems import Problem

    Tell = Callable[..., None]

#: Rows of a batch for those who ask.
BATCH = 1024


def make_ours(problem: Problem, method: str, *, estimator: str = "", **settings: Any) -> Any:
    """Make one of our estimators for the problem's objective."""
    import psutil

    import nysstream

    memory = int(0.95 * psutil.virtual_memory().available) + psutil.Process().memory_info().rss
    how: dict[str, Any] = {"solver": method, "memory": memory, "fit_intercept": False, **settings}
    n_rows = round(1 / problem.l2)
    if estimator == "sgd":
        how |= {"alpha": problem.l2, "n_iter_no_change": 1000}
        if problem.loss == "squared":
            return nysstream.SketchySGDRegressor(**how)
        return nysstream.SketchySGDClassifier({"logistic": "log_loss"}.get(problem.loss, problem.loss), **how)
    if problem.loss == "squared":
        return nysstream.Ridge(alpha=n_rows * problem.l2, **how)
    return nysstream.LogisticRegression(C=1 / (n_rows * problem.l2), **how)


def by_nysstream(
    problem: Problem, X: Any, y: Any, marks: Sequence[int], tell: Tell, *, method: str, estimator: str = ""
) -> None:
    """Fit anew with each limit on passes, set-up and the last evaluation included."""
    for mark in marks:
        if mark < 2:
            continue  # nobody can set up and verify in one
        model = make_ours(problem, method, estimator=estimator, max_passes=mark, tol=1e-10)
        began = time.perf_counter()
        model.fit(X, y)
        seconds = time.perf_counter() - began
        stats = model.result_.stats
        tell(model.coef_, stats["passes"], seconds)
        if model.result_.converged or stats["passes"] < mark - 3:
            return


def by_sklearn_sgd(
    problem: Problem, X: Any, y: Any, marks: Sequence[int], tell: Tell, **options: Any
) -> None:
    """Make epochs with partial_fit."""
    from sklearn.linear_model import SGDClassifier, SGDRegressor

    how: dict[str, Any] = {"alpha": problem.l2, "fit_intercept": False, "random_state": 0, **options}
    squared = problem.loss == "squared"
    model = SGDRegressor(**how) if squared else SGDClassifier("log_loss", **how)
    more = {} if squared else {"classes": np.unique(y)}
    for epoch in range(1, max(marks) + 1):
        model.partial_fit(X, y, **more)
        if epoch in marks:
            tell(model.coef_, epoch)


def by_sklearn(problem: Problem, X: Any, y: Any, marks: Sequence[int], tell: Tell, *, method: str) -> None:
    """Fit anew with each limit on iterations, which are passes but for L-BFGS's line searches."""
    from sklearn.linear_model import LogisticRegression, Ridge

    for mark in marks:
        model: Any
        if problem.loss == "squared":
            how: dict[str, Any] = {"tol": 1e-15, "max_iter": mark, "random_state": 0}
            # Nothing is changed in X without an intercept, and a copy would be as large again.
            model = Ridge(len(y) * problem.l2, solver=method, fit_intercept=False, copy_X=False, **how)
        else:
            C = 1 / (len(y) * problem.l2)
            model = LogisticRegression(
                C=C, solver=method, fit_intercept=False, tol=1e-15, max_iter=mark, random_state=0
            )
        began = time.perf_counter()
        model.fit(X, y)
        tell(model.coef_, mark, time.perf_counter() - began)


def by_scipy(problem: Problem, X: Any, y: Any, marks: Sequence[int], tell: Tell) -> None:
    """Minimise by L-BFGS; every evaluation of the function and its gradient is a pass."""
    from scipy.optimize import minimize

    n, p = X.shape
    k = int(y.max()) + 1 if problem.loss == "multinomial" else 1
    codes = y.astype(np.intp) if k > 1 else None
    passes = told = 0

    def function(v: Any) -> tuple[float, Any]:
        nonlocal passes
        passes += 1
        W = v.reshape(k, p)
        z = np.asarray(X @ W.T.astype(X.dtype), np.float64)
        if problem.loss == "squared":
            slope = z[:, 0] - y
            value, slopes = 0.5 * float(slope @ slope), slope[:, None]
        elif problem.loss == "logistic":
            margin = y * z[:, 0]
            value = float(np.sum(np.logaddexp(0.0, -margin)))
            slopes = (-y / (1 + np.exp(np.minimum(margin, 700.0))))[:, None]
        else:
            z -= z.max(axis=1, keepdims=True)
            slopes = np.exp(z)
            sums = slopes.sum(axis=1)
            rows = np.arange(n)
            value = float(np.sum(np.log(sums) - z[rows, codes]))
            slopes /= sums[:, None]
            slopes[rows, codes] -= 1.0
        gradient = np.asarray(slopes.T.astype(X.dtype) @ X, np.float64) / n + problem.l2 * W
        return value / n + 0.5 * problem.l2 * float(np.sum(W * W)), gradient.reshape(-1)

    def callback(v: Any) -> None:
        nonlocal told
        if any(told < mark <= passes for mark in marks):
            told = passes
            tell(v.reshape(k, p), passes)

    options = {"maxiter": 10 * max(marks), "maxfun": max(marks), "ftol": 0.0, "gtol": 0.0, "maxcor": 20}
    start = np.zeros(k * p)
    found = minimize(function, start, jac=True, method="L-BFGS-B", callback=callback, options=options)
    tell(found.x.reshape(k, p), passes)


def by_dask_ml(problem: Problem, X: Any, y: Any, marks: Sequence[int], tell: Tell, *, method: str) -> None:
    """Fit anew with each limit on iterations; its squares are without a half, so that penalties double."""
    import dask.array as da
    from dask_ml.linear_model import LinearRegression, LogisticRegression

    rows = max(1, min(len(X) // 2, (128 << 20) // (X.shape[1] * X.itemsize)))
    squared = problem.loss == "squared"
    target = y if squared else (y > 0).astype(X.dtype)
    Xd, yd = da.from_array(X, chunks=(rows, -1)), da.from_array(target, chunks=rows)
    strength = len(y) * problem.l2 * (2 if squared else 1)
    for mark in marks:
        options: dict[str, Any] = {"normalize": False}  # it would change the penalty
        if method == "admm":
            options |= {"abstol": 1e-12, "reltol": 1e-12}
        model = (LinearRegression if squared else LogisticRegression)(
            penalty="l2", C=1 / strength, fit_intercept=False, solver=method, max_iter=mark, tol=1e-15,
            solver_kwargs=options,
        )  # fmt: skip
        began = time.perf_counter()
        model.fit(Xd, yd)
        tell(np.asarray(model.coef_), mark, time.perf_counter() - began)


def by_rlaopt(
    problem: Problem, X: Any, y: Any, marks: Sequence[int], tell: Tell, *, base: str, rank: int
) -> None:
    """Step through Sapphire's batches; an epoch of SVRG is two passes. Its own test is switched off."""
    import torch
    from rlaopt.atoms import LinearRegression, LogisticRegression, MultinomialRegression, SumSquares
    from rlaopt.data import DataLoader, Dataset
    from rlaopt.expression import Variable
    from rlaopt.linalg.preconditioners import NystromConfig
    from rlaopt.solvers import Sapphire, SapphireConfig

    torch.manual_seed(0)
    matrix = torch.from_numpy(X)
    torch.set_default_dtype(matrix.dtype)
    n, p = X.shape
    batch = max(1, min(BATCH, n // 8))
    factor, shape = 1.0, (p,)
    if problem.loss == "squared":
        target, model, factor = torch.from_numpy(y), LinearRegression, 2.0
    elif problem.loss == "logistic":
        target, model = torch.from_numpy((y > 0).astype(X.dtype)), LogisticRegression
    else:
        target, model = torch.from_numpy(y.astype(np.int64)), MultinomialRegression
        shape = (p, int(y.max()) + 1)
    loader = DataLoader(Dataset(matrix, target), batch_size=batch, shuffle=True)
    beta = Variable(shape, name="beta", dtype=matrix.dtype)
    total = model(beta, loader, fit_intercept=False) + factor * problem.l2 / 2 * SumSquares(beta)
    metric = NystromConfig(
        rank_init=rank, rank_max=rank, error_tolerance=0.1, base_damping=1e-3, damping_mode="adaptive"
    )
    config = SapphireConfig(base_method=base, precond_config=metric, check_termination_freq=10**6)
    solver = Sapphire(total, config)
    values = solver._op_split.variable_values
    state = solver.init_state(values)
    steps, per_epoch = n // batch, 2 if base == "svrg" else 1
    for epoch in range(1, max(marks) // per_epoch + 1):
        for _ in range(steps):
            values, state = solver.step(values, state)
        passes = epoch * per_epoch
        if any(passes - per_epoch < mark <= passes for mark in marks):
            coef = next(iter(values.values())).detach().numpy()
            tell(coef.T if coef.ndim == 2 and coef.shape[1] > 1 else coef.reshape(-1), passes)
