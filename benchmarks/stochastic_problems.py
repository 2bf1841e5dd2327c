"""Finite sums on disk, for :mod:`benchmarks.stochastic`: rows of features, an l2 penalty, and the minimum.

A folder holds ``X.npy`` (float32), and ``y-LOSS.npy``: numbers, signs, or the numbers of classes. Nothing
here holds all rows: they are written, and read for the test, a block at a time.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.composite_checks import BLOCK_ROWS, Objective, blocks_of, check
from benchmarks.composite_problems import read_mnist
from benchmarks.measuring import say

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

#: A flight is late that arrives more than this many minutes after its time.
LATE = 15.0
#: Of the answer that everyone is held against.
REFERENCE_TOL = 1e-10


@dataclass(frozen=True)
class Scale:
    """Sizes: rows at most and features, of flights and of digits."""

    rows: int
    features: int
    digits: int
    digit_features: int


SCALES = {
    "tiny": Scale(400, 12, 400, 10),
    "small": Scale(6000, 60, 4000, 60),
    "medium": Scale(100_000, 1000, 20_000, 1000),
    "full": Scale(294_612, 4000, 60_000, 2000),
}


@dataclass(frozen=True)
class Problem:
    """The mean of a loss over rows on disk, and ``l2 |w|^2 / 2``; there is no intercept.

    Attributes
    ----------
    name : str
    loss : str
        ``"squared"``, half the square; ``"logistic"``, of signs; ``"multinomial"``, of numbers of classes.
    folder : str
    l2 : float
    """

    name: str
    loss: str
    folder: str
    l2: float


@dataclass(frozen=True)
class Value:
    """What an answer is worth.

    Attributes
    ----------
    objective : float
    gap : float
        Bound on how far that is above the minimum, from the gradient and the strong convexity.
    """

    objective: float
    gap: float


def evaluate(problem: Problem, X: Any, y: Any, coef: Any) -> Value:
    """Recompute objective and gradient from the rows, in float64; the one test for everybody.

    Parameters
    ----------
    problem : Problem
    X : array, shape (n, p)
    y : array, shape (n,)
    coef : array, shape (p,), or (k, p) for k classes
    """
    W = np.asarray(coef, np.float64)
    if problem.loss != "multinomial":
        w = W.reshape(-1)
        found = check(Objective(problem.loss, 0.0, problem.l2), X, y, w)
        return Value(found.objective, max(found.objective - found.bound, 0.0))
    total, gradient = 0.0, np.zeros(W.shape)
    for Z, target in blocks_of(X, y):
        fitted = Z @ W.T
        fitted -= fitted.max(axis=1, keepdims=True)
        share = np.exp(fitted)
        sums = share.sum(axis=1)
        rows = np.arange(len(Z))
        codes = target.astype(np.intp)
        total += float(np.sum(np.log(sums) - fitted[rows, codes]))
        share /= sums[:, None]
        share[rows, codes] -= 1.0
        gradient += share.T @ Z
    gradient = gradient / len(y) + problem.l2 * W
    objective = total / len(y) + 0.5 * problem.l2 * float(np.sum(W * W))
    return Value(objective, 0.5 * float(np.sum(gradient * gradient)) / problem.l2)


def write_flights(folder: Path, scale: Scale) -> None:
    """Write the demo's random Fourier features of the flights, their delays about the mean, and lateness."""
    from nysstream.cli.demo import LENGTH_SCALE
    from nysstream.cli.flights import build_flights
    from nysstream.features import Fourier
    from nysstream.sources import open as open_source

    store = folder.parent / "flights.zarr"
    if not store.exists():
        build_flights(store)
    source, target = open_source(store, "x"), open_source(store, "y")
    n = min(source.shape[0], scale.rows)
    features = Fourier(scale.features, length_scale=LENGTH_SCALE, random_state=0)
    X = np.lib.format.open_memmap(folder / "X.npy", "w+", np.float32, (n, scale.features))
    for start in range(0, n, BLOCK_ROWS):
        rows = slice(start, min(start + BLOCK_ROWS, n))
        X[rows] = features(np.asarray(source.read(rows), np.float32))
    X.flush()
    delay = np.asarray(target.read(slice(0, n)), np.float64).reshape(-1)
    np.save(folder / "y-squared.npy", (delay - delay.mean()).astype(np.float32))
    np.save(folder / "y-logistic.npy", np.where(delay > LATE, 1, -1).astype(np.float32))


