"""One self-contained HTML page about a fit."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from nysstream.errors import InputError, SourceError
from nysstream.report import figures, wording
from nysstream.report.palette import COLOURS
from nysstream.report.svg import inline_svg
from nysstream.sources.staging import refuse_existing
from nysstream.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from nysstream.estimators.results import FitResult


def write_report(
    model: Any,
    path: str | Path,
    *,
    title: str | None = None,
    overwrite: bool = False,
    extra_histories: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> Path:
    """Write an HTML page about how a model was fitted.

    Parameters
    ----------
    model : estimator
        Fitted: has ``result_``.
    path : str or path
        One file, that needs nothing beside it: neither network nor scripts.
    title : str, optional
    overwrite : bool
        Replace what is at ``path``.
    extra_histories : mapping of str to list of dict, optional
        Histories of other solvers on the same problem, by name, to compare convergence with.

    Returns
    -------
    pathlib.Path
        Where the page is.

    Raises
    ------
    InputError
        If the model is not fitted, or Matplotlib is not installed.
    OutputExistsError
        If ``path`` is taken and ``overwrite`` is false.
    SourceError
        If the page cannot be written there.

    Notes
    -----
    Cost: no pass. The page holds statistics and settings, no data. The same fit gives the same bytes.
    """
    target = Path(path)
    if getattr(model, "result_", None) is None:
        message = f"{type(model).__name__} has no result_ to report on: call fit first"
        raise InputError(message)
    refuse_existing(target, overwrite=overwrite)
    _write_whole(target, render(model, title=title, extra_histories=extra_histories), overwrite=overwrite)
    return target


def render(
    model: Any,
    *,
    title: str | None = None,
    extra_histories: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> str:
    """Make the page of :func:`write_report` as text."""
    result: FitResult = model.result_
    stats = result.stats
    shifts = _shifts(model)
    tol = getattr(model, "tol", None)
    drawn = {
        "convergence": figures.convergence(
            result,
            tol=tol,
            labels=_labels(model, result) if wording.accuracy(result) is wording.RESIDUAL else None,
            extra_histories=extra_histories,
        ),
        "passes": figures.pass_times(result) if result.passes else None,
        "memory": figures.memory(result),
    }
    if result.spectrum is not None and len(result.spectrum):
        drawn["spectrum"] = figures.spectrum(result, shifts=shifts)
    environment = Environment(
        loader=PackageLoader("nysstream.report", "."),
        autoescape=True,  # names come from files of others
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"words": wording, "colours": COLOURS}
    page = environment.get_template("page.html.j2")
    return page.render(
        title=title or f"{type(model).__name__} fit",
        estimator=type(model).__name__,
        result=result,
        stats=stats,
        tol=tol,
        method=wording.method(result),
        accuracy=wording.accuracy(result),
        n_classes=len(getattr(model, "classes_", ())),
        n_systems=_n_systems(result),
        svg={name: inline_svg(figure, name) for name, figure in drawn.items() if figure is not None},
        hidden_shifts=int(np.sum(np.asarray(shifts) == 0)),
        grouped=len(result.passes) > figures.MAX_BARS,
        statistics=[(wording.label(k), k, wording.statistic(k, v), _exact(v)) for k, v in stats.items()],
        purposes=list(_purposes(result)),
        settings=list(_settings(model)),
        version=__version__,
    )


def _n_systems(result: FitResult) -> int:
    if not result.history:
        return 1
    last = result.history[-1]
    if wording.accuracy(result) is wording.RESIDUAL:
        return int(np.size(last.get("relative_residuals", last["relative_residual"])))
    return int(result.stats.get("n_problems", np.size(last.get("objective", 0.0))))


def _shifts(model: Any) -> list[float]:
    return [float(shift) for shift in np.atleast_1d(getattr(model, "alpha", []))]


def _labels(model: Any, result: FitResult) -> list[str] | None:
    """Name the systems by what sets them apart: their alphas, else their targets."""
    count, shifts = _n_systems(result), _shifts(model)
    if count == 1:
        return None
    if len(shifts) == count and len(set(shifts)) > 1:
        return [f"α = {wording.number(shift)}" for shift in shifts]
    return [f"target {i + 1}" for i in range(count)]


def _exact(value: Any) -> str:
    if isinstance(value, (list, tuple, np.ndarray)):
        shown = ", ".join(_exact(item) for item in value[: wording.MAX_LISTED])
        return shown if len(value) <= wording.MAX_LISTED else f"{shown}, …"
    return "" if value is None else str(value)


def _purposes(result: FitResult) -> Iterator[dict[str, str]]:
    """Sum the passes by what they were for, in order of appearance."""
    for name in dict.fromkeys(record.name for record in result.passes):
        records = [record for record in result.passes if record.name == name]
        costs = [record.cost for record in records]
        yield {
            "purpose": name,
            "count": wording.number(len(records)),
            "wall": wording.duration(sum(record.seconds for record in records)),
            "read": wording.size(sum(cost.bytes_read for cost in costs)),
            "cache": wording.size(sum(cost.bytes_from_cache for cost in costs)),
            "reading": wording.duration(sum(cost.read_seconds for cost in costs)),
            "features": wording.duration(sum(cost.feature_seconds for cost in costs)),
            "products": wording.duration(sum(cost.product_seconds for cost in costs)),
            "waiting": wording.duration(sum(cost.wait_seconds for cost in costs)),
        }


def _settings(model: Any) -> Iterator[tuple[str, str]]:
    """List the constructor's arguments, and the feature map as it was resolved."""
    for name, value in model.get_params(deep=False).items():
        yield name, wording.setting(value)
    resolved = getattr(model, "features_", None)
    if resolved is not None:
        yield "features_", wording.setting(resolved)


def _write_whole(target: Path, text: str, *, overwrite: bool) -> None:
    """Write aside, then move into place: no reader sees half a page."""
    partial = target.with_name(f".{target.name}.partial-{secrets.token_hex(4)}")
    try:
        partial.write_text(text, encoding="utf-8")
        refuse_existing(target, overwrite=overwrite)
        os.replace(partial, target)
    except OSError as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, SourceError | FileExistsError):
            raise
        message = f"cannot write {target}: {error.strerror or error}"
        raise SourceError(message) from error
