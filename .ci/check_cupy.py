"""Check every CuPy name and call in a module against the CuPy that is installed; no GPU needed.

``import cupy`` works on a machine without a device, so a misspelt function, a keyword that a release
dropped or one argument too many is found here rather than on the first machine that has one. Read from
the syntax tree: attribute chains that start at an import of CuPy, the calls on them, and attributes and
methods of variables that were assigned from, or annotated with, a CuPy class.

Usage: python .ci/check_cupy.py FILE...
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOTS = ("cupy", "cupyx")

#: Functions and methods whose result is followed like an instance of a class.
ARRAY_MAKERS = ("array", "asarray", "empty", "empty_like", "zeros", "zeros_like")
ARRAY_METHODS = ("astype", "copy", "ravel", "reshape", "view")
RETURNS = {
    **{f"cupy.{name}": "cupy.ndarray" for name in ARRAY_MAKERS},
    **{f"cupy.ndarray.{name}": "cupy.ndarray" for name in ARRAY_METHODS},
    "cupy.cuda.get_current_stream": "cupy.cuda.Stream",
    "cupy.get_default_memory_pool": "cupy.cuda.MemoryPool",
    "cupy.get_default_pinned_memory_pool": "cupy.cuda.PinnedMemoryPool",
}


class NotFoundError(Exception):
    """A dotted name leads nowhere."""


class NeedsDeviceLibrariesError(Exception):
    """A module exists, but importing it needs the CUDA libraries."""


@dataclass
class Report:
    """What was looked at, and what is wrong with it."""

    problems: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    calls: int = 0
    unsigned: set[str] = field(default_factory=set)  # callables that tell no signature: name checked only


def check(source: str, *, filename: str = "<source>", roots: tuple[str, ...] = ROOTS) -> Report:
    """Check the calls and attributes in ``source`` that lead to one of the packages ``roots``."""
    tree = ast.parse(source, filename)
    scope = Scope(tree, roots)
    report = Report()
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            target, arguments = node.func, node
        elif isinstance(node, ast.Attribute | ast.Name) and id(node) not in called | inner:
            target, arguments = node, None
        else:
            continue
        name = scope.dotted(target)
        if name is None:
            continue
        report.names.add(name)
        try:
            found = resolve(name)
            if arguments is not None:
                report.calls += 1
                bind(name, found, arguments, report)
        except (NotFoundError, TypeError) as error:
            report.problems.append(f"{filename}:{node.lineno}: {ast.unparse(target)}: {error}")
    for line, name in scope.imports:
        try:
            resolve(name)
        except NotFoundError as error:
            report.problems.append(f"{filename}:{line}: {error}")
    return report


Place = tuple[str, ...]  # the classes and functions around a node, outermost first


class Scope:
    """Which names stand for CuPy modules, objects, or instances of CuPy classes, and where."""

    def __init__(self, tree: ast.Module, roots: tuple[str, ...]) -> None:
        self.roots = roots
        self.names: dict[tuple[Place, str], str] = {}
        self.imports: list[tuple[int, str]] = []
        self._places: dict[ast.AST, Place] = {}
        self._place(tree, ())
        for node in self._places:
            self._import(node)
        # Twice, so that a variable may be assigned from an attribute that is set further down.
        for _ in range(2):
            for node in self._places:
                self._assign(node)

    def _place(self, node: ast.AST, path: Place) -> None:
        self._places[node] = path
        if isinstance(node, ast.ClassDef):
            path = (*path, f"class {node.name}")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            path = (*path, node.name)
        for child in ast.iter_child_nodes(node):
            self._place(child, path)

    def dotted(self, node: ast.expr, path: Place | None = None) -> str | None:
        """Spell out the name that ``node`` leads to, if it leads to one of the packages."""
        path = self._places[node] if path is None else path
        if (key := _key(node)) is not None:
            for depth in range(len(path), -1, -1):
                if (path[:depth], key) in self.names:
                    return self.names[path[:depth], key]
        if isinstance(node, ast.Attribute):
            owner = self.dotted(node.value, path)
            return f"{owner}.{node.attr}" if owner else None
        if isinstance(node, ast.Subscript):
            owner = self.dotted(node.value, path)
            return owner if owner == "cupy.ndarray" else None
        if isinstance(node, ast.Call):
            return self._instance(node, path)
        return None

    def _instance(self, call: ast.Call, path: Place) -> str | None:
        name = self.dotted(call.func, path)
        if name is None or name in RETURNS:
            return RETURNS.get(name or "")
        try:
            return name if inspect.isclass(resolve(name)) else None
        except NotFoundError:
            return None

    def _import(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            for alias in node.names:
                root = alias.name.partition(".")[0]
                if root in self.roots:
                    self._set(node, alias.asname or root, alias.name if alias.asname else root)
                    self.imports.append((node.lineno, alias.name))
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in self.roots:
            for alias in node.names:
                self._set(node, alias.asname or alias.name, f"{node.module}.{alias.name}")
                self.imports.append((node.lineno, f"{node.module}.{alias.name}"))

    def _assign(self, node: ast.AST) -> None:
        pairs: list[tuple[ast.expr | str | None, ast.expr | None]] = []
        if isinstance(node, ast.Assign):
            pairs = [(target, node.value) for target in node.targets]
        elif isinstance(node, ast.AnnAssign):
            pairs = [(node.target, node.annotation), (node.target, node.value)]
        elif isinstance(node, ast.arg):
            pairs = [(node.arg, node.annotation)]
        elif isinstance(node, ast.withitem):
            pairs = [(node.optional_vars, node.context_expr)]
        for target, value in pairs:
            key = target if isinstance(target, str) else _key(target)
            if key is None or value is None:
                continue
            name = self._module_of(value) or self.dotted(_unquoted(value), self._places[node])
            if name:
                self._set(node, key, name)

    def _set(self, node: ast.AST, key: str, name: str) -> None:
        path = self._places[node]
        if key.startswith("self."):
            while path and not path[-1].startswith("class "):
                path = path[:-1]
        self.names[path, key] = name

    def _module_of(self, value: ast.expr | None) -> str | None:
        """Recognise ``importlib.import_module("cupy...")``."""
        if isinstance(value, ast.Call) and ast.unparse(value.func).endswith("import_module") and value.args:
            argument = value.args[0]
            if isinstance(argument, ast.Constant) and str(argument.value).partition(".")[0] in self.roots:
                return str(argument.value)
        return None


def _key(node: ast.expr | None) -> str | None:
    """Name a variable or an attribute of ``self``; other targets are not followed."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
        return f"self.{node.attr}"
    return None


