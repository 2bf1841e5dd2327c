"""The package's layering, read from its syntax trees: imports point downward, whatever their kind."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "nysstream"
MAX_LINES = 400

#: Top-level modules and folders, lowest first. Members of one floor may import each other as long
#: as no cycle of folders arises.
FLOORS = (
    ("version", "errors", "arrays", "cluster", "memory", "trace", "journal", "interrupts"),
    ("losses", "regularizers", "features"),
    ("sources",),
    ("streaming",),
    ("operators",),
    ("sketching",),
    ("solvers", "checkpoint"),
    ("estimators",),
    ("report", "cli"),
    ("__main__",),
)
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names}


def imported_modules(tree: ast.AST, package: list[str]) -> list[tuple[int, str]]:
    """List ``(line, dotted module)`` of every import, wherever it stands; relative ones resolved."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            prefix = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*prefix, *([node.module] if node.module else [])])
            # `from nysstream import x` may name a module: judge the longest spelling.
            found += [(node.lineno, f"{module}.{alias.name}") for alias in node.names]
    return found


def violations(path: str, source: str) -> list[str]:
    """Say what is wrong with the imports of the module at ``path``, relative to the package."""
    parts = Path(path).with_suffix("").parts
    own = parts[0]
    package = ["nysstream", *parts[:-1]]
    if own != "__init__" and own not in LEVEL:
        return [f"{path}: {own} has no floor; add it to FLOORS"]
    wrong = []
    for line, module in imported_modules(ast.parse(source), package):
        root, _, rest = module.partition(".")
        if root in {"cupy", "cupyx"} and path != "arrays.py":
            wrong.append(f"{path}:{line} imports {module}; only arrays.py may")
        if root != "nysstream" or own == "__init__":
            continue
        target = rest.split(".")[0]
        if target not in LEVEL:
            wrong.append(f"{path}:{line} imports {module}; name the module that defines it")
        elif LEVEL[target] > LEVEL[own]:
            wrong.append(f"{path}:{line} imports {module} from a higher floor")
    return wrong


def folder_graph() -> dict[str, set[str]]:
    """Map each folder or top-level module to those it imports."""
    graph: dict[str, set[str]] = {name: set() for name in LEVEL}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] not in LEVEL:
            continue
        for _, module in imported_modules(ast.parse(file.read_text()), ["nysstream", *parts[:-1]]):
            names = module.split(".")
            if names[0] == "nysstream" and len(names) > 1 and names[1] in LEVEL and names[1] != parts[0]:
                graph[parts[0]].add(names[1])
    return graph


def cycle_in(graph: dict[str, set[str]]) -> list[str]:
    """List the folders that a cycle keeps from being put in order; empty where there is none."""
    remaining = dict(graph)
    while remaining:
        free = [name for name, targets in remaining.items() if not targets & remaining.keys()]
        if not free:
            return sorted(remaining)
        for name in free:
            del remaining[name]
    return []


MODULES = sorted(file.relative_to(PACKAGE).as_posix() for file in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", MODULES)
def test_imports_point_downward(path):
    assert violations(path, (PACKAGE / path).read_text()) == []


@pytest.mark.parametrize("path", MODULES)
def test_modules_stay_readable(path):
    n_lines = len((PACKAGE / path).read_text().splitlines())
    assert n_lines <= MAX_LINES, f"{path} has {n_lines} lines; split it along what it does"


def test_folders_do_not_import_each_other_in_a_circle():
    assert cycle_in(folder_graph()) == []


def test_package_root_only_reexports():
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign)
    for node in tree.body:
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        assert is_docstring or isinstance(node, allowed), f"line {node.lineno} does more than re-export"


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        ("sources/zarr.py", "import nysstream.solvers.pcg", "higher floor"),
        ("sources/zarr.py", "from nysstream.streaming import reduce", "higher floor"),
        ("sources/zarr.py", "from nysstream import estimators", "higher floor"),
        ("sources/zarr.py", "from ..streaming import reduce", "higher floor"),
        ("sources/zarr.py", "from .. import streaming", "higher floor"),
        ("sources/zarr.py", "def f():\n    from nysstream.cli import main", "higher floor"),
        ("sources/zarr.py", "if TYPE_CHECKING:\n    from nysstream.operators.base import X", "higher floor"),
        ("sources/zarr.py", "from nysstream import Ridge", "name the module that defines it"),
        ("sources/zarr.py", "def f():\n    import cupy", "only arrays.py may"),
        ("streaming/prefetch.py", "from cupyx import empty_pinned", "only arrays.py may"),
        ("helpers.py", "", "has no floor"),
    ],
)
def test_an_upward_import_is_caught(path, source, expected):
    (message,) = violations(path, source)
    assert expected in message


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("sources/zarr.py", "from nysstream.errors import SourceError\nfrom .base import RowSource"),
        ("solvers/pcg.py", "from ..operators.base import LinearOperator"),
        ("arrays.py", "def f():\n    import cupy"),
        ("__init__.py", "from nysstream.estimators.ridge import Ridge"),
    ],
)
def test_a_downward_import_passes(path, source):
    assert violations(path, source) == []


def test_a_circle_of_folders_is_caught():
    assert cycle_in({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == ["a", "b", "c", "d"]
    assert cycle_in({"a": {"b"}, "b": set()}) == []
