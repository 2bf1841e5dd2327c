"""A CUDA device that enforces nothing but the order it was asked for.

It stands in for the CuPy module. Copies and computations run on threads of their own, one per
stream, late, and only after the events that their stream was told to wait for. Memory is poisoned
with NaN as soon as its contents may no longer be relied on: host buffers once copied, device buffers
while they are being refilled. A wait that is missing anywhere shows as a NaN or as a wrong sum.

Arrays are opaque: arithmetic on them is only possible on a stream, by :func:`launch`.
"""

from __future__ import annotations

import queue
import threading
import time
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np


class WrongDevice(AssertionError):
    """Something was done while another device was current in the thread."""


class Stream:
    """Runs what it is given, in order, on a thread of its own, each thing after a delay."""

    def __init__(self, cuda: OrderedCuda, delay: float) -> None:
        self.cuda, self.delay = cuda, delay
        self.work: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while (item := self.work.get()) is not None:
            item()

    def launch(self, function: Any) -> None:
        """Run a function later."""
        self.work.put(lambda: (time.sleep(self.delay), function()))

    def wait_event(self, event: Event) -> None:
        """Let what comes later wait for the latest recording of the event, if there is one."""
        number = event.recorded
        self.work.put(lambda: event.wait_for(number))

    def synchronize(self) -> None:
        """Wait until the stream is empty."""
        done = threading.Event()
        self.work.put(done.set)
        assert done.wait(30)

    def __enter__(self) -> Stream:
        self.cuda.thread.streams = [*self.cuda.streams(), self]
        return self

    def __exit__(self, *_: object) -> None:
        self.cuda.thread.streams = self.cuda.streams()[:-1]


class Event:
    """Counts recordings, and which of them have been reached."""

    def __init__(self, cuda: OrderedCuda) -> None:
        self.cuda, self.device = cuda, cuda.current_device()
        self.recorded = self.reached = 0
        self.condition = threading.Condition()

    def record(self, stream: Stream) -> None:
        """Mark the place in the stream."""
        self.cuda.check(self.device)
        self.recorded += 1
        number = self.recorded
        stream.work.put(lambda: self._reach(number))

    def _reach(self, number: int) -> None:
        with self.condition:
            self.reached = number
            self.condition.notify_all()

    def wait_for(self, number: int) -> None:
        """Wait until recording ``number`` is reached; there is nothing to wait for before the first."""
        with self.condition:
            assert self.condition.wait_for(lambda: self.reached >= number, timeout=30)

    def synchronize(self) -> None:
        """Wait for the latest recording."""
        self.wait_for(self.recorded)


class DeviceArray:
    """Memory of the device: it can be sliced, but looked into only by functions on a stream."""

    def __init__(self, cuda: OrderedCuda, memory: np.ndarray, device: int) -> None:
        self.cuda, self.memory, self.device = cuda, memory, device

    shape = property(lambda self: self.memory.shape)
    dtype = property(lambda self: self.memory.dtype)
    ndim = property(lambda self: self.memory.ndim)
    size = property(lambda self: self.memory.size)

    def _of(self, memory: np.ndarray) -> DeviceArray:
        return DeviceArray(self.cuda, memory, self.device)

    def __getitem__(self, key: Any) -> DeviceArray:
        return self._of(self.memory[key])

    def view(self, dtype: Any) -> DeviceArray:
        """Reinterpret the bytes."""
        return self._of(self.memory.view(dtype))

    def reshape(self, shape: Any) -> DeviceArray:
        """Reshape."""
        return self._of(self.memory.reshape(shape))

    def set(self, host: np.ndarray, stream: Stream) -> None:
        """Copy from the host, later; poison the host buffer when it was copied."""
        self.cuda.check(self.device)
        memory = self.memory

        def copy() -> None:
            memory[...] = np.nan
            time.sleep(stream.delay)
            memory[...] = host
            host[...] = np.nan

        stream.launch(copy)

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return self.cuda.namespace


