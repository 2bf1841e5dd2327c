"""The same passes by others: dask.array, a loop over h5py or Zarr with NumPy, scikit-learn.

Every rival gets the settings it does best with, found by trying them on the store at hand: for
dask.array both ways of writing the product, several chunkings, and BLAS on one or on all threads;
for the loop several block sizes and both numbers of threads. Their answers are checked against ours.
"""

from __future__ import annotations

import itertools
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import dask
import dask.array as da
import h5py
import numpy as np
import zarr
from threadpoolctl import threadpool_limits

from benchmarks import machine, stores
from benchmarks.measuring import MB, Row, Settings, median, median_ratio, say, side_by_side
from benchmarks.passes import columns, design_of, limits_of, roofline, vectors
from nysstream.operators.gram import GramOperator
from nysstream.streaming.prefetch import slot_pool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: By how much to be ahead on the store that Zarr's users are advised to write, and of rivals that
#: are not at the roofline themselves; elsewhere to be ahead at all.
GOALS = {"zarr-lz4": 2.0, "below it": 1.5, "at the roofline": 1.0}
ROOFLINE = 0.85

Way: TypeAlias = "Callable[[int], Any]"


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


def dask_product(array: Any, n: int, rows: int, V: Any, how: str, threads: int, cores: int) -> np.ndarray:
    """Multiply ``n`` rows with dask.array on its threads, in chunks of ``rows``, as one of two graphs."""
    with threadpool_limits(threads, user_api="blas"), dask.config.set(scheduler="threads", num_workers=cores):
        kind = {} if isinstance(array, zarr.Array) else {"lock": isinstance(array, h5py.Dataset)}
        x = da.from_array(array, chunks=(rows, array.shape[1]), **kind)[:n]
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


def loop_product(array: Any, n: int, rows: int, V: Any, threads: int) -> np.ndarray:
    """Multiply in a loop over blocks, read into one buffer where the library can, BLAS on all threads."""
    total = np.zeros((array.shape[1], V.shape[1]))
    with threadpool_limits(threads, user_api="blas"):
        for block in blocks(array, n, rows):
            total += block.T @ (block @ V)
    return total


def blocks(array: Any, n: int, rows: int) -> Iterator[np.ndarray]:
    """Read blocks of rows, as a user of each library would."""
    buffer = np.empty((rows, array.shape[1]), array.dtype) if isinstance(array, h5py.Dataset) else None
    for start in range(0, n, rows):
        stop = min(start + rows, n)
        if buffer is None:
            yield np.asarray(array[start:stop])
        else:
            array.read_direct(buffer[: stop - start], source_sel=np.s_[start:stop])
            yield buffer[: stop - start]


def sklearn_epoch(array: Any, n: int, rows: int) -> None:
    """Make one pass of stochastic gradient steps by partial_fit."""
    from sklearn.linear_model import SGDRegressor

    model = SGDRegressor(learning_rate="constant", eta0=1e-6, average=False)
    for block in blocks(array, n, rows):
        model.partial_fit(block, block[:, 0])


def candidates(store: stores.Store, settings: Settings, array: Any, V: Any) -> dict[str, dict[str, Way]]:
    """List the ways in which each rival may be run on a store: callables of a number of rows."""
    scale, cores = settings.scale, settings.cores
    chunks = getattr(array, "chunks", None)
    own = chunks[0] if chunks else stores.chunk_rows(scale, scale.chunk_bytes)
    shards = getattr(array, "shards", None)
    counts = {stores.chunk_rows(scale, times * scale.chunk_bytes) for times in (1, 4, 16)}
    sizes = sorted({max(own, rows) for rows in counts} | ({shards[0]} if shards else set()))
    size = {rows: f"{4 * rows * scale.n_columns / MB:g} MB" for rows in sizes}

    def by_dask(rows: int, how: str, threads: int) -> Way:
        return lambda n: dask_product(array, n, rows, V, how, threads, cores)

    ways: dict[str, dict[str, Way]] = {"dask.array": {}, "loop": {}, "partial_fit": {}}
    for rows, how in itertools.product(sizes, ("x.T @ (x @ v)", "map_blocks")):
        ways["dask.array"][f"{how}, {size[rows]} chunks, BLAS on 1 thread"] = by_dask(rows, how, 1)
    for how in ("x.T @ (x @ v)", "map_blocks"):
        name = f"{how}, {size[sizes[-1]]} chunks, BLAS on {cores} threads"
        ways["dask.array"][name] = by_dask(sizes[-1], how, cores)
    for rows in sizes:
        name = f"{size[rows]} blocks, BLAS on {cores} threads"
        ways["loop"][name] = lambda n, rows=rows: loop_product(array, n, rows, V, cores)
    for rows in sizes[:2]:
        ways["partial_fit"][f"SGDRegressor, {size[rows]} blocks"] = lambda n, rows=rows: sklearn_epoch(
            array, n, rows
        )
    return ways


