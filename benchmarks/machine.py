"""The machine's limits: reading, decoding, memory bandwidth, arithmetic, cosines, uploads.

Every limit is the best that we found a way to get out of this machine with the libraries at hand,
using all its cores, and shares no code with the passes that are held against it.
"""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numcodecs import blosc, zstd
from numcodecs.shuffle import Shuffle
from threadpoolctl import threadpool_limits

from benchmarks import stores
from benchmarks.measuring import MB, Row, Settings, median, say
from nysstream.arrays import aligned_bytes, get_device, to_host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_READ_BYTES = 8 * MB


def files_of(path: Path) -> list[Path]:
    """List the files of a store, as a sequential reader would take them."""
    if path.is_file():
        return [path]
    found = [file for file in path.rglob("*") if file.is_file()]
    return sorted(found, key=lambda file: [int(s) if s.isdigit() else -1 for s in file.parts[-4:]])


def stored_bytes(path: Path) -> int:
    """Count the bytes of the store's files."""
    return sum(file.stat().st_size for file in files_of(path))


def drop_cache(path: Path) -> None:
    """Ask the kernel to forget the pages of the store's files; it needs no privilege."""
    for file in files_of(path):
        fd = os.open(file, os.O_RDONLY)
        try:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def cached_fraction(path: Path, n_probes: int = 64) -> float:
    """Estimate how much of a store is in the page cache, by reads that must not wait for the disk."""
    files = [file for file in files_of(path) if file.stat().st_size]
    sizes = np.cumsum([file.stat().st_size for file in files])
    buffer, hits, tried = bytearray(1), 0, 0
    for place in np.linspace(0, int(sizes[-1]) - 1, n_probes).astype(int):
        number = int(np.searchsorted(sizes, place, side="right"))
        offset = int(place) - (int(sizes[number - 1]) if number else 0)
        fd = os.open(files[number], os.O_RDONLY)
        try:
            hits += os.preadv(fd, [buffer], offset, os.RWF_NOWAIT) > 0
            tried += 1
        except OSError as error:
            if error.errno != errno.EAGAIN:
                return float("nan")  # this file system cannot tell
            tried += 1
        finally:
            os.close(fd)
    return hits / max(1, tried)