class OrderedCuda:
    """What :mod:`nysstream.arrays` uses of the CuPy module."""

    ndarray = DeviceArray
    uint8 = np.uint8

    def __init__(self, *, copy_delay: float = 0.0, compute_delay: float = 0.0) -> None:
        self.thread = threading.local()
        self.null = Stream(self, compute_delay)
        self.made = [self.null]
        self.fresh: list[np.ndarray] = []
        self.namespace: Any = ModuleType("ordered")
        self.namespace.float32, self.namespace.float64 = np.float32, np.float64
        self.namespace.finfo = np.finfo
        self.namespace.astype = lambda x, dtype, copy: x
        self.namespace.asarray = self.copy_of
        self.cuda = SimpleNamespace(
            alloc_pinned_memory=lambda nbytes: np.full(nbytes, 255, np.uint8),
            Event=lambda disable_timing: Event(self),
            Stream=_StreamMaker(self, copy_delay),
            Device=lambda index: _Current(self, index),
            get_current_stream=lambda: self.streams()[-1],
        )

    def is_available(self) -> bool:
        """Pretend."""
        return True

    def streams(self) -> list[Stream]:
        """Give this thread's stack of current streams."""
        return getattr(self.thread, "streams", [self.null])

    def current_device(self) -> int:
        """Give this thread's current device: 0 unless it says otherwise."""
        return getattr(self.thread, "device", 0)

    def check(self, device: int) -> None:
        """Refuse work for a device that is not current in this thread."""
        if device != self.current_device():
            message = f"device {device} was used while {self.current_device()} was current"
            raise WrongDevice(message)

    def empty(self, shape: Any, dtype: Any = np.float64) -> DeviceArray:
        """Give memory out; what is in it is NaN, in any float, or what :attr:`fresh` holds."""
        if self.fresh and np.ndim(shape) == 0 and shape:
            return DeviceArray(self, self.fresh.pop(), self.current_device())
        memory = np.full(np.prod(shape, dtype=int) * np.dtype(dtype).itemsize, 255, np.uint8)
        return DeviceArray(self, memory.view(dtype).reshape(shape), self.current_device())

    def asarray(self, host: np.ndarray) -> DeviceArray:
        """Copy to the device, at once."""
        return DeviceArray(self, np.array(host), self.current_device())

    def copy_of(self, x: DeviceArray, copy: bool) -> DeviceArray:
        """Copy on the device, later."""
        made = self.empty(x.shape, x.dtype)
        launch(lambda: np.copyto(made.memory, x.memory), x)
        return made

    def asnumpy(self, x: DeviceArray) -> np.ndarray:
        """Wait for the current stream, and copy."""
        self.streams()[-1].synchronize()
        return x.memory.copy()

    def close(self) -> None:
        """End the streams' threads."""
        for stream in self.made:
            stream.work.put(None)


class _StreamMaker:
    def __init__(self, cuda: OrderedCuda, delay: float) -> None:
        self.cuda, self.delay, self.null = cuda, delay, cuda.null

    def __call__(self, *, non_blocking: bool) -> Stream:
        assert non_blocking, "a blocking stream would wait for every computation"
        self.cuda.made.append(Stream(self.cuda, self.delay))
        return self.cuda.made[-1]


class _Current:
    def __init__(self, cuda: OrderedCuda, index: int) -> None:
        self.cuda, self.index = cuda, index
        self.before = threading.local()

    def __enter__(self) -> None:
        self.before.stack = [*getattr(self.before, "stack", []), self.cuda.current_device()]
        self.cuda.thread.device = self.index

    def __exit__(self, *_: object) -> None:
        self.cuda.thread.device = self.before.stack.pop()


def launch(function: Any, *arrays: DeviceArray) -> None:
    """Run a computation on arrays, later, on the current stream of this thread."""
    cuda = arrays[0].cuda
    for array in arrays:
        cuda.check(array.device)
    cuda.streams()[-1].launch(function)
