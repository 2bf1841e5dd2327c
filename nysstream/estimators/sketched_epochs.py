"""Epochs of stochastic steps until a loss no longer falls, on the rows or on some that are held out."""

from __future__ import annotations

import numbers
import warnings
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from nysstream.errors import InputError
from nysstream.estimators.lasso import check_strength
from nysstream.estimators.partial_rows import RowsSoFar, one_epoch
from nysstream.estimators.penalised import Penalised, Penalty
from nysstream.estimators.stochastic import batch_rows, plan_stochastic
from nysstream.sketching.random_matrices import as_seed
from nysstream.sketching.subsampled import SubsampledHessian
from nysstream.solvers import Result, solve
from nysstream.solvers.stochastic import Stochastic
from nysstream.solvers.watched import Watched, WatchedSum
from nysstream.sources.runs import RowRuns, split_rows
from nysstream.streaming import LossSums, reduce
from nysstream.streaming.minibatch import Minibatches, blocks_of_window
from nysstream.streaming.order import warn_if_sorted

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from nysstream.estimators.composite_plan import LossPlan
    from nysstream.solvers.composite import Composite
    from nysstream.solvers.quadratic import Block
    from nysstream.streaming import DesignMatrix
    from nysstream.trace import Trace

PENALTIES = ("l2", "l1", "elasticnet", None)
#: Columns from which a preconditioner in the metric of a proximal operator is of low rank, and that rank.
_MANY_COLUMNS, _RANK = 512, 256


