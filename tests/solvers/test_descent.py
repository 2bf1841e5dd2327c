from __future__ import annotations

from itertools import pairwise

import array_api_strict
import numpy as np
import pytest

from nysstream.arrays import to_host
from nysstream.errors import InputError
from nysstream.operators import as_operator
from nysstream.sketching import nystrom
from nysstream.solvers import Descent, LinearSystem, Status, descent, pcg, solve
from tests.helpers import with_eigenvalues


def test_solves_and_preconditioning_helps(matrix, rng):
    B, shifts = rng.standard_normal((60, 2)), np.array([1e-1, 1e-2])
    plain = descent(matrix, B, shift=shifts)
    fast = descent(matrix, B, shift=shifts, preconditioner=nystrom(matrix, 40, random_state=0))
    for result in (plain, fast):
        assert result.converged
        residual = B - matrix @ result.value - shifts * result.value
        assert np.all(np.linalg.norm(residual, axis=0) <= 1.01e-6 * np.linalg.norm(B, axis=0))
    assert fast.stats["iterations"] < plain.stats["iterations"] / 4


def test_conjugate_gradients_need_fewer_passes(matrix, rng):
    b = rng.standard_normal(60)
    arguments = {"shift": 1e-2, "preconditioner": nystrom(matrix, 20, random_state=0)}
    slow, fast = descent(matrix, b, **arguments), pcg(matrix, b, **arguments)
    assert slow.value.shape == fast.value.shape == (60,)
    assert slow.stats["passes"] > 2 * fast.stats["passes"]


def test_converges_at_the_rate_of_theory(rng):
    """The error shrinks by 1 - 1/kappa per step in the energy norm."""
    A = with_eigenvalues(np.linspace(0.1, 1, 30), rng)
    b = rng.standard_normal(30)
    x, steps = np.linalg.solve(A, b), []
    descent(A, b, rtol=1e-8, callback=steps.append)
    energy = [np.sqrt((v - x) @ A @ (v - x)) for v in [np.zeros(30), *steps]]
    # Ten power iterations overestimate the step by a few per cent at most.
    assert all(new <= (1 - 0.9 / 10) * old + 1e-12 for old, new in pairwise(energy))


def test_underestimated_eigenvalue_is_corrected(rng):
    """One power iteration on a lone large eigenvalue: the first steps would diverge."""
    A = with_eigenvalues(np.r_[100.0, np.ones(199)], rng)
    problem = LinearSystem(as_operator(A, psd=True), rng.standard_normal((200, 1)))
    solver = Descent(power_iterations=1)
    assert solver.init(problem, None).largest[0] < 100
    result = solve(problem, solver)
    assert result.converged
    assert result.state.largest[0] >= 50


def test_one_pass_per_step_after_the_power_method(matrix, recording, rng):
    operator = recording(matrix)
    result = descent(operator, rng.standard_normal(60), shift=0.1)
    assert operator.passes == 10 + result.stats["iterations"]


def test_resumed_descent_repeats_the_bits(matrix, rng):
    problem = LinearSystem(as_operator(matrix, psd=True), rng.standard_normal((60, 2)), 0.1)
    states = []
    whole = solve(problem, Descent(), callback=lambda state, record: states.append(state))
    resumed = solve(problem, Descent(), state=states[7])
    np.testing.assert_array_equal(resumed.value, whole.value)


def test_limits_and_failures(matrix, rng):
    b = rng.standard_normal(60)
    assert descent(matrix, b, maxiter=3).status is Status.MAX_ITERATIONS
    limited = descent(matrix, b, max_passes=12)
    assert limited.status is Status.MAX_PASSES
    assert limited.stats["passes"] == 12
    assert descent(matrix, b, shift=1.0, rtol=1e-19).status is Status.STALLED
    assert descent(-matrix, b).status is Status.BREAKDOWN
    assert descent(matrix, b, preconditioner=-np.eye(60)).status is Status.BREAKDOWN
    zero = descent(matrix, np.zeros(60), rtol=0.0)
    assert zero.converged
    assert np.all(zero.value == 0)


def test_warm_start(matrix, rng):
    b = rng.standard_normal(60)
    x = np.linalg.solve(matrix + np.eye(60), b)
    result = descent(matrix, b, shift=1.0, x0=x)
    assert result.converged
    assert result.stats["iterations"] == 0


def test_another_device_gives_the_same(matrix, rng):
    b = rng.standard_normal(60)
    device = array_api_strict.Device("device1")
    expected = descent(matrix, b, shift=0.1)
    actual = descent(
        array_api_strict.asarray(matrix, device=device), array_api_strict.asarray(b, device=device), shift=0.1
    )
    np.testing.assert_allclose(to_host(actual.value), expected.value, rtol=1e-9)


@pytest.mark.parametrize("settings", [{"rtol": -1.0}, {"power_iterations": 0}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        Descent(**settings)
