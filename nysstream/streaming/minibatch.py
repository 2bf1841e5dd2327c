"""Minibatches: the blocks of a design in random order, their rows mixed inside a window."""

from __future__ import annotations

import functools
import itertools
import math
import time
import uuid
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from dask.system import CPU_COUNT

from nysstream.arrays import single_threaded_blas
from nysstream.errors import InputError
from nysstream.memory import resident_bytes
from nysstream.streaming.needs import scheduler, tile_bytes
from nysstream.streaming.reduction import Tile
from nysstream.streaming.window import Window, map_rows
from nysstream.streaming.window_reader import KEPT_BYTES, WindowReader
from nysstream.trace import Cost, PassRecord, current_trace, listening, report_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from numpy.typing import NDArray

    from nysstream.arrays import Device
    from nysstream.streaming.design import DesignMatrix

    Rows = NDArray[np.int64]

T = TypeVar("T")

#: Blocks whose rows are mixed: enough for a batch to see many places of the store. Fewer where they are
#: large: two windows are held, and nothing overlaps with the reading of the first.
_WINDOW_BLOCKS, _LEAST_BLOCKS, _WINDOW_BYTES = 8, 2, 256 << 20
#: Most shards of a batch, and the fewest rows worth a shard of their own. The cut depends on the batch
#: alone, so that sums do not depend on the number of threads.
_SHARDS, _SHARD_ROWS = 8, 64

_numbers = itertools.count(1)


