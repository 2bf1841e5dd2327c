"""What support vector machines share: rows in memory, duals solved in parallel, support vectors kept."""

from __future__ import annotations

import numbers
from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.arrays import single_threaded_blas
from nysstream.errors import InputError
from nysstream.estimators.kernel_machine import KernelMachine, tile_bytes
from nysstream.estimators.kernel_plan import KernelPlan
from nysstream.estimators.kinked import KinkedPlan, fit_kinked, plan_kinked
from nysstream.estimators.linear import LinearModel
from nysstream.estimators.settings import check_features, check_max_passes, training_design
from nysstream.journal import Entry, current_journal, journaling, key_of, remembered, settled
from nysstream.operators.kernel import TILE_ROWS, KernelOperator, dense, in_order
from nysstream.operators.pairwise import Kernel, Rows
from nysstream.sketching.random_matrices import as_seed
from nysstream.solvers import Status
from nysstream.solvers.svm_dual import BoxDual, DualResult, solve_dual
from nysstream.streaming import DesignMatrix, scheduler
from nysstream.streaming.cache import clear_cache
from nysstream.streaming.prefetch import slot_pool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from nysstream.estimators.composite_plan import LossPlan
    from nysstream.memory import Budget
    from nysstream.sources import RowSource
    from nysstream.streaming.row_steps import Costs
    from nysstream.trace import Trace

    Vector = NDArray[np.float64]
    #: The rows of a problem, and the problem.
    Part = tuple[NDArray[np.intp], BoxDual]

#: Fewest rows of the kernel matrix with which a problem is begun.
_FEWEST = 200
#: Problems of more rows than this have factors that gain by several threads.
_ALONE = 4096
#: What a fit leaves of an expansion.
_EXPANDED = ("dual_coef_", "intercept_", "support_", "support_vectors_", "origin_", "n_support_")


