"""The way of blocks to a device, on one that runs everything as late as the events allow."""

from __future__ import annotations

from dataclasses import dataclass

import dask
import numpy as np
import pytest

from nysstream import arrays
from nysstream.streaming import DesignMatrix, Reduction, reduce
from nysstream.streaming.cache import clear_cache
from nysstream.streaming.prefetch import slot_pool
from tests.helpers import assert_close
from tests.streaming.ordered_cuda import OrderedCuda, WrongDevice, launch
from tests.streaming.support import Stored, small_blocks

SLOW_COPIES = {"copy_delay": 0.003}
SLOW_COMPUTATIONS = {"compute_delay": 0.003}


@dataclass(frozen=True)
class LateSum(Reduction):
    """The weighted sum of the rows, computed on the device's stream."""

    def n_columns(self, design):
        """One."""
        return 1

    def start(self, design, device):
        """Begin with zeros."""
        return {"sum": device.zeros((design.shape[1],), np.float64)}

    def add(self, part, tile, prepared):
        """Issue the addition, and return at once."""
        total, Z, weight = part["sum"], tile.Z, tile.weight

        def compute():
            total.memory[...] += weight.memory @ Z.memory

        launch(compute, total, Z, weight)
        return part

    def finish(self, design, part):
        """Return the sum."""
        return part["sum"]


@pytest.fixture
def make_cuda(monkeypatch):
    """Put an ordered device in CuPy's place."""
    made = []

    def make(**delays):
        slot_pool.clear()
        clear_cache()
        cuda = OrderedCuda(**delays)
        monkeypatch.setattr(arrays, "cupy", cuda)
        monkeypatch.setattr(arrays, "_devices", {})
        made.append(cuda)
        return cuda

    yield make
    slot_pool.clear()
    clear_cache()
    for cuda in made:
        cuda.close()


@pytest.fixture
def streamed(rng, monkeypatch):
    """Sum the rows of a store in twelve ragged blocks on the device; give the sum and the truth."""
    small_blocks(monkeypatch, partitions=2)
    X, w = rng.standard_normal((92, 3)), rng.random(92)

    def run(*, passes=1, device="cuda", scheduler="synchronous", **options):
        design = DesignMatrix(Stored(X, chunk_rows=8), None, w, device=device, **options)
        with dask.config.set(scheduler=scheduler, num_workers=2):
            totals = [reduce(design, LateSum())[0] for _ in range(passes)]
        return totals, w @ X

    return run


def is_right(totals, truth):
    return all(np.allclose(total, truth, rtol=1e-12, atol=1e-12) for total in totals)


@pytest.mark.parametrize("delays", [SLOW_COPIES, SLOW_COMPUTATIONS], ids=["slow copies", "slow computations"])
@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_sums_are_right_however_late_the_device_is(make_cuda, streamed, delays, scheduler):
    make_cuda(**delays)
    totals, truth = streamed(passes=2, scheduler=scheduler)
    for total in totals:
        assert_close(total, truth, terms=92)


@pytest.mark.parametrize("delays", [SLOW_COPIES, SLOW_COMPUTATIONS], ids=["slow copies", "slow computations"])
@pytest.mark.parametrize("cache_bytes", [700, 10**6])
def test_cached_blocks_are_copied_before_their_slot_is_reused(make_cuda, streamed, delays, cache_bytes):
    make_cuda(**delays)
    totals, truth = streamed(passes=3, cache_bytes=cache_bytes, scheduler="threads")
    for total in totals:
        assert_close(total, truth, terms=92)


def test_every_thread_makes_its_device_current(make_cuda, streamed):
    cuda = make_cuda()
    totals, truth = streamed(device="cuda:1", scheduler="threads")
    assert is_right(totals, truth)
    assert cuda.current_device() == 0  # and the caller's is left as it was


def test_a_thread_that_does_not_is_noticed(make_cuda, streamed, monkeypatch):
    make_cuda()
    active = arrays.CudaDevice.active

    def slot(self, nbytes):
        with active(self):
            return arrays._CudaSlot(nbytes, self._copy_stream)

    monkeypatch.setattr(arrays.CudaDevice, "slot", slot)
    monkeypatch.setattr(arrays.CudaDevice, "active", arrays.Device.active)
    with pytest.raises(WrongDevice):
        streamed(device="cuda:1")


def without_wait(slot):
    """Refill the host buffer though it may not have been copied."""


def send_without_waiting(slot, view):
    """Copy into the device buffer though it may be computed with."""
    slot._view = slot._device[: view.nbytes].view(view.dtype).reshape(view.shape)
    slot._view.set(view, stream=slot._stream)
    slot._copied.record(slot._stream)


def send_without_recording(slot, view):
    """Do not say when the copy is done."""
    slot._view = slot._device[: view.nbytes].view(view.dtype).reshape(view.shape)
    slot._stream.wait_event(slot._computed)
    slot._view.set(view, stream=slot._stream)


def receive_without_waiting(slot):
    """Compute with what may not have arrived."""
    return slot._view


def release_without_recording(slot):
    """Do not say when the computation is done."""
    slot._view = None


@pytest.mark.parametrize(
    ("method", "broken", "delays"),
    [
        ("wait", without_wait, SLOW_COPIES),
        ("send", send_without_waiting, SLOW_COMPUTATIONS),
        ("send", send_without_recording, SLOW_COPIES),
        ("receive", receive_without_waiting, SLOW_COPIES),
        ("release", release_without_recording, SLOW_COMPUTATIONS),
    ],
)
def test_each_wait_is_needed(make_cuda, streamed, monkeypatch, method, broken, delays):
    make_cuda(**delays)
    monkeypatch.setattr(arrays._CudaSlot, method, broken)
    totals, truth = streamed()
    assert not is_right(totals, truth)


def test_the_first_copy_waits_for_what_the_memory_was_used_for_before(make_cuda):
    cuda = make_cuda(**SLOW_COMPUTATIONS)
    device = arrays.get_device("cuda")
    memory = np.ones(8)
    seen = []
    with device.active():
        launch(lambda: seen.append(memory.sum()), arrays.cupy.asarray(memory))
        cuda.fresh.append(memory.view(np.uint8))  # freed, and given out again
        slot = device.slot(64)
        host = slot.host.view(np.float64)
        host[:] = 5.0
        slot.send(host)
        slot.wait()
        cuda.null.synchronize()
    assert seen == [8.0]
    assert memory.tolist() == [5.0] * 8


def test_blocks_sent_ahead_have_arrived_when_a_pass_breaks_off(make_cuda, streamed, monkeypatch):
    make_cuda(**SLOW_COPIES)
    waited = []
    original = arrays._CudaSlot.wait

    def wait(slot):
        original(slot)
        waited.append(slot._copied.reached == slot._copied.recorded)

    def fail(self, part, tile, prepared):
        raise ZeroDivisionError

    monkeypatch.setattr(arrays._CudaSlot, "wait", wait)
    monkeypatch.setattr(LateSum, "add", fail)
    with pytest.raises(ZeroDivisionError):
        streamed()
    idle = [slot for rings in slot_pool._free.values() for ring in rings for slot in ring.slots]
    assert idle
    assert all(slot._copied.reached == slot._copied.recorded for slot in idle)
    assert all(waited)
