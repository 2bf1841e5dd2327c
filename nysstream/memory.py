"""Byte arithmetic: what a job needs, what it may use, and what is left for the cache."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import resource
import sys
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from dask.utils import format_bytes, parse_bytes

from nysstream.cluster import worker_bytes
from nysstream.errors import InputError, MemoryBudgetError

# Threads' stacks and allocator arenas, modules imported on first use, the interpreter's own growth.
ALLOWANCE = 64 << 20
# By which the same process differs from run to run: a limit named in a message must do next time.
_VARIATION = 3 << 20


def resident_bytes() -> int:
    """Resident memory of this process now."""
    return int(_process(os.getpid()).memory_info().rss)


@functools.cache
def _process(pid: int) -> psutil.Process:
    """Look this process up once: that takes longer than the question."""
    return psutil.Process(pid)


def peak_resident_bytes() -> int:
    """Largest resident memory of this process since it began.

    From the kernel's high-water mark, where it is shown: a child's resource usage begins with the
    peak of the process that started it.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def trim() -> None:
    """Return to the system what the C library keeps of freed memory, where it can be asked to.

    The arenas of threads that have ended their work would stand beside the next phase's arrays.
    """
    if _malloc_trim is not None:
        _malloc_trim(0)


_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


def available_bytes() -> int:
    """Memory this process could grow to: what is free, what it holds, and its control group's limit."""
    limit = int(psutil.virtual_memory().available) + resident_bytes()
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # no such file, or the word "max"
            limit = min(limit, int(Path("/sys/fs/cgroup", name).read_text()))
    return limit


def parse_memory(memory: int | float | str | None) -> int:
    """Read a memory limit given in bytes or as text such as ``"2GiB"``.

    ``None`` means half of what is available now. On a Dask cluster it is no more than each worker may
    use before Dask spills, and that where nothing is given.

    Raises
    ------
    InputError
        If the text is not a size, or the size is not positive.
    """
    there = worker_bytes()
    if memory is None:
        return available_bytes() // 2 if there is None else there
    try:
        limit = int(parse_bytes(memory))
    except (ValueError, TypeError, OverflowError, AttributeError) as error:
        message = f"memory={memory!r} is not a size: give bytes, or text such as '2GiB'"
        raise InputError(message) from error
    if limit <= 0:
        message = f"memory={memory!r} must be positive"
        raise InputError(message)
    return limit if there is None else min(limit, there)


@dataclass(frozen=True)
class Budget:
    """A memory limit and the named needs charged against it.

    Attributes
    ----------
    limit : int
        Bytes the whole process may use.
    needs : dict of str to int
        What each part of the job holds at its peak, in bytes.
    knob : str
        What the user can change to need less.
    """

    limit: int
    needs: dict[str, int] = field(default_factory=dict)
    knob: str = "memory"

    @property
    def peak(self) -> int:
        """Projected peak of the whole process, in bytes, the cache not counted."""
        return sum(self.needs.values())

    @property
    def spare(self) -> int:
        """Bytes left over for cached blocks."""
        return max(0, self.limit - self.peak)

    @property
    def fits(self) -> bool:
        """Whether the needs are within the limit."""
        return self.peak <= self.limit

    def check(self) -> None:
        """Refuse an impossible job before any data is read.

        Raises
        ------
        MemoryBudgetError
            With each need, the smallest limit that would do, and the knob to turn.
        """
        if self.fits:
            return
        needs = ", ".join(f"{name} {format_bytes(size)}" for name, size in self.needs.items() if size)
        smallest = -(-(self.peak + _VARIATION) // (1 << 20))
        message = (
            f"memory={format_bytes(self.limit)} is too small: the job needs {format_bytes(self.peak)} "
            f"({needs}). Give memory='{smallest}MiB' or more, or {self.knob}"
        )
        raise MemoryBudgetError(message)
