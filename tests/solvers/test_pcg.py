from __future__ import annotations

from dataclasses import fields

import array_api_strict
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse.linalg import aslinearoperator, cg

from nysstream.arrays import to_host
from nysstream.errors import InputError, SolverError
from nysstream.operators import as_operator
from nysstream.sketching import Columns, Diagonal, Identity, nystrom
from nysstream.solvers import PCG, LinearSystem, Status, pcg, solve
from tests.helpers import SPECTRA, with_eigenvalues


def exact(A, B, shifts):
    A = np.asarray(A, np.float64)
    shifts = np.broadcast_to(shifts, B.shape[1])
    return np.stack([np.linalg.solve(A + m * np.eye(len(A)), b) for m, b in zip(shifts, B.T, strict=True)], 1)


def relative_residuals(A, B, shifts, X):
    A = np.asarray(A, np.float64)
    return np.linalg.norm(B - A @ X - shifts * X, axis=0) / np.linalg.norm(B, axis=0)


@given(
    name=st.sampled_from(sorted(SPECTRA)),
    shifts=st.lists(st.floats(-5, 1).map(lambda e: 10.0**e), min_size=1, max_size=5),
    rank=st.sampled_from([0, 5, 20]),
    seed=st.integers(0, 10**6),
)
def test_solves_what_a_dense_solver_solves(name, shifts, rank, seed):
    rng = np.random.default_rng(seed)
    A, B, shifts = (
        with_eigenvalues(SPECTRA[name](40), rng),
        rng.standard_normal((40, len(shifts))),
        np.array(shifts),
    )
    preconditioner = nystrom(A, rank, random_state=seed) if rank else None
    result = pcg(A, B, shift=shifts, preconditioner=preconditioner, rtol=1e-10, throw=True)
    assert np.all(relative_residuals(A, B, shifts, result.value) <= 1.01e-10)
    np.testing.assert_allclose(result.value * shifts, exact(A, B, shifts) * shifts, atol=1e-8)


def test_block_is_its_columns_one_at_a_time(matrix, rng):
    B, shifts = rng.standard_normal((60, 4)), np.array([1.0, 1e-1, 1e-2, 1e-3])
    P = nystrom(matrix, 20, random_state=0)
    together = pcg(matrix, B, shift=shifts, preconditioner=P, rtol=1e-8)
    for j in range(4):
        alone = pcg(matrix, B[:, j], shift=shifts[j], preconditioner=P, rtol=1e-8)
        assert alone.value.shape == (60,)
        # Sums over a block round otherwise than over a column, which may tip the last iterations.
        assert abs(alone.stats["iterations"] - together.state.iterations[j]) <= 3
        np.testing.assert_allclose(together.value[:, j] * shifts[j], alone.value * shifts[j], atol=1e-7)


def test_agrees_with_scipy_step_by_step(matrix, rng):
    b = rng.standard_normal(60)
    ours, theirs = [], []
    pcg(matrix + 0.01 * np.eye(60), b, rtol=1e-8, callback=lambda x: ours.append(x.copy()))
    cg(matrix + 0.01 * np.eye(60), b, rtol=1e-8, callback=lambda x: theirs.append(x.copy()))
    for mine, other in zip(ours[:10], theirs[:10], strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-8, atol=1e-10)
    # One step more verifies; rounding may tip the last iteration.
    assert len(theirs) <= len(ours) <= len(theirs) + 2


def test_finished_columns_leave_the_block(matrix, recording, rng):
    operator = recording(matrix)
    shifts = np.array([10.0, 1e-1, 1e-2])
    result = pcg(operator, rng.standard_normal((60, 3)), shift=shifts)
    assert result.converged
    widths = [width for width, _ in operator.products]
    assert widths == sorted(widths, reverse=True)
    assert (widths[0], widths[-1]) == (3, 1)
    # Verified together with other columns' directions: only the last column costs a pass of its own.
    assert operator.passes == result.state.iterations.max() + 1
    assert [precision for _, precision in operator.products].count("double") == 3


def test_own_residual_function_is_called_once_for_all(matrix, recording, rng):
    operator, calls = recording(matrix), []
    B, shifts = rng.standard_normal((60, 3)), np.array([10.0, 1e-1, 1e-2])

    def residual(W):
        calls.append(W.shape)
        operator.passes += 1
        return B - matrix @ W - shifts * W

    result = solve(LinearSystem(operator, B, shifts, residual=residual), PCG(rtol=1e-6))
    assert result.converged
    assert calls == [(60, 3)]
    assert all(precision is None for _, precision in operator.products)
    assert result.stats["passes"] == result.state.iterations.max() + 1
    np.testing.assert_allclose(result.value, exact(matrix, B, shifts), rtol=1e-3, atol=1e-2)


