# /// script
# requires-python = ">=3.11"
# dependencies = ["nysstream"]
# ///
"""A statistic of your own, computed in the same pass as one of ours."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import nysstream
from nysstream.streaming import SetUp


@dataclass(frozen=True)
class LargestValues(nysstream.Reduction):
    """The largest absolute value of each column."""

    def n_columns(self, design):
        return 1

    def start(self, design, device):
        return {"largest": device.zeros((design.shape[1],), np.float64)}

    def add(self, part, tile, prepared):
        part["largest"] = np.maximum(part["largest"], np.abs(tile.Z).max(axis=0))
        return part

    def combine(self, a, b):
        return {"largest": np.maximum(a["largest"], b["largest"])}

    def finish(self, design, part):
        return part["largest"]


rng = np.random.default_rng(0)
with tempfile.TemporaryDirectory() as directory:
    X = rng.standard_normal((30_000, 12))
    path = Path(directory, "x.npy")
    np.save(path, X)
    design = nysstream.DesignMatrix(nysstream.open(path), device="cpu")
    largest, statistics = nysstream.reduce(design, LargestValues(), SetUp())  # one pass for both
    print("largest:", largest.round(2))
    print("means:  ", statistics.mean.round(3))
    assert np.array_equal(largest, np.abs(X).max(axis=0))
    assert np.allclose(statistics.mean, X.mean(axis=0))
