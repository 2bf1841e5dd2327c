"""How each package is asked for the minimiser of an :class:`~benchmarks.composite_checks.Objective`.

Every function takes rows, targets (-1 and 1 for the logistic loss), the objective and a native tolerance,
and gives the coefficients and remarks. Packages are imported inside, each in an environment that has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from benchmarks.composite_checks import Objective

    Answer = tuple[Any, dict[str, Any]]

#: Iterations allowed to those whose own limit would end them before the tolerance does.
_MANY = 100_000


def by_nysstream(X: Any, y: Any, objective: Objective, setting: float, *, method: str) -> Answer:
    """Fit with one of our methods, on whatever memory is there."""
    import psutil

    import nysstream

    memory = int(0.95 * psutil.virtual_memory().available) + psutil.Process().memory_info().rss
    how: dict[str, Any] = {"solver": method, "tol": setting, "memory": memory, "fit_intercept": False}
    model: Any
    if objective.loss == "logistic":
        strength = objective.l1 + objective.l2
        C = 1 / (len(y) * strength)
        model = nysstream.LogisticRegression(C=C, l1_ratio=objective.l1 / strength, **how)
    elif objective.boxed:
        alpha = objective.l1 + objective.l2
        model = nysstream.BoundedRegression(
            objective.lower, objective.upper, alpha=alpha, l1_ratio=objective.l1 / alpha, **how
        )
    else:
        model = nysstream.Lasso(objective.l1, **how)
    model.fit(X, y)
    stats = model.result_.stats
    remarks = {name: stats.get(name) for name in ("method", "passes", "iterations", "duality_gap")}
    return np.ravel(model.coef_), remarks


def by_sklearn_lasso(X: Any, y: Any, objective: Objective, setting: float, *, gram: bool) -> Answer:
    """Descend in coordinates, on the Gram matrix or on residuals; with bounds, on the non-negative side."""
    from sklearn.linear_model import ElasticNet

    alpha = objective.l1 + objective.l2
    model = ElasticNet(
        alpha,
        l1_ratio=objective.l1 / alpha,
        positive=objective.lower == 0,
        precompute=gram,
        fit_intercept=False,
        copy_X=False,
        tol=setting,
        max_iter=_MANY,
    )
    model.fit(X, y)
    return model.coef_, {"iterations": int(np.max(model.n_iter_))}


def by_sklearn_logistic(X: Any, y: Any, objective: Objective, setting: float, *, method: str) -> Answer:
    """Fit scikit-learn's LogisticRegression without an intercept."""
    from sklearn.linear_model import LogisticRegression

    strength = objective.l1 + objective.l2
    how: dict[str, Any] = {"l1_ratio": objective.l1 / strength}
    model = LogisticRegression(
        C=1 / (len(y) * strength), fit_intercept=False, solver=method, tol=setting, max_iter=_MANY, **how
    )
    model.fit(X, y)
    return np.ravel(model.coef_), {"iterations": int(np.max(model.n_iter_))}


def by_celer(X: Any, y: Any, objective: Objective, setting: float) -> Answer:
    """Let celer solve; its tolerance is a duality gap."""
    import celer

    if objective.loss == "squared":
        model = celer.Lasso(objective.l1, tol=setting, fit_intercept=False)
    else:
        model = celer.LogisticRegression(C=1 / (len(y) * objective.l1), tol=setting, max_iter=200)
    model.fit(X, y)
    return np.ravel(model.coef_), {}


def by_skglm(X: Any, y: Any, objective: Objective, setting: float, *, method: str) -> Answer:
    """Let one of skglm's solvers work on its data fit and penalty."""
    from skglm import GeneralizedLinearEstimator
    from skglm.datafits import Logistic, Quadratic
    from skglm.penalties import L1, L2
    from skglm.solvers import LBFGS, AndersonCD, GramCD, ProxNewton

    solver: Any = {
        "anderson": lambda: AndersonCD(tol=setting, fit_intercept=False, max_iter=200),
        "gram": lambda: GramCD(
            tol=setting, fit_intercept=False, use_acc=True, greedy_cd=False, max_iter=_MANY
        ),
        "newton": lambda: ProxNewton(tol=setting, fit_intercept=False, max_iter=200),
        "lbfgs": lambda: LBFGS(tol=setting, max_iter=1000),
    }[method]()
    fit = Quadratic() if objective.loss == "squared" else Logistic()
    penalty = L1(objective.l1) if objective.l1 > 0 else L2(objective.l2)
    if method in ("gram", "lbfgs"):  # no estimator takes these
        return np.ravel(solver.solve(X, y, None if method == "gram" else fit, penalty)[0]), {}
    model = GeneralizedLinearEstimator(fit, penalty, solver)
    model.fit(X, y)
    return np.ravel(model.coef_), {}


