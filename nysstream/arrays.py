"""Where tiles are computed: array namespaces, devices, upload slots. The only importer of CuPy."""

from __future__ import annotations

import contextlib
import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, cast

import array_api_compat
import numpy as np
import scipy.sparse
from threadpoolctl import OpenBLASController, ThreadpoolController

from nysstream.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from numpy.typing import DTypeLike, NDArray

try:
    import cupy
except ImportError:  # pragma: no cover - depends on the installation
    cupy = None

Array = Any  # any array of the Python array API standard

_ALIGNMENT = 64  # bytes: one cache line, and the widest vector register


def namespace(*arrays: Array) -> Any:
    """Return the array-API namespace shared by the arrays."""
    return array_api_compat.array_namespace(*arrays)


def to_host(x: Array) -> NDArray[Any]:
    """Copy an array of any namespace into a NumPy array; NumPy and SciPy arrays pass through."""
    if isinstance(x, np.ndarray):
        return x
    if scipy.sparse.issparse(x):
        return cast("NDArray[Any]", x)
    if cupy is not None and isinstance(x, cupy.ndarray):
        return np.asarray(cupy.asnumpy(x))
    if array_api_compat.is_array_api_obj(x):
        return np.asarray(array_api_compat.to_device(x, "cpu") if _has_cpu(x) else _strict_to_host(x))
    return np.asarray(x)


def _has_cpu(x: Array) -> bool:
    return not type(x).__module__.startswith("array_api_strict")


def _strict_to_host(x: Array) -> NDArray[Any]:
    xp = namespace(x)
    return np.asarray(x.to_device(xp.Device("CPU_DEVICE")))


def like(x: Array, host: NDArray[Any]) -> Array:
    """Move a host array to the namespace and device of ``x``, keeping its dtype."""
    xp = namespace(x)
    if array_api_compat.is_numpy_namespace(xp):
        return host
    return xp.asarray(host, device=array_api_compat.device(x))


def cuda_available() -> bool:
    """Whether CuPy is installed and sees a device."""
    return cupy is not None and bool(cupy.is_available())


class Slot(ABC):
    """A reusable place for one block on its way to the device.

    The reader fills :attr:`host` and calls :meth:`send`; the computation calls :meth:`receive`,
    works on the result, and calls :meth:`release`. :meth:`wait` blocks the reader until refilling
    can disturb neither the copy nor the computation.
    """

    host: NDArray[Any]

    @abstractmethod
    def wait(self) -> None:
        """Block until the host buffer may be overwritten."""

    @abstractmethod
    def send(self, view: NDArray[Any]) -> None:
        """Start moving ``view``, a leading part of the host buffer, to the device."""

    @abstractmethod
    def receive(self) -> Array:
        """Return the sent view on the device, ordered after its copy."""

    @abstractmethod
    def release(self) -> None:
        """Say that every computation on the received array has been issued."""


