"""The commands ``predict`` and ``score``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from nysstream.cli.options import (
    Data,
    Device,
    Json,
    Memory,
    MissingChunks,
    Model,
    Overwrite,
    Rows,
    Scheduler,
    Store,
    Target,
    Threads,
    Weight,
    open_data,
    open_rows,
)
from nysstream.cli.printing import print_json, print_table, two_columns
from nysstream.cli.progress import ProgressLine
from nysstream.cli.running import CONVERGED, command, scheduled
from nysstream.estimators.model_file import load
from nysstream.report import wording
from nysstream.sources.writing import check_target
from nysstream.trace import Trace, tracing

Out = Annotated[str, typer.Option("--out", metavar="PRED.zarr", help="Where to write the predictions.")]


_LABELS = {"r2": "R²", "bytes_read": "Read"}


@command
def predict(
    model: Model,
    store: Store,
    out: Out,
    data: Data = None,
    rows: Rows = None,
    memory: Memory = None,
    device: Device = None,
    scheduler: Scheduler = None,
    threads: Threads = None,
    missing_chunks: MissingChunks = "warn",
    overwrite: Overwrite = False,
    json: Json = False,
) -> int:
    """Predict from the rows of STORE and write a Zarr array, in one pass."""
    check_target(out, overwrite=overwrite)
    estimator = load(model).set_params(memory=memory, device=device)
    with scheduled(scheduler, threads), ProgressLine() as line:
        X = open_rows(store, data, rows, missing_chunks)
        listener = line.windows("predicting", X.shape[0]) if line.shown else None
        with tracing(Trace(listener=listener)) as trace:
            predictions = estimator.predict(X, out=out, overwrite=overwrite)
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
    model: Model,
    store: Store,
    data: Data = None,
    target: Target = None,
    weight: Weight = None,
    rows: Rows = None,
    memory: Memory = None,
    device: Device = None,
    scheduler: Scheduler = None,
    threads: Threads = None,
    missing_chunks: MissingChunks = "warn",
    json: Json = False,
) -> int:
    """Print R², the share of the targets' variance that the model explains on STORE, in one pass."""
    estimator = load(model).set_params(memory=memory, device=device)
    with scheduled(scheduler, threads), ProgressLine() as line:
        X, y, w = open_data(store, data, target, weight, rows, missing_chunks)
        listener = line.passes if line.shown else None
        with tracing(Trace(listener=listener)) as trace:
            r2 = estimator.score(X, y, w)
    record = {"r2": r2, "model": model, "n_rows": X.shape[0], **_cost(trace)}
    _print(record, json=json)
    return CONVERGED


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
        if "r2" in record:
            record |= {"r2": f"{record['r2']:.6f}"}
        lines = [
            (_LABELS.get(key) or wording.label(key), wording.statistic(key, v)) for key, v in record.items()
        ]
        print_table(two_columns(lines))
