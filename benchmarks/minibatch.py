"""What mixing costs: an epoch of batches beside reading the same blocks in order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks import stores
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
    """Time epochs whose batches are gathered and thrown away, and readings of the same blocks in order."""
    return [_compared(store, settings) for store in stores.chosen(settings)]


def _compared(store: stores.Store, settings: Settings) -> Row:
    say(f"minibatch: {store.name}")
    source = open_source(str(store.made(settings)), store.dataset)
    design = DesignMatrix(source, device=settings.device)
    batches = Minibatches(design, BATCH_ROWS)
    traces = []

    def gathered(tiles: Iterator[object]) -> int:
        return sum(1 for _ in tiles)

    def epoch() -> None:
        with tracing(Trace()) as trace:
            for batch in batches.epoch(len(traces)):
                batch.map(gathered)
        traces.append(trace)

    def in_order() -> None:
        buffer = np.empty((design.block_rows, source.shape[1]), design.block_dtype)
        for a, b in batches.blocks:
            source.read(slice(a, b), buffer[: b - a])

    seconds = side_by_side({"epoch": epoch, "in order": in_order}, settings.scale.repeats, warm_up=True)
    ratio = median_ratio(seconds["epoch"], seconds["in order"])
    waited = traces[-1].total.wait_seconds / traces[-1].passes[-1].seconds
    return Row(
        "minibatch",
        store.name,
        median(seconds["epoch"]),
        median(seconds["in order"]),
        ratio,
        GOAL,
        note="" if ratio <= GOAL else f"{waited:.0%} of an epoch waits for its reader, the rest gathers rows",
        details={"seconds": seconds, "batch_rows": BATCH_ROWS, "window_blocks": batches.window_blocks},
        at_most=True,
    )
