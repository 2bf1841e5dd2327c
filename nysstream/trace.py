"""What a run did: passes, bytes, seconds, peak memory. Progress and reports are drawn from it."""

from __future__ import annotations

import contextlib
import contextvars
import threading
import time
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING

from nysstream.memory import peak_resident_bytes, resident_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass
class Cost:
    """What one partition, or one whole pass, cost. Seconds are summed over tasks, but for ``wall``.

    Attributes
    ----------
    rows : int
    bytes_read : int
        Decoded bytes asked of the sources: rows times the bytes of a stored row.
    bytes_from_cache : int
        The same for blocks that were resident already.
    read_seconds, feature_seconds, product_seconds, wait_seconds : float
        Time in reads; in feature maps; in reductions; and time for which nothing was computed
        because rows were read, or waited for.
    peak_bytes : int
        Largest resident memory seen while the pass ran.
    """

    rows: int = 0
    bytes_read: int = 0
    bytes_from_cache: int = 0
    read_seconds: float = 0.0
    feature_seconds: float = 0.0
    product_seconds: float = 0.0
    wait_seconds: float = 0.0
    peak_bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        values = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(Cost)}
        values["peak_bytes"] = max(self.peak_bytes, other.peak_bytes)
        return Cost(**values)


@dataclass
class PassRecord:
    """One pass over the data.

    Attributes
    ----------
    name : str
        What the pass was for.
    started : float
        Seconds since the trace began.
    seconds : float
        Wall time of the pass.
    cost : Cost
    recalled : bool
        Whether an earlier run made it, and left its sums in a checkpoint.
    """

    name: str
    started: float
    seconds: float
    cost: Cost
    recalled: bool = False


@dataclass
class Progress:
    """How far the current pass is: sent to a trace's listener as rows are done.

    Attributes
    ----------
    number : int
        Passes begun so far, this one included.
    name : str
    rows_done, rows_total : int
    bytes_done : int
    seconds : float
        Since the pass began.
    expected_passes : int, optional
        How many passes the run may take in all, where something is known about it.
    residual : float, optional
        How accurate the answer is after the last complete step, relatively.
    measure : str
        What ``residual`` is.
    """

    number: int
    name: str
    rows_done: int
    rows_total: int
    bytes_done: int
    seconds: float
    expected_passes: int | None
    residual: float | None
    measure: str = "residual"


@dataclass
class Trace:
    """The record of one run.

    Attributes
    ----------
    passes : list of PassRecord
    sampled_bytes : int
        Bytes read for row samples, outside any pass.
    expected_passes : int, optional
    residual : float, optional
        What the solver knows, for progress.
    measure : str
        What that is: ``"residual"``, ``"gap"`` or ``"optimality"``.
    listener : callable, optional
        Called with :class:`Progress` as rows are done, from the thread that did them.
    """

    passes: list[PassRecord] = field(default_factory=list)
    sampled_bytes: int = 0
    expected_passes: int | None = None
    residual: float | None = None
    measure: str = "residual"
    listener: Callable[[Progress], None] | None = None
    began: float = field(default_factory=time.perf_counter)
    baseline_peak: int = field(default_factory=peak_resident_bytes)

    @property
    def seconds(self) -> float:
        """Seconds since the trace began."""
        return time.perf_counter() - self.began

    @property
    def total(self) -> Cost:
        """Sum over all passes."""
        return sum((record.cost for record in self.passes), Cost())

    @property
    def n_recalled(self) -> int:
        """Passes that an earlier run made; see :func:`nysstream.checkpointing`."""
        return sum(record.recalled for record in self.passes)

    @property
    def peak_bytes(self) -> int:
        """Peak resident memory of this process since the trace began.

        The kernel keeps the process's lifetime peak; where that was reached before the trace
        began, the largest value sampled during the passes stands in for it.
        """
        peak = peak_resident_bytes()
        if peak > self.baseline_peak:
            return peak
        return max(self.total.peak_bytes, resident_bytes())


_current: contextvars.ContextVar[Trace | None] = contextvars.ContextVar("nysstream_trace", default=None)


def current_trace() -> Trace | None:
    """Return the trace that passes are recorded in, if any."""
    return _current.get()


@contextlib.contextmanager
def tracing(trace: Trace) -> Iterator[Trace]:
    """Record the passes made inside the block in ``trace``."""
    token = _current.set(trace)
    try:
        yield trace
    finally:
        _current.reset(token)


# Tasks of a pass run on other threads of this process, or in other processes. Those of this process
# report their progress under the pass's number; elsewhere the number is unknown and nothing happens.
_running: dict[str, Callable[[int, int], None]] = {}
_running_lock = threading.Lock()


def report_rows(token: str, rows: int, nbytes: int) -> None:
    """Say that a task of the pass ``token`` has done ``rows`` more rows."""
    callback = _running.get(token)
    if callback is not None:
        callback(rows, nbytes)


@contextlib.contextmanager
def listening(token: str, name: str, rows_total: int) -> Iterator[None]:
    """Forward progress of the pass ``token`` to the current trace's listener, inside the block."""
    trace = current_trace()
    if trace is None or trace.listener is None:
        yield
        return
    listener = trace.listener
    began = time.perf_counter()
    state = Progress(
        len(trace.passes) + 1,
        name,
        0,
        rows_total,
        0,
        0.0,
        trace.expected_passes,
        trace.residual,
        trace.measure,
    )

    def callback(rows: int, nbytes: int) -> None:
        with _running_lock:
            state.rows_done += rows
            state.bytes_done += nbytes
            state.seconds = time.perf_counter() - began
            listener(replace(state))  # a listener may keep what it is given

    _running[token] = callback
    try:
        yield
    finally:
        _running.pop(token, None)
