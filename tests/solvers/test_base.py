from __future__ import annotations

import time

import numpy as np
import pytest

from nysstream.errors import InputError, SolverError
from nysstream.solvers import PCG, LinearSystem, Status, solve


@pytest.fixture
def problem(matrix, recording, rng):
    return LinearSystem(recording(matrix), rng.standard_normal((60, 2)), 1e-4)


def test_every_status_is_advice_and_no_two_alike():
    values = [status.value for status in Status]
    assert len(set(values)) == len(Status)
    assert all(value.endswith(".") for value in values)


def test_records_every_step(problem):
    result = solve(problem, PCG(rtol=1e-6))
    assert result.converged
    assert [record["steps"] for record in result.history] == list(range(len(result.history)))
    passes = [record["passes"] for record in result.history]
    assert passes == sorted(passes)
    assert result.stats["passes"] == problem.operator.passes == passes[-1]
    assert result.stats["status"] == "converged"
    assert all(len(record["relative_residuals"]) == 2 for record in result.history)
    assert result.stats["seconds"] > 0


@pytest.mark.parametrize("limit", range(6))
def test_passes_never_exceed_their_limit_and_the_answer_is_verified(problem, limit):
    result = solve(problem, PCG(), max_passes=limit)
    assert result.status is Status.MAX_PASSES
    assert problem.operator.passes <= limit
    assert result.stats["verified"]
    true = np.linalg.norm(problem.true_residual(result.value), axis=0) / np.linalg.norm(problem.rhs, axis=0)
    np.testing.assert_allclose(result.stats["relative_residuals"], true, rtol=1e-8)


def test_limit_on_steps(problem):
    result = solve(problem, PCG(), max_steps=3)
    assert result.status is Status.MAX_ITERATIONS
    assert result.stats["steps"] == 3


def test_time_limit_stops_before_the_step_that_would_pass_it(matrix, recording):
    operator = recording(matrix, before=lambda count: time.sleep(0.02))
    result = solve(LinearSystem(operator, np.ones((60, 1))), PCG(rtol=1e-12), time_limit=0.3)
    assert result.status is Status.TIME_LIMIT
    assert result.stats["verified"]
    assert 0 < operator.passes <= 15


def test_interrupt_leaves_the_last_complete_step(matrix, recording, rng):
    def interrupt(count):
        if count == 5:
            raise KeyboardInterrupt

    rhs = rng.standard_normal((60, 2))
    operator = recording(matrix, before=interrupt)
    stopped = solve(LinearSystem(operator, rhs, 1e-4), PCG())
    assert stopped.status is Status.INTERRUPTED
    assert operator.passes == 5
    assert not stopped.stats["verified"]
    five = solve(LinearSystem(recording(matrix), rhs, 1e-4), PCG(), max_steps=5)
    np.testing.assert_array_equal(stopped.state.iterate, five.state.iterate)
    np.testing.assert_array_equal(stopped.value, stopped.state.iterate)


def test_interrupt_in_the_callback_is_one_too(problem):
    def callback(state, record):
        if record["steps"] == 2:
            raise KeyboardInterrupt

    result = solve(problem, PCG(), callback=callback)
    assert result.status is Status.INTERRUPTED
    assert result.stats["steps"] == 2


def test_throw_raises_the_advice_unless_converged(problem):
    with pytest.raises(SolverError, match="raise max_passes"):
        solve(problem, PCG(), max_passes=2, throw=True)
    assert solve(problem, PCG(rtol=0.5), throw=True).converged


def test_start_and_state_exclude_each_other(problem):
    state = solve(problem, PCG(), max_steps=1).state
    with pytest.raises(InputError, match="drop start"):
        solve(problem, PCG(), start=problem.rhs, state=state)
