# /// script
# requires-python = ">=3.11"
# dependencies = ["nysstream"]
# ///
"""Ridge regression from a Zarr store, for several strengths of the penalty in the same passes."""

import tempfile
from pathlib import Path

import numpy as np
import zarr

import nysstream

rng = np.random.default_rng(0)
with tempfile.TemporaryDirectory() as directory:
    # A store like any other program would write it.
    X = rng.standard_normal((50_000, 40), dtype=np.float32)
    coef = rng.standard_normal(40)
    y = X @ coef + 2.0 + 0.5 * rng.standard_normal(len(X))
    store = Path(directory, "data.zarr")
    group = zarr.open_group(store, mode="w")
    group.create_array("x", data=X, chunks=(5_000, 40))
    group.create_array("y", data=y, chunks=(5_000,))

    train, held_out = slice(0, 45_000), slice(45_000, None)
    model = nysstream.Ridge(alpha=[0.1, 10.0, 1000.0], memory="1GiB")
    model.fit(nysstream.open(store, "x", rows=train), nysstream.open(store, "y", rows=train))

    predicted = model.predict(nysstream.open(store, "x", rows=held_out))
    for alpha, column in zip(model.alpha, predicted.T, strict=True):
        r2 = 1 - np.mean((y[held_out] - column) ** 2) / np.var(y[held_out])
        print(f"alpha {alpha:7}: R2 {r2:.4f}")
    print(f"{model.result_.stats['passes']} passes over the data for all of them")

    model.save(Path(directory, "model.zarr"))
    again = nysstream.load(Path(directory, "model.zarr"))
    assert np.array_equal(again.coef_, model.coef_)
    assert np.abs(model.coef_[0] - coef).max() < 0.05