@dataclass(frozen=True, eq=False)
class Batch:
    """A few rows of a design.

    Attributes
    ----------
    design : DesignMatrix
    rows : ndarray of int, shape (b,)
        Their numbers, ascending; for what is kept for each row.
    window : Window
    pool : Executor or None
        Runs the shards; None for this thread.
    """

    design: DesignMatrix
    rows: Rows
    window: Window
    pool: Executor | None = None

    @classmethod
    def of(cls, design: DesignMatrix) -> Batch:
        """Make a batch of all rows of a small design, such as rows given by hand."""
        n_rows = design.shape[0]
        everything = slice(0, n_rows)
        target, weight = (
            None if source is None else np.asarray(source.read(everything), np.float64)
            for source in (design.target, design.weight)
        )
        pieces = [design.source.read(everything)]
        window = Window(
            np.zeros(1, np.int64), pieces, False, target, None if weight is None else weight[:, 0]
        )
        return cls(design, np.arange(n_rows), window)

    def __len__(self) -> int:
        return int(self.rows.size)

    def map(self, function: Callable[[Iterator[tuple[slice, Tile]]], T]) -> list[T]:
        """Call a function for every shard, and give what it returns in the order of the shards.

        Parameters
        ----------
        function : callable
            Gets an iterator over tiles, each with the places of its rows in the batch. Runs on several
            threads, each with BLAS on one thread.
        """
        count = min(_SHARDS, max(1, len(self) // _SHARD_ROWS))
        edges = [len(self) * i // count for i in range(count + 1)]
        shards = [slice(a, b) for a, b in itertools.pairwise(edges)]
        device = self.design.get_device()

        def run(shard: slice) -> T:
            with device.active(), np.errstate(over="ignore", invalid="ignore"):
                return function(self._tiles(shard, device))

        with single_threaded_blas():
            if self.pool is None or count == 1:
                return [run(shard) for shard in shards]
            return list(self.pool.map(run, shards))

    def _tiles(self, shard: slice, device: Device) -> Iterator[tuple[slice, Tile]]:
        design, window = self.design, self.window
        shift = None
        if design.centering is not None and design.centering.shift is not None:
            shift = device.put(design.centering.shift.astype(design.dtype))
        step = design.tile_rows()
        for a in range(shard.start, shard.stop, step):
            places = slice(a, min(a + step, shard.stop))
            rows = self.rows[places]
            Z = window.take(rows, device)
            if not window.mapped:
                Z = map_rows(design, Z, device)
            if shift is not None:
                Z = Z - shift
            at = window.places(rows)
            target = None if window.target is None else device.put(window.target[at])
            weight = None if window.weight is None else device.put(window.weight[at])
            yield places, Tile(int(rows[0]), None, Z, target, weight)


@dataclass(frozen=True, eq=False)
class Minibatches:
    """The rows of a design, epoch by epoch, in batches of a random order.

    Blocks are dealt at random into windows; rows are mixed inside a window, and cut into batches. While
    one window is worked on, threads read the next. The order is a function of the seed, the number of the
    epoch and the store alone.

    Parameters
    ----------
    design : DesignMatrix
    batch_rows : int
        Most rows of a batch.
    seed : int
    window_blocks : int, optional
        Most blocks of a window; by default as :func:`blocks_of_window` says.

    Raises
    ------
    InputError
        If a count is not positive.

    Notes
    -----
    Cost of an epoch: one pass; each block is read once, none that a cache holds. Memory: two windows and
    the tiles of each thread, as :func:`minibatch_needs` counts it. Runs on threads of this process, as
    many as the Dask scheduler has.
    """

    design: DesignMatrix
    batch_rows: int
    seed: int = 0
    window_blocks: int | None = None
    _kept: dict[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name in ("batch_rows", "window_blocks"):
            count = getattr(self, name)
            if count is not None and count < 1:
                message = f"{name}={count}: give a positive number"
                raise InputError(message)

    @property
    def blocks_at_once(self) -> int:
        """Most blocks of a window."""
        return self.window_blocks or blocks_of_window(self.design)

    @functools.cached_property
    def blocks(self) -> list[tuple[int, int]]:
        """First and past-the-last row of every block, in row order."""
        return [block for partition in self.design.partitions for block in partition.blocks]

    def order(self, number: int) -> tuple[list[list[tuple[int, int]]], np.random.Generator]:
        """Deal the blocks into the windows of an epoch, as nearly equal in number as can be."""
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, number])))
        blocks = [self.blocks[i] for i in rng.permutation(len(self.blocks))]
        count = math.ceil(len(blocks) / self.blocks_at_once)
        edges = [len(blocks) * i // count for i in range(count + 1)]
        return [sorted(blocks[a:b]) for a, b in itertools.pairwise(edges)], rng

    def count(self, number: int) -> int:
        """Count the batches of an epoch."""
        windows, _ = self.order(number)
        return sum(math.ceil(sum(b - a for a, b in window) / self.batch_rows) for window in windows)

    def epoch(self, number: int, *, name: str = "epoch") -> Generator[Batch]:
        """Give every row once, in batches; recorded as a pass once it is complete.

        Parameters
        ----------
        number : int
            Of the epoch, from zero.
        name : str
            What the pass is for.

        Yields
        ------
        Batch
            Valid until the next one is asked for.
        """
        design = self.design
        windows, rng = self.order(number)
        cost, trace = Cost(rows=design.shape[0]), current_trace()
        token = f"nysstream-epoch-{next(_numbers)}-{uuid.uuid4().hex[:8]}"
        began = time.perf_counter()
        started = trace.seconds if trace is not None else 0.0
        threads = _threads(design)
        with (
            listening(token, name, design.shape[0]),
            ThreadPoolExecutor(threads, "nysstream-reader") as readers,
            ThreadPoolExecutor(threads, "nysstream-batch") as pool,
        ):
            reader = WindowReader(design, readers, threads, self._kept)
            ahead = reader.begin(windows[0])
            for i, blocks in enumerate(windows):
                waiting = time.perf_counter()
                window, read = ahead()
                cost = replace(cost + read, wait_seconds=cost.wait_seconds + time.perf_counter() - waiting)
                if i + 1 < len(windows):
                    ahead = reader.begin(windows[i + 1])
                mixed = rng.permutation(window.numbers())
                working = time.perf_counter()
                for rows in np.array_split(mixed, math.ceil(mixed.size / self.batch_rows)):
                    yield Batch(design, np.sort(rows), window, pool if threads > 1 else None)
                cost.product_seconds += time.perf_counter() - working
                cost.peak_bytes = max(cost.peak_bytes, resident_bytes())
                n_rows = sum(b - a for a, b in blocks)
                report_rows(token, n_rows, int(n_rows * design.row_bytes))
        if trace is not None:
            trace.passes.append(PassRecord(name, started, time.perf_counter() - began, cost))


def blocks_of_window(design: DesignMatrix) -> int:
    """Choose how many blocks of a design are mixed at a time; a function of the store alone."""
    return max(_LEAST_BLOCKS, min(_WINDOW_BLOCKS, _WINDOW_BYTES // max(1, design.block_bytes)))


def minibatch_needs(design: DesignMatrix, window_blocks: int | None = None) -> dict[str, int]:
    """Count the bytes that an epoch holds at its peak, by what holds them."""
    window_blocks = window_blocks or blocks_of_window(design)
    sources = [source for source in (design.target, design.weight) if source is not None]
    columns = sum(source.shape[1] for source in sources)
    rows = min(design.shape[0], 2 * window_blocks * design.block_rows)
    kept = sum(
        8 * source.shape[0] * source.shape[1]
        for source in sources
        if 8 * source.shape[0] * source.shape[1] <= KEPT_BYTES
    )
    held = 0
    if not design.source.resident:
        scratch = _threads(design) * design.source.decode_bytes
        held = math.ceil(rows / design.block_rows) * design.block_bytes + scratch
    return {
        "feature weights": design.features.weight_bytes(design.source.shape[1]),
        "windows": held + 8 * rows * columns + kept,
        "tiles": 2 * _threads(design) * tile_bytes(design, design.tile_rows()),
    }


def _threads(design: DesignMatrix) -> int:
    return max(1, min(scheduler()[1], CPU_COUNT, design.max_tasks or CPU_COUNT))
