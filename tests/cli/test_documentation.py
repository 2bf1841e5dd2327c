"""Tables of the page on the command line that are made from the registry and the table of options."""

from __future__ import annotations

from pathlib import Path

import typer

from nysstream.cli.estimating import REGISTRY, fitted_names, planned_names, settings_of, summary_of
from nysstream.cli.main import app
from nysstream.cli.options import MODEL, OPTIONS

PAGE = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
NAMES = tuple(fitted_names())


def commands(group):
    """Give the commands of ``fit`` or ``plan`` by the estimator's name."""
    return typer.main.get_command(app).commands[group].commands


def estimator_rows():
    """Say what each name fits, and by what methods."""
    for name in NAMES:
        kinds = f"`{REGISTRY[name].__name__}`"
        if f"{name}-cv" in REGISTRY:
            kinds += f"; with `--cv` `{REGISTRY[f'{name}-cv'].__name__}`"
        solver = settings_of(name).get("solver")
        methods = "" if solver is None else ", ".join(f"`{method}`" for method in solver.metavar.split("|"))
        yield f"| `{name}` | {kinds} | {summary_of(name).rstrip('.')} | {methods} |"


def option_rows():
    """Say what each setting's option means, and which estimators take it."""
    found = {name: settings_of(name) for name in NAMES}
    ordered = sorted(
        (option for options in found.values() for option in options.values()), key=lambda o: o.panel != MODEL
    )
    for flag in dict.fromkeys(option.spelled for option in ordered):
        takers = {
            name: option
            for name, options in found.items()
            for option in options.values()
            if option.spelled == flag
        }
        option = next(iter(takers.values()))
        if option in (OPTIONS["memory"], OPTIONS["device"]):
            continue  # among the common ones
        value = (
            "METHOD" if flag == "--solver" else option.metavar or {int: "N", float: "X"}.get(option.kind, "")
        )
        spelled = f"{flag} {value}".strip().replace("|", "\\|")
        meaning = option.help[0].lower() + option.help[1:].rstrip(".")
        named = "all" if len(takers) == len(NAMES) else ", ".join(f"`{name}`" for name in takers)
        yield f"| `{spelled}` | {meaning} | {named} |"


def test_the_table_of_estimators_is_that_of_the_registry():
    missing = [row for row in estimator_rows() if row not in PAGE]
    assert not missing, "write into docs/cli.md:\n" + "\n".join(missing)


def test_the_table_of_settings_is_that_of_the_options():
    missing = [row for row in option_rows() if row not in PAGE]
    assert not missing, "write into docs/cli.md:\n" + "\n".join(missing)


def test_every_estimator_has_its_commands():
    assert tuple(commands("fit")) == NAMES
    assert tuple(commands("plan")) == tuple(planned_names())
    behind = {name for name in REGISTRY if name.endswith("-cv")}
    assert set(NAMES) == set(REGISTRY) - behind


def test_plans_take_options_of_their_fits():
    for name in planned_names():
        fit, plan = (
            {option for parameter in commands(group)[name].params for option in parameter.opts}
            for group in ("fit", "plan")
        )
        assert plan < fit
        assert {"--out", "--report", "--seed"} <= fit - plan
