"""Rows of a dask array, computed as they are read."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.errors import InputError, NysstreamError, SourceError
from nysstream.sources.base import RowSource
from nysstream.sources.checking import assign, numeric_matrix, output_for
from nysstream.sources.fingerprint import fingerprint_of

if TYPE_CHECKING:
    from numpy.typing import NDArray


class DaskSource(RowSource):
    """Rows of a dask array.

    The blocks behind a run of rows are computed inside the read, in the thread that reads, so that
    a pass neither waits for its own threads nor submits tasks from within a task. Every pass
    computes them again: where that is expensive, store the array as Zarr first.

    Parameters
    ----------
    array : dask.array.Array, shape (n, p) or (n,)
        Chunked in rows, in columns or both.
    name : str
        How messages call it.

    Raises
    ------
    InputError
        If its chunk sizes are unknown, its blocks are not NumPy arrays, or it holds no real numbers.
    """

    def __init__(self, array: Any, *, name: str = "dask array") -> None:
        self.name = name
        if any(math.isnan(size) for sizes in array.chunks for size in sizes):
            message = f"{name} has chunks of unknown size; call array.compute_chunk_sizes() first"
            raise InputError(message)
        if not isinstance(array._meta, np.ndarray):
            message = (
                f"{name} has blocks of type {type(array._meta).__name__}; "
                "convert them first, for example array.map_blocks(numpy.asarray)"
            )
            raise InputError(message)
        self.shape, self.dtype, self.vector = numeric_matrix(name, array.shape, array.dtype)
        if _holds_futures(array):
            message = f"{name} is persisted on a cluster and cannot be read within a pass; store it as Zarr"
            raise InputError(message)
        self._array = array
        # Where chunks are irregular the commonest size wastes least.
        self.chunk_rows = max(1, Counter(array.chunks[0]).most_common(1)[0][0]) if array.chunks[0] else 1

    @classmethod
    def accepts(cls, obj: object) -> bool:
        """Whether ``obj`` is a dask array, without importing dask."""
        kind = type(obj)
        return kind.__module__.split(".")[0] in ("dask", "dask_array") and kind.__name__ == "Array"

    @classmethod
    def wrap(cls, obj: Any) -> DaskSource:
        """Make a source of a dask array."""
        return cls(obj)

    @property
    def fingerprint(self) -> str:
        """Digest of the metadata and of three sampled runs of rows."""
        return fingerprint_of(self, n_samples=3)

    @property
    def decode_bytes(self) -> int:
        """The blocks of one run of chunk rows, and their assembly."""
        widest = max(self._array.chunks[0], default=0)
        return int(2 * widest * self.shape[1] * self.dtype.itemsize)

    def read(self, rows: slice, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Compute a run of rows.

        Raises
        ------
        SourceError
            If a block cannot be computed, or is not of the declared shape.
        """
        out = output_for(self, rows, out)
        edges = np.concatenate(([0], np.cumsum(self._array.chunks[0]))).astype(np.int64)
        first = int(np.searchsorted(edges, rows.start, side="right")) - 1
        # One run of chunk rows at a time bounds what is in memory by the blocks of one.
        for block in range(first, len(edges) - 1):
            start, stop = max(rows.start, int(edges[block])), min(rows.stop, int(edges[block + 1]))
            if start >= rows.stop:
                break
            if start < stop:
                target = out[start - rows.start : stop - rows.start]
                assign(target, self._compute(start, stop).reshape(target.shape))
        return out

    def _compute(self, start: int, stop: int) -> NDArray[Any]:
        expected = (stop - start, *self._array.shape[1:])
        try:
            block = np.asarray(self._array[start:stop].compute(scheduler="synchronous"))
        except NysstreamError:
            raise
        except Exception as error:  # a user's graph may raise anything
            message = f"{self.name}: rows {start}:{stop} cannot be computed: {type(error).__name__}: {error}"
            raise SourceError(message) from error
        if block.shape != expected:
            message = f"{self.name}: rows {start}:{stop} came out with shape {block.shape}, not {expected}"
            raise SourceError(message)
        return block


def _holds_futures(array: Any) -> bool:
    layers = getattr(array.dask, "layers", {})
    materialized = [layer for layer in layers.values() if type(layer).__name__ == "MaterializedLayer"]
    return any(type(task).__name__ == "Future" for layer in materialized for task in layer.values())
