"""Epochs over rows as they arrive: what is remembered between calls of ``partial_fit``."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse
from sklearn.utils import column_or_1d
from sklearn.utils.validation import check_array

from nysstream.errors import DataWarning, InputError
from nysstream.estimators.inputs import is_streamed, training_sources
from nysstream.estimators.results import composite_result
from nysstream.estimators.settings import training_design
from nysstream.estimators.smooth_losses import GeneralLoss
from nysstream.estimators.stochastic import batch_rows
from nysstream.estimators.targets import check_targets, find_classes
from nysstream.features import Identity
from nysstream.sketching.random_matrices import as_seed
from nysstream.sketching.subsampled import SampledRows
from nysstream.solvers import Result
from nysstream.solvers.base import Status
from nysstream.solvers.composite import Composite
from nysstream.solvers.epoch import Epoch, EpochState
from nysstream.solvers.quadratic import Certified
from nysstream.solvers.watched import WatchedSum
from nysstream.sources import as_source
from nysstream.streaming import Centering, RowSample, SetUp, Tile, centering_of, reduce, uniform_rows
from nysstream.streaming.cache import clear_cache
from nysstream.streaming.minibatch import Minibatches
from nysstream.streaming.prefetch import slot_pool
from nysstream.trace import Trace, tracing

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.solvers.quadratic import Block
    from nysstream.streaming import DesignMatrix, Outcome

#: Rows to remember: at least so many, or so many times the columns.
_LEAST_SAMPLE, _TIMES_COLUMNS = 1000, 4
#: Rows of a step, of which those that are missing are remembered ones; and rows before which the metric is
#: made anew in every call.
_STEP_ROWS, _ENOUGH_ROWS = 64, 256


@dataclass(frozen=True, eq=False)
class RowsSoFar:
    """What all rows so far have left behind.

    Attributes
    ----------
    centering : Centering
        Of the first rows: only a change of coordinates.
    V, mean : ndarray, shape (p', k)
        Result of the last epoch, and the mean of all.
    sample : tuple of array
        A uniform sample of the rows, as stored, with their targets (numbers of classes) and weights.
    n_rows, epochs : int
    first_loss : float
        Of one row, before the first epoch.
    measured : tuple
        The metric as :meth:`nysstream.solvers.stochastic.Stochastic.measured` remembers it.
    measured_weight : float
        Of the rows whose sum the metric stands for.
    measured_rows : int
        Rows so far when it was made.
    """

    centering: Centering
    V: Block
    mean: Block
    sample: tuple[Any, NDArray[np.float64], NDArray[np.float64]]
    n_rows: int
    epochs: int
    first_loss: float
    measured: Any
    measured_weight: float
    measured_rows: int


def regression_rows(estimator: Any, X: Any, y: Any, sample_weight: Any, *, reset: bool) -> tuple[Any, ...]:
    """Check some rows of a regression; see :func:`nysstream.estimators.inputs.training_sources`."""
    if y is not None and not is_streamed(y) and not isinstance(y, str):
        y = column_or_1d(check_array(y, ensure_2d=False, input_name="y"), warn=True)
    sources = training_sources(estimator, X, y, sample_weight, reset=reset)
    if sources[1].shape[1] != 1:
        message = f"{sources[1].name} has {sources[1].shape[1]} columns; partial_fit takes one target"
        raise InputError(message)
    check_targets(estimator._loss(), sources[1])
    return sources


def classified_rows(
    estimator: Any, X: Any, y: Any, sample_weight: Any, classes: NDArray[Any], *, reset: bool
) -> tuple[Any, ...]:
    """Check some rows of classes that are known; labels in memory are given as their numbers."""
    if y is not None and not is_streamed(y) and not isinstance(y, str):
        labels = column_or_1d(check_array(y, ensure_2d=False, dtype=None, input_name="y"), warn=True)
        codes = np.minimum(np.searchsorted(classes, labels), classes.size - 1)
        unknown = np.flatnonzero(classes[codes] != labels)
        if unknown.size:
            label = labels[unknown[0]].item() if isinstance(labels[0], np.generic) else labels[unknown[0]]
            message = f"y has the label {label!r} in row {unknown[0]}, which is not in classes"
            raise InputError(message)
        y, stored = codes.astype(np.float64), np.arange(classes.size, dtype=np.float64)
    else:
        stored = classes.astype(np.float64)
    sources = training_sources(estimator, X, y, sample_weight, reset=reset)
    present, sums = find_classes(*sources[1:])
    unknown = np.flatnonzero(~np.isin(present, stored))
    if unknown.size:
        message = f"{sources[1].name} has the label {present[unknown[0]]:g}, which is not in classes"
        raise InputError(message)
    estimator.classes_, estimator._stored_classes = classes, stored
    estimator._class_sums = np.zeros(stored.size)
    estimator._class_sums[np.searchsorted(stored, present)] = sums
    return sources


def one_epoch(estimator: Any, source: Any, target: Any, weight: Any, last: RowsSoFar | None) -> RowsSoFar:
    """Step along the rows once, and set what an estimator knows when it is fitted.

    Parameters
    ----------
    estimator : SketchySGDClassifier or SketchySGDRegressor
    source, target, weight : RowSource
        Of these rows.
    last : RowsSoFar, optional
    """
    trace = Trace(listener=estimator.callback)
    with tracing(trace):
        try:
            known = estimator.features_ if hasattr(estimator, "coef_") else None
            design = training_design(estimator, source, target, weight, smallest_alpha=1.0, features=known)
            return _advance(estimator, estimator._plan(design), last, trace)
        finally:
            slot_pool.clear()
            clear_cache()


def _advance(estimator: Any, plan: Any, last: RowsSoFar | None, trace: Trace) -> RowsSoFar:
    design: DesignMatrix = plan.design
    n_rows, p = design.shape
    before, epochs = (0, 0) if last is None else (last.n_rows, last.epochs)
    rng = np.random.Generator(
        np.random.Philox(np.random.SeedSequence([as_seed(estimator.random_state), epochs, 3]))
    )
    most = max(_LEAST_SAMPLE, _TIMES_COLUMNS * p)
    few = n_rows < _STEP_ROWS
    wanted = n_rows if before + n_rows <= most else max(1, round(most * n_rows / (before + n_rows)))
    rows = uniform_rows(n_rows, n_rows if few else wanted, int(rng.integers(1 << 62)))
    statistics, (X, h) = reduce(design, SetUp(center=estimator.fit_intercept), RowSample(rows), name="set-up")
    outcome, start, total = estimator._outcome(estimator._loss(), statistics, design.target)
    k = outcome.columns.size
    centering = _centering(estimator, design, statistics) if last is None else last.centering
    centred = _seen(design, centering)
    new = sample = (X, _targets(design, outcome, rows), h)
    if few and wanted < n_rows:
        sample = _some(new, wanted, rng)
    if last is not None:
        sample = _merged(last.sample, sample, most, rng)
    sampled = _sample_design(centred, centering, outcome, sample)
    if few and last is not None:
        # Steps along a row or two would follow their noise.
        recalled = _some(last.sample, _STEP_ROWS - n_rows, rng)
        centred = _sample_design(centred, centering, outcome, _joined(recalled, new))
        n_rows, total = centred.shape[0], _total(outcome, centred)

    V = _start(estimator, centering, k, start) if last is None else last.V
    smooth = GeneralLoss(centred, outcome, k, method=plan.method, fit_intercept=estimator.fit_intercept)
    regularizer = estimator._penalty(total).scaled(centering.scale, standardize=estimator.standardize)
    factor = total / (_total(outcome, sampled) or 1.0)
    seed = as_seed(estimator.random_state)
    batches = Minibatches(centred, batch_rows(n_rows), seed)
    problem = WatchedSum(Composite(smooth, regularizer, np.ones(k)), batches, outcome, sampled, factor)
    method = estimator._stepper(problem, plan.rank)

    known = before + len(new[1])
    due = last is None or known >= 2 * last.measured_rows or last.measured[0] != method.hessian
    due = due or before < _ENOUGH_ROWS
    step, curved_at = np.ones(k), V
    if hasattr(estimator, "classes_"):
        # Where a model is sure, the losses of classes are flat, and the next row may prove it wrong.
        curved_at = np.zeros_like(V)
    if last is not None and not due:
        problem.memo["measured"], curved_at = last.measured, last.measured[1]
        # The metric is of sums over other rows, of another weight.
        step = np.full(k, last.measured_weight / total)
    level = factor * _sampled_loss(outcome, sampled, V, problem.intercept) / n_rows
    first_loss = abs(level) if last is None else last.first_loss
    objective = np.zeros(k)
    objective[0] = level * n_rows + problem.penalty(V)
    certified = Certified(objective, np.full(k, -np.inf), np.full(k, np.inf))
    state = EpochState(
        V, V, V, np.zeros_like(V), None, curved_at, step, V, certified, False, objective, first_loss,
        epoch=epochs,
    )  # fmt: skip
    V = Epoch(method, problem, state).run().V
    mean = V if last is None else last.mean + 2.0 / (epochs + 2) * (V - last.mean)

    _keep(estimator, plan, problem, mean if estimator.average else V, centering, epochs + 1, total, trace)
    return RowsSoFar(
        centering,
        V,
        mean,
        sample,
        known,
        epochs + 1,
        first_loss,
        problem.memo["measured"],
        total if due or last is None else last.measured_weight,
        known if due or last is None else last.measured_rows,
    )


def _centering(estimator: Any, design: DesignMatrix, statistics: Any) -> Centering:
    """Centre and scale by the first rows; columns that are constant there may vary later."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        found = centering_of(
            design,
            statistics,
            center=estimator.fit_intercept,
            standardize=True,
            asked=estimator.standardize,
        )
    assert found is not None
    scale = np.where(np.isfinite(found.scale), found.scale, 1.0)
    return replace(found, scale=scale, target_mean=np.zeros(design.n_targets))