#: Seconds of a pass that need no repeat.
_LONG = 6.0


def run(settings: Settings) -> list[Row]:
    """Time rivals on every store, next to our pass and to the roofline."""
    rows = []
    for store in stores.chosen(settings):
        path = store.made(settings)
        reading = machine.fastest_reader(path, settings.cores)
        with opened(store, path) as array:
            for k in (1, settings.scale.many):
                rows += _against(store, path, array, k, reading, settings)
        slot_pool.clear()
    return rows


def _against(
    store: stores.Store, path: Path, array: Any, k: int, reading: dict[str, Any], settings: Settings
) -> list[Row]:
    """Find each rival's best settings on a part of the rows, then time those on more of them."""
    scale = settings.scale
    V = vectors(scale.n_columns, k)
    ways = candidates(store, settings, array, V.astype(np.float32))
    if k > 1:
        del ways["partial_fit"]  # it has one column only
    few, many = scale.n_rows // 8, scale.n_rows // (2 if scale.repeats < 5 else 1)
    expected = _operator(store, settings, few) @ V
    best: dict[str, str] = {}
    tried: dict[str, dict[str, float]] = {}
    for rival, options in ways.items():
        say(f"rivals: {store.name}, {columns(k)}, {rival}")
        tried[rival] = {}
        for name, way in options.items():
            tried[rival][name], answer = _cold(lambda way=way: way(few), path)
            if answer is not None:
                _agree(answer, expected, f"{rival}, {name}, on {store.name}")
        best[rival] = min(tried[rival], key=lambda name: tried[rival][name])
    operator = _operator(store, settings, many)
    calls = {rival: lambda way=ways[rival][name]: way(many) for rival, name in best.items()}
    calls["ours"] = lambda: operator @ V
    timed = {name: lambda call=call: _cold(call, path)[0] for name, call in calls.items()}
    longest = max(min(found.values()) for found in tried.values()) * many / few
    seconds = side_by_side(timed, 1 if longest > _LONG else max(1, scale.repeats - 1))
    limits = roofline(side_by_side(limits_of(store, path, k, reading, settings), 1))[1]
    roof = limits[0] * many / scale.n_rows
    found = []
    for rival, name in best.items():
        at_roofline = roof / median(seconds[rival]) >= ROOFLINE
        goal = GOALS.get(store.name, GOALS["at the roofline" if at_roofline else "below it"])
        details = {f"{n}_seconds": values for n, values in seconds.items()}
        found.append(
            Row(
                "rivals",
                f"{rival}, {store.name}, {columns(k)}",
                median(seconds["ours"]),
                median(seconds[rival]),
                median_ratio(seconds[rival], seconds["ours"]),
                goal,
                note=f"{name}, at {roof / median(seconds[rival]):.2f} of the roofline",
                details=details | {"tried_seconds": tried[rival], "roofline_seconds": roof, "rows": many},
            )
        )
    return found


def _operator(store: stores.Store, settings: Settings, n: int) -> GramOperator:
    return GramOperator(design_of(store, settings).restrict(slice(0, n)))


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
