"""One pass of nysstream against the roofline: streamed, resident, sketching, random features."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import machine, stores
from benchmarks.measuring import Row, Settings, median, median_ratio, say, side_by_side
from nysstream import DesignMatrix, features
from nysstream.memory import ALLOWANCE, resident_bytes
from nysstream.operators.gram import GramOperator
from nysstream.sketching.nystrom import nystrom
from nysstream.sources import open as open_source
from nysstream.streaming import GramProduct, pass_needs
from nysstream.streaming.cache import clear_cache
from nysstream.streaming.prefetch import slot_pool
from nysstream.trace import Cost, Trace, tracing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GOAL, FOURIER_GOAL = 0.85, 0.8


def vectors(p: int, k: int) -> np.ndarray:
    """Draw the columns that a pass multiplies."""
    return np.random.default_rng(k).standard_normal((p, k))


def design_of(store: stores.Store, settings: Settings, cache_bytes: int = 0) -> DesignMatrix:
    """Open a store as a design."""
    source = open_source(str(store.made(settings)), store.dataset)
    return DesignMatrix(source, device=settings.device, cache_bytes=cache_bytes)


def streamed(settings: Settings) -> list[Row]:
    """Time passes over stores four times as large as the memory that a pass may use."""
    rows = []
    for store in stores.chosen(settings):
        say(f"streamed: {store.name}")
        rows += _streamed(store, settings)
    return rows


def _streamed(store: stores.Store, settings: Settings) -> list[Row]:
    scale = settings.scale
    path = store.made(settings)
    design = design_of(store, settings)
    operator = GramOperator(design)
    operator @ vectors(scale.n_columns, 1)  # modules, slots and handles are there before the clock runs
    reading = machine.fastest_reader(path, settings.cores)
    machine.drop_cache(path)
    still_cached = machine.cached_fraction(path)
    traces: dict[int, list[Trace]] = {1: [], scale.many: []}

    def ours(k: int) -> float:
        V = vectors(scale.n_columns, k)
        with tracing(Trace()) as trace:
            seconds = _timed(lambda: operator @ V, path)
        traces[k].append(trace)
        return seconds

    seconds = side_by_side(
        {f"ours {k}": lambda k=k: ours(k) for k in traces}
        | limits_of(store, path, scale.many, reading, settings),
        scale.repeats,
    )
    rows = []
    for k, found in traces.items():
        limits, roof = roofline(seconds, k / scale.many)
        ratio = median_ratio(roof, seconds[f"ours {k}"])
        attainable = median_ratio(_shared(seconds, limits, settings.device), seconds[f"ours {k}"])
        cost = sum((trace.total for trace in found), Cost())
        needs = pass_needs(design, GramProduct(vectors(scale.n_columns, k)))
        rows.append(
            Row(
                "streamed",
                f"{store.name}, {columns(k)}",
                median(seconds[f"ours {k}"]),
                median(roof),
                ratio,
                GOAL,
                note="" if ratio >= GOAL else _reason(seconds, limits, attainable, cost, settings.cores),
                details={
                    "ours_seconds": seconds[f"ours {k}"],
                    "read_cpu_seconds": seconds["read_cpu"],
                    **{f"{name}_seconds": values for name, values in limits.items()},
                    "binding": max(limits, key=lambda name: median(limits[name])),
                    "shared_cores_ratio": attainable,
                    "stored_bytes": machine.stored_bytes(path),
                    "decoded_bytes": scale.nbytes,
                    "memory_budget_bytes": scale.nbytes // 4,
                    "projected_bytes": resident_bytes() + ALLOWANCE + sum(needs.values()),
                    "peak_bytes": cost.peak_bytes,
                    "cached_before": still_cached,
                    "reading": reading,
                    "cost": vars(cost),
                },
            )
        )
    slot_pool.clear()
    return rows


def limits_of(
    store: stores.Store, path: Path, k: int, reading: dict[str, Any], settings: Settings
) -> dict[str, Callable[[], float]]:
    """Give what measures, in seconds, each thing that a pass over the store cannot do without."""
    scale, cores, device = settings.scale, settings.cores, settings.device
    flops = 4 * scale.n_rows * scale.n_columns * k
    spent = [0.0]

    def read() -> float:
        machine.drop_cache(path)
        began = time.process_time()
        seconds = machine.read_seconds(path, **reading)
        spent[0] = (time.process_time() - began) / cores
        return seconds

    return {
        "read": read,
        "read_cpu": lambda: spent[0],  # what the kernel took of the cores to read, spread over them
        "decode": lambda: _decode_seconds(store, path, settings),
        "gemm": lambda: flops / machine.gemm_rate(scale.gemm, cores, device),
        "memory": lambda: scale.nbytes / machine.read_rate(scale.limit_bytes, cores, device),
        "upload": lambda: scale.nbytes / machine.upload_rate(device),
    }


def roofline(
    seconds: dict[str, list[float]], share: float = 1.0
) -> tuple[dict[str, list[float]], list[float]]:
    """Combine what :func:`limits_of` measured: reading, decoding, uploading and arithmetic overlap.

    ``share`` is the part of the product's columns that are multiplied.
    """
    pairs = zip(seconds["gemm"], seconds["memory"], strict=True)
    arithmetic = [max(share * gemm, memory) for gemm, memory in pairs]
    limits = {name: seconds[name] for name in ("read", "decode", "upload")} | {"arithmetic": arithmetic}
    return limits, [max(parts) for parts in zip(*limits.values(), strict=True)]


def _shared(seconds: dict[str, list[float]], limits: dict[str, list[float]], device: str) -> list[float]:
    """Make the roofline of a machine whose cores read, decode and multiply one after the other."""
    names = ("read", "upload", "decode", "arithmetic")
    work = zip(seconds["read_cpu"], *(limits[name] for name in names), strict=True)
    return [
        max(read, upload, arithmetic, kernel + decode + (arithmetic if device == "cpu" else 0))
        for kernel, read, upload, decode, arithmetic in work
    ]


def _timed(call: Callable[[], Any], path: Path) -> float:
    """Time a pass over files that the kernel has been asked to forget."""
    machine.drop_cache(path)
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _decode_seconds(store: stores.Store, path: Path, settings: Settings) -> float:
    scale, cores = settings.scale, settings.cores
    if not store.codec:
        return 0.0
    size = scale.large_bytes if store.large else scale.chunk_bytes
    kind = store.codec.removeprefix("hdf5-")
    rates = []
    if kind != "lzf":  # which only HDF5 has
        rates.append(machine.decode_rate(kind, size, scale.n_columns, cores, scale.decode_seconds))
    if kind != store.codec:
        rates.append(machine.hdf5_rate(path, cores, min(scale.nbytes, 64 * scale.chunk_bytes)))
    return scale.nbytes / max(rates)


def columns(k: int) -> str:
    """Name a number of columns."""
    return "1 column" if k == 1 else f"{k} columns"


def _reason(
    seconds: dict[str, list[float]], limits: dict[str, list[float]], attainable: float, cost: Cost, cores: int
) -> str:
    """Say why a pass missed the roofline: the cores have too much to do, or tasks wait."""
    kernel, decode = median(seconds["read_cpu"]), median(limits["decode"])
    shared = (
        f"on {cores} shared cores the kernel's reading ({kernel:.2f} s), decoding ({decode:.2f} s) and "
        f"arithmetic ({median(limits['arithmetic']):.2f} s) add up: {attainable:.2f} of that"
    )
    if attainable >= GOAL:
        return shared
    whole = max(1e-9, cost.wait_seconds + cost.product_seconds + cost.feature_seconds)
    return f"tasks read, or wait for rows, {cost.wait_seconds / whole:.0%} of the time; {shared}"


def resident(settings: Settings) -> list[Row]:
    """Time passes over decoded blocks that are all in the cache."""
    scale, cores, device = settings.scale, settings.cores, settings.device
    store = stores.STORES["zarr-lz4"]
    whole = design_of(store, settings)
    count = min(scale.n_rows, 2 * scale.limit_bytes // (4 * scale.n_columns))
    design = replace(whole.restrict(slice(0, count)), cache_bytes=4 * scale.nbytes)
    operator = GramOperator(design)
    operator @ vectors(scale.n_columns, 1)
    rows = []
    for k in (1, scale.many):
        say(f"resident: {columns(k)}")
        V = vectors(scale.n_columns, k)
        nbytes, flops = 4 * count * scale.n_columns, 4 * count * scale.n_columns * k
        seconds = side_by_side(
            {
                "memory": lambda nbytes=nbytes: nbytes / machine.read_rate(scale.limit_bytes, cores, device),
                "gemm": lambda flops=flops: flops / machine.gemm_rate(scale.gemm, cores, device),
                "ours": lambda V=V: _measured(lambda: operator @ V),
            },
            max(3, scale.repeats) if scale.repeats > 1 else 1,
        )
        limit = seconds["memory"] if k == 1 else seconds["gemm"]
        ratio = median_ratio(limit, seconds["ours"])
        rate = (nbytes if k == 1 else flops) / median(seconds["ours"]) / 1e9
        rows.append(
            Row(
                "resident",
                columns(k),
                median(seconds["ours"]),
                median(limit),
                ratio,
                GOAL,
                note=f"{rate:.1f} {'GB/s' if k == 1 else 'Gflop/s'}",
                details={f"{name}_seconds": values for name, values in seconds.items()},
            )
        )
    clear_cache()
    return rows


def _measured(call: Callable[[], Any]) -> float:
    """Time some calls, enough of them to be seen, and give the seconds of the fastest."""
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
    return best


def sketch(settings: Settings) -> list[Row]:
    """Time the pass of a sketch, and the whole of it with the algebra around the pass."""
    scale, cores, device = settings.scale, settings.cores, settings.device
    rows = []
    for name, k in (("pass", scale.rank), ("whole, with 10 probes", scale.rank + 10)):
        k = min(k, scale.n_columns)
        say(f"sketch: {name}")
        design = design_of(stores.STORES["zarr-lz4"], settings)
        operator = GramOperator(design)
        V = vectors(scale.n_columns, k)
        flops = 4 * scale.n_rows * scale.n_columns * k

        def ours(operator: GramOperator = operator, V: Any = V, name: str = name) -> Any:
            return operator @ V if name == "pass" else nystrom(operator, scale.rank, random_state=0)

        seconds = side_by_side(
            {
                "gemm": lambda flops=flops: flops / machine.gemm_rate(scale.gemm, cores, device),
                "ours": ours,
            },
            scale.repeats,
        )
        ratio = median_ratio(seconds["gemm"], seconds["ours"])
        rows.append(
            Row(
                "sketch",
                f"rank {scale.rank}, {name}",
                median(seconds["ours"]),
                median(seconds["gemm"]),
                ratio,
                GOAL,
                note=f"{flops / median(seconds['ours']) / 1e9:.0f} Gflop/s, streamed from zarr-lz4",
                details={f"{n}_seconds": values for n, values in seconds.items()},
            )
        )
    return rows


def fourier(settings: Settings) -> list[Row]:
    """Time passes through random Fourier features against their products plus their cosines."""
    scale, cores, device = settings.scale, settings.cores, settings.device
    m, d = scale.n_features, scale.n_inputs
    n = min(scale.n_rows, max(1024, (1 << 28) // m)) if scale.repeats < 5 else 463_715
    X = np.random.default_rng(0).standard_normal((n, d), dtype=np.float32)
    design = DesignMatrix(X, features=features.Fourier(m, length_scale=10.0), device=device)
    operator = GramOperator(design)
    most, rows = min(1 << 24, scale.limit_bytes // 4), []
    for k in (1, scale.many, scale.rank):
        say(f"fourier: {columns(k)}")
        V = vectors(m, k)
        flops = 2 * n * d * m + 4 * n * m * k
        seconds = side_by_side(
            {
                "gemm": lambda flops=flops: flops / machine.gemm_rate(scale.gemm, cores, device),
                "cosine": lambda: n * m / machine.cosine_rate(cores, device, most),
                "ours": lambda V=V: operator @ V,
            },
            scale.repeats,
            warm_up=True,
        )
        limit = [a + b for a, b in zip(seconds["gemm"], seconds["cosine"], strict=True)]
        ratio = median_ratio(limit, seconds["ours"])
        rows.append(
            Row(
                "fourier",
                f"{n} x {d}, {m} features, {columns(k)}",
                median(seconds["ours"]),
                median(limit),
                ratio,
                FOURIER_GOAL,
                note=f"products {median(seconds['gemm']):.2f} s, cosines {median(seconds['cosine']):.2f} s",
                details={f"{name}_seconds": values for name, values in seconds.items()},
            )
        )
    return rows
