"""Threads within a task."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from nysstream import DesignMatrix
from nysstream.streaming import SetUp, reduce
from nysstream.streaming.helping import helpers, spread
from nysstream.streaming.panels import PANEL_ROWS


def test_pieces_are_shared_out_to_threads():
    meeting = threading.Barrier(3, timeout=20)  # passed only by three at once
    seen = []

    def work(piece):
        meeting.wait()
        seen.append((piece, threading.current_thread().name))

    with helpers(3):
        spread(work, range(6))
    assert sorted(piece for piece, _ in seen) == list(range(6))
    assert all(name.startswith("nysstream-helper") for _, name in seen)


def test_without_helpers_pieces_are_done_in_turn_and_here():
    seen = []
    with helpers(1):
        spread(lambda piece: seen.append((piece, threading.current_thread())), range(4))
    assert seen == [(piece, threading.current_thread()) for piece in range(4)]


def test_what_fails_in_a_helper_fails_in_the_task():
    def work(piece):
        if piece == 2:
            raise ValueError(piece)

    with helpers(2), pytest.raises(ValueError, match="2"):
        spread(work, range(4))
    with helpers(2):  # the next task is not affected
        spread(work, [0, 1])


def test_the_error_state_of_numpy_goes_with_the_work():
    def work(piece):
        np.float64(1e300) * np.float64(piece)

    with np.errstate(over="raise"), helpers(2), pytest.raises(FloatingPointError):
        spread(work, [1e300])


def test_helpers_do_not_change_a_bit(rng):
    p = 2 * PANEL_ROWS + 17
    X = rng.standard_normal((300, p)).astype(np.float32)
    design = DesignMatrix(X, X[:, 0])
    alone, helped = (reduce(design.with_tasks(1, n), SetUp(gram=True))[0] for n in (1, 4))
    assert design.with_tasks(1, 4).task_threads == 4
    np.testing.assert_array_equal(alone.gram, helped.gram)
    np.testing.assert_allclose(alone.gram, np.cov(X.T.astype(float)) * 299, rtol=1e-4, atol=1e-3)


def test_threads_are_divided_among_tasks():
    design = DesignMatrix(np.ones((4, 2)))
    assert [design.with_tasks(tasks, 8).task_threads for tasks in (8, 4, 3, 1)] == [1, 2, 2, 8]
