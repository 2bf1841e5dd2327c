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
from nysstream.cli.printing import number, print_json, print_lines, size
from nysstream.cli.progress import ProgressLine, duration
from nysstream.cli.running import CONVERGED, command, scheduled
from nysstream.estimators.model_file import load
from nysstream.sources.writing import check_target
from nysstream.trace import Trace, tracing

Out = Annotated[str, typer.Option("--out", metavar="PRED.zarr", help="Where to write the predictions.")]


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
    if json:
        print_json(record)
    else:
        print_lines(
            [
                ("predictions", out),
                ("rows", number(record["n_rows"])),
                ("outputs", number(record["n_outputs"]) if record["n_outputs"] > 1 else ""),
                *_cost_lines(record),
            ]
        )
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
    if json:
        print_json(record)
    else:
        print_lines([("R²", f"{r2:.6f}"), ("rows", number(record["n_rows"])), *_cost_lines(record)])
    return CONVERGED


def _cost(trace: Trace) -> dict[str, Any]:
    return {
        "seconds": trace.seconds,
        "bytes_read": trace.total.bytes_read,
        "peak_bytes": trace.peak_bytes,
    }


def _cost_lines(record: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("read", size(record["bytes_read"])),
        ("memory", f"{size(record['peak_bytes'])} at the peak"),
        ("time", duration(record["seconds"])),
    ]