def by_adelie(X: Any, y: Any, objective: Objective, setting: float, *, path: int = 1) -> Answer:
    """Descend in blocks of one coordinate on the data, from larger penalties down where ``path`` > 1."""
    import adelie
    import scipy.sparse

    lmda = objective.l1 + objective.l2
    how = _adelie_options(objective, lmda, path, X, y, setting)
    if scipy.sparse.issparse(X):
        matrix = adelie.matrix.sparse(X, method="naive", n_threads=2)
    else:
        matrix = adelie.matrix.dense(X, method="naive", n_threads=2)
    if objective.loss == "squared":
        glm = adelie.glm.gaussian(y=y, dtype=X.dtype.type)
    else:
        glm = adelie.glm.binomial(y=(y > 0).astype(X.dtype), dtype=X.dtype.type)
        how["irls_tol"] = setting
    state = adelie.grpnet(matrix, glm, intercept=False, n_threads=2, **how)
    return _last(state.betas), {}


def by_adelie_gram(X: Any, y: Any, objective: Objective, setting: float, *, path: int = 1) -> Answer:
    """Descend in coordinates on the Gram matrix, with the box as a constraint of each."""
    import adelie

    gram = np.asfortranarray((X.T @ X).astype(np.float64) / len(y))
    right = (X.T @ y).astype(np.float64) / len(y)
    lmda = objective.l1 + objective.l2
    how = _adelie_options(objective, lmda, path, X, y, setting)
    state = adelie.gaussian_cov(gram, right, rdev_tol=0.0, n_threads=2, **how)
    return np.clip(_last(state.betas), objective.lower, objective.upper), {}


def by_adelie_bvls(X: Any, y: Any, objective: Objective, setting: float) -> Answer:
    """Solve bounded least squares; where nothing is negative, the penalty is one more row for each column."""
    import adelie

    n, p = X.shape
    rows = np.vstack([X, np.sqrt(n * objective.l2, dtype=X.dtype.type) * np.eye(p, dtype=X.dtype.type)])
    shift = -np.sqrt(n / objective.l2) * objective.l1
    target = np.concatenate([y, np.full(p, shift)]).astype(X.dtype)
    bounds = [np.full(p, bound, X.dtype) for bound in (objective.lower, objective.upper)]
    weights = np.full(n + p, 1 / n, X.dtype)
    rows = adelie.matrix.dense(np.asfortranarray(rows), method="naive", n_threads=2)
    state = adelie.bvls(rows, target, *bounds, weights=weights, tol=setting, n_threads=2)
    return np.clip(state.beta, objective.lower, objective.upper), {}


def _adelie_options(objective: Objective, lmda: float, path: int, X: Any, y: Any, tol: float) -> Any:
    how: dict[str, Any] = {"alpha": objective.l1 / lmda, "tol": tol, "early_exit": False}
    how["progress_bar"] = False
    how["lmda_path"] = np.array([lmda])
    if path > 1 and objective.l1 > 0:
        at_zero = np.abs(X.T @ y).max() / len(y) * (1.0 if objective.loss == "squared" else 0.5)
        how["lmda_path"] = np.geomspace(float(at_zero) / how["alpha"], lmda, path)
    if objective.boxed:
        import adelie

        low, high = np.array([-objective.lower]), np.array([objective.upper])
        how["constraints"] = [adelie.constraint.box(-low, high, dtype=np.float64) for _ in range(X.shape[1])]
    return how


def _last(betas: Any) -> Any:
    return np.asarray(betas[-1].toarray()).ravel()


