"""The same passes by others: dask.array, a loop over h5py or Zarr with NumPy, scikit-learn.

Every rival gets the settings it does best with, found by trying them on the store at hand: for
dask.array both ways of writing the product, several chunkings, and BLAS on one or on all threads;
for the loop several block sizes and both numbers of threads. Their answers are checked against ours.
"""

from __future__ import annotations

import itertools
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import h5py
import numpy as np
import zarr
from threadpoolctl import threadpool_limits

from benchmarks import machine, stores
from benchmarks.measuring import MB, Row, Settings, median, median_ratio, say, side_by_side
from benchmarks.passes import design_of, limits_of, roofline, vectors
from nysstream.operators.gram import GramOperator
from nysstream.streaming.prefetch import slot_pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: By how much to be ahead on the store that Zarr's users are advised to write, and of rivals that
#: are not at the roofline themselves; elsewhere to be ahead at all.
GOALS = {"zarr-lz4": 2.0, "slow": 1.5, "fast": 1.0}
ROOFLINE = 0.85


@contextmanager
def opened(store: stores.Store, path: Path) -> Iterator[Any]:
    """Open a store with the library that its users would use."""
    if path.suffix == ".zarr":
        yield zarr.open_array(str(path), mode="r")
    elif path.suffix == ".h5":
        with h5py.File(path, "r") as file:
            yield file[store.dataset]
    else:
        yield np.load(path, mmap_mode="r")


def dask_product(array: Any, rows: int, V: Any, how: str, threads: int, cores: int) -> np.ndarray:
    """Multiply with dask.array on its threads, in chunks of ``rows`` rows, as one of two graphs."""
    with threadpool_limits(threads, user_api="blas"), dask.config.set(scheduler="threads", num_workers=cores):
        kind = {} if isinstance(array, zarr.Array) else {"lock": isinstance(array, h5py.Dataset)}
        x = da.from_array(array, chunks=(rows, array.shape[1]), **kind)
        if how == "x.T @ (x @ v)":
            return (x.T @ (x @ da.from_array(V, chunks=-1))).compute()
        parts = x.map_blocks(
            lambda block: (block.T @ (block @ V))[None],
            chunks=((1,) * x.numblocks[0], (x.shape[1],), (V.shape[1],)),
            drop_axis=1,
            new_axis=[1, 2],
            dtype=x.dtype,
            meta=np.empty((0, 0, 0), x.dtype),
        )
        return parts.sum(axis=0).compute()


def loop_product(array: Any, rows: int, V: Any, threads: int) -> np.ndarray:
    """Multiply in a loop over blocks, read into one buffer where the library can, BLAS on all threads."""
    total = np.zeros((array.shape[1], V.shape[1]))
    with threadpool_limits(threads, user_api="blas"):
        for block in blocks(array, rows):
            total += block.T @ (block @ V)
    return total


def blocks(array: Any, rows: int) -> Iterator[np.ndarray]:
    """Read blocks of rows, as a user of each library would."""
    buffer = np.empty((rows, array.shape[1]), array.dtype) if isinstance(array, h5py.Dataset) else None
    for start in range(0, array.shape[0], rows):
        stop = min(start + rows, array.shape[0])
        if buffer is None:
            yield np.asarray(array[start:stop])
        else:
            array.read_direct(buffer[: stop - start], source_sel=np.s_[start:stop])
            yield buffer[: stop - start]


def sklearn_epoch(array: Any, rows: int) -> None:
    """Make one pass of stochastic gradient steps by partial_fit."""
    from sklearn.linear_model import SGDRegressor

    model = SGDRegressor(learning_rate="constant", eta0=1e-6, average=False)
    for block in blocks(array, rows):
        model.partial_fit(block, block[:, 0])