@dataclass(eq=False, repr=False)
class Support(KernelMachine):
    """Expansions in support vectors, or coefficients of features."""

    C: float = 1.0
    _: KW_ONLY
    features: Any = None
    max_passes: int | None = None
    device: Any = None

    def _check_settings(self) -> None:
        super()._check_settings()
        C: Any = self.C
        if isinstance(C, bool) or not isinstance(C, numbers.Real) or not 0 < float(C) < np.inf:
            message = f"C={C!r} is out of range: give a positive number"
            raise InputError(message)
        check_features(self.features)
        check_max_passes(self.max_passes)
        if self.max_passes is not None and self.features is None:
            message = f"max_passes={self.max_passes}: only fits with features= are made in passes"
            raise InputError(message)
        self._check_device(exact=self.features is None)

    def _check_device(self, *, exact: bool) -> None:
        """Refuse a device for what does not run on one."""
        if exact and self.device not in (None, "cpu"):
            message = (
                f"device={self.device!r}: kernels are evaluated on the CPU; give features= to use another"
            )
            raise InputError(message)

    def _forget(self) -> None:
        """Drop what an earlier fit left, which may have been of the other kind."""
        for name in (*_EXPANDED, "kernel_", "coef_", "features_", "target_mean_"):
            self.__dict__.pop(name, None)

    def _plan(
        self, source: RowSource, target: RowSource, weight: RowSource | None, n_problems: int
    ) -> LossPlan:
        """Say how a fit would run, with a kernel or with features."""
        plan = self._plan_kernel if self.features is None else self._plan_features
        return plan(source, target, weight, n_problems)

    def _plan_features(
        self, source: RowSource, target: RowSource, weight: RowSource | None, n_problems: int
    ) -> KinkedPlan:
        design = training_design(self, source, target, weight, smallest_alpha=1.0)
        return plan_kinked(design, memory=self.memory, rank="auto", n_columns=n_problems)

    def _plan_kernel(
        self, source: RowSource, target: RowSource, weight: RowSource | None, n_problems: int
    ) -> KernelPlan:
        """Count what rows and threads hold; what is left keeps rows of the kernel matrix."""
        n, d = source.shape
        kernel, n_threads = self._kernel(n), scheduler()[1]
        needs = {
            "rows": 2 * n * d * kernel.row_dtype.itemsize,
            "kernel rows": n_threads * min(n, _FEWEST) * n * kernel.dtype.itemsize,
            "tiles": tile_bytes(d) if n > TILE_ROWS else 0,
        }
        budget = self._budget(
            needs, "fit on fewer rows, or fit LinearSVC with features=, a linear model of kernel features"
        )
        budget.check()
        matrix = n * n * kernel.dtype.itemsize
        return KernelPlan(
            DesignMatrix(source, target, weight),
            budget,
            "working sets",
            "only rows of the kernel matrix that a working set asks for are made",
            rank=0,
            n_sampled=0,
            most_movable=0,
            n_systems=n_problems,
            scheduler="threads",
            n_tasks=n_threads,
            dtype=str(kernel.dtype),
            matrix_bytes=matrix,
            kept_bytes=min(matrix, _store_bytes(budget)),
        )

    def _fit_features(
        self, source: RowSource, target: RowSource, weight: RowSource | None, costs: Costs, trace: Trace
    ) -> None:
        """Fit coefficients of the features to rows that are streamed."""
        try:
            plan = self._plan_features(source, target, weight, costs.n_columns)
            fit = fit_kinked(
                plan,
                costs,
                trace,
                seed=as_seed(self.random_state),
                tol=self.tol,
                max_passes=self.max_passes,
                time_limit=self.time_limit,
                callback=self.callback,
            )
        finally:
            slot_pool.clear()
            clear_cache()
        self.coef_, self.intercept_, self.features_ = fit.coef, fit.intercept, plan.design.features
        self.target_mean_ = np.zeros(len(fit.coef))
        found = fit.result
        self.n_iter_ = max(1, int(found.stats["iterations"]))
        stats = {
            "method": plan.method,
            "iterations": found.stats["iterations"],
            "passes_recalled": trace.n_recalled,
            "duality_gap": found.stats["duality_gap"],
            "objective": float(np.sum(found.stats["objective"])),
            "n_support": found.stats["n_support"],
            "n_problems": costs.n_columns,
            "rank": plan.rank,
            "n_rows": plan.design.shape[0],
            "n_features": plan.design.shape[1],
        }
        history = [{**item, "objective": float(np.sum(item["objective"]))} for item in found.history]
        self._finish(found.status, stats, history, trace, plan.budget)

    def _n_predictors(self) -> int:
        return int(self.intercept_.size)

    def _predict_windows(self, source: RowSource, start: int = 0) -> Iterator[Vector]:
        """Evaluate the expansion, or the features with their coefficients, at a few rows at a time."""
        self._check_device(exact=not hasattr(self, "features_"))
        if not hasattr(self, "features_"):
            return super()._predict_windows(source, start)
        return _Coefficients(self)._predict_windows(source, start)

    def _prepare(
        self, source: RowSource, target: RowSource, weight: RowSource | None, n_problems: int
    ) -> tuple[Rows, Kernel, Budget]:
        """Read the rows, if they fit, and make them ready for the kernel."""
        budget = self._plan_kernel(source, target, weight, n_problems).budget
        kernel = self._settle_kernel(source)
        n, d = source.shape
        operator = KernelOperator(source, kernel, memory=n * d * kernel.row_dtype.itemsize)
        rows = operator.rows(slice(0, n))
        finite = np.isfinite(rows.scaled).all(axis=1)
        if not finite.all():
            row = int(np.flatnonzero(~finite)[0])
            message = f"{source.name} holds NaN or infinity in row {row}; replace or remove such values"
            raise InputError(message)
        self.kernel_, self.origin_ = kernel, operator.origin
        return rows, kernel, budget

    def _keep_vectors(self, source: RowSource) -> None:
        """Keep the support vectors as they are in the data."""
        d = source.shape[1]
        vectors = np.empty((self.support_.size, d), np.float64 if source.dtype != np.float32 else np.float32)
        for start in range(0, source.shape[0], TILE_ROWS):
            stop = min(start + TILE_ROWS, source.shape[0])
            mine = np.flatnonzero((self.support_ >= start) & (self.support_ < stop))
            if mine.size:
                vectors[mine] = dense(source.read(slice(start, stop)))[self.support_[mine] - start]
        self.support_vectors_ = vectors

    def _conclude(
        self, results: list[DualResult], trace: Trace, budget: Budget, shape: tuple[int, int]
    ) -> None:
        """Keep how the fits went."""
        bad = [result.status for result in results if result.status is not Status.CONVERGED]
        iterations = sum(result.iterations for result in results)
        self.n_iter_ = max(1, max(result.iterations for result in results))
        stats = {
            "method": "working sets",
            "iterations": iterations,
            "newton_steps": sum(result.newton_steps for result in results),
            "kernel_rows": sum(result.n_columns for result in results),
            "duality_gap": max(result.relative_gap for result in results),
            "objective": sum(result.objective for result in results),
            "n_support": int(self.support_.size),
            "n_problems": len(results),
            "n_rows": shape[0],
            "n_features": shape[1],
        }
        history = [{**record, "problem": k} for k, result in enumerate(results) for record in result.history]
        self._finish(bad[0] if bad else Status.CONVERGED, stats, history, trace, budget)

    def _stored(self) -> dict[str, Any]:
        """Name the arrays of the fitted model."""
        return {name: getattr(self, name) for name in _EXPANDED}

    def _restore(self, arrays: dict[str, Vector], attributes: dict[str, Any]) -> None:
        for name in ("support_", "n_support_"):
            arrays[name] = arrays[name].astype(np.int32)
        if "classes" in attributes:
            self.classes_ = np.array(attributes["classes"])
            c = len(attributes["classes"])
            if (
                len(arrays["n_support_"]) != c
                or len(arrays["dual_coef_"]) != c - 1
                or self.classes_.ndim != 1
            ):
                message = f"its {c} classes do not fit its coefficients"
                raise ValueError(message)
        if arrays["n_support_"].sum() != arrays["support_"].size or arrays["n_support_"].min() < 0:
            message = "its numbers of support vectors do not add up"
            raise ValueError(message)
        super()._restore(arrays, attributes)


