"""The command ``nysstream``: arguments to estimators to files and reports."""

from __future__ import annotations

from typing import Annotated

import typer

from nysstream.cli.append import append
from nysstream.cli.convert import convert
from nysstream.cli.demo import demo
from nysstream.cli.fit import fit
from nysstream.cli.info import info
from nysstream.cli.plan import plan
from nysstream.cli.predict import predict, score
from nysstream.cli.report import report
from nysstream.cli.sketch import sketch
from nysstream.cli.update import update
from nysstream.cli.watch import watch
from nysstream.version import __version__

app = typer.Typer(
    name="nysstream",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("info")(info)
app.command("convert")(convert)
app.command("append")(append)
app.add_typer(plan, name="plan")
app.command("sketch")(sketch)
app.add_typer(fit, name="fit")
app.command("update")(update)
app.command("watch")(watch)
app.command("predict")(predict)
app.command("score")(score)
app.command("report")(report)
app.command("demo")(demo)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"nysstream {__version__}")
        raise typer.Exit


@app.callback()
def nysstream(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Solve regularised problems on matrices that do not fit in memory, by few passes over them."""


def main() -> None:
    """Run the command line."""
    app()
