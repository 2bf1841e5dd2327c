"""Reading ahead: order, reuse, what the cache saves, and how it ends."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from nysstream.arrays import get_device
from nysstream.errors import SourceError
from nysstream.streaming import DesignMatrix, GramProduct, reduce
from nysstream.streaming.cache import clear_cache
from nysstream.streaming.prefetch import N_SLOTS, SlotPool, needs_slots, read_blocks, slot_pool
from nysstream.trace import Cost, Trace, tracing
from tests.streaming.support import Stored, live_readers, small_blocks

CPU = get_device("cpu")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    small_blocks(monkeypatch)
    slot_pool.clear()
    clear_cache()
    yield
    assert live_readers(1.0) == []
    slot_pool.clear()
    clear_cache()


def all_blocks(design):
    return tuple(block for partition in design.partitions for block in partition.blocks)


def test_blocks_come_in_order_and_hold_their_rows(rng):
    X = rng.standard_normal((107, 3)).astype(np.float32)
    design = DesignMatrix(Stored(X, chunk_rows=10))
    cost = Cost()
    seen = [(a, b, rows.copy()) for a, b, rows in read_blocks(design, all_blocks(design), CPU, cost)]
    assert [(a, b) for a, b, _ in seen] == [(i, min(i + 10, 107)) for i in range(0, 107, 10)]
    np.testing.assert_array_equal(np.concatenate([rows for _, _, rows in seen]), X)
    assert cost.bytes_read == X.nbytes
    assert cost.bytes_from_cache == 0
    assert cost.read_seconds > 0
    assert design.source.readers == {"nysstream-reader"}


def test_arrays_in_memory_are_given_as_views(rng):
    X = rng.standard_normal((40, 2))
    design = DesignMatrix(X)
    assert not needs_slots(design, CPU)
    for _, _, rows in read_blocks(design, all_blocks(design), CPU, Cost()):
        assert np.shares_memory(rows, X)
    assert slot_pool.take(CPU, design.block_bytes)  # nothing was pooled, nothing breaks


def test_the_reader_runs_ahead_but_not_further_than_its_slots(rng):
    read = threading.Semaphore(0)

    class Signalling(Stored):
        def before_read(self, rows):
            read.release()

    design = DesignMatrix(Signalling(rng.random((80, 2)), chunk_rows=8))
    blocks = read_blocks(design, all_blocks(design), CPU, Cost())
    next(blocks)
    for _ in range(N_SLOTS):  # the block that is being worked on, and two more
        assert read.acquire(timeout=10)
    assert not read.acquire(timeout=0.2)
    next(blocks)
    assert read.acquire(timeout=10)
    assert not read.acquire(timeout=0.2)
    blocks.close()


def test_a_failing_read_is_raised_where_its_block_is_due(rng):
    class Torn(Stored):
        def before_read(self, rows):
            if rows.start == 24:
                message = "stored: chunk 3 is damaged"
                raise SourceError(message)

    design = DesignMatrix(Torn(rng.random((80, 2)), chunk_rows=8))
    done = []
    with pytest.raises(SourceError, match="chunk 3"):
        done.extend(a for a, _, _ in read_blocks(design, all_blocks(design), CPU, Cost()))
    assert done == [0, 8, 16]


def test_an_early_end_stops_the_reader_and_returns_the_slots(rng):
    design = DesignMatrix(Stored(rng.random((800, 2)), chunk_rows=8))
    blocks = read_blocks(design, all_blocks(design), CPU, Cost())
    next(blocks)
    blocks.close()
    assert live_readers(0) == []
    assert len(design.source.runs) <= N_SLOTS + 1
    assert len(slot_pool._free["cpu", design.block_bytes]) == N_SLOTS


def test_slots_are_used_again_by_later_partitions_and_passes(rng, monkeypatch):
    made, make = [], type(CPU).slot
    monkeypatch.setattr(type(CPU), "slot", lambda self, nbytes: made.append(nbytes) or make(self, nbytes))
    design = DesignMatrix(Stored(rng.random((200, 2)), chunk_rows=8), max_tasks=1)
    for _ in range(3):
        reduce(design, GramProduct(np.ones((2, 1))))
    assert made == [design.block_bytes] * N_SLOTS


def test_the_pool_keeps_slots_of_one_size():
    # Windows of rows come in many sizes; slots of all of them would pile up.
    pool = SlotPool()
    for nbytes in range(1000, 1010):
        pool.give(CPU, nbytes, pool.take(CPU, nbytes))
    assert sum(len(ring) for ring in pool._free.values()) == N_SLOTS
    (ring,) = pool._free.values()
    assert {slot.host.nbytes for slot in ring} == {1009}


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_cached_blocks_are_not_read_again(rng, share):
    X = rng.standard_normal((160, 4))  # twenty blocks of equal size
    design = DesignMatrix(Stored(X, chunk_rows=8), cache_bytes=int(share * X.nbytes))
    trace = Trace()
    with tracing(trace):
        results = [reduce(design, GramProduct(np.eye(4)))[0] for _ in range(3)]
    first, *later = (record.cost for record in trace.passes)
    assert first.bytes_read == X.nbytes
    assert first.bytes_from_cache == 0
    for cost in later:
        assert cost.bytes_from_cache == share * X.nbytes
        assert cost.bytes_read == (1 - share) * X.nbytes
    assert design.source.reads.sum() == 160 * (3 - 2 * share)
    for result in results:
        assert result.tobytes() == results[0].tobytes()


def test_cached_blocks_survive_the_refilling_of_slots(rng):
    X = rng.standard_normal((160, 4)).astype(np.float32)
    design = DesignMatrix(Stored(X, chunk_rows=8), cache_bytes=X.nbytes)
    for _ in range(2):
        rows = [rows.copy() for _, _, rows in read_blocks(design, all_blocks(design), CPU, Cost())]
        np.testing.assert_array_equal(np.concatenate(rows), X)


def test_another_fit_may_fill_the_cache_meanwhile(rng):
    X = rng.standard_normal((160, 4))
    design = DesignMatrix(Stored(X, chunk_rows=8), cache_bytes=X.nbytes)
    mine, other = (read_blocks(design, all_blocks(design), CPU, Cost()) for _ in range(2))
    rows = [next(mine)[2].copy()]
    for _ in range(5):
        next(other)
    other.close()
    rows += [block.copy() for _, _, block in mine]
    np.testing.assert_array_equal(np.concatenate(rows), X)


def test_one_byte_too_few_leaves_one_block_to_read(rng):
    X = rng.standard_normal((160, 4))
    design = DesignMatrix(Stored(X, chunk_rows=8), cache_bytes=X.nbytes - 1)
    for _ in range(2):
        reduce(design, GramProduct(np.eye(4)))
    assert design.source.reads.sum() == 160 + 8
