"""Memory as arithmetic, and then measured: what a process really holds stays within what was promised."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from nysstream import memory
from nysstream.errors import InputError, MemoryBudgetError
from nysstream.memory import Budget, available_bytes, parse_memory, peak_resident_bytes, resident_bytes

MIB = 1 << 20


# --- arithmetic -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [("2GiB", 2 << 30), ("100 MB", 10**8), ("1e9", 10**9), (12345, 12345), (1.5e6, 1_500_000)],
)
def test_sizes(given, expected):
    assert parse_memory(given) == expected


@pytest.mark.parametrize("given", ["a lot", "2 apples", float("nan"), float("inf"), [1]])
def test_what_is_no_size_is_refused(given):
    with pytest.raises(InputError, match=r"is not a size: give bytes, or text such as '2GiB'"):
        parse_memory(given)


@pytest.mark.parametrize("given", [0, -5, "0MiB", "-1GiB"])
def test_sizes_are_positive(given):
    with pytest.raises(InputError, match="must be positive"):
        parse_memory(given)


def test_half_of_what_is_available_is_the_default(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 1001)
    assert parse_memory(None) == 500


def test_a_control_group_bounds_what_is_available(monkeypatch, tmp_path):
    free = available_bytes()
    assert free > resident_bytes()
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(memory, "Path", lambda *parts: tmp_path / parts[-1].replace("/", "-"))
    for text, expected in (("123456789\n", 123456789), ("max\n", None)):
        limit.write_text(text)
        if expected is None:
            assert available_bytes() > 123456789
        else:
            assert available_bytes() == expected


def test_budgets_add_up():
    budget = Budget(1000, {"process": 300, "tiles": 200})
    assert budget.peak == 500
    assert budget.spare == 500
    budget.check()
    assert Budget(500, budget.needs).spare == 0
    Budget(500, budget.needs).check()


def test_an_impossible_job_is_told_what_would_do():
    needs = {"process": 150 * MIB, "tiles": 37 * MIB, "partial sums": 0}
    budget = Budget(100 * MIB, needs, "ask for a smaller rank")
    assert budget.spare == 0
    with pytest.raises(MemoryBudgetError) as caught:
        budget.check()
    message = str(caught.value)
    assert "memory=100.00 MiB is too small: the job needs 187.00 MiB" in message
    assert "process 150.00 MiB, tiles 37.00 MiB" in message
    assert "partial sums" not in message
    assert message.endswith("or ask for a smaller rank")
    (smallest,) = re.findall(r"memory='(\d+MiB)'", message)
    Budget(parse_memory(smallest), needs).check()


def test_the_peak_is_that_of_this_process_not_of_its_parent():
    ballast = np.ones(30_000_000)  # 240 MB
    code = "from nysstream.memory import *; print(peak_resident_bytes(), resident_bytes())"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    peak, now = map(int, output.split())
    assert now - MIB < peak < now + 60 * MIB  # the kernel counts both in batches
    assert peak_resident_bytes() > ballast.nbytes


def test_a_forked_process_asks_about_itself():
    resident_bytes()
    code = """
import os, numpy as np
from nysstream.memory import resident_bytes
assert resident_bytes() < 400_000_000
if os.fork() == 0:
    ballast = np.ones(60_000_000)
    os._exit(resident_bytes() < 450_000_000)
print(os.wait()[1])
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "0"


# --- measured -------------------------------------------------------------------------------------

CHUNK_ROWS, N_COLUMNS = 4096, 256  # 4 MiB in float32

CHILD = """
import json, re, sys
import dask
import numpy as np
import nysstream
from nysstream.errors import MemoryBudgetError
from nysstream.features import Fourier
from nysstream.memory import parse_memory, peak_resident_bytes
from nysstream.trace import Trace, tracing

url, name, threads, n_features, spare = json.loads(sys.argv[1])
dask.config.set(scheduler="threads", num_workers=threads)
features = Fourier(n_features, length_scale=16.0) if n_features else None
source = nysstream.open(url, name)
options = dict(features=features, center=True, n_vectors=8)
try:
    nysstream.gram(source, memory="1MiB", **options)
except MemoryBudgetError as error:
    (smallest,) = re.findall(r"memory='(.*?)'", str(error))
limit = parse_memory(smallest) + spare
trace = Trace()
with tracing(trace):
    A = nysstream.gram(source, memory=limit, **options)
    for _ in range(2):
        product = A @ np.ones((A.shape[0], 8))
assert np.isfinite(product).all()
print(json.dumps({
    "limit": limit,
    "peak": peak_resident_bytes(),
    "read": trace.total.bytes_read,
    "cached": trace.total.bytes_from_cache,
    "passes": len(trace.passes),
}))
"""