def write_digits(folder: Path, scale: Scale) -> None:
    """Write random Fourier features, at the median distance, of MNIST's digits."""
    from nysstream.features import Fourier

    pixels, digits = read_mnist(folder.parent, scale.digits)
    some = pixels[np.random.default_rng(0).choice(len(pixels), min(1000, len(pixels)), replace=False)]
    squares = (some.astype(np.float64) ** 2).sum(axis=1)
    distances = squares[:, None] + squares - 2 * some.astype(np.float64) @ some.T.astype(np.float64)
    median = float(np.sqrt(np.median(distances[np.triu_indices(len(some), 1)])))
    features = Fourier(scale.digit_features, length_scale=median, random_state=0)
    features = features.fit(some.astype(np.float64)) if features.needs_sample else features
    X = np.lib.format.open_memmap(folder / "X.npy", "w+", np.float32, (len(pixels), scale.digit_features))
    for start in range(0, len(pixels), BLOCK_ROWS):
        rows = slice(start, start + BLOCK_ROWS)
        X[rows] = features(pixels[rows])
    X.flush()
    np.save(folder / "y-multinomial.npy", digits.astype(np.float32))


#: Name, data and their builder, and loss.
PROBLEMS: dict[str, tuple[str, Callable[[Path, Scale], None], str]] = {
    "flights": ("flights", write_flights, "squared"),
    "flights-late": ("flights", write_flights, "logistic"),
    "mnist": ("digits", write_digits, "multinomial"),
}


class Stored:
    """Rows on disk, read as they are asked for: mapped pages would count as a contender's memory."""

    def __init__(self, path: Path) -> None:
        mapped = np.load(path, mmap_mode="r")
        self.path, self.shape, self.dtype, self.offset = path, mapped.shape, mapped.dtype, mapped.offset

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        start, stop, _ = rows.indices(self.shape[0])
        n_columns = self.shape[1]
        skipped = self.offset + start * n_columns * self.dtype.itemsize
        found = np.fromfile(self.path, self.dtype, (stop - start) * n_columns, offset=skipped)
        return found.reshape(-1, n_columns)


def load(problem: Problem, dtype: str = "float32") -> tuple[Any, Any]:
    """Load rows and targets in a dtype."""
    rows, y = stored(problem)
    X = np.empty(rows.shape, dtype)
    for start in range(0, len(X), BLOCK_ROWS):
        X[start : start + BLOCK_ROWS] = rows[start : start + BLOCK_ROWS]
    return X, y.astype(dtype)


def stored(problem: Problem) -> tuple[Stored, NDArray[Any]]:
    """Give the rows as they are on disk, for the test, and the targets."""
    folder = Path(problem.folder)
    return Stored(folder / "X.npy"), np.load(folder / f"y-{problem.loss}.npy")


def prepare(name: str, root: Path, scale: Scale) -> Problem:
    """Write the data of a problem unless they are there; the penalty is one over the rows."""
    data, write, loss = PROBLEMS[name]
    folder = root / data
    if not (folder / "done").exists():
        say(f"writing {folder}")
        folder.mkdir(parents=True, exist_ok=True)
        write(folder, scale)
        (folder / "done").touch()
    n_rows = np.load(folder / "X.npy", mmap_mode="r").shape[0]
    return Problem(name, loss, str(folder), 1.0 / n_rows)


def reference(problem: Problem) -> dict[str, Any]:
    """Solve a problem once, as well as can be, and bound how far that is from the minimum."""
    kept = Path(problem.folder) / f"{problem.name}-reference.json"
    if not kept.exists():
        say(f"solving {problem.name} to {REFERENCE_TOL:g}")
        from benchmarks.stochastic_solvers import make_ours

        rows, y = np.load(Path(problem.folder) / "X.npy", mmap_mode="r"), stored(problem)[1]
        method = "gram" if problem.loss == "squared" else "sketchysvrg"
        model = make_ours(problem, method, tol=REFERENCE_TOL, precision="double")
        model.fit(np.asarray(rows), y)
        found = evaluate(problem, rows, y, model.coef_)
        shape = {"rows": rows.shape[0], "columns": rows.shape[1], "l2": problem.l2}
        gap = found.gap / abs(found.objective)
        kept.write_text(json.dumps({"objective": found.objective, "gap": gap, **shape}))
    return dict(json.loads(kept.read_text()))
