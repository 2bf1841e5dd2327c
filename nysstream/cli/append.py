"""The command ``append``."""

from __future__ import annotations

from typing import Annotated

import typer

from nysstream.cli.convert import (
    Columns,
    Data,
    Delimiter,
    Format,
    Memory,
    NFeatures,
    NoHeader,
    Target,
    Weight,
    companion,
    reading,
)
from nysstream.cli.options import OUTPUT
from nysstream.cli.printing import print_json, print_table, two_columns
from nysstream.cli.progress import ProgressLine
from nysstream.cli.running import CONVERGED, checkpointed, command
from nysstream.report import wording
from nysstream.sources import growing


@command
def append(
    store: str,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC",
            help="New rows: whatever `nysstream convert` reads. Their columns are those of STORE.",
        ),
    ],
    *,
    data: Data = None,
    target: Target = None,
    weight: Weight = None,
    columns: Columns = None,
    format: Format = None,
    delimiter: Delimiter = None,
    no_header: NoHeader = False,
    n_features: NFeatures = None,
    memory: Memory = "1GiB",
    json: bool,
    checkpoint: str | None,
    checkpoint_every: float | None,
    resume: bool,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Begin the checkpoint anew, and append.", rich_help_panel=OUTPUT),
    ] = False,
) -> int:
    """Add rows at the end of a Zarr store that `nysstream convert` wrote, while others read it.

    Readers see the old rows until all new ones are there. A second writer is refused. What a killed one
    left behind is never seen, and is written over by the next. With `--checkpoint` and `--resume` the rows
    are appended once, however often the command is killed and begun again.
    """
    with (
        checkpointed(checkpoint, checkpoint_every, resume=resume, overwrite=overwrite),
        ProgressLine() as line,
    ):
        grown = growing.append(
            store,
            source,
            companion(source, target, format),
            companion(source, None if weight is None else [weight], format),
            memory=memory,
            progress=(lambda done, total: line.rows("appending", done, total)) if line.shown else None,
            **reading(source, data, columns, format, delimiter, no_header=no_header, n_features=n_features),
        )
    if json:
        print_json({"store": grown.target, "n_rows": grown.n_rows, "new_rows": grown.n_new})
    else:
        counts = [("Rows", grown.n_rows), ("New rows", grown.n_new)]
        print_table(two_columns([("Store", grown.target), *((k, wording.number(v)) for k, v in counts)]))
    return CONVERGED
