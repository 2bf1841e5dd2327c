"""Documentation that can be checked: links, the list of public names, docstrings, the README's code."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nysstream

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PUBLIC = getattr(nysstream, "__all__", [])
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """List the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for link in LINK.findall(CODE.sub("", page.read_text())):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere"
        if anchor:
            assert anchor in anchors(target), f"{link}: there is no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_pages_name_files_that_exist(page):
    if page.name == "changelog.md":
        return  # tells of files that are gone
    for name in re.findall(r"`((?:nysstream|tests|benchmarks|examples|docs)/[\w/.\-]+)`", page.read_text()):
        assert (ROOT / name).exists(), f"{name} does not exist"


def test_decisions_are_listed():
    folder = ROOT / "docs" / "decisions"
    records = {path.name for path in folder.glob("[0-9]*.md")}
    assert records
    assert records == set(LINK.findall((folder / "README.md").read_text()))


def test_public_names_are_listed_once():
    listed = re.findall(r"^#+ `(?:nysstream\.)?(\w+)", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert listed
    assert sorted(listed) == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_documented(name):
    item = getattr(nysstream, name)
    documentation = inspect.getdoc(item) or ""
    assert documentation, "no docstring"
    if inspect.isfunction(item) or (inspect.isclass(item) and "__init__" in vars(item)):
        parameters = [p for p in inspect.signature(item).parameters if not p.startswith("_")]
        if parameters:
            assert re.search(r"^(Parameters|Attributes)\n-+$", documentation, re.MULTILINE)
        for parameter in parameters:
            assert re.search(rf"\b{parameter}\b", documentation), f"{parameter} is not documented"


def test_the_readme_code_runs_in_order(tmp_path):
    code = "\n".join(CODE.findall((ROOT / "README.md").read_text()))
    assert code
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
