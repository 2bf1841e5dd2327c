"""Everyone who solves penalised regressions in memory, each with settings to try, from loose to tight.

Run in a process per contender, perhaps of another environment, so that nothing is imported here at
the top but NumPy::

    python -m benchmarks.composite_contenders '{"contender": "celer", "folder": ..., "timeout": 120, ...}'

Data are in memory, in the contender's own dtype and order, and its packages are imported and compiled,
before the clock starts; it stops when the coefficients are there. After each attempt
:func:`benchmarks.composite_checks.check` judges them against the minimum that is known.
"""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import time
import warnings
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import composite_solvers as solvers
from benchmarks.composite_checks import Objective, check
from benchmarks.contenders import tolerances
from benchmarks.contest import serve
from benchmarks.isolation import high_water

if TYPE_CHECKING:
    from collections.abc import Callable

    Solve = Callable[[Any, Any, Objective, float], tuple[Any, dict[str, Any]]]

#: Attempts that came no nearer, after which a contender has stalled.
_PATIENCE = 2
RLAOPT = (
    "pip install torch==2.13.0; pip install --no-deps rlaopt==0.1.0 torch_linops tensordict; "
    "pip install numpy scipy pandas pydantic pyvers orjson cloudpickle importlib_metadata"
)


@dataclass(frozen=True)
class Contender:
    """One way to solve.

    Attributes
    ----------
    label : str
    solve : callable
        ``solve(X, y, objective, setting)`` gives the coefficients and remarks.
    kinds : frozenset of str
        Problems it takes: see :func:`kind_of`.
    settings : tuple of float
        Native tolerances, from loose to tight.
    module, install : str
        What must be there, and how to get it.
    group : str
        Whose best counts: contenders of a group differ in settings.
    dtype : str
        Empty for that of the stored data.
    order : str
        ``"C"`` or ``"F"``: how it wants dense data to lie in memory.
    sparse : bool
        Whether it takes sparse rows.
    """

    label: str
    solve: Solve
    kinds: frozenset[str]
    settings: tuple[float, ...]
    module: str
    install: str
    group: str
    dtype: str = ""
    order: str = "C"
    sparse: bool = False


def kind_of(objective: Objective) -> str:
    """Name the kind of a problem: ``lasso``, ``box``, ``l1`` or ``l2`` (logistic)."""
    if objective.loss == "squared":
        return "box" if objective.boxed else "lasso"
    return "l1" if objective.l1 > 0 else "l2"


def _all() -> dict[str, Contender]:
    found: dict[str, Contender] = {}

    def add(name: str, label: str, solve: Solve, kinds: str, settings: Any, module: str, **rest: Any) -> None:
        install = rest.pop("install", f"pip install {module}")
        group = rest.pop("group", label)
        chosen = frozenset(kinds.split())
        found[name] = Contender(label, solve, chosen, settings, module, install, group, **rest)

    for method, kinds in {
        "auto": "lasso box l1 l2",
        "gram": "lasso box",
        "newton": "l1 l2",
        "subsampled": "l1 l2",
        "admm": "lasso box l1 l2",
    }.items():
        add(
            f"nysstream-{method}", f"nysstream {method}", partial(solvers.by_nysstream, method=method), kinds,
            tolerances(-2, -8), "nysstream", install="pip install -e .", sparse=True,
        )  # fmt: skip
    for dtype in ("float64", "float32"):
        short = "" if dtype == "float64" else "-f32"
        add(
            f"sklearn-cd{short}", "scikit-learn CD, Gram", partial(solvers.by_sklearn_lasso, gram=True),
            "lasso", tolerances(-2, -8), "sklearn", dtype=dtype, order="F",
            install="pip install scikit-learn",
        )  # fmt: skip
    for method, kinds, settings in (
        ("saga", "l1 l2", tolerances(-1, -6)),
        ("liblinear", "l1 l2", tolerances(-1, -7)),
        ("lbfgs", "l2", tolerances(-2, -7)),
        ("newton-cholesky", "l2", tolerances(-2, -6)),
    ):
        solve = partial(solvers.by_sklearn_logistic, method=method)
        add(
            f"sklearn-{method}", f"scikit-learn {method}", solve, kinds, settings, "sklearn", sparse=True,
            install="pip install scikit-learn", dtype="float64" if method == "liblinear" else "",
        )  # fmt: skip
    add("celer", "celer", solvers.by_celer, "lasso l1", tolerances(-2, -9), "celer", order="F", sparse=True)
    for method, kinds, settings in (
        ("anderson", "lasso", tolerances(-1, -7)),
        ("gram", "lasso", tolerances(-1, -7)),
        ("newton", "l1", tolerances(-2, -8)),
        ("lbfgs", "l2", tolerances(-3, -8)),
    ):
        add(
            f"skglm-{method}", f"skglm {method}", partial(solvers.by_skglm, method=method), kinds, settings,
            "skglm", order="F", dtype="float64", sparse=method in ("anderson", "newton"),
        )  # fmt: skip
    for path in (1, 10):
        add(
            f"adelie-{path}", f"adelie, {'path' if path > 1 else 'one penalty'}",
            partial(solvers.by_adelie, path=path), "lasso l1 l2" if path == 1 else "lasso l1",
            tolerances(-3, -12), "adelie", group="adelie", order="F", sparse=True,
        )  # fmt: skip
        add(
            f"adelie-gram-{path}", f"adelie, Gram, {'path' if path > 1 else 'one penalty'}",
            partial(solvers.by_adelie_gram, path=path), "lasso box", tolerances(-3, -12), "adelie",
            group="adelie", order="F",
        )  # fmt: skip
    add(
        "adelie-bvls", "adelie, bounded least squares", solvers.by_adelie_bvls, "box", tolerances(-3, -12),
        "adelie", group="adelie", order="F",
    )  # fmt: skip
    add(
        "scipy", "SciPy L-BFGS-B", solvers.by_scipy, "lasso box l1 l2", tolerances(-5, -12), "scipy",
        sparse=True,
    )  # fmt: skip
    for name, kinds, options in (
        ("admm", "lasso box l1 l2", {"rho": 1.0}),
        ("admm-rho-0.01", "lasso box l1 l2", {"rho": 0.01}),
        ("proxgrad", "lasso box l1 l2", {}),
        ("sapphire", "lasso box l1 l2", {}),
    ):
        method = name.partition("-")[0]
        add(
            f"rlaopt-{name}", f"rlaopt {name}", partial(solvers.by_rlaopt, method=method, **options), kinds,
            tolerances(-1, -7), "rlaopt", group=f"rlaopt {method}", install=RLAOPT,
        )  # fmt: skip
    return found