def test_true_residuals_are_recomputed_regularly(rng, recording):
    operator = recording(with_eigenvalues(10.0 ** -np.linspace(0, 6, 100), rng))
    solve(
        LinearSystem(operator, rng.standard_normal((100, 1))),
        PCG(rtol=1e-30, recompute_every=7),
        max_steps=26,
    )
    doubles = [i for i, (_, precision) in enumerate(operator.products) if precision == "double"]
    assert doubles == [7, 15, 23, 26], "three regular ones, and one to finish"


@pytest.mark.parametrize("preconditioned", [False, True])
def test_single_precision_products_still_give_double_precision_answers(rng, preconditioned):
    A = with_eigenvalues(10.0 ** -np.linspace(0, 4, 120), rng).astype(np.float32)
    B, shifts = rng.standard_normal((120, 3)), np.array([1.0, 1e-2, 1e-4])
    operator = as_operator(A, psd=True)
    P = nystrom(operator, 60, random_state=0) if preconditioned else None
    result = pcg(operator, B, shift=shifts, preconditioner=P, rtol=1e-10)
    assert result.converged
    assert np.all(relative_residuals(A, B, shifts, result.value) <= 1.01e-10)
    # Negative control: without refinement single precision does not get there.
    x = np.asarray(
        cg(A + np.float32(1e-4) * np.eye(120, dtype=np.float32), B[:, 2].astype("f"), rtol=1e-10)[0]
    )
    assert relative_residuals(A, B[:, 2:], 1e-4, x[:, None].astype(np.float64))[0] > 1e-8


def test_unreachable_tolerance_ends_as_stalled_with_the_best_iterate(matrix, rng):
    B = rng.standard_normal((60, 2))
    result = pcg(matrix.astype(np.float32), B, shift=1e-2, rtol=1e-18)
    assert result.status is Status.STALLED
    assert result.stats["verified"]
    true = relative_residuals(matrix.astype(np.float32), B, 1e-2, result.value)
    assert np.all(true < 1e-13)
    assert result.stats["relative_residual"] == pytest.approx(true.max(), rel=0.5)
    with pytest.raises(SolverError, match="precision"):
        pcg(matrix, B, shift=1e-2, rtol=1e-18, throw=True)


def test_indefinite_operator_breaks_down_without_spoiling_other_columns(rng):
    A = with_eigenvalues(np.linspace(-0.5, 1, 40), rng)
    B = rng.standard_normal((40, 2))
    result = pcg(A, B, shift=np.array([0.0, 2.0]), rtol=1e-8)
    assert result.status is Status.BREAKDOWN
    assert np.all(np.isfinite(result.value))
    assert relative_residuals(A, B, np.array([0.0, 2.0]), result.value)[1] <= 1.01e-8


def test_indefinite_preconditioner_breaks_down(matrix, rng):
    result = pcg(matrix, rng.standard_normal(60), preconditioner=-np.eye(60))
    assert result.status is Status.BREAKDOWN
    assert result.stats["passes"] == 0


def test_products_that_are_not_numbers_break_down(recording):
    class Broken(recording):
        def matmat(self, V, *, precision=None):
            return super().matmat(V, precision=precision) * (np.nan if self.passes > 2 else 1.0)

    result = pcg(Broken(np.diag(np.arange(1.0, 21.0))), np.ones(20), rtol=1e-12)
    assert result.status is Status.BREAKDOWN
    assert np.all(np.isfinite(result.value))


def test_singular_but_consistent_systems_are_solved(rng):
    A = with_eigenvalues(np.r_[np.geomspace(1, 1e-2, 20), np.zeros(20)], rng)
    b = A @ rng.standard_normal(40)
    for P in (None, nystrom(A, 30, random_state=0).preconditioner()):
        result = pcg(A, b, preconditioner=P, rtol=1e-8, throw=True)
        np.testing.assert_allclose(result.value, np.linalg.pinv(A, rcond=1e-8) @ b, atol=1e-5)


def test_zero_right_hand_sides_cost_nothing(matrix, recording):
    operator = recording(matrix)
    assert np.all(pcg(operator, np.zeros((60, 2)), rtol=0.0).value == 0)
    assert operator.passes == 0
    result = pcg(operator, np.c_[np.zeros(60), np.ones(60)], shift=1.0, x0=np.ones((60, 2)))
    assert result.converged
    assert np.all(result.value[:, 0] == 0)
    assert result.stats["relative_residuals"][0] == 0
    assert {width for width, _ in operator.products[1:]} == {1}


def test_warm_start_costs_a_pass_and_saves_the_rest(matrix, recording, rng):
    B = rng.standard_normal((60, 2))
    operator = recording(matrix)
    result = pcg(operator, B, shift=0.1, x0=exact(matrix, B, 0.1))
    assert result.converged
    assert operator.products == [(2, "double")]


