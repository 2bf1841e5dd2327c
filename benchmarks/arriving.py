"""Count what rows that arrive cost: passes and bytes of an update, and of a fit to all rows from the start.

``python -m benchmarks.arriving`` writes random Fourier features of normal columns to a Zarr store, fits a
model to 95 % of the rows, appends the rest, and updates the model; beside it, it fits all rows anew. Rows
come in two orders: as drawn, so that new rows are like the old ones, and with a first column that drifts.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

import nysstream
from nysstream.sources.layout import Layout
from nysstream.sources.writing import RowWriter

METHODS = {
    "gram": {"solver": "gram"},
    "nystrom": {"solver": "nystrom", "rank": 256},
    "subsampled": {"solver": "subsampled"},
    "cg": {"solver": "cg"},
}
BLOCK = 20_000


def write_rows(path: Path, n_rows: int, n_features: int, *, drift: bool) -> None:
    """Write x, features of twelve columns, and y, a function of those with much noise."""
    rng = np.random.default_rng(0)
    features = nysstream.features.Fourier(n_features, length_scale=4.0)
    layouts = {"x": Layout(n_features, np.dtype("f4")), "y": Layout(1, np.dtype("f4"), vector=True)}
    with RowWriter(path, layouts, chunk_rows=1000, codec="none") as writer:
        for start in range(0, n_rows, BLOCK):
            count = min(BLOCK, n_rows - start)
            raw = rng.standard_normal((count, 12), dtype=np.float32)
            if drift:
                raw[:, 0] += 2 * (start + np.arange(count)) / n_rows - 1
            y = np.sin(raw[:, 0]) + raw[:, 1] * raw[:, 2] + rng.standard_normal(count, dtype=np.float32)
            writer.append(x=features(raw), y=y)


def main(arguments: list[str] | None = None) -> list[dict[str, object]]:
    """Print one line for each method and order of rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--features", type=int, default=1000)
    parser.add_argument("--new", type=float, default=0.05, help="share of the rows that is new")
    parser.add_argument("--alpha", type=float, default=1.0)
    parser.add_argument("--memory", default="700MiB")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--orders", nargs="*", default=["drawn", "drifting"], choices=["drawn", "drifting"])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--out", type=Path, help="where to write the rows as JSON")
    given = parser.parse_args(arguments)
    found: list[dict[str, object]] = []
    for order in given.orders:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            path = Path(folder) / "rows.zarr"
            write_rows(path, given.rows, given.features, drift=order == "drifting")
            X, y = nysstream.open(path, "x"), nysstream.open(path, "y")
            for name in given.methods:
                options = {"alpha": given.alpha, "memory": given.memory, **METHODS[name]}
                old = slice(0, round(given.rows * (1 - given.new)))
                cold = nysstream.Ridge(**options).fit(X, y).result_.stats
                model = nysstream.Ridge(**options, keep_statistics=True)
                model.fit(X.restrict(old), y.restrict(old))
                warm = nysstream.update(model, X, y).result_.stats
                row = {
                    "order": order,
                    "method": name,
                    "cold_passes": cold["passes"],
                    "update_passes": round(warm["passes"], 2),
                    "ratio": round(warm["passes"] / cold["passes"], 2),
                    "cold_bytes": cold["bytes_read"] + cold["bytes_from_cache"],
                    "update_bytes": warm["bytes_read"] + warm["bytes_from_cache"],
                    "cold_seconds": round(cold["seconds"], 2),
                    "update_seconds": round(warm["seconds"], 2),
                    "residual": warm["relative_residual"],
                }
                found.append(row)
                print(json.dumps(row), flush=True)
    if given.out is not None:
        given.out.write_text(json.dumps(found, indent=1))
    return found


if __name__ == "__main__":
    main()