def candidates(
    store: stores.Store, settings: Settings, array: Any, V: Any
) -> dict[str, list[tuple[str, Any]]]:
    """List the ways in which each rival may be run on a store."""
    scale, cores = settings.scale, settings.cores
    own = stores.chunk_rows(scale, scale.large_bytes if store.large else scale.chunk_bytes)
    chunks = getattr(array, "chunks", None)
    own = chunks[0] if chunks else own
    sizes = sorted({max(own, stores.chunk_rows(scale, n * scale.chunk_bytes)) for n in (1, 4, 16)})
    ways: dict[str, list[tuple[str, Any]]] = {"dask.array": [], "loop": [], "partial_fit": []}
    for rows, how in itertools.product(sizes, ("x.T @ (x @ v)", "map_blocks")):
        ways["dask.array"].append(
            (
                f"{how}, {4 * rows * scale.n_columns / MB:g} MB chunks, BLAS on 1 thread",
                lambda rows=rows, how=how: dask_product(array, rows, V, how, 1, cores),
            )
        )
    ways["dask.array"].append(
        (
            f"map_blocks, {4 * sizes[-1] * scale.n_columns / MB:g} MB chunks, BLAS on {cores} threads",
            lambda: dask_product(array, sizes[-1], V, "map_blocks", cores, cores),
        )
    )
    for rows in sizes:
        ways["loop"].append(
            (
                f"{4 * rows * scale.n_columns / MB:g} MB blocks, BLAS on {cores} threads",
                lambda rows=rows: loop_product(array, rows, V, cores),
            )
        )
    ways["partial_fit"].append(("SGDRegressor", lambda: sklearn_epoch(array, sizes[0])))
    return ways


def run(settings: Settings) -> list[Row]:
    """Time rivals on every store, next to our pass and to the reading of the store."""
    rows = []
    for store in stores.chosen(settings):
        path = store.made(settings)
        with opened(store, path) as array:
            for k in (1, settings.scale.many):
                rows += _against(store, path, array, k, settings)
        slot_pool.clear()
    return rows


def _against(store: stores.Store, path: Path, array: Any, k: int, settings: Settings) -> list[Row]:
    scale = settings.scale
    V = vectors(scale.n_columns, k)
    operator = GramOperator(design_of(store, settings))
    expected = operator @ V
    ways = candidates(store, settings, array, V.astype(np.float32))
    if k > 1:
        del ways["partial_fit"]  # it has one column only
    best: dict[str, tuple[str, Callable[[], Any]]] = {}
    tried: dict[str, dict[str, float]] = {}
    for rival, options in ways.items():
        say(f"rivals: {store.name}, {k} columns, {rival}")
        tried[rival] = {}
        for name, call in options:
            tried[rival][name], answer = _cold(call, path)
            if answer is not None:
                _agree(answer, expected, f"{rival}, {name}, on {store.name}")
        name = min(tried[rival], key=lambda name: tried[rival][name])
        best[rival] = (name, dict(options)[name])
    limits = limits_of(store, path, k, machine.fastest_reader(path, settings.cores), settings)
    runs = {rival: call for rival, (_, call) in best.items()} | {"ours": lambda: operator @ V}
    timed = {name: lambda call=call: _cold(call, path)[0] for name, call in runs.items()}
    seconds = side_by_side(timed | limits, max(1, scale.repeats - 1))
    roof = roofline(seconds)[1]
    found = []
    for rival, (name, _) in best.items():
        ratio = median_ratio(seconds[rival], seconds["ours"])
        near = median_ratio(roof, seconds[rival]) >= ROOFLINE
        goal = GOALS["fast"] if near else GOALS["slow"]
        if store.name == "zarr-lz4":
            goal = GOALS["zarr-lz4"]
        found.append(
            Row(
                "rivals",
                f"{rival}, {store.name}, {'1 column' if k == 1 else f'{k} columns'}",
                median(seconds["ours"]),
                median(seconds[rival]),
                ratio,
                goal,
                note=f"{name}{'; at the roofline' if near else ''}",
                details={f"{n}_seconds": values for n, values in seconds.items()} | {"tried": tried[rival]},
            )
        )
    return found


def _cold(call: Callable[[], Any], path: Path) -> tuple[float, Any]:
    machine.drop_cache(path)
    began = time.perf_counter()
    answer = call()
    return time.perf_counter() - began, answer


def _agree(answer: np.ndarray, expected: np.ndarray, who: str) -> None:
    """Refuse to time rivals, or ourselves, on different work."""
    error = float(np.linalg.norm(answer - expected) / np.linalg.norm(expected))
    if not error < 1e-2:
        message = f"{who}: the product differs from ours by {error:.1e}"
        raise AssertionError(message)