def test_absolute_tolerance(matrix, rng):
    b = 1e-3 * rng.standard_normal(60)
    result = pcg(matrix, b, shift=0.1, rtol=0.0, atol=1e-5)
    assert result.converged
    assert np.linalg.norm(b - matrix @ result.value - 0.1 * result.value) <= 1e-5


def test_better_preconditioners_need_fewer_passes_within_the_prediction(matrix, rng):
    b, shift = rng.standard_normal(60), 1e-3
    approximation = nystrom(matrix, 40, random_state=0)
    plain = pcg(matrix, b, shift=shift)
    fast = pcg(matrix, b, shift=shift, preconditioner=approximation)
    assert fast.stats["iterations"] < plain.stats["iterations"] / 3
    # Chebyshev bounds the energy norm; the residual adds the root of the condition number.
    rtol = 1e-6 / np.sqrt((1 + shift) / shift)
    assert fast.stats["iterations"] <= approximation.predicted_iterations(shift, rtol)


@pytest.mark.parametrize("wrap", [np.asarray, aslinearoperator, as_operator], ids=["array", "scipy", "ours"])
def test_inverse_supplied_by_the_caller(matrix, wrap, rng):
    A = matrix + np.diag(np.geomspace(1, 1e4, 60))
    b = rng.standard_normal(60)
    own = pcg(A, b, preconditioner=wrap(np.linalg.inv(A)), rtol=1e-8)
    assert own.stats["iterations"] == 1
    jacobi = pcg(A, b, preconditioner=Diagonal(np.diagonal(A).copy()), rtol=1e-8)
    assert jacobi.stats["iterations"] < pcg(A, b, rtol=1e-8).stats["iterations"]


def test_plain_and_preconditioned_side_by_side(matrix, recording, rng):
    b, shift = rng.standard_normal((60, 1)), 1e-2
    P = nystrom(matrix, 30, random_state=0).preconditioner()
    operator = recording(matrix)
    both = pcg(operator, np.tile(b, (1, 3)), shift=shift, preconditioner=Columns([P, Identity()], [1, 2]))
    alone = [pcg(matrix, b, shift=shift, preconditioner=M).stats["iterations"] for M in (P, None)]
    np.testing.assert_allclose(both.state.iterations, [alone[0], alone[1], alone[1]], rtol=0.1)
    assert operator.passes == both.state.iterations.max() + 1


@pytest.mark.parametrize("stop", [1, 4, 9])
def test_resumed_solve_repeats_the_bits(matrix, rng, stop):
    A = matrix.astype(np.float32)
    problem = LinearSystem(
        as_operator(A, psd=True), rng.standard_normal((60, 3)), np.array([1.0, 1e-2, 1e-4])
    )
    solver, states = PCG(rtol=1e-9, recompute_every=5), []
    whole = solve(problem, solver, callback=lambda state, record: states.append(state))
    resumed = solve(problem, solver, state=states[stop])
    assert resumed.stats["steps"] == whole.stats["steps"] - stop
    np.testing.assert_array_equal(resumed.value, whole.value)
    for field in fields(whole.state):
        np.testing.assert_array_equal(getattr(resumed.state, field.name), getattr(whole.state, field.name))


def test_steps_leave_earlier_states_alone(matrix, rng):
    problem = LinearSystem(as_operator(matrix, psd=True), rng.standard_normal((60, 2)), 1e-2)
    solver = PCG()
    state = solver.step(problem, solver.init(problem, None))
    before = {field.name: np.copy(getattr(state, field.name)) for field in fields(state)}
    solver.step(problem, state)
    for name, value in before.items():
        np.testing.assert_array_equal(getattr(state, name), value)


def test_another_device_gives_the_same(matrix, rng):
    device = array_api_strict.Device("device1")
    B, shifts = rng.standard_normal((60, 3)), np.array([1.0, 1e-1, 1e-3])

    def run(move):
        A = move(matrix)
        return pcg(A, move(B), shift=shifts, preconditioner=nystrom(A, 20, random_state=0), rtol=1e-8)

    expected = run(lambda x: x)
    actual = run(lambda x: array_api_strict.asarray(x, device=device))
    assert actual.value.device == device
    np.testing.assert_array_equal(actual.state.iterations, expected.state.iterations)
    np.testing.assert_allclose(to_host(actual.value), expected.value, rtol=1e-9)


def test_iteration_limit_still_verifies(matrix, rng):
    result = pcg(matrix, rng.standard_normal(60), maxiter=3)
    assert result.status is Status.MAX_ITERATIONS
    assert result.stats["iterations"] == 3
    assert result.stats["verified"]
    assert pcg(matrix, np.ones(60), maxiter=0).stats["passes"] == 0


@pytest.mark.parametrize(
    "settings", [{"rtol": -1.0}, {"atol": float("nan")}, {"recompute_every": 0}, {"max_iterations": -1}]
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        PCG(**settings)