class Device(ABC):
    """Where tiles are computed.

    Attributes
    ----------
    name : str
    xp : module
        Array-API namespace of the device's arrays.
    """

    name: str
    xp: Any

    @abstractmethod
    def slot(self, nbytes: int) -> Slot:
        """Make a reusable slot for blocks of up to ``nbytes`` bytes."""

    @abstractmethod
    def put(self, host: NDArray[Any]) -> Array:
        """Copy a small host array to the device (no copy where host and device are the same)."""

    def active(self) -> AbstractContextManager[Any]:
        """Make the device current in this thread inside the block; every task and reader enters one."""
        return contextlib.nullcontext()

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """Make an uninitialised array on the device."""
        return self.put(np.empty(shape, dtype))

    def zeros(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """Make an array of zeros on the device."""
        return self.put(np.zeros(shape, dtype))

    def __reduce__(self) -> tuple[Any, ...]:
        return (get_device, (self.name,))


class _CpuSlot(Slot):
    def __init__(self, nbytes: int) -> None:
        self.host = aligned_bytes(nbytes)
        self._view: NDArray[Any] | None = None

    def wait(self) -> None:
        pass

    def send(self, view: NDArray[Any]) -> None:
        self._view = view

    def receive(self) -> Array:
        return self._view

    def release(self) -> None:
        self._view = None


class CpuDevice(Device):
    """NumPy: blocks are computed where they are read."""

    name = "cpu"
    xp = array_api_compat.array_namespace(np.empty(0))

    def slot(self, nbytes: int) -> Slot:
        """Make a cache-line aligned host buffer."""
        return _CpuSlot(nbytes)

    def put(self, host: NDArray[Any]) -> Array:
        """Return the array itself."""
        return host


class _CudaSlot(Slot):
    """Pinned host memory and a device buffer, joined by one copy stream.

    Two events order the pieces: the copy waits for the computation that used the device buffer
    last, and the host buffer is refilled only after its own copy has finished.
    """

    def __init__(self, nbytes: int, copy_stream: Any) -> None:
        self.host = np.frombuffer(cupy.cuda.alloc_pinned_memory(max(nbytes, 1)), np.uint8, count=nbytes)
        self._device = cupy.empty(max(nbytes, 1), dtype=cupy.uint8)
        self._stream = copy_stream
        self._copied = cupy.cuda.Event(disable_timing=True)
        self._computed = cupy.cuda.Event(disable_timing=True)
        # The pool may give memory that computations issued earlier still use: the first copy waits.
        self._computed.record(cupy.cuda.get_current_stream())
        self._view: Any = None

    def wait(self) -> None:
        self._copied.synchronize()

    def send(self, view: NDArray[Any]) -> None:
        self._view = self._device[: view.nbytes].view(view.dtype).reshape(view.shape)
        self._stream.wait_event(self._computed)
        self._view.set(view, stream=self._stream)
        self._copied.record(self._stream)

    def receive(self) -> Array:
        cupy.cuda.get_current_stream().wait_event(self._copied)
        return self._view

    def release(self) -> None:
        self._computed.record(cupy.cuda.get_current_stream())
        self._view = None


class CudaDevice(Device):
    """CuPy on one CUDA device; copies run on their own stream."""

    def __init__(self, index: int = 0) -> None:
        if not cuda_available():
            message = (
                "device='cuda' needs CuPy and a CUDA device: install nysstream[cuda12] or nysstream[cuda13], "
                "or use device='cpu'"
            )
            raise InputError(message)
        self.name = f"cuda:{index}"
        self.xp = array_api_compat.array_namespace(cupy.empty(0))
        self._device = cupy.cuda.Device(index)
        with self._device:
            self._copy_stream = cupy.cuda.Stream(non_blocking=True)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Make the device and its null stream current: both are per thread.

        All tasks share one stream of computations, so that what one of them leaves for others
        (weights of feature maps, cached blocks, memory given back to the pool) is ordered.
        """
        with self._device, cupy.cuda.Stream.null:
            yield

    def slot(self, nbytes: int) -> Slot:
        """Make a pinned host buffer and its device twin."""
        with self.active():
            return _CudaSlot(nbytes, self._copy_stream)

    def put(self, host: NDArray[Any]) -> Array:
        """Copy to the device."""
        with self.active():
            return cupy.asarray(host)

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """Allocate on the device."""
        with self.active():
            return cupy.empty(shape, dtype=dtype)


_devices: dict[str, Device] = {"cpu": CpuDevice()}
_devices_lock = threading.Lock()


def get_device(name: str | Device | None = None) -> Device:
    """Return the device called ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.

    ``None`` means a CUDA device where CuPy sees one, else the CPU.

    Raises
    ------
    InputError
        If the name is unknown, or the device is not available.
    """
    if isinstance(name, Device):
        return name
    if name is None:
        name = "cuda" if cuda_available() else "cpu"
    key = "cuda:0" if name == "cuda" else name
    with _devices_lock:
        if key not in _devices:
            kind, _, index = key.partition(":")
            if kind != "cuda" or not index.isdigit():
                message = f"device={name!r} is not known: use 'cpu', 'cuda' or 'cuda:N'"
                raise InputError(message)
            _devices[key] = CudaDevice(int(index))
        return _devices[key]


def aligned_bytes(nbytes: int) -> NDArray[Any]:
    """Allocate uninitialised bytes at a cache-line boundary."""
    raw = np.empty(nbytes + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + nbytes]


def aligned(buffer: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Give bytes at a cache-line boundary: themselves, or a copy."""
    if buffer.ctypes.data % _ALIGNMENT == 0:
        return buffer
    copy = aligned_bytes(buffer.size)
    copy[:] = buffer
    return copy


class _BlasLimit:
    """Counts the tasks that want one BLAS thread; the first sets the limit, the last lifts it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._controller: ThreadpoolController | None = None
        self._limiter: Any = None

    def acquire(self) -> None:
        with self._lock:
            self._holders += 1
            if self._holders == 1:
                if self._controller is None:
                    self._controller = ThreadpoolController().select(user_api="blas")
                self._take_control()
                self._limiter = self._controller.limit(limits=1, user_api="blas")

    def release(self) -> None:
        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                self._take_control()
                self._limiter.restore_original_limits()
                self._limiter = None
                self._take_control()

    @staticmethod
    def _take_control() -> None:
        """Let this thread set OpenBLAS's limit, which threadpoolctl leaves to the first that ever did."""
        clear = getattr(OpenBLASController, "clear_controlling_thread", None)  # since threadpoolctl 3.8
        if clear is not None:
            clear(force=True)


_blas_limit = _BlasLimit()


@contextlib.contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Run BLAS on one thread inside the block, in this process, however many tasks overlap.

    Tasks are parallel already; and a product split over a varying number of threads would add in
    a varying order, so that results would depend on the scheduler.
    """
    _blas_limit.acquire()
    try:
        yield
    finally:
        _blas_limit.release()
