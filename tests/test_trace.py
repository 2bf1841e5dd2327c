"""What a run records: passes, rows, bytes, progress, peak."""

from __future__ import annotations

import threading
from dataclasses import replace

import dask
import numpy as np
import pytest

from nysstream import trace as tracing_module
from nysstream.memory import resident_bytes
from nysstream.streaming import DesignMatrix, GramProduct, SetUp, reduce
from nysstream.trace import Cost, Trace, current_trace, listening, report_rows, tracing
from tests.streaming.support import Stored, small_blocks


@pytest.fixture
def design(rng, monkeypatch):
    """Twenty blocks of eight rows."""
    small_blocks(monkeypatch)
    return DesignMatrix(Stored(rng.standard_normal((160, 4)), chunk_rows=8), rng.standard_normal(160))


def test_costs_add_up_and_peaks_do_not():
    a = Cost(1, 2, 3, 0.5, 0.25, 1.0, 2.0, 100)
    b = Cost(10, 20, 30, 1.0, 1.0, 1.0, 1.0, 50)
    assert a + b == Cost(11, 22, 33, 1.5, 1.25, 2.0, 3.0, 100)
    assert sum([a, b], Cost()) == a + b
    assert a == Cost(1, 2, 3, 0.5, 0.25, 1.0, 2.0, 100)


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_every_pass_is_recorded(design, scheduler):
    trace = Trace()
    with tracing(trace), dask.config.set(scheduler=scheduler):
        assert current_trace() is trace
        reduce(design, SetUp(), name="set-up")
        reduce(design, GramProduct(np.ones((4, 1))), GramProduct(np.ones((4, 2))), name="product")
    assert current_trace() is None
    assert [record.name for record in trace.passes] == ["set-up", "product"]
    for record in trace.passes:
        assert record.cost.rows == 160
        assert record.cost.bytes_read == 160 * 4 * 8
        assert record.cost.bytes_from_cache == 0
        assert record.cost.peak_bytes > 1 << 20
        assert record.seconds > 0
    assert 0 <= trace.passes[0].started < trace.passes[1].started < trace.seconds
    assert trace.total.rows == 320
    assert trace.total.bytes_read == 2 * 160 * 4 * 8


def test_bytes_are_those_of_stored_rows(rng):
    X = rng.integers(0, 9, (50, 3)).astype(np.int8)  # buffered in four times the bytes
    trace = Trace()
    with tracing(trace):
        reduce(DesignMatrix(Stored(X)), SetUp())
    assert trace.total.bytes_read == X.nbytes


def test_samples_are_counted_beside_passes(design):
    trace = Trace()
    with tracing(trace):
        sample = design.sample_rows(32, 4)
    assert sample.shape == (32, 4)
    assert trace.sampled_bytes == 32 * 4 * 8
    assert design.source.reads.sum() == 32
    assert not trace.passes


def test_nothing_is_recorded_outside(design):
    trace = Trace()
    reduce(design, SetUp())
    assert not trace.passes


def test_a_failed_pass_is_not_recorded(design):
    trace = Trace()
    X = np.full((160, 4), np.nan)
    with tracing(trace), pytest.raises(ValueError, match="NaN"):
        reduce(DesignMatrix(Stored(X)), SetUp())
    assert not trace.passes
    assert not tracing_module._running


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_progress_grows_to_completeness(design, scheduler):
    seen = []
    trace = Trace(listener=lambda progress: seen.append(replace(progress)), expected_passes=7)
    with tracing(trace), dask.config.set(scheduler=scheduler, num_workers=4):
        reduce(design, SetUp(), name="set-up")
        trace.residual = 0.25
        reduce(design, GramProduct(np.ones((4, 1))), name="product")
    first, second = ([p for p in seen if p.number == number] for number in (1, 2))
    assert len(first) == len(second) == 20
    assert {p.name for p in first} == {"set-up"}
    assert {p.name for p in second} == {"product"}
    for reports in (first, second):
        assert [p.rows_done for p in reports] == list(range(8, 161, 8))
        assert [p.bytes_done for p in reports] == [8 * 4 * rows for rows in range(8, 161, 8)]
        assert {p.rows_total for p in reports} == {160}
        seconds = [p.seconds for p in reports]
        assert seconds == sorted(seconds)
    assert {(p.expected_passes, p.residual) for p in second} == {(7, 0.25)}
    assert not tracing_module._running


def test_progress_counts_cached_rows_too(design):
    design = replace(design, cache_bytes=10**6)
    seen = []
    with tracing(Trace(listener=lambda progress: seen.append(progress.rows_done))):
        for _ in range(2):
            reduce(design, GramProduct(np.ones((4, 1))))
    assert sorted(seen) == sorted(list(range(8, 161, 8)) * 2)


def test_reports_keep_what_they_said(design):
    # A listener may keep what it is given: later rows must not change it.
    seen = []
    with tracing(Trace(listener=seen.append)):
        reduce(design, SetUp())
    assert sorted(p.rows_done for p in seen) == list(range(8, 161, 8))


def test_reports_of_unknown_passes_are_dropped():
    report_rows("a pass of another process", 3, 4)
    seen = []
    with tracing(Trace(listener=seen.append)), listening("here", "pass", 10):
        report_rows("there", 1, 1)
        report_rows("here", 1, 1)
    report_rows("here", 1, 1)
    assert len(seen) == 1


def test_traces_of_threads_are_apart(design):
    traces = [Trace(), Trace()]
    seen = []

    def run(trace):
        with tracing(trace):
            reduce(design, SetUp())
            seen.append(current_trace() is trace)

    threads = [threading.Thread(target=run, args=(trace,)) for trace in traces]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [True, True]
    assert [len(trace.passes) for trace in traces] == [1, 1]


def test_the_peak_is_the_kernel_s_while_it_grows(monkeypatch):
    trace = Trace(baseline_peak=1000)
    monkeypatch.setattr(tracing_module, "peak_resident_bytes", lambda: 5000)
    assert trace.peak_bytes == 5000


def test_the_peak_is_what_was_seen_where_the_process_was_larger_before(design, monkeypatch):
    trace = Trace()
    monkeypatch.setattr(tracing_module, "peak_resident_bytes", lambda: trace.baseline_peak)
    with tracing(trace):
        reduce(design, SetUp())
    trace.passes[0].cost.peak_bytes = 10**15
    assert trace.peak_bytes == 10**15
    trace.passes.clear()
    assert trace.peak_bytes == pytest.approx(resident_bytes(), rel=0.2)
