"""The commands ``predict`` and ``score``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from sklearn.base import is_classifier

from nysstream.cli.opening import open_data, open_rows
from nysstream.cli.printing import print_json, print_table, two_columns
from nysstream.cli.progress import ProgressLine
from nysstream.cli.running import CONVERGED, checkpointed, command, scheduled
from nysstream.errors import InputError
from nysstream.estimators.model_file import load
from nysstream.report import wording
from nysstream.trace import Trace, tracing

Proba = Annotated[bool, typer.Option("--proba", help="Write the probability of each class, not labels.")]
Decision = Annotated[
    bool, typer.Option("--decision", help="Write the linear predictor of each class, not labels.")
]
Out = Annotated[str, typer.Option("--out", metavar="PRED.zarr", help="Where to write the predictions.")]


_LABELS = {"r2": "R²", "d2": "D²", "bytes_read": "Read"}


@command
def predict(
    model: str,
    store: str,
    *,
    out: Out,
    proba: Proba = False,
    decision: Decision = False,
    data: str | None,
    rows: slice | None,
    memory: str | None,
    device: str | None,
    scheduler: str | None,
    scheduler_file: Path | None,
    local_cluster: int | None,
    threads: int | None,
    missing_chunks: str,
    overwrite: bool,
    json: bool,
    checkpoint: str | None,
    checkpoint_every: float | None,
    resume: bool,
) -> int:
    """Predict from the rows of STORE and write a Zarr array, in one pass."""
    if proba and decision:
        message = "--proba and --decision are two kinds of predictions: give one of them"
        raise InputError(message)
    wanted = "predict_proba" if proba else "decision_function" if decision else "predict"
    estimator = loaded(model, memory=memory, device=device)
    if not hasattr(estimator, wanted):
        message = f"{'--proba' if proba else '--decision'}: a {type(estimator).__name__} has no {wanted}"
        raise InputError(message)
    with (
        checkpointed(checkpoint, checkpoint_every, resume=resume, overwrite=overwrite) as outputs,
        scheduled(scheduler, threads, scheduler_file, local_cluster),
        ProgressLine() as line,
    ):
        X = open_rows(store, data, rows, missing_chunks)
        listener = line.windows("predicting", X.shape[0]) if line.shown else None
        with tracing(Trace(listener=listener)) as trace:
            predictions = getattr(estimator, wanted)(X, out=out, overwrite=outputs.replaceable(out))
        outputs.written(out)
    record: dict[str, Any] = {
        "predictions": out,
        "model": model,
        "n_rows": predictions.shape[0],
        "n_outputs": predictions.shape[1],
        **_cost(trace),
    }
    _print(record, json=json)
    return CONVERGED


@command
def score(
    model: str,
    store: str,
    *,
    data: str | None,
    target: str | None,
    weight: str | None,
    rows: slice | None,
    memory: str | None,
    device: str | None,
    scheduler: str | None,
    scheduler_file: Path | None,
    local_cluster: int | None,
    threads: int | None,
    missing_chunks: str,
    json: bool,
) -> int:
    """Print how well a model predicts the targets of STORE, in one pass.

    R² of regressions, D² (the share of the deviance explained) of generalised linear models, and the
    accuracy of classifiers.
    """
    estimator = loaded(model, memory=memory, device=device)
    with scheduled(scheduler, threads, scheduler_file, local_cluster), ProgressLine() as line:
        X, y, w = open_data(store, data, target, weight, rows, missing_chunks)
        listener = line.passes if line.shown else None
        with tracing(Trace(listener=listener)) as trace:
            value = estimator.score(X, y, w)
    measure = _measure(estimator)
    record = {"measure": measure, measure: value, "model": model, "n_rows": X.shape[0], **_cost(trace)}
    _print(record, json=json)
    return CONVERGED


def loaded(model: str, *, statistics: bool = False, **machine: Any) -> Any:
    """Read a model, and tell it about this machine what it can use."""
    estimator = load(model, statistics=statistics)
    known = estimator.get_params(deep=False)
    unknown = [f"--{key} {value}" for key, value in machine.items() if value is not None and key not in known]
    if unknown:
        message = f"{' and '.join(unknown)}: a {type(estimator).__name__} does not take it; leave it out"
        raise InputError(message)
    return estimator.set_params(**{key: value for key, value in machine.items() if key in known})


def _measure(estimator: Any) -> str:
    """Name what the estimator's score is."""
    if is_classifier(estimator):
        return "accuracy"
    return str(getattr(estimator, "measure", "r2"))


def _cost(trace: Trace) -> dict[str, Any]:
    return {
        "seconds": trace.seconds,
        "bytes_read": trace.total.bytes_read,
        "peak_bytes": trace.peak_bytes,
    }


def _print(record: dict[str, Any], *, json: bool) -> None:
    if json:
        print_json(record)
    else:
        measure = record.pop("measure", None)
        if measure is not None:
            record |= {measure: f"{record[measure]:.6f}"}
        lines = [
            (_LABELS.get(key) or wording.label(key), wording.statistic(key, v)) for key, v in record.items()
        ]
        print_table(two_columns(lines))
