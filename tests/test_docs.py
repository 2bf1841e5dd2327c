"""Documentation that can be checked: links, names, signatures, commands and options, and all code."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import re
import shlex
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import typer

import nysstream
from nysstream import errors, features
from nysstream.cli import running
from nysstream.cli.main import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
PUBLIC = {name: getattr(nysstream, name) for name in nysstream.__all__} | {
    f"features.{name}": getattr(features, name) for name in features.__all__
}
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHELL = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
OPTION = re.compile(r"(?<![\w-])(?:-[a-z]|--[a-zA-Z])[a-zA-Z0-9-]*")
#: Options of other programs that pages mention.
FOREIGN = {"-m", "-q", "--only", "--scale"}

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
with_code = [page for page in PAGES[1:] if CODE.search(page.read_text())]


def commands(command: Any = None, path: str = "") -> dict[str, Any]:
    """List the commands by the words that call them."""
    command = command or typer.main.get_command(app)
    if not hasattr(command, "commands"):
        return {path: command}
    found = {}
    for name, sub in command.commands.items():
        found |= commands(sub, f"{path} {name}".strip())
    return found


COMMANDS = commands()


def options_of(command: Any) -> set[str]:
    """Name the options of a command."""
    named = {
        option
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
        if option.startswith("-")
    }
    return named | {"--help", "-h"}


ALL_OPTIONS = set().union(*map(options_of, COMMANDS.values())) | {"--version"}


def sections(page: Path) -> dict[str, str]:
    """Split a page at its second-level headings."""
    pieces = re.split(r"^## (.+)$", page.read_text(), flags=re.MULTILINE)
    return {title.strip(" `"): text for title, text in zip(pieces[1::2], pieces[2::2], strict=True)}


CLI = sections(DOCS / "cli.md")


def anchors(page: Path) -> set[str]:
    """List the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_links_lead_somewhere(page):
    for link in LINK.findall(FENCED.sub("", page.read_text())):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere"
        if anchor:
            assert anchor in anchors(target), f"{link}: there is no such heading"


@every_page
def test_pages_name_files_that_exist(page):
    if page.name == "changelog.md":
        return  # tells of files that are gone
    for name in re.findall(r"`((?:nysstream|tests|benchmarks|examples|docs)/[\w/.\-]+)`", page.read_text()):
        assert (ROOT / name).exists(), f"{name} does not exist"


def test_every_page_is_linked():
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in PAGES
        for link in LINK.findall(page.read_text())
        if "://" not in link
    }
    assert set(PAGES) - linked == {ROOT / "README.md"}


def test_decisions_are_listed():
    folder = DOCS / "decisions"
    records = {path.name for path in folder.glob("[0-9]*.md")}
    assert records
    assert records == set(LINK.findall((folder / "README.md").read_text()))
    numbers = sorted(int(name[:4]) for name in records)
    assert numbers == list(range(1, len(records) + 1))


@every_page
def test_options_exist(page):
    text = page.read_text()
    for snippet in [*INLINE.findall(FENCED.sub("", text)), *SHELL.findall(text)]:
        if re.match(r"(pip|make|git|python -m (?!nysstream))\b", snippet):
            continue
        for option in set(OPTION.findall(snippet)) - FOREIGN:
            assert option in ALL_OPTIONS, f"{option} is an option of no command (in {snippet!r})"


@every_page
def test_commands_exist_and_take_their_options(page):
    text = page.read_text()
    lines = "\n".join(SHELL.findall(text)).replace("\\\n", " ").splitlines()
    for line in [*INLINE.findall(FENCED.sub("", text)), *lines]:
        words = line.removeprefix("python -m ").split(" #")[0].split()
        if not words or words[0] != "nysstream" or len(words) == 1 or not words[1].islower():
            continue
        calls = [name for name in COMMANDS if words[1 : 1 + len(name.split())] == name.split()]
        assert calls or words[1] in {name.split()[0] for name in COMMANDS}, f"{line!r} is no command"
        if calls:
            unknown = {word for word in words if word.startswith("--")} - options_of(COMMANDS[calls[0]])
            assert not unknown, f"nysstream {calls[0]} has no {unknown}"


