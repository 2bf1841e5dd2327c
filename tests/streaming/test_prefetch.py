"""Reading in place and ahead: order, reuse, what the cache saves, and how it ends."""

from __future__ import annotations

import threading
import time

import dask
import numpy as np
import pytest
from scipy.sparse import csr_array, random_array

from nysstream.arrays import get_device
from nysstream.errors import SourceError
from nysstream.sources.scratch import scratch
from nysstream.streaming import DesignMatrix, GramProduct, reduce
from nysstream.streaming.cache import clear_cache
from nysstream.streaming.prefetch import (
    N_SLOTS,
    RingPool,
    n_buffers,
    needs_slots,
    read_blocks,
    slot_pool,
)
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


class Slow(Stored):
    """Rows that have to be waited for."""

    def before_read(self, rows):
        """Wait, as for a disk."""
        time.sleep(0.002)


class SparseRows(Slow):
    """Sparse rows at rest."""

    sparse = True

    def read(self, rows, out=None):
        """Read into memory of their own."""
        return csr_array(super().read(rows))


@pytest.mark.parametrize("stored", [Stored, Slow])
def test_blocks_come_in_order_and_hold_their_rows(rng, stored):
    X = rng.standard_normal((107, 3)).astype(np.float32)
    design = DesignMatrix(stored(X, chunk_rows=10))
    cost = Cost()
    seen = [(a, b, rows.copy()) for a, b, rows in read_blocks(design, all_blocks(design), CPU, cost)]
    assert [(a, b) for a, b, _ in seen] == [(i, min(i + 10, 107)) for i in range(0, 107, 10)]
    np.testing.assert_array_equal(np.concatenate([rows for _, _, rows in seen]), X)
    assert cost.bytes_read == X.nbytes
    assert cost.bytes_from_cache == 0
    assert cost.read_seconds > 0


