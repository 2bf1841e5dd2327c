"""What the cache saves: bytes read by passes when half of the data fits, and when all of it does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks import machine, stores
from benchmarks.measuring import Row, Settings, say
from benchmarks.passes import design_of, vectors
from nysstream.operators.gram import GramOperator
from nysstream.streaming.cache import clear_cache
from nysstream.streaming.prefetch import slot_pool
from nysstream.trace import Trace, tracing

N_PASSES = 3


def read_by_process() -> int:
    """Count the bytes that this process has asked the kernel for: a witness outside our own counters."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("rchar:"):
            return int(line.split()[1])
    raise AssertionError


def run(settings: Settings) -> list[Row]:
    """Count the bytes of passes with no cache, with one for half the data, and with one for all."""
    scale = settings.scale
    store = stores.STORES["zarr-lz4"]
    path = store.made(settings)
    stored = machine.stored_bytes(path)
    rows = []
    for name, fraction in (("nothing", 0.0), ("half the data", 0.5), ("all the data", 1.0)):
        say(f"caching: room for {name}")
        clear_cache()
        design = replace(design_of(store, settings), cache_bytes=int(fraction * scale.nbytes))
        operator, V = GramOperator(design), vectors(scale.n_columns, 1)
        asked, counted, seconds = [], [], []
        for _ in range(N_PASSES):
            machine.drop_cache(path)
            before = read_by_process()
            with tracing(Trace()) as trace:
                operator @ V
            asked.append(read_by_process() - before)
            counted.append(trace.total.bytes_read)
            seconds.append(trace.passes[0].seconds)
        later = sum(asked[1:]) / (N_PASSES - 1) / stored
        rows.append(
            Row(
                "caching",
                f"room for {name}",
                seconds[-1],
                seconds[0],
                later,
                # A block that straddles the end of the room is read again.
                {0.0: None, 0.5: 0.51, 1.0: 0.001}[fraction],
                at_most=True,
                note="bytes read by later passes, as a share of the store; limit: the first pass",
                details={
                    "asked_bytes": asked,
                    "counted_bytes": counted,
                    "seconds": seconds,
                    "stored_bytes": stored,
                },
            )
        )
    clear_cache()
    slot_pool.clear()
    return rows
