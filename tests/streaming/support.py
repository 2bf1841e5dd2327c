"""What tests of passes need: sources that watch their readers, reductions that watch their callers, truth."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from nysstream.sources.array import ArraySource
from nysstream.sources.base import RowSource
from nysstream.streaming import Reduction, partition


class Stored(RowSource):
    """Rows that must be read into buffers, as from a store; counts how often each row was read.

    Unlike an array in memory it has chunks, takes the path through slots, and never gives views.
    """

    def __init__(
        self, values: Any, *, chunk_rows: int = 8, chunk_start: int = 0, name: str = "stored"
    ) -> None:
        self.array = ArraySource(np.asarray(values), name=name)
        self.name, self.shape, self.dtype = name, self.array.shape, self.array.dtype
        self.vector = self.array.vector
        self.chunk_rows, self.chunk_start = chunk_rows, chunk_start
        self.reads = np.zeros(self.shape[0], np.int64)
        self.runs: list[tuple[int, int]] = []
        self.readers: set[str] = set()
        self._lock = threading.Lock()

    @property
    def fingerprint(self) -> str:
        """Identity of this object's values."""
        return self.array.fingerprint

    def read(self, rows, out=None):
        """Read and count."""
        with self._lock:
            self.reads[rows] += 1
            self.runs.append((rows.start, rows.stop))
            self.readers.add(threading.current_thread().name)
        self.before_read(rows)
        if out is None:
            return self.array.read(rows).copy()
        return self.array.read(rows, out)

    def before_read(self, rows: slice) -> None:
        """Do nothing; tests override it to delay or fail."""

    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name != "_lock"}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._lock = threading.Lock()


@dataclass(frozen=True)
class RowSum(Reduction):
    """The sum of the rows, and calls in the order in which they came."""

    def n_columns(self, design):
        """One."""
        return 1

    def start(self, design, device):
        """Begin with zeros."""
        return {"sum": device.zeros((design.shape[1],), np.float64)}

    def add(self, part, tile, prepared):
        """Add the tile's rows."""
        part["sum"] = part["sum"] + tile.Z.sum(axis=0, dtype=np.float64)
        return part

    def finish(self, design, part):
        """Return the sum."""
        return part["sum"]


def small_blocks(monkeypatch, *, block_bytes: int = 1, partitions: int = 16) -> None:
    """Cut the rows into small blocks (a chunk each, by default), in up to ``partitions`` partitions."""
    monkeypatch.setattr(partition, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(partition, "MIN_PARTITIONS", partitions)


def live_readers(patience: float = 20.0) -> list[str]:
    """Names of the reader threads that are still there when all tasks had time to end.

    Dask does not wait for the tasks that run beside a failing one.
    """
    deadline = time.monotonic() + patience
    while True:
        names = [t.name for t in threading.enumerate() if t.name.startswith("nysstream-reader")]
        if not names or time.monotonic() > deadline:
            return names
        time.sleep(0.01)


@dataclass(frozen=True)
class Truth:
    """Everything that a pass may be asked for, by dense algebra in float64."""

    Z: np.ndarray
    y: np.ndarray | None = None
    weight: np.ndarray | None = None
    center: bool = True
    standardize: bool = False

    @property
    def w(self) -> np.ndarray:
        """Weights, ones by default."""
        return np.ones(len(self.Z)) if self.weight is None else np.asarray(self.weight, np.float64)

    def about_mean(self, values: np.ndarray) -> np.ndarray:
        """Subtract the weighted column means, and then what rounding left of them."""
        values = np.asarray(values, np.float64)
        for _ in range(2):
            values = values - np.average(values, axis=0, weights=self.w)
        return values

    @property
    def mean(self) -> np.ndarray:
        """Weighted column means."""
        return np.average(np.asarray(self.Z, np.float64), axis=0, weights=self.w)

    @property
    def deviation(self) -> np.ndarray:
        """Weighted standard deviations."""
        D = self.about_mean(self.Z)
        return np.sqrt(np.average(D * D, axis=0, weights=self.w))

    @property
    def rows(self) -> np.ndarray:
        """Rows after centring and scaling."""
        X = self.about_mean(self.Z) if self.center else np.asarray(self.Z, np.float64)
        return X / self.deviation if self.standardize else X

    @property
    def targets(self) -> np.ndarray:
        """Targets (n, q), centred where the rows are."""
        Y = np.asarray(self.y, np.float64).reshape(len(self.Z), -1)
        return self.about_mean(Y) if self.center else Y

    @property
    def gram(self) -> np.ndarray:
        """The weighted Gram matrix."""
        return self.rows.T @ (self.w[:, None] * self.rows)