def read_seconds(path: Path, n_threads: int, *, apart: bool = False) -> float:
    """Read every file of a store once into reused buffers.

    The threads take pieces in turn, or ``apart``, each from a share of its own.
    """
    pieces = []
    for file in files_of(path):
        size = file.stat().st_size
        pieces += [(file, start, min(size, start + _READ_BYTES)) for start in range(0, size, _READ_BYTES)]
    lock = threading.Lock()
    edges = [len(pieces) * i // n_threads for i in range(n_threads + 1)]
    shares = [iter(pieces)] * n_threads
    if apart:
        shares = [iter(pieces[i:j]) for i, j in pairwise(edges)]
    buffers = [aligned_bytes(_READ_BYTES) for _ in range(n_threads)]
    for buffer in buffers:
        buffer[:] = 0

    def work(buffer: Any, share: Iterator[tuple[Any, int, int]]) -> None:
        opened: tuple[Any, int] = (None, -1)
        while True:
            with lock:
                piece = next(share, None)
            if piece is None:
                break
            file, start, stop = piece
            if opened[0] != file:
                if opened[1] >= 0:
                    os.close(opened[1])
                opened = (file, os.open(file, os.O_RDONLY))
            view = memoryview(buffer)[: stop - start]
            while view:
                count = os.preadv(opened[1], [view], stop - len(view))
                view = view[count:]
        if opened[1] >= 0:
            os.close(opened[1])

    return _together([lambda b=b, s=s: work(b, s) for b, s in zip(buffers, shares, strict=True)])


def fastest_reader(path: Path, cores: int) -> dict[str, Any]:
    """Find out how a store is read fastest: by how many threads, in turn or apart."""
    ways = [
        {"n_threads": n, "apart": apart} for n in sorted({1, cores, 2 * cores}) for apart in (False, True)
    ]
    seconds = []
    for way in ways:
        drop_cache(path)
        seconds.append(read_seconds(path, **way) if way != {"n_threads": 1, "apart": True} else float("inf"))
    return ways[seconds.index(min(seconds))]


def decode_rate(codec: str, chunk_bytes: int, n_columns: int, cores: int, seconds: float = 0.5) -> float:
    """Give decoded bytes per second of one codec on all cores, from memory into warm buffers."""
    rows = max(1, chunk_bytes // (4 * n_columns))
    encoded, decode = _encoded(codec, stores.block(0, rows, n_columns))
    outputs = [aligned_bytes(4 * rows * n_columns) for _ in range(cores)]
    counts = [0] * cores

    def work(number: int, until: float) -> None:
        while counts[number] == 0 or time.perf_counter() < until:  # a thread may begin late
            decode(encoded, outputs[number])
            counts[number] += 1

    for output in outputs:
        decode(encoded, output)
    until = time.perf_counter() + seconds
    took = _together([lambda number=number: work(number, until) for number in range(cores)])
    return sum(counts) * outputs[0].nbytes / took


def _encoded(codec: str, values: Any) -> tuple[Any, Callable[[Any, Any], Any]]:
    raw = np.ascontiguousarray(values).view(np.uint8).reshape(-1)
    if codec == "blosc-lz4":
        return blosc.compress(raw.tobytes(), b"lz4", 5, blosc.BITSHUFFLE, typesize=4), blosc.decompress
    if codec == "zstd":
        return zstd.compress(raw.tobytes(), 0), zstd.decompress
    if codec == "gzip":
        shuffle = Shuffle(4)
        bytes_ = zlib.compress(bytes(shuffle.encode(raw)), 4)
        return bytes_, lambda data, out: shuffle.decode(zlib.decompress(data, bufsize=out.nbytes), out)
    message = f"no decoder for {codec}"
    raise ValueError(message)


def hdf5_rate(path: Path, cores: int, n_bytes: int) -> float:
    """Give decoded bytes per second of HDF5's own filters, a process per core, file in the page cache.

    One process cannot use more than one core for them: HDF5 decodes inside its global lock.
    """
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        shares = [(str(path), core, cores, n_bytes) for core in range(cores)]
        pool.map(stores.read_share, shares, chunksize=1)
        began = time.perf_counter()
        done = sum(pool.map(stores.read_share, shares, chunksize=1))
        return done / (time.perf_counter() - began)


def triad_rate(n_bytes: int, cores: int, device: str = "cpu") -> float:
    """Bytes per second of ``a = b + s c``, three arrays counted, in cached pieces on all cores."""
    if device != "cpu":
        return _device_rate(device, n_bytes, lambda xp, x, y: x + 3 * y, 3)
    count, piece = n_bytes // 4 // 3 // cores, 1 << 14
    arrays = [[np.ones(count, np.float32) for _ in range(3)] for _ in range(cores)]
    scratch = [np.empty(piece, np.float32) for _ in range(cores)]

    def work(number: int) -> None:
        a, b, c = arrays[number]
        part = scratch[number]
        for i in range(0, count - piece + 1, piece):
            np.multiply(c[i : i + piece], 3.0, out=part)
            np.add(b[i : i + piece], part, out=a[i : i + piece])

    took = min(_together([lambda n=n: work(n) for n in range(cores)]) for _ in range(3))
    return 12 * cores * (count // piece * piece) / took


def read_rate(n_bytes: int, cores: int, device: str = "cpu") -> float:
    """Bytes per second that all cores read from memory: the faster of a dot product and ``x @ v``."""
    if device != "cpu":
        return _device_rate(device, n_bytes, lambda xp, x, y: xp.sum(x), 1)
    rows = max(1, n_bytes // cores // 4096)
    data = [np.ones((rows, 1024), np.float32) for _ in range(cores)]
    vector, step = np.ones(1024, np.float32), 512

    def dots(x: Any) -> None:
        half = len(x) // 2
        for i in range(0, half, step):
            a, b = x[i : min(i + step, half)], x[half + i : half + min(i + step, half)]
            np.dot(a.reshape(-1), b.reshape(-1))

    def products(x: Any) -> None:
        for i in range(0, len(x), step):
            x[i : i + step] @ vector

    best = float("inf")
    with threadpool_limits(1, user_api="blas"):
        for work in (dots, products):
            for _ in range(3):
                best = min(best, _together([lambda x=x, work=work: work(x) for x in data]))
    return 4096 * rows * cores / best


def gemm_rate(order: int, cores: int, device: str = "cpu", dtype: Any = np.float32) -> float:
    """Flops per second of a matrix product on all cores: one product on many threads, or many on one."""
    if device != "cpu":
        return _device_gemm(device, 4 * order)
    a = [np.ones((order, order), dtype) for _ in range(2)]
    outputs = [np.empty((order, order), dtype) for _ in range(cores)]
    flops = 2 * order**3
    rates = []
    for _ in range(2):
        with threadpool_limits(cores, user_api="blas"):
            rates.append(flops / _together([lambda: np.matmul(*a, out=outputs[0])]))
        with threadpool_limits(1, user_api="blas"):
            rates.append(cores * flops / _together([lambda o=o: np.matmul(*a, out=o) for o in outputs]))
    return max(rates)


def cosine_rate(cores: int, device: str = "cpu", most: int = 1 << 24) -> float:
    """Cosines per second in float32 on all cores, over the best size of piece; ``most`` for each core."""
    if device != "cpu":
        return _device_rate(device, 256 * MB, lambda xp, x, y: xp.cos(x), 1) / 4
    best = 0.0
    for count in (1 << 12, 1 << 15, 1 << 18):
        source = np.linspace(-20, 20, count, dtype=np.float32)
        outputs = [np.empty(count, np.float32) for _ in range(cores)]
        times = max(1, most // count)

        def work(out: Any, source: Any = source, times: int = times) -> None:
            for _ in range(times):
                np.cos(source, out=out)

        best = max(best, cores * count * times / _together([lambda o=o, w=work: w(o) for o in outputs]))
    return best


def upload_rate(device: str, n_bytes: int = 64 * MB) -> float:
    """Bytes per second from pinned host memory to the device; infinite where they are one."""
    place = get_device(device)
    if place.name == "cpu":
        return float("inf")
    with place.active():
        slot = place.slot(n_bytes)
        view = slot.host.view(np.float32)
        seconds = []
        for _ in range(5):
            began = time.perf_counter()
            slot.send(view)
            to_host(slot.receive()[:1])
            slot.release()
            seconds.append(time.perf_counter() - began)
    return n_bytes / min(seconds)


def _device_rate(device: str, n_bytes: int, call: Callable[[Any, Any, Any], Any], arrays: int) -> float:
    place = get_device(device)
    with place.active():
        x, y = (place.xp.asarray(place.put(np.ones(n_bytes // 12, np.float32))) for _ in range(2))
        seconds = []
        for _ in range(5):
            began = time.perf_counter()
            to_host(place.xp.reshape(call(place.xp, x, y), (-1,))[:1])
            seconds.append(time.perf_counter() - began)
    return arrays * 4 * (n_bytes // 12) / min(seconds)


def _device_gemm(device: str, order: int) -> float:
    place = get_device(device)
    with place.active():
        a = place.put(np.ones((order, order), np.float32))
        seconds = []
        for _ in range(5):
            began = time.perf_counter()
            to_host((a @ a)[:1, :1])
            seconds.append(time.perf_counter() - began)
    return 2 * order**3 / min(seconds)


def _together(calls: list[Callable[[], Any]]) -> float:
    """Start all calls at once, each on a thread, and time them until the last has returned."""
    with _pool(len(calls)) as pool:
        list(pool.map(lambda _: time.sleep(0.001), range(len(calls))))
        began = time.perf_counter()
        for future in [pool.submit(call) for call in calls]:
            future.result()
        return time.perf_counter() - began


@contextlib.contextmanager
def _pool(size: int) -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(size) as pool:
        yield pool


def run(settings: Settings) -> list[Row]:
    """Measure every limit that belongs to no store."""
    scale, cores, device = settings.scale, settings.cores, settings.device
    unit = {"GB/s": 1e9, "Gflop/s": 1e9, "G/s": 1e9}
    limits: list[tuple[str, str, Callable[[], float]]] = [
        ("memory, triad", "GB/s", lambda: triad_rate(scale.limit_bytes, cores, device)),
        ("memory, reading", "GB/s", lambda: read_rate(scale.limit_bytes, cores, device)),
        ("sgemm", "Gflop/s", lambda: gemm_rate(scale.gemm, cores, device)),
        ("cosine, float32", "G/s", lambda: cosine_rate(cores, device)),
    ]
    if device != "cpu":
        limits.append(("upload", "GB/s", lambda: upload_rate(device)))
    for codec in ("blosc-lz4", "zstd", "gzip"):
        limits.append(
            (
                f"decoding, {codec}",
                "GB/s",
                lambda codec=codec: decode_rate(codec, scale.chunk_bytes, scale.n_columns, cores, 0.2),
            )
        )
    rows = []
    for name, kind, measure in limits:
        say(f"machine: {name}")
        values = [measure() / unit[kind] for _ in range(scale.repeats)]
        rows.append(
            Row(
                "machine",
                name,
                median(values),
                max(values),
                median(values) / max(values),
                unit=kind,
                details={"all": values},
            )
        )
    return rows