def _unquoted(node: ast.expr) -> ast.expr:
    """Parse an annotation that was written as a string."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        try:
            return ast.parse(node.value, mode="eval").body
        except SyntaxError:
            pass
    return node


def resolve(name: str) -> Any:
    """Return the object that a dotted name leads to, or a function rebuilt from its source.

    Some CuPy modules cannot be imported without the CUDA libraries; theirs are looked up in the files.
    """
    root, *rest = name.split(".")
    try:
        found = importlib.import_module(root)
    except ImportError as error:
        message = f"{root} is not installed"
        raise NotFoundError(message) from error
    path = root
    for position, attribute in enumerate(rest):
        path = f"{path}.{attribute}"
        try:
            found = _member(found, attribute, path)
        except NeedsDeviceLibrariesError:
            return _from_files(path, rest[position + 1]) if position + 1 < len(rest) else None
    return found


def _member(owner: Any, attribute: str, path: str) -> Any:
    if inspect.ismodule(owner):
        try:
            return getattr(owner, attribute) if hasattr(owner, attribute) else importlib.import_module(path)
        except ModuleNotFoundError:
            pass
        except ImportError as error:
            raise NeedsDeviceLibrariesError from error
    elif hasattr(owner, attribute):
        return getattr(owner, attribute)
    elif _documented(owner, attribute):
        return None
    message = f"{path.rpartition('.')[0]} has no {attribute}"
    raise NotFoundError(message)


def _documented(owner: Any, attribute: str) -> bool:
    """Whether a class names ``attribute`` in its docstring: instances get it, as ``Stream`` gets ``ptr``."""
    documented = owner.__doc__ if inspect.isclass(owner) else None
    return re.search(rf"\b{owner.__name__}\.{attribute}\b", documented) is not None if documented else False


def _from_files(module: str, name: str) -> Any:
    """Find a function by reading ``module`` and what it imports from, without running either."""
    for file in _files(module):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name == name:
                return _rebuilt(node)
            if isinstance(node, ast.ClassDef) and node.name == name:
                return None
            if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        return _from_files(node.module, alias.name)
    message = f"{module} has no {name}"
    raise NotFoundError(message)


def _files(module: str) -> Iterator[Path]:
    root, *rest = module.split(".")
    spec = importlib.util.find_spec(root)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for file in (Path(folder, *rest).with_suffix(".py"), Path(folder, *rest, "__init__.py")):
            if file.exists():
                yield file


def _rebuilt(node: ast.FunctionDef) -> Any:
    """Make a function with the parameters of ``node`` and no body."""
    arguments = node.args
    for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]:
        argument.annotation = None
    arguments.defaults = [ast.Constant(None) for _ in arguments.defaults]
    arguments.kw_defaults = [default and ast.Constant(None) for default in arguments.kw_defaults]
    namespace: dict[str, Any] = {}
    exec(f"def {node.name}({ast.unparse(arguments)}): ...", namespace)
    return namespace[node.name]


def bind(name: str, found: Any, call: ast.Call, report: Report) -> None:
    """Raise ``TypeError`` unless the arguments of ``call`` fit the signature of ``found``."""
    signature = _signature(found)
    if signature is None:
        report.unsigned.add(name)
        return
    positional = [argument for argument in call.args if not isinstance(argument, ast.Starred)]
    keywords = {keyword.arg: None for keyword in call.keywords if keyword.arg is not None}
    complete = len(positional) == len(call.args) and len(keywords) == len(call.keywords)
    if _is_method(name, found):
        positional = [ast.Name("self"), *positional]
    (signature.bind if complete else signature.bind_partial)(*positional, **keywords)


def _is_method(name: str, found: Any) -> bool:
    """Whether a name reached through a class is called on an instance of it."""
    owner = resolve(name.rpartition(".")[0]) if "." in name else None
    if not inspect.isclass(owner) or inspect.ismethod(found) or inspect.isclass(found):
        return False
    return not isinstance(inspect.getattr_static(owner, name.rpartition(".")[2], None), staticmethod)


def _signature(found: Any) -> inspect.Signature | None:
    if found is None or isinstance(found, property):
        return None
    try:
        return inspect.signature(found)
    except (TypeError, ValueError):
        pass
    # Compiled functions carry theirs as the first line of the docstring, with C types.
    first = (getattr(found, "__doc__", None) or "").strip().partition("\n")[0]
    match = re.match(r"(?:\w+\.)*(\w+)\((.*)\)", first)
    if match is None:
        return None
    c_type = r"^(?:[\w.]+(?:\[.*?\])?\s+)+(?=[\w*])"
    parameters = [re.sub(c_type, "", part.strip()) for part in match[2].replace("\\*", "*").split(",")]
    try:
        node = ast.parse(f"def {match[1]}({', '.join(parameters)}): ...").body[0]
    except SyntaxError:
        return None
    return inspect.signature(_rebuilt(node)) if isinstance(node, ast.FunctionDef) else None


def main(paths: list[str]) -> int:
    """Check files; print what is wrong, or what was checked."""
    failed = False
    for path in paths:
        report = check(Path(path).read_text(), filename=path)
        for problem in report.problems:
            print(problem, file=sys.stderr)
        failed = failed or bool(report.problems)
        counts = f"{len(report.names)} CuPy names, {report.calls} calls, {len(report.problems)} problems"
        print(f"{path}: {counts}")
        if report.unsigned:
            print(f"  no signature to check, name only: {', '.join(sorted(report.unsigned))}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