def _seen(design: DesignMatrix, centering: Centering) -> DesignMatrix:
    return replace(design, centering=replace(centering, shift=None) if design.sparse else centering)


def _start(estimator: Any, centering: Centering, k: int, start: Any) -> Block:
    """Begin where a fit has ended, or without coefficients."""
    if hasattr(estimator, "coef_"):
        coef = np.atleast_2d(estimator.coef_)
        W = coef.T * centering.scale[:, None]
        intercept = np.broadcast_to(estimator.intercept_, (k,)) + coef @ centering.mean
    else:
        W = np.zeros((centering.mean.size, k))
        # The shares of classes among the first rows may be far from those of all.
        intercept = np.zeros(k) if hasattr(estimator, "classes_") else start
    return np.vstack([W, intercept]) if estimator.fit_intercept else W


def _targets(design: DesignMatrix, outcome: Outcome, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    assert design.target is not None
    y = np.asarray(design.target.read(slice(0, design.shape[0])), np.float64)[rows]
    return y if outcome.labels is None else np.asarray(outcome.labels.codes(y))


def _merged(old: tuple[Any, ...], new: tuple[Any, ...], most: int, rng: np.random.Generator) -> Any:
    """Put new rows in the place of as many old ones, chosen at random, where there is no room for all."""
    return _joined(_some(old, max(0, most - new[0].shape[0]), rng), new)


def _some(rows: tuple[Any, ...], count: int, rng: np.random.Generator) -> tuple[Any, ...]:
    """Choose rows at random, in order; all where there are no more."""
    if rows[0].shape[0] <= count:
        return rows
    kept = np.sort(rng.choice(rows[0].shape[0], count, replace=False))
    return tuple(part[kept] for part in rows)


def _joined(first: tuple[Any, ...], second: tuple[Any, ...]) -> tuple[Any, ...]:
    """Put rows below one another."""
    stack: Any = scipy.sparse.vstack
    sparse = any(hasattr(part[0], "indptr") for part in (first, second))
    X = stack([first[0], second[0]], format="csr") if sparse else np.concatenate([first[0], second[0]])
    return X, np.concatenate([first[1], second[1]]), np.concatenate([first[2], second[2]])


def _sample_design(
    design: DesignMatrix, centering: Centering, outcome: Outcome, sample: tuple[Any, ...]
) -> DesignMatrix:
    X, y, h = sample
    if outcome.labels is not None:
        y = outcome.labels.classes[y.astype(np.intp)]
    Z = X if isinstance(design.features, Identity) else design.features(X.astype(design.dtype))
    source, target, weight = as_source(Z), as_source(y), as_source(h)
    part = replace(design, source=source, target=target, weight=weight, features=Identity(), cache_bytes=0)
    return _seen(part, centering)


def _outcomes(outcome: Outcome, sampled: DesignMatrix) -> tuple[Any, Any]:
    """Give targets and weights of the sampled rows as the loss takes them."""
    assert sampled.target is not None
    assert sampled.weight is not None
    everything = slice(0, sampled.shape[0])
    y, h = (np.asarray(part.read(everything), np.float64) for part in (sampled.target, sampled.weight))
    return outcome.of(Tile(0, None, None, y, h[:, 0]))


def _total(outcome: Outcome, sampled: DesignMatrix) -> float:
    return float(np.sum(_outcomes(outcome, sampled)[1]))


def _sampled_loss(outcome: Outcome, sampled: DesignMatrix, V: Block, intercept: bool) -> float:
    """Add up the losses of the sampled rows."""
    y, h = _outcomes(outcome, sampled)
    value = outcome.loss.value(SampledRows(sampled, intercept).multiply(V), y)
    return float(np.sum(h[:, None] * value))


def _keep(
    estimator: Any,
    plan: Any,
    problem: WatchedSum,
    V: Block,
    centering: Centering,
    epochs: int,
    total: float,
    trace: Trace,
) -> None:
    """Set coefficients, and how the epoch went."""
    W, c = problem.split(V)
    coef = np.ascontiguousarray((W / centering.scale[:, None]).T)
    estimator._single_target = not hasattr(estimator, "classes_")
    estimator.features_ = plan.design.features
    estimator._keep(coef, c - coef @ centering.mean, centering.mean)
    estimator.target_mean_ = np.zeros(len(coef))
    estimator.n_iter_ = epochs
    stats = {
        "iterations": epochs,
        "objective": np.array([problem.seen + problem.penalty(V)]),
        "duality_gap": None,
        "optimality": np.nan,
    }
    result = Result((W, c), Status.STOPPED, stats, [], None)
    found = composite_result(plan, result, trace, estimator.coef_, total, coupled=False)
    advice = "One epoch over the rows that were given, by partial_fit."
    estimator.result_ = replace(found, status="partial", advice=advice)
    estimator.result_.stats["status"] = "partial"
