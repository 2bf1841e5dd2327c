"""Everyone who solves a ridge regression in memory, each with settings to try, from loose to tight.

Run in a process per contender, perhaps of another environment, so that nothing is imported here at
the top but NumPy::

    python -m benchmarks.contenders '{"contender": "rlaopt-nystrom-300", "folder": ..., "alpha": 1.0, ...}'

The objective is ``||y - X w||^2 + alpha ||w||^2``, without intercept. Data are in memory in the
contender's own dtype, and its modules are imported, before the clock starts; it stops when the
coefficients are there. After each attempt :func:`benchmarks.checks.check_ridge` judges them, and the
first that passes counts. Who comes no nearer by three tighter tolerances is not asked again.
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
import sys
import time
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.checks import blocks_of, check_ridge
from benchmarks.contest import serve
from benchmarks.isolation import high_water

if TYPE_CHECKING:
    from collections.abc import Callable

    Solve = Callable[[Any, Any, float, float], tuple[Any, dict[str, Any]]]

#: Attempts that came no nearer, after which a contender has stalled.
_PATIENCE = 3


@dataclass(frozen=True)
class Contender:
    """One way to solve.

    Attributes
    ----------
    label : str
    solve : callable
        ``solve(X, y, alpha, setting)`` gives the coefficients and remarks.
    settings : tuple of float
        Native tolerances, from loose to tight; a single NaN for those who have none.
    module : str
        What must be there.
    install : str
        How to get it.
    dtype : str
        ``"float32"`` or ``"float64"``; empty for that of the stored data.
    rows : bool
        Whether it is given the rows, and makes the features itself.
    group : str
        Whose best counts: contenders of a group differ in settings.
    """

    label: str
    solve: Solve
    settings: tuple[float, ...]
    module: str
    install: str
    group: str
    dtype: str = ""
    rows: bool = False


def tolerances(first: int, last: int, *, halves: bool = False) -> tuple[float, ...]:
    """Count down decades, or half decades, from ``10**first`` to ``10**last``."""
    powers = np.arange(first, last - 0.25, -0.5 if halves else -1.0)
    return tuple(float(f"{10.0**power:.2g}") for power in powers)


EXACT = (math.nan,)


def by_nysstream(
    X: Any, y: Any, alpha: float, setting: float, *, method: str, **options: Any
) -> tuple[Any, dict[str, Any]]:
    """Fit with one of our methods, on whatever memory is there."""
    import psutil

    from nysstream import Ridge

    memory = int(0.95 * psutil.virtual_memory().available) + psutil.Process().memory_info().rss
    model = Ridge(alpha, fit_intercept=False, solver=method, tol=setting, memory=memory, **options)
    model.fit(X, y)
    stats = model.result_.stats
    return model.coef_, {name: stats[name] for name in ("method", "passes", "iterations", "rank")}


def by_sklearn(
    X: Any, y: Any, alpha: float, setting: float, *, method: str, max_iter: int | None = None
) -> tuple[Any, dict[str, Any]]:
    """Fit scikit-learn's Ridge; it need not copy the data."""
    from sklearn.linear_model import Ridge

    tol = {} if math.isnan(setting) else {"tol": setting}
    model = Ridge(alpha, fit_intercept=False, copy_X=False, solver=method, max_iter=max_iter, **tol)
    model.fit(X, y)
    return model.coef_, {"iterations": None if model.n_iter_ is None else int(np.max(model.n_iter_))}