def section_of(name: str) -> str:
    """Name the section about a command; the fits of all estimators share one, and so do their plans."""
    return name.split()[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_a_command_is_explained(name):
    section = CLI[f"nysstream {section_of(name)}"]
    rows = "\n".join(line for line in section.splitlines() if line.startswith("|"))
    own = set(OPTION.findall(rows))
    common = set(OPTION.findall(CLI["Common options"]))
    options = options_of(COMMANDS[name])
    alike = [command for other, command in COMMANDS.items() if section_of(other) == section_of(name)]
    strange = own - set().union(*map(options_of, alike))
    assert not strange, f"{strange} are explained, but not there"
    assert options <= own | common, f"{options - own - common} are not explained"


def test_exit_codes_are_explained():
    rows = re.findall(r"^\| (\d+) \|", CLI["Output and exit codes"], re.MULTILINE)
    codes = (running.CONVERGED, running.FAILED, running.USAGE, running.STOPPED, running.INTERRUPTED)
    assert tuple(map(int, rows)) == codes


def test_public_names_are_listed_once():
    text = (DOCS / "api.md").read_text()
    modules = text.partition("\n## Modules\n")[2].partition("\n## ")[0]
    listed = re.findall(r"^#+ `([\w.]+)", text, re.MULTILINE)
    listed += re.findall(r"^\| `(\w+)` \|", modules, re.MULTILINE)
    assert sorted(listed) == sorted(PUBLIC)


def test_signatures_are_those_of_the_code():
    checked = set()
    for name, text in re.findall(r"^`([\w.]+)(\(.*\))`$", (DOCS / "api.md").read_text(), re.MULTILINE):
        stated = ast.parse(f"def f{text}: pass").body[0].args
        found = ast.parse(f"def f{_plain_signature(PUBLIC[name])}: pass").body[0].args
        assert ast.unparse(stated) == ast.unparse(found), name
        checked.add(name)
    callables = {
        name
        for name, item in PUBLIC.items()
        if inspect.isfunction(item) or (inspect.isclass(item) and _parameters(item))
    }
    # What operators and solves return is not made by users.
    assert callables - checked <= {"Nystrom", "Result"}


def _parameters(item: Any) -> list[inspect.Parameter]:
    return [p for p in inspect.signature(item).parameters.values() if p.name != "self"]


def _plain_signature(item: Any) -> str:
    """Write a signature without types; defaults that no literal spells are written by their class."""
    plain = []
    for parameter in _parameters(item):
        default = parameter.default
        if default is not inspect.Parameter.empty and "(" in repr(default) and not isinstance(default, tuple):
            default = types.SimpleNamespace()
            parameter = parameter.replace(default=default)
        plain.append(parameter.replace(annotation=inspect.Parameter.empty))
    return str(inspect.Signature(plain)).replace("namespace()", "...")


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_documented(name):
    item = PUBLIC[name]
    if name == "features.FEATURES":
        return  # a dictionary
    documentation = inspect.getdoc(item) or ""
    assert documentation, "no docstring"
    if inspect.isfunction(item) or (inspect.isclass(item) and "__init__" in vars(item)):
        parameters = [p for p in inspect.signature(item).parameters if not p.startswith("_")]
        if len(parameters) < 2 and "Parameters" not in documentation:
            return  # the summary says what the only one is
        assert re.search(r"^(Parameters|Attributes)\n-+$", documentation, re.MULTILINE)
        for parameter in parameters:
            assert re.search(rf"\b{parameter}\b", documentation), f"{parameter} is not documented"


def test_errors_and_warnings_are_listed():
    text = (DOCS / "api.md").read_text()
    for name, item in vars(errors).items():
        if inspect.isclass(item):
            assert f"`{name}`" in text, f"{name} is not listed"


@pytest.mark.parametrize("page", with_code, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_code_runs_in_order(page, tmp_path):
    run_code(page, tmp_path)  # the README's has a test below


def run_code(page: Path, folder: Path) -> None:
    """Run the Python of a page, as one program, with warnings as errors."""
    code = "\n".join(CODE.findall(page.read_text()))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def readme_commands() -> list[list[str]]:
    """Give the README's commands, split into words."""
    text = "\n".join(SHELL.findall((ROOT / "README.md").read_text())).replace("\\\n", " ")
    return [shlex.split(line)[1:] for line in text.splitlines() if line.startswith("nysstream ")]


@pytest.fixture(scope="module")
def readme_folder(tmp_path_factory):
    """Run the README's Python, which makes the files that its commands read."""
    folder = tmp_path_factory.mktemp("readme")
    run_code(ROOT / "README.md", folder)
    return folder


#: Runs commands one after the other in one process, which imports once what they all need.
ONE_BY_ONE = """
import json, sys
from typer.testing import CliRunner
from nysstream.cli.main import app
for words in json.load(sys.stdin):
    done = CliRunner().invoke(app, words)
    print(json.dumps([done.exit_code, done.stdout, done.stderr]), flush=True)
"""


def one_by_one(commands: list[list[str]], folder: Path) -> list[str]:
    """Run commands in one process, and give what each printed."""
    given = {"cwd": folder, "input": json.dumps(commands), "text": True}
    done = subprocess.run([sys.executable, "-c", ONE_BY_ONE], **given, stdout=subprocess.PIPE, check=True)
    printed = []
    for words, line in zip(commands, done.stdout.splitlines(), strict=True):
        code, shown, said = json.loads(line)
        assert code == 0, f"{words}: {said}"
        printed.append(shown)
    return printed


def test_the_readme_commands_run_in_order(readme_folder):
    assert len(readme_commands()) == 9
    # A memory limit covers the whole process: commands that have one begin a process of their own.
    for limited, commands in itertools.groupby(readme_commands(), lambda words: "--memory" in words):
        for some in ([words] for words in commands) if limited else (list(commands),):
            assert all(one_by_one(some, readme_folder))


def documented_keys(name: str) -> list[str]:
    """List the JSON keys that the page on the command line promises of a command."""
    text = CLI[f"nysstream {section_of(name)}"].split("JSON keys:")[1].split("\n\n")[0]
    return re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", text.split(". ")[0]))


def test_json_has_the_keys_that_are_promised(readme_folder):
    extra = [
        ["info", "data.zarr"],
        ["sketch", "data.zarr", "--rank", "5"],
        ["predict", "model.zarr", "data.zarr", "--out", "predictions.zarr"],
        ["watch", "live.model", "live.zarr", "--for", "0.1"],
    ]
    names, commands = [], []
    for words in [*readme_commands(), *extra]:
        (name,) = [name for name in COMMANDS if words[: len(name.split())] == name.split()]
        again = ["--overwrite"] if "--overwrite" in options_of(COMMANDS[name]) else []
        names.append(name)
        commands.append([*words, *again, "--json"])
    for name, shown in zip(names, one_by_one(commands, readme_folder), strict=True):
        assert sorted(json.loads(shown)) == sorted(documented_keys(name)), name
    ran = set(map(section_of, names))
    assert ran == set(map(section_of, COMMANDS)) - {"demo"}