def by_scipy(X: Any, y: Any, objective: Objective, setting: float) -> Answer:
    """Minimise by L-BFGS-B: in the box, without penalty on signs, or with positive and negative parts."""
    from scipy.optimize import minimize

    n, p = X.shape
    split = objective.l1 > 0 and objective.lower < 0
    evaluations = 0

    def smooth(w: Any) -> tuple[float, Any]:
        nonlocal evaluations
        evaluations += 1
        z = np.asarray(X @ w.astype(X.dtype), np.float64)
        if objective.loss == "squared":
            slope = z - y
            value = 0.5 * float(slope @ slope)
        else:
            value = float(np.sum(np.logaddexp(0.0, -y * z)))
            slope = -y / (1 + np.exp(np.minimum(y * z, 700.0)))
        gradient = np.asarray(X.T @ slope.astype(X.dtype), np.float64) / n
        return value / n + 0.5 * objective.l2 * float(w @ w), gradient + objective.l2 * w

    def whole(v: Any) -> tuple[float, Any]:
        value, gradient = smooth(v[:p] - v[p:] if split else v)
        value += objective.l1 * float(v.sum())
        parts = [gradient, -gradient] if split else [gradient]
        return value, np.concatenate(parts) + objective.l1

    lower, upper = (0.0, np.inf) if split else (objective.lower, objective.upper)
    bounds = [(lower, upper)] * (2 * p if split else p)
    options = {"maxiter": _MANY, "maxfun": _MANY, "ftol": setting, "gtol": 0.0, "maxcor": 20}
    found = minimize(
        whole, np.zeros(len(bounds)), jac=True, bounds=bounds, method="L-BFGS-B", options=options
    )
    return (found.x[:p] - found.x[p:] if split else found.x), {"iterations": evaluations}


def by_rlaopt(
    X: Any, y: Any, objective: Objective, setting: float, *, method: str, **options: float
) -> Answer:
    """Let rlaopt solve: its losses are means, that of least squares without a half, so penalties double."""
    import torch
    from rlaopt.atoms import (
        Box,
        ElasticNet,
        L1Norm,
        LinearRegression,
        LogisticRegression,
        SumSquares,
    )
    from rlaopt.data import DataLoader, Dataset
    from rlaopt.expression import Constant, Variable
    from rlaopt.solvers import (
        ADMM,
        ADMMConfig,
        ADMMStoppingCriteria,
        GradSolverStoppingCriteria,
        ProxGrad,
        ProxGradConfig,
        Sapphire,
        SapphireConfig,
    )

    torch.manual_seed(0)
    matrix = torch.from_numpy(X)
    torch.set_default_dtype(matrix.dtype)
    squared = objective.loss == "squared"
    target = torch.from_numpy(y if squared else (y > 0).astype(X.dtype))
    p = X.shape[1]
    batch = max(1, min(1024, len(y) // 8))
    loader = DataLoader(Dataset(matrix, target), batch_size=batch, shuffle=True)
    beta = Variable((p,), name="beta", dtype=matrix.dtype)
    factor = 2.0 if squared else 1.0
    loss = (LinearRegression if squared else LogisticRegression)(beta, loader, fit_intercept=False)
    total = loss
    if objective.boxed:
        # nothing is negative: the penalty is a square about another point, up to a constant
        shift = torch.full((p,), objective.l1 / objective.l2)
        total = total + factor * objective.l2 / 2 * SumSquares(beta + Constant(shift))
        total = total + Box(beta, objective.lower, objective.upper)
    elif objective.l1 > 0 and objective.l2 > 0:
        total = total + ElasticNet(beta, factor * objective.l1, factor * objective.l2)
    elif objective.l1 > 0:
        total = total + factor * objective.l1 * L1Norm(beta)
    else:
        total = total + factor * objective.l2 / 2 * SumSquares(beta)
    solver: Any
    if method == "admm":
        config = ADMMConfig(rho=options.get("rho", 1.0))
        solver = ADMM(total, config)
        stop: Any = ADMMStoppingCriteria(eps_abs=setting * 1e-3, eps_rel=setting, max_iters=_MANY)
    else:
        stop = GradSolverStoppingCriteria(eps_abs=setting * 1e-3, eps_rel=setting, max_iters=_MANY)
        if method == "proxgrad":
            solver = ProxGrad(total, ProxGradConfig(use_acceleration=True, use_linesearch=True))
        else:
            solver = Sapphire(total, SapphireConfig())
    result = solver.solve(stopping_criteria=stop)
    values = result.variable_values
    coef = next(iter(values.values())).detach().numpy().reshape(-1)
    return np.clip(coef, objective.lower, objective.upper), {"iterations": int(result.num_iters)}