def by_dask_ml(X: Any, y: Any, alpha: float, setting: float, *, method: str) -> tuple[Any, dict[str, Any]]:
    """Fit dask-ml's LinearRegression, whose penalty is ``||w||^2 / (2 C)``.

    Newton's method has no penalty there: it gets it as p more rows, and one step of it is exact.
    """
    import dask.array as da
    from dask_ml.linear_model import LinearRegression

    rows = max(1, min(len(X), (128 << 20) // (X.shape[1] * X.itemsize)))
    Xd, yd = da.from_array(X, chunks=(rows, -1)), da.from_array(y, chunks=rows)
    options: dict[str, Any] = {"normalize": False}  # it would change the penalty
    if method == "newton":
        p = X.shape[1]
        Xd = da.concatenate([Xd, da.from_array(math.sqrt(alpha) * np.eye(p, dtype=X.dtype), chunks=(p, -1))])
        yd = da.concatenate([yd, da.zeros(p, chunks=p, dtype=y.dtype)])
        max_iter = 0
    elif method == "admm":
        options |= {"abstol": setting, "reltol": setting, "rho": float(np.sqrt(alpha * len(X)))}
        max_iter = 1000
    else:
        max_iter = 10000
    model = LinearRegression(
        penalty="l2",
        C=1 / (2 * alpha),
        fit_intercept=False,
        solver=method,
        max_iter=max_iter,
        tol=1.0 if math.isnan(setting) else setting,
        solver_kwargs=options,
    )
    model.fit(Xd, yd)
    return np.asarray(model.coef_), {}


def by_rlaopt(
    X: Any, y: Any, alpha: float, setting: float, *, rank: int = 0, gram: bool = False
) -> tuple[Any, dict[str, Any]]:
    """Solve the normal equations with rlaopt's PCG.

    The error of the sketch is estimated by one power iteration instead of ten: the rank is given, so
    nothing comes of it. Damping is the adaptive one, on top of the shift.
    """
    import torch
    from linops import MatrixOperator
    from rlaopt.linalg import IdentityConfig, LinSys, NystromConfig
    from rlaopt.solvers import PCG, PCGConfig, PCGStoppingCriteria

    matrix, target = torch.from_numpy(X), torch.from_numpy(y)
    torch.set_default_dtype(matrix.dtype)  # its power iteration starts in the default dtype
    torch.manual_seed(0)
    if gram:
        A: Any = matrix.T @ matrix
    else:
        A = MatrixOperator(matrix)
        A = A.T @ A
        A.device = target.device  # the product of two operators has none, and the sketch asks for it
    how = IdentityConfig()
    if rank:
        how = NystromConfig(rank_init=min(rank, X.shape[1]), num_power_iters=1, base_damping=alpha)
    solver = PCG(LinSys(A, matrix.T @ target, reg=float(alpha)), PCGConfig(preconditioner_config=how))
    result = solver.solve(stopping_criteria=PCGStoppingCriteria(tol=setting, max_iters=20000))
    return result.solution.detach().numpy().reshape(-1), {"iterations": int(result.num_iters)}


def by_numpy(X: Any, y: Any, alpha: float, setting: float) -> tuple[Any, dict[str, Any]]:
    """Make conjugate gradient steps on the normal equations."""
    w = np.zeros(X.shape[1], X.dtype)
    r = X.T @ y
    d, rr = r.copy(), float(r @ r)
    goal, steps = setting**2 * rr, 0
    while rr > goal and steps < 20000:
        q = X.T @ (X @ d) + X.dtype.type(alpha) * d
        step = X.dtype.type(rr / float(d @ q))
        w += step * d
        r -= step * q
        rr, before = float(r @ r), rr
        d = r + X.dtype.type(rr / before) * d
        steps += 1
    return w, {"iterations": steps}


def by_normal_equations(X: Any, y: Any, alpha: float, setting: float) -> tuple[Any, dict[str, Any]]:
    """Factor the Gram matrix with NumPy and SciPy."""
    import scipy.linalg

    gram = X.T @ X
    gram.flat[:: len(gram) + 1] += X.dtype.type(alpha)
    return scipy.linalg.solve(gram, X.T @ y, assume_a="pos", overwrite_a=True, check_finite=False), {}


def _all() -> dict[str, Contender]:
    found: dict[str, Contender] = {}
    near = tolerances(-6, -9, halves=True)
    for method in ("auto", "nystrom", "subsampled", "gram", "cg"):
        found[f"nysstream-{method}"] = Contender(
            f"nysstream {method}",
            partial(by_nysstream, method=method),
            near,
            "nysstream",
            "pip install -e .",
            f"nysstream {method}",
        )
    found["nysstream-rows"] = Contender(
        "nysstream auto, features on the fly",
        partial(by_nysstream, method="auto"),
        near,
        "nysstream",
        "pip install -e .",
        "nysstream rows",
        rows=True,
    )
    sklearn: dict[str, tuple[tuple[float, ...], int | None]] = {
        "cholesky": (EXACT, None),
        "lsqr": (tolerances(-5, -13), 20000),
        "sparse_cg": (tolerances(-6, -10, halves=True), 20000),
        "sag": (tolerances(-4, -9), 20000),
    }
    for method, (settings, max_iter) in sklearn.items():
        for dtype in ("float64", "float32"):
            short = "" if dtype == "float64" else "-f32"
            found[f"sklearn-{method}{short}"] = Contender(
                f"scikit-learn {method}",
                partial(by_sklearn, method=method, max_iter=max_iter),
                settings,
                "sklearn",
                "pip install scikit-learn",
                f"sklearn {method}",
                dtype,
            )
    for method, settings in {
        "newton": EXACT,
        "lbfgs": tolerances(-1, -6),
        "admm": tolerances(-4, -9),
    }.items():
        found[f"dask-ml-{method}"] = Contender(
            f"dask-ml {method}",
            partial(by_dask_ml, method=method),
            settings,
            "dask_ml",
            "pip install dask-ml",
            f"dask-ml {method}",
            "float64",
        )
    choices: dict[str, dict[str, Any]] = {f"nystrom-{rank}": {"rank": rank} for rank in (100, 300, 500)}
    for name, options in {"cg": {}, **choices, "gram": {"gram": True}}.items():
        for dtype in ("float64", "float32"):
            short = "" if dtype == "float64" else "-f32"
            found[f"rlaopt-{name}{short}"] = Contender(
                f"rlaopt {name.replace('-', ' ')}",
                partial(by_rlaopt, **options),
                near,
                "rlaopt",
                "pip install torch==2.13.0; pip install --no-deps rlaopt==0.1.0 torch_linops tensordict; "
                "pip install numpy pandas pydantic pyvers orjson cloudpickle importlib_metadata",
                "rlaopt Nyström" if "rank" in options else f"rlaopt {name}",
                dtype,
            )
    for dtype in ("float64", "float32"):
        short = "" if dtype == "float64" else "-f32"
        found[f"numpy-cg{short}"] = Contender(
            "NumPy CG", by_numpy, near, "numpy", "pip install numpy", "NumPy CG", dtype
        )
        found[f"numpy-cholesky{short}"] = Contender(
            "NumPy and SciPy, normal equations",
            by_normal_equations,
            EXACT,
            "scipy",
            "pip install scipy",
            "NumPy normal equations",
            dtype,
        )
    return found


CONTENDERS = _all()


def attempt_all(spec: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> None:
    """Try the settings of one contender, from loose to tight, until the answer passes the test.

    Parameters
    ----------
    spec : dict
        ``contender``, ``folder`` (holds ``X.npy`` and ``y.npy``; and ``rows.npy`` and ``features.json``
        for those that make features), ``alpha``, ``tol`` of the test, ``timeout`` of an attempt in
        seconds, and ``solution``, a file, where it is known.
    tell : callable
        Called with a record after each attempt.
    """
    contender = CONTENDERS[spec["contender"]]
    folder, alpha = Path(spec["folder"]), float(spec["alpha"])
    solve, X, blocks = contender.solve, np.load(folder / "X.npy", mmap_mode="r"), None
    y = np.load(folder / "y.npy")
    truth = X
    if contender.rows:
        from nysstream.features import from_json

        features = from_json(json.loads((folder / "features.json").read_text()))
        X = np.load(folder / "rows.npy")
        blocks = partial(_featured, X, y, features)
        solve = partial(solve, features=features)
    else:
        X = np.array(X, dtype=contender.dtype or X.dtype)
        y = np.asarray(y, X.dtype)
    _warm_up(solve, contender, X.dtype)
    nearest, since = math.inf, 0
    for setting in contender.settings:
        gone = None
        if spec.get("timeout"):
            signal.setitimer(signal.ITIMER_REAL, spec["timeout"])  # ends the process, wherever it is
        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            coef, remarks = solve(X, y, alpha, setting)
        seconds = time.perf_counter() - began
        if spec.get("timeout"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        peak = high_water()
        if not np.all(np.isfinite(coef)):
            tell({"setting": setting, "seconds": seconds, "relative_residual": math.inf, **remarks})
            continue
        found = check_ridge(blocks() if blocks else blocks_of(truth, np.load(folder / "y.npy")), coef, alpha)
        if spec.get("solution"):
            exact = np.load(spec["solution"])
            gone = float(np.linalg.norm(coef - exact) / np.linalg.norm(exact))
        tell(
            {
                "setting": setting,
                "seconds": seconds,
                "relative_residual": found.relative_residual,
                "objective": found.objective,
                "error": gone,
                "peak_bytes": peak,
                "dtype": str(X.dtype),
                **remarks,
            }
        )
        nearer = found.relative_residual < 0.9 * nearest
        nearest, since = min(nearest, found.relative_residual), 0 if nearer else since + 1
        if found.relative_residual <= spec["tol"] or since == _PATIENCE:
            return


def _warm_up(solve: Solve, contender: Contender, dtype: Any) -> None:
    """Import and compile what is imported and compiled on first use, which users pay once a session."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((64, 8)).astype(dtype)
    with warnings.catch_warnings(), contextlib.suppress(Exception):  # the attempts will say what is wrong
        warnings.simplefilter("ignore")
        solve(X, X[:, 0].copy(), 1.0, contender.settings[0])


def _featured(rows: Any, y: Any, features: Any) -> Any:
    for block, target in blocks_of(rows, y):
        yield features(np.asarray(block, np.float64)), target


if __name__ == "__main__":
    sys.exit(serve(CONTENDERS, attempt_all))