def measure(url, *, threads=2, n_features=0, spare=0):
    """Run three passes in a process of its own, under the smallest limit that it accepts, plus ``spare``."""
    arguments = json.dumps(
        [str(url), "x" if str(url).endswith(("zarr", "h5")) else None, threads, n_features, spare]
    )
    run = subprocess.run(
        [sys.executable, "-c", CHILD, arguments], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.fixture(scope="module")
def chunk():
    """Values of one chunk; stores repeat them, so that large ones are quick to make."""
    return np.random.default_rng(0).standard_normal((CHUNK_ROWS, N_COLUMNS), dtype=np.float32)


@pytest.fixture
def make_store(tmp_path, chunk):
    """Make a store of so many chunks, which takes the disk space of one wherever the format allows it."""

    def make(kind, n_chunks):
        shape = (n_chunks * CHUNK_ROWS, N_COLUMNS)
        if kind == "npy":
            path = tmp_path / "x.npy"
            array = np.lib.format.open_memmap(path, "w+", np.float32, shape)  # zeros that are nowhere
            array[-CHUNK_ROWS:] = chunk
            del array
        elif kind == "hdf5":
            import h5py

            path = tmp_path / "x.h5"
            with h5py.File(path, "w") as file:
                x = file.create_dataset("x", shape, np.float32, chunks=chunk.shape, compression="lzf")
                x[:CHUNK_ROWS] = chunk
                skipped, stored = x.id.read_direct_chunk((0, 0))
                for i in range(1, n_chunks):
                    x.id.write_direct_chunk((i * CHUNK_ROWS, 0), stored, skipped)
        else:
            import zarr

            path = tmp_path / f"{kind}-{n_chunks}.zarr"
            compressors = None if kind == "raw" else zarr.codecs.BloscCodec(cname="lz4", shuffle="shuffle")
            group = zarr.open_group(path, mode="w")
            group.create_array(
                "x", shape=shape, dtype=np.float32, chunks=chunk.shape, compressors=compressors
            )
            group["x"][:CHUNK_ROWS] = chunk
            first = path / "x" / "c" / "0" / "0"
            for i in range(1, n_chunks):
                (path / "x" / "c" / str(i)).mkdir()
                (path / "x" / "c" / str(i) / "0").hardlink_to(first)
        return path

    return make


def store_bytes(n_chunks):
    return n_chunks * CHUNK_ROWS * N_COLUMNS * 4


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "times"), [("raw", 4), ("blosc", 2), ("npy", 2), ("hdf5", 2)])
def test_passes_over_more_than_memory_stay_within_the_limit(make_store, kind, times):
    n_chunks = 100 * times
    measured = measure(make_store(kind, n_chunks))
    assert measured["peak"] <= measured["limit"]
    assert store_bytes(n_chunks) > times * measured["limit"]
    assert measured["passes"] == 3
    assert measured["read"] + measured["cached"] == 3 * store_bytes(n_chunks)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 4])
def test_more_tasks_hold_more_and_say_so(make_store, threads):
    measured = measure(make_store("blosc", 60), threads=threads)
    assert measured["peak"] <= measured["limit"]


@pytest.mark.slow
@pytest.mark.parametrize("spare", [0, 200 * MIB])
def test_features_are_within_the_limit(make_store, spare):
    # With so much to spare all rows are kept as stored, and some of the wide ones besides.
    measured = measure(make_store("raw", 24), n_features=500, spare=spare)
    assert measured["peak"] <= measured["limit"]
    assert (measured["cached"] == 2 * store_bytes(24)) == (spare > 0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["raw", "hdf5"])
def test_the_cache_uses_what_is_left_and_no_more(make_store, kind):
    measured = measure(make_store(kind, 80), spare=200 * MIB)
    assert measured["peak"] <= measured["limit"]
    assert 2 * 192 * MIB <= measured["cached"] <= 2 * 212 * MIB


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(make_store):
    small, large = (measure(make_store("raw", n_chunks)) for n_chunks in (50, 200))
    assert abs(large["limit"] - small["limit"]) < 8 * MIB
    # Two tasks take one to three slots of 8 MiB each, as reading goes; the rows differ by 600 MiB.
    assert large["peak"] < small["peak"] + 16 * MIB + 2 * 2 * 8 * MIB


@pytest.mark.skipif(memory._malloc_trim is None, reason="this C library cannot be asked to")
def test_freed_memory_goes_back_to_the_system():
    code = """
from nysstream.memory import resident_bytes, trim
kept = [bytes(1000) for _ in range(100_000)]
last = bytes(1000)  # at the top of the heap, which therefore cannot shrink by itself
full = resident_bytes()
del kept
trim()
print(full - resident_bytes())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 80e6
