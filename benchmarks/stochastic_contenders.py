"""Everyone who minimises finite sums in memory, each telling what it has after some passes.

Run in a process per contender, perhaps of another environment, so that nothing is imported here at the top
but NumPy::

    python -m benchmarks.stochastic_contenders '{"contender": "scipy-lbfgs", "problem": {...}, ...}'

Data are in memory, and packages imported and compiled, before the clock starts. Answers are tested by
:func:`benchmarks.stochastic_problems.evaluate` while it stands still.
"""

from __future__ import annotations

import contextlib
import sys
import time
import warnings
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import stochastic_solvers as solvers
from benchmarks.composite_contenders import RLAOPT
from benchmarks.contest import serve
from benchmarks.isolation import high_water
from benchmarks.stochastic_problems import Problem, evaluate, load, stored

if TYPE_CHECKING:
    from collections.abc import Callable

ALL = frozenset({"squared", "logistic", "multinomial"})
BINARY = ALL - {"multinomial"}
#: Nearer to the minimum than this, nobody goes on.
_ENOUGH = 1e-9
OURS = ("sketchysgd", "sketchysvrg", "sketchysaga", "sketchylsvrg", "sketchykatyusha", "sapphire", "hybrid",
        "sgd", "svrg", "saga", "osgm")  # fmt: skip
#: Learning rates to try, for features of norm one.
RATES: dict[str, dict[str, Any]] = {
    "optimal": {"learning_rate": "optimal"},
    "optimal-averaged": {"learning_rate": "optimal", "average": True},
    "invscaling-1": {"learning_rate": "invscaling", "eta0": 1.0},
    "invscaling-0.1": {"learning_rate": "invscaling", "eta0": 0.1},
    "constant-0.5-averaged": {"learning_rate": "constant", "eta0": 0.5, "average": True},
}


@dataclass(frozen=True)
class Contender:
    """One way to minimise.

    Attributes
    ----------
    label : str
    run : callable
        Of :mod:`benchmarks.stochastic_solvers`, but for the first five arguments.
    losses : frozenset of str
        Those it has.
    module, install : str
        What must be there, and how to get it.
    group : str
        Whose best is drawn: contenders of a group differ in settings.
    dtype : str
    """

    label: str
    run: Callable[..., None]
    losses: frozenset[str]
    module: str
    install: str
    group: str
    dtype: str = "float32"


def _all() -> dict[str, Contender]:
    found: dict[str, Contender] = {}
    install = "pip install -e ."
    for method in OURS:
        run = partial(solvers.by_nysstream, method=method)
        found[f"nysstream-{method}"] = Contender(
            f"nysstream {method}", run, ALL, "nysstream", install, f"nysstream {method}"
        )
    run = partial(solvers.by_nysstream, method="auto", estimator="sgd")
    found["nysstream-estimator"] = Contender(
        "nysstream SketchySGD estimator", run, ALL, "nysstream", install, "nysstream SketchySGD estimator"
    )
    for method, losses in {
        "auto": ALL,
        "gram": frozenset({"squared"}),
        "nystrom": frozenset({"squared"}),
        "newton": ALL - {"squared"},
        "subsampled": ALL,
    }.items():
        run = partial(solvers.by_nysstream, method=method)
        found[f"nysstream-{method}"] = Contender(
            f"nysstream {method}", run, losses, "nysstream", install, f"nysstream {method}"
        )
    for name, options in RATES.items():
        run = partial(solvers.by_sklearn_sgd, **options)
        found[f"sklearn-sgd-{name}"] = Contender(
            f"scikit-learn SGD, {name.replace('-', ' ')}", run, BINARY, "sklearn",
            "pip install scikit-learn", "scikit-learn SGD",
        )  # fmt: skip
    for method, losses in {"saga": ALL, "sag": ALL, "lbfgs": ALL - {"squared"}}.items():
        run = partial(solvers.by_sklearn, method=method)
        label = f"scikit-learn {'L-BFGS' if method == 'lbfgs' else method.upper()}"
        found[f"sklearn-{method}"] = Contender(
            label, run, losses, "sklearn", "pip install scikit-learn", label
        )
    found["scipy-lbfgs"] = Contender(
        "SciPy L-BFGS", solvers.by_scipy, ALL, "scipy", "pip install scipy", "SciPy L-BFGS"
    )
    for method in ("lbfgs", "admm", "proximal_grad"):
        run = partial(solvers.by_dask_ml, method=method)
        found[f"dask-ml-{method}"] = Contender(
            f"dask-ml {method}", run, BINARY, "dask_ml", "pip install dask-ml", "dask-ml", "float64"
        )
    for name, base, rank in (("defaults", "saga", 10), ("svrg-50", "svrg", 50), ("saga-50", "saga", 50)):
        run = partial(solvers.by_rlaopt, base=base, rank=rank)
        label = f"rlaopt Sapphire, {base.upper()}, rank {rank}"
        found[f"rlaopt-{name}"] = Contender(label, run, ALL, "rlaopt", RLAOPT, label)
    return found


CONTENDERS = _all()


class Enough(Exception):
    """There is no need, or no time, to go on."""


class Told:
    """Tests what a contender tells, and writes it down; its clock stands still meanwhile.

    Parameters
    ----------
    problem : Problem
    minimum : float
    timeout : float
        Seconds of the contender's own.
    write : callable
        Gets a record of every point.
    """

    def __init__(
        self, problem: Problem, minimum: float, timeout: float, write: Callable[[dict[str, Any]], None]
    ) -> None:
        self.problem, self.minimum, self.timeout, self.write = problem, minimum, timeout, write
        self.rows = stored(problem)
        self.spent = self.seconds = 0.0
        self.resumed = time.perf_counter()

    def __call__(self, coef: Any, passes: float, seconds: float | None = None) -> None:
        """Take an answer after some passes, and the seconds of a run of its own, if it was one."""
        since = time.perf_counter() - self.resumed
        self.spent += since
        shown = self.spent if seconds is None else seconds
        away, found = float("inf"), None
        if np.all(np.isfinite(coef)):
            found = evaluate(self.problem, *self.rows, coef)
            away = (found.objective - self.minimum) / abs(self.minimum)
        record = {"passes": passes, "seconds": shown, "suboptimality": away, "peak_bytes": high_water()}
        self.write(record | ({} if found is None else asdict(found)))
        if away <= _ENOUGH or self.spent > self.timeout:
            raise Enough
        self.resumed = time.perf_counter()


def run(spec: dict[str, Any], write: Callable[[dict[str, Any]], None]) -> None:
    """Let one contender run.

    Parameters
    ----------
    spec : dict
        ``contender``, ``problem`` (a dict), ``minimum``, ``marks`` (passes at which to tell), ``timeout``.
    write : callable
        Called with a record for each point of the curve.
    """
    contender, problem = CONTENDERS[spec["contender"]], Problem(**spec["problem"])
    X, y = load(problem, contender.dtype)
    few = slice(0, min(256, len(y)))
    with warnings.catch_warnings(), contextlib.suppress(Exception):  # the run will say what is wrong
        warnings.simplefilter("ignore")
        warm = replace(problem, l2=1 / (few.stop - few.start))
        contender.run(warm, np.ascontiguousarray(X[few, :8]), y[few], (3,), lambda *_: None)
    told = Told(problem, spec["minimum"], spec["timeout"], write)
    with warnings.catch_warnings(), contextlib.suppress(Enough):
        warnings.simplefilter("ignore")
        contender.run(problem, X, y, tuple(spec["marks"]), told)


if __name__ == "__main__":
    sys.exit(serve(CONTENDERS, run))
