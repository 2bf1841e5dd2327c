"""The command ``sketch``."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from nysstream.cli.opening import open_beside, open_rows
from nysstream.cli.printing import print_json, print_table, two_columns
from nysstream.cli.progress import ProgressLine
from nysstream.cli.running import CONVERGED, checkpointed, command, scheduled
from nysstream.errors import InputError
from nysstream.estimators.kept_problem import set_up_kept
from nysstream.estimators.planning import plan_fit
from nysstream.features import Identity, parse
from nysstream.report import wording
from nysstream.sketching.origin import Origin
from nysstream.sketching.sketch_file import save
from nysstream.sources.targets import check_target
from nysstream.streaming import DesignMatrix
from nysstream.trace import Trace, tracing

if TYPE_CHECKING:
    from nysstream.sketching.nystrom import Nystrom

_SHOWN = 8


@command
def sketch(
    store: str,
    *,
    data: str | None,
    weight: str | None,
    rows: slice | None,
    alpha: Annotated[
        list[float] | None,
        typer.Option("--alpha", metavar="A", help="Penalty to predict the solution for; repeat for several."),
    ] = None,
    tol: Annotated[
        float, typer.Option("--tol", help="Accuracy to predict the number of iterations for.")
    ] = 1e-6,
    features: str | None,
    rank: Any = "auto",
    standardize: bool,
    fit_intercept: bool,
    precision: str,
    memory: str | None,
    device: str | None,
    random_state: int,
    scheduler: str | None,
    scheduler_file: Path | None,
    local_cluster: int | None,
    threads: int | None,
    missing_chunks: str,
    out: Annotated[
        str | None,
        typer.Option("--out", metavar="SKETCH.zarr", help="Save sketch, eigenvectors and eigenvalues."),
    ] = None,
    overwrite: bool,
    json: bool,
    checkpoint: str | None,
    checkpoint_every: float | None,
    resume: bool,
) -> int:
    """Approximate the Gram matrix of the rows in one pass, and say how hard it will be to solve with.

    For every alpha: bounds on the effective dimension, on the condition number once preconditioned,
    and on the iterations of `fit ridge`, each of which is a pass.
    """
    alphas = alpha or [1.0]
    if not all(value > 0 and math.isfinite(value) for value in alphas):
        message = f"--alpha {', '.join(map(str, alphas))}: predictions need positive numbers"
        raise InputError(message)
    if not 0 < tol < 1:
        message = f"--tol {tol} is out of range: it is a relative accuracy, between 0 and 1"
        raise InputError(message)
    if precision not in ("single", "double"):
        message = f"--precision {precision} is not known: use single or double"
        raise InputError(message)
    with checkpointed(checkpoint, checkpoint_every, resume=resume, overwrite=overwrite) as outputs:
        if out is not None:
            check_target(out, overwrite=outputs.replaceable(out))
        with scheduled(scheduler, threads, scheduler_file, local_cluster), ProgressLine() as line:
            X = open_rows(store, data, rows, missing_chunks)
            w = None if weight is None else open_beside(store, weight, rows, missing_chunks)
            if outputs.journal is not None:
                outputs.journal.declare(
                    {
                        "X": X.fingerprint,
                        "sample_weight": None if w is None else w.fingerprint,
                        "features": features,
                        "rank": rank,
                        "standardize": standardize,
                        "fit_intercept": fit_intercept,
                        "precision": precision,
                        "random_state": random_state,
                    }
                )
            feature_map = Identity() if features is None else parse(features)
            double: Any = precision
            design = DesignMatrix(X, None, w, features=feature_map, precision=double, device=device)
            with tracing(Trace(listener=line.passes if line.shown else None)) as trace:
                if feature_map.needs_sample:
                    feature_map = feature_map.fit(design.sample_rows())
                    design = dataclasses.replace(design, features=feature_map)
                plan = plan_fit(design, memory=memory, rank=rank, n_systems=1, method="nystrom", keep=True)
                problem, kept = set_up_kept(
                    plan,
                    None,
                    slice(0, design.shape[0]),
                    alone=False,
                    center=fit_intercept,
                    standardize=standardize,
                    seed=random_state,
                    shifts=np.zeros(1),  # keeps the rank that was asked for
                    rank=rank,
                    start=None,
                )
        nystrom = problem.nystrom
        assert nystrom is not None
        record = _record(nystrom, alphas, tol) | {
            "n_rows": design.shape[0],
            "n_features": design.shape[1],
            "passes": len(trace.passes),
            "passes_recalled": trace.n_recalled,
            "bytes_read": trace.total.bytes_read + trace.sampled_bytes,
            "seconds": trace.seconds,
            "peak_bytes": trace.peak_bytes,
            "memory_limit_bytes": plan.budget.limit,
            "sketch": out,
        }
        if out is not None:
            kept.origin = Origin.of(plan.design)
            shown = {key: value for key, value in record.items() if key not in ("values", "sketch")}
            settings = {"standardize": standardize, "center": fit_intercept, "store": X.name}
            arrays = {"vectors": nystrom.vectors, "values": nystrom.values}
            (replace,) = outputs.announced(out)
            save(kept, out, overwrite=replace, arrays=arrays, attributes=shown | settings)
    if json:
        print_json(record)
    else:
        print_table(two_columns(_lines(record)))
    return CONVERGED


def _record(nystrom: Nystrom, alphas: list[float], tol: float) -> dict[str, Any]:
    certificate, values = nystrom.certificate, np.asarray(nystrom.values)
    captured = None
    if certificate.trace:
        captured = float(values.sum() / certificate.trace)
    return {
        "rank": nystrom.rank,
        "trace": certificate.trace,
        "trace_captured": captured,
        "nuclear_error": _finite(certificate.nuclear_error),
        "spectral_error": _finite(certificate.spectral_error),
        "noise_floor": certificate.noise_floor,
        "predictions": [
            {
                "alpha": alpha,
                "effective_dimension": list(nystrom.effective_dimension(alpha)),
                "condition_number": _finite(nystrom.condition_number(alpha)),
                "iterations": nystrom.predicted_iterations(alpha, tol),
            }
            for alpha in alphas
        ],
        "values": values.tolist(),
    }


def _lines(record: dict[str, Any]) -> list[tuple[str, str]]:
    captured, values = record["trace_captured"], record["values"]
    lines = [
        ("Problem", f"{record['n_rows']:,} rows × {record['n_features']:,} features"),
        ("Rank", f"{record['rank']:,}"),
        ("Trace captured", "" if captured is None else f"{100 * captured:.4g} %"),
        ("Error at most", _error(record)),
        (
            "Eigenvalues",
            ", ".join(f"{value:.4g}" for value in values[:_SHOWN]) + (", …" if values[_SHOWN:] else ""),
        ),
    ]
    for item in record["predictions"]:
        kappa = item["condition_number"]
        parts = [
            f"effective dimension {wording.bracket(item['effective_dimension'])}",
            f"condition number {'unknown' if kappa is None else f'at most {kappa:.3g}'}",
            f"at most {item['iterations']:,} iterations",
        ]
        lines.append((f"For alpha {item['alpha']:g}", ", ".join(parts)))
    return [
        *lines,
        ("Read", f"{wording.size(record['bytes_read'])} in {wording.duration(record['seconds'])}"),
        (
            "Peak memory",
            f"{wording.size(record['peak_bytes'])} of {wording.size(record['memory_limit_bytes'])}",
        ),
        ("Sketch", record["sketch"] or ""),
    ]


def _error(record: dict[str, Any]) -> str:
    norms = [("spectral_error", "in spectral norm"), ("nuclear_error", "in nuclear norm")]
    return ", ".join(f"{record[key]:.3g} {norm}" for key, norm in norms if record[key] is not None)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
