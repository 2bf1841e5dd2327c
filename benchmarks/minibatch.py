"""What mixing costs: an epoch of batches beside reading the same blocks in order."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from dask.system import CPU_COUNT

from benchmarks import machine, stores
from benchmarks.measuring import Row, Settings, median, median_ratio, say, side_by_side
from nysstream import DesignMatrix
from nysstream.sources import open as open_source
from nysstream.streaming.minibatch import Minibatches
from nysstream.trace import Trace, tracing

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Seconds of an epoch, at most, where reading alone takes one.
GOAL, BATCH_ROWS = 1.15, 4096


def run(settings: Settings) -> list[Row]:
    """Time epochs whose batches are gathered and thrown away, and readings of the same blocks in order.

    Both from the disk, as with stores that are larger than memory, and from the page cache; with as many
    threads.
    """
    return [row for store in stores.chosen(settings) for row in _compared(store, settings)]


def _compared(store: stores.Store, settings: Settings) -> list[Row]:
    say(f"minibatch: {store.name}")
    path = store.made(settings)
    source = open_source(str(path), store.dataset)
    design = DesignMatrix(source, device=settings.device)
    batches = Minibatches(design, BATCH_ROWS)
    n_readers = max(1, min(CPU_COUNT, len(batches.blocks)))
    traces: list[Trace] = []

    def gathered(tiles: Iterator[object]) -> int:
        return sum(1 for _ in tiles)

    def epoch() -> None:
        with tracing(Trace()) as trace:
            for batch in batches.epoch(len(traces)):
                batch.map(gathered)
        traces.append(trace)

    def share(blocks: list[tuple[int, int]]) -> None:
        buffer = np.empty((design.block_rows, source.shape[1]), design.block_dtype)
        for a, b in blocks:
            source.read(slice(a, b), buffer[: b - a])

    def in_order() -> None:
        with ThreadPoolExecutor(n_readers) as pool:
            list(pool.map(share, [batches.blocks[i::n_readers] for i in range(n_readers)]))

    rows = []
    for case, before in (
        (store.name, lambda: machine.drop_cache(path)),
        (f"{store.name}, page cache", None),
    ):
        timed = {"epoch": epoch, "in order": in_order}
        seconds = side_by_side(timed, settings.scale.repeats, before=before, warm_up=True)
        ratio = median_ratio(seconds["epoch"], seconds["in order"])
        waited = traces[-1].total.wait_seconds / traces[-1].passes[-1].seconds
        row = Row(
            "minibatch",
            case,
            median(seconds["epoch"]),
            median(seconds["in order"]),
            ratio,
            GOAL,
            note=""
            if ratio <= GOAL
            else f"{waited:.0%} of an epoch waits for its reader, the rest gathers rows",
            details={"seconds": seconds, "batch_rows": BATCH_ROWS, "window_blocks": batches.blocks_at_once},
            at_most=True,
        )
        rows.append(row)
    return rows