@dataclass(eq=False, repr=False)
class SketchedEpochs(Penalised):
    """What classifier and regressor share: settings, epochs, and rows held out."""

    methods: ClassVar[tuple[str, ...]] = ("sketchysgd", "sgd")
    #: Losses by the name that ``loss`` has.
    losses: ClassVar[tuple[str, ...]] = ()

    loss: str = "squared_error"
    penalty: str | None = "l2"
    alpha: float = 1e-4
    l1_ratio: float = 0.15
    early_stopping: bool = False
    validation_fraction: float = 0.1
    n_iter_no_change: int = 5
    average: bool = True
    tol: float = field(default=1e-3, kw_only=True)

    def _check_own_settings(self) -> None:
        for name, value, known in (("loss", self.loss, self.losses), ("penalty", self.penalty, PENALTIES)):
            if value not in known:
                message = f"{name}={value!r} is not known: use one of {', '.join(map(str, known))}"
                raise InputError(message)
        check_strength("alpha", self.alpha)
        check_strength("l1_ratio", self.l1_ratio, 1.0)
        share: Any = self.validation_fraction
        if not isinstance(share, numbers.Real) or not 0 < float(share) < 1:
            message = f"validation_fraction={share!r} is out of range: give a part of the rows, from 0 to 1"
            raise InputError(message)
        patience: Any = self.n_iter_no_change
        if not isinstance(patience, numbers.Integral) or int(patience) < 1:
            message = f"n_iter_no_change={patience!r}: give a positive number of epochs"
            raise InputError(message)

    def _penalty(self, weight: float) -> Penalty:
        share = {"l2": 0.0, "l1": 1.0, "elasticnet": self.l1_ratio}.get(str(self.penalty), 0.0)
        alpha = 0.0 if self.penalty is None else self.alpha * weight
        return Penalty(alpha * share, alpha * (1 - share))

    # The fit.

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the model, from the beginning.

        Arguments and errors are those of :meth:`nysstream.ElasticNet.fit`.

        Warns
        -----
        ConvergenceWarning
            If ``max_passes`` or ``time_limit`` came before the loss had stopped to fall.
        OrderWarning
            If the rows are sorted, so that batches are unlike one another.
        """
        self._so_far: RowsSoFar | None = None
        super().fit(X, y, sample_weight)
        if self.early_stopping:  # reads of parts of the rows are parts of a pass
            rows = sum(record.cost.rows for record in self.result_.passes)
            self.result_.stats["passes"] = round(rows / self._n_rows, 3)
        return self

    def _warn_unconverged(self, result: Result[Any]) -> None:
        if not self.result_.converged:
            optimality = self.result_.stats["optimality"]
            message = f"{result.status.value} Distance from optimality {optimality:.1e}."
            warnings.warn(message, ConvergenceWarning, stacklevel=4)

    def _method_name(self) -> str:
        return "sketchysgd" if self.solver == "auto" else self.solver

    def _plan(self, design: DesignMatrix) -> LossPlan:
        k = self._n_columns(design.n_targets)
        name = self._method_name()
        return plan_stochastic(design, memory=self.memory, rank=self.rank, n_columns=k, solver=name)

    def _fit_loss(self, design: DesignMatrix, trace: Trace) -> tuple[Result[Any], Any, float]:
        self._n_rows = design.shape[0]
        self._held: DesignMatrix | None = None
        if self.early_stopping:
            if design.shape[0] < 2:
                message = "early_stopping=True holds rows out, and there is only one"
                raise InputError(message)
            runs = split_rows(design.source, self.validation_fraction, as_seed(self.random_state))
            design, self._held = (_part_of(design, *runs[i : i + 2]) for i in (0, 2))
            self._train_on(design)
        return super()._fit_loss(design, trace)

    def _train_on(self, design: DesignMatrix) -> None:
        """Take note of the rows that are not held out."""

    def _stepper(self, problem: WatchedSum, rank: int) -> Stochastic:
        """Choose the steps."""
        if self._method_name() == "sgd":
            hessian = SubsampledHessian("identity")
        elif rank or (problem.rest is not None and problem.shape[0] > _MANY_COLUMNS):
            hessian = SubsampledHessian("nystrom", rank or _RANK)
        else:
            hessian = SubsampledHessian()
        return Stochastic("none", hessian=hessian, seed=as_seed(self.random_state))

    def _solve(self, problem: Composite, trace: Trace, start: Any) -> Result[Any]:
        smooth: Any = problem.smooth
        design, seed = smooth.design, as_seed(self.random_state)
        batches = Minibatches(design, batch_rows(design.shape[0]), seed)
        labels = smooth.outcome.labels
        warn_if_sorted(design, blocks_of_window(design), classes=None if labels is None else labels.classes)
        sum_ = WatchedSum(problem, batches, smooth.outcome, smooth.sample.design, smooth.sample.factor)
        solver = Watched(
            self._stepper(sum_, smooth.rank),
            tol=self.tol,
            patience=self.n_iter_no_change,
            average=self.average,
            held_out=None if self._held is None else _held_loss(self._held, sum_),
        )
        self._held = None

        def show(_: Any, record: dict[str, Any]) -> None:
            trace.residual, trace.measure = record["loss"] / smooth.sample.weight, "loss"

        return solve(
            sum_,
            solver,
            start=start,
            max_passes=None if self.max_passes is None else self.max_passes - len(trace.passes),
            time_limit=None if self.time_limit is None else self.time_limit - trace.seconds,
            callback=show,
        )

    def _partial(self, source: Any, target: Any, weight: Any) -> Self:
        """Run one epoch over rows, from where the last one has ended."""
        self._so_far = one_epoch(self, source, target, weight, getattr(self, "_so_far", None))
        return self


def _part_of(design: DesignMatrix, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> DesignMatrix:
    source, target, weight = (
        None if part is None else RowRuns(part, starts, stops)
        for part in (design.source, design.target, design.weight)
    )
    assert source is not None
    return replace(design, source=source, target=target, weight=weight)


def _held_loss(held: DesignMatrix, problem: WatchedSum) -> Callable[[Block], float]:
    """Make the function that evaluates the mean loss on rows held out, in one read of those."""
    design = replace(held, centering=problem.batches.design.centering)

    def loss(V: Block) -> float:
        W, intercept = problem.split(V)
        sums = LossSums(problem.outcome, np.ascontiguousarray(W), intercept, problem.intercept)
        (values,) = reduce(design, sums, name="validate")
        columns = values.loss[:1] if problem.coupled else values.loss
        return float(columns.sum())

    return loss