class _Coefficients(LinearModel):
    """The coefficients of a machine with features, to be evaluated in passes."""

    def __init__(self, machine: Support) -> None:
        for name in ("coef_", "intercept_", "features_", "memory", "device", "precision"):
            setattr(self, name, getattr(machine, name))


def _store_bytes(budget: Budget) -> int:
    """Give the bytes of all stores of kernel rows.

    Rows being evaluated and a store that grows are held beside them for a moment.
    """
    return (budget.spare + budget.needs["kernel rows"]) // 3


def solve_all(
    machine: Support, kernel: Kernel, rows: Rows, parts: list[Part], budget: Budget
) -> list[DualResult]:
    """Solve problems on subsets of the rows, in parallel where there are several."""
    n_threads = min(scheduler()[1], len(parts))
    largest = max(chosen.size for chosen, _ in parts)
    stored = _store_bytes(budget) / n_threads
    capacity = max(int(stored / (largest * kernel.dtype.itemsize)), min(_FEWEST, largest))
    # Working sets depend on it, and it on the memory that is free.
    capacity = settled("capacity", lambda earlier: earlier.get("rows", capacity), lambda rows: {"rows": rows})
    journal = current_journal()
    identity = None if journal is None else key_of(rows.scaled)

    def solve_one(part: Part) -> DualResult:
        chosen, problem = part
        mine = rows if chosen.size == len(rows) else rows[chosen]
        blocks = [slice(a, min(a + 2 * TILE_ROWS, len(mine))) for a in range(0, len(mine), 2 * TILE_ROWS)]

        def columns(wanted: NDArray[np.intp]) -> NDArray[Any]:
            with journaling(journal):  # threads do not inherit it
                K, _ = remembered(
                    "kernel rows",
                    (kernel, identity, chosen, wanted),
                    lambda: evaluate(wanted),
                    lambda found: Entry({"K": found}),
                    lambda entry: entry.arrays["K"],
                )
            return np.asarray(K)

        def evaluate(wanted: NDArray[np.intp]) -> NDArray[Any]:
            A = mine[wanted]
            K = np.empty((len(A), len(mine)), kernel.dtype)

            def fill(block: slice) -> None:
                K[:, block] = kernel.tile(A, mine[block])

            if len(parts) > 1 or len(blocks) == 1:
                for block in blocks:
                    fill(block)
            else:
                with single_threaded_blas():
                    list(in_order(fill, blocks))
            K[np.arange(len(A)), wanted] = kernel.diagonal(A)
            return K

        return solve_dual(
            replace(problem, columns=columns, seed=int(machine.random_state or 0)),
            tol=machine.tol,
            capacity=min(capacity, chosen.size),
            time_limit=machine.time_limit,
            callback=machine.callback,
        )

    if len(parts) == 1 and largest > _ALONE:
        return [solve_one(parts[0])]
    with single_threaded_blas():
        return list(in_order(solve_one, parts))