def busy(seconds=0.002):
    """Use the processor for a while."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


def test_reads_that_keep_the_processor_busy_are_made_by_the_task_itself(rng, monkeypatch):
    monkeypatch.setattr(time, "thread_time", time.perf_counter)  # nobody takes the processor away
    design = DesignMatrix(Stored(rng.random((80, 2)), chunk_rows=8))
    cost = Cost()
    for _ in read_blocks(design, all_blocks(design), CPU, cost):
        assert design.source.readers == {threading.current_thread().name}
    assert cost.wait_seconds >= cost.read_seconds > 0
    (ring,) = slot_pool._free["cpu", design.block_bytes]
    assert len(ring.slots) == 1


def test_reads_that_wait_are_made_ahead_after_the_first_and_at_once_next_time(rng):
    design = DesignMatrix(Slow(rng.random((80, 2)), chunk_rows=8))
    here = threading.current_thread().name
    for _ in read_blocks(design, all_blocks(design), CPU, Cost()):
        assert design.source.readers <= {here, "nysstream-reader"}
    assert design.source.readers == {here, "nysstream-reader"}
    design.source.readers.clear()
    assert len(list(read_blocks(design, all_blocks(design), CPU, Cost()))) == 10
    assert design.source.readers == {"nysstream-reader"}


def test_one_read_at_a_time_uses_the_scratch_of_a_ring(rng):
    inside, most = [], []

    class Watching(Slow):
        def before_read(self, rows):
            inside.append(rows)
            most.append(len(inside))
            super().before_read(rows)
            inside.remove(rows)

    design = DesignMatrix(Watching(rng.random((160, 2)), chunk_rows=8))
    for _ in read_blocks(design, all_blocks(design), CPU, Cost()):
        busy(0.001)
    assert max(most) == 1


@pytest.mark.parametrize("stored", [Stored, Slow])
def test_where_rows_are_read_does_not_change_the_bits(rng, stored):
    X = rng.standard_normal((300, 5)).astype(np.float32)
    expected = reduce(DesignMatrix(Stored(X)), GramProduct(np.eye(5)))[0]
    for workers in (1, 3):
        with dask.config.set(scheduler="threads", num_workers=workers):
            assert reduce(DesignMatrix(stored(X)), GramProduct(np.eye(5)))[0].tobytes() == expected.tobytes()


def test_sparse_rows_at_rest_are_read_ahead_too(rng):
    X = random_array((200, 30), density=0.2, rng=rng).toarray()
    design = DesignMatrix(SparseRows(X, chunk_rows=8))
    assert not needs_slots(design, CPU)
    assert n_buffers(design, CPU) == N_SLOTS
    blocks, rows = read_blocks(design, all_blocks(design), CPU, Cost()), []
    for a, b, block in blocks:
        assert len(design.source.runs) <= len(rows) + N_SLOTS
        rows.append(block.toarray())
        assert rows[-1].shape == (b - a, 30)
    np.testing.assert_array_equal(np.concatenate(rows), X)
    assert "nysstream-reader" in design.source.readers
    product = reduce(design, GramProduct(np.eye(30)))[0]
    np.testing.assert_allclose(product, X.T @ X, rtol=1e-12, atol=1e-12)


def test_a_failing_read_of_sparse_rows_ends_the_pass(rng):
    class Torn(SparseRows):
        def before_read(self, rows):
            super().before_read(rows)
            if rows.start == 96:
                message = "stored: chunk 12 is damaged"
                raise SourceError(message)

    design = DesignMatrix(Torn(np.eye(200, 5), chunk_rows=8))
    with pytest.raises(SourceError, match="chunk 12"):
        reduce(design, GramProduct(np.eye(5)))


def test_sparse_rows_of_memory_are_not_buffered(rng):
    design = DesignMatrix(random_array((200, 30), density=0.2, rng=rng, format="csr"))
    assert n_buffers(design, CPU) == 1


def test_arrays_in_memory_are_given_as_views(rng):
    X = rng.standard_normal((40, 2))
    design = DesignMatrix(X)
    assert not needs_slots(design, CPU)
    for _, _, rows in read_blocks(design, all_blocks(design), CPU, Cost()):
        assert np.shares_memory(rows, X)
    assert slot_pool.take(CPU, design.block_bytes).slots == []  # nothing was pooled, nothing breaks


def test_the_reader_runs_ahead_but_not_further_than_its_slots(rng):
    read = threading.Semaphore(0)

    class Signalling(Slow):
        def before_read(self, rows):
            super().before_read(rows)
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


@pytest.mark.parametrize("stored", [Stored, Slow])
def test_a_failing_read_is_raised_where_its_block_is_due(rng, stored):
    class Torn(stored):
        def before_read(self, rows):
            super().before_read(rows)
            if rows.start == 24:
                message = "stored: chunk 3 is damaged"
                raise SourceError(message)

    design = DesignMatrix(Torn(rng.random((80, 2)), chunk_rows=8))
    done = []
    with pytest.raises(SourceError, match="chunk 3"):
        done.extend(a for a, _, _ in read_blocks(design, all_blocks(design), CPU, Cost()))
    assert done == [0, 8, 16]


@pytest.mark.parametrize("ending", [GeneratorExit, KeyboardInterrupt])
@pytest.mark.parametrize("stored", [Stored, Slow])
def test_an_early_end_stops_the_reader_and_returns_the_slots(rng, stored, ending):
    design = DesignMatrix(stored(rng.random((800, 2)), chunk_rows=8))
    blocks = read_blocks(design, all_blocks(design), CPU, Cost())
    next(blocks)
    with pytest.raises(ending):
        blocks.throw(ending)
    assert live_readers(0) == []
    assert len(design.source.runs) <= N_SLOTS + 1
    (ring,) = slot_pool._free["cpu", design.block_bytes]
    assert 1 <= len(ring.slots) <= N_SLOTS


@pytest.mark.parametrize("stored", [Stored, Slow])
def test_slots_are_used_again_by_later_partitions_and_passes(rng, monkeypatch, stored):
    made, make = [], type(CPU).slot
    monkeypatch.setattr(type(CPU), "slot", lambda self, nbytes: made.append(nbytes) or make(self, nbytes))
    design = DesignMatrix(stored(rng.random((200, 2)), chunk_rows=8), max_tasks=1)
    for _ in range(3):
        reduce(design, GramProduct(np.ones((2, 1))))
    assert set(made) == {design.block_bytes}
    assert len(made) <= N_SLOTS


def test_the_pool_keeps_slots_of_one_size():
    # Windows of rows come in many sizes; slots of all of them would pile up.
    pool = RingPool()
    for nbytes in range(1000, 1010):
        ring = pool.take(CPU, nbytes)
        assert ring.slots == []
        ring.slots.append(CPU.slot(nbytes))
        pool.give(CPU, nbytes, ring)
    ((ring,),) = pool._free.values()
    assert [slot.host.nbytes for slot in ring.slots] == [1009]
    assert pool.take(CPU, 1009) is ring


def test_scratch_lives_as_long_as_its_ring(rng):
    class Scratching(Stored):
        def before_read(self, rows):
            scratch("test", 100)[:] = 1

    design = DesignMatrix(Scratching(rng.random((80, 2)), chunk_rows=8))
    list(read_blocks(design, all_blocks(design), CPU, Cost()))
    (ring,) = slot_pool._free["cpu", design.block_bytes]
    (buffer,) = ring.scratch.values()
    list(read_blocks(design, all_blocks(design), CPU, Cost()))
    assert ring.scratch["test"] is buffer


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