CONTENDERS = _all()


def load(folder: Path, dtype: str = "", order: str = "C") -> tuple[Any, Any]:
    """Load rows and targets in a dtype and an order."""
    y = np.load(folder / "y.npy")
    if (folder / "X.npz").exists():
        import scipy.sparse

        X = scipy.sparse.load_npz(folder / "X.npz")
        X = X.tocsc() if order == "F" else X.tocsr()
        X = X.astype(dtype or X.dtype)
    else:
        kept = np.load(folder / "X.npy", mmap_mode="r")
        X = np.array(kept, dtype=dtype or kept.dtype, order=order)
    return X, y.astype(X.dtype)


def attempt_all(spec: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> None:
    """Try the settings of one contender, from loose to tight, until the answer passes the test.

    Parameters
    ----------
    spec : dict
        ``contender``, ``folder``, ``objective`` (a dict), ``minimum``, ``tol`` (relative suboptimality)
        and ``timeout`` of an attempt in seconds.
    tell : callable
        Called with a record after each attempt.
    """
    contender = CONTENDERS[spec["contender"]]
    folder, objective = Path(spec["folder"]), Objective(**spec["objective"])
    X, y = load(folder, contender.dtype, contender.order)
    rows = X.tocsr() if hasattr(X, "tocsr") else X  # stored in float32: exact in any dtype
    _warm_up(contender, X, objective)
    nearest, since = math.inf, 0
    for setting in contender.settings:
        if spec.get("timeout"):
            signal.setitimer(signal.ITIMER_REAL, spec["timeout"])  # ends the process, wherever it is
        began, busy = time.perf_counter(), time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            coef, remarks = contender.solve(X, y, objective, setting)
        seconds, busy = time.perf_counter() - began, time.process_time() - busy
        if spec.get("timeout"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        peak, away = high_water(), math.inf
        record = {"setting": setting, "seconds": seconds, "cpu_seconds": busy, "peak_bytes": peak}
        record |= remarks
        if np.all(np.isfinite(coef)):
            found = check(objective, rows, y, coef)
            away = (found.objective - spec["minimum"]) / abs(spec["minimum"])
            record |= asdict(found)
        tell(record | {"suboptimality": away, "dtype": str(X.dtype)})
        since = 0 if away < 0.9 * nearest else since + 1
        nearest = min(nearest, away)
        if away <= spec["tol"] or since == _PATIENCE:
            return


def _warm_up(contender: Contender, X: Any, objective: Objective) -> None:
    """Import and compile what is imported and compiled on first use, which users pay once a session."""
    import scipy.sparse

    rng = np.random.default_rng(0)
    rows: Any = rng.standard_normal((96, 8)).astype(X.dtype, order=contender.order)
    y = np.where(rows[:, 0] + rng.standard_normal(96) > 0, 1.0, -1.0).astype(X.dtype)
    if scipy.sparse.issparse(X):
        rows = type(X)(rows)
    easy = Objective(
        objective.loss, objective.l1 and 0.05, objective.l2 and 0.05, objective.lower, objective.upper
    )
    with warnings.catch_warnings(), contextlib.suppress(Exception):  # the attempts will say what is wrong
        warnings.simplefilter("ignore")
        contender.solve(rows, y, easy, contender.settings[0])


if __name__ == "__main__":
    sys.exit(serve(CONTENDERS, attempt_all))
