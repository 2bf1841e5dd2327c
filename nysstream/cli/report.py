"""The command ``report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nysstream.cli.printing import print_json
from nysstream.cli.running import CONVERGED, command
from nysstream.estimators.model_file import load
from nysstream.report import write_report
from nysstream.sources.staging import refuse_existing


@command
def report(
    model: str,
    *,
    out: Annotated[Path, typer.Option("--out", metavar="PAGE.html", help="Where to write the page.")],
    title: Annotated[str | None, typer.Option("--title", help="Of the page.")] = None,
    overwrite: bool,
    json: bool,
) -> int:
    """Write one self-contained HTML page that shows how a saved model was fitted."""
    refuse_existing(out, overwrite=overwrite)
    write_report(load(model), out, title=title, overwrite=overwrite)
    if json:
        print_json({"report": str(out), "model": model})
    else:
        print(out)
    return CONVERGED
