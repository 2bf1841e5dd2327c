from __future__ import annotations

import numpy as np
import pytest

from nysstream.errors import AccuracyWarning, InputError
from nysstream.operators import as_operator
from nysstream.sketching import Diagonal, Identity, Inverse, NystromPreconditioner, nystrom
from nysstream.solvers import PCG, LinearSystem, solve


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"operator": as_operator(np.ones((4, 3)))}, "square"),
        ({"operator": as_operator(np.eye(4))}, "psd"),
        ({"rhs": np.ones(4)}, "one column per system"),
        ({"rhs": np.ones((3, 2))}, "one column per system"),
        ({"rhs": np.ones((4, 0))}, "one column per system"),
        ({"rhs": np.full((4, 2), np.nan)}, "NaN"),
        ({"shift": -1.0}, "not negative"),
        ({"shift": np.array([1.0, np.inf])}, "finite"),
        ({"shift": np.ones(3)}, "one per column"),
    ],
)
def test_unusable_problems_are_refused_before_the_first_product(changes, message):
    fields = {"operator": as_operator(np.eye(4), psd=True), "rhs": np.ones((4, 2)), "shift": 1.0}
    problem = LinearSystem(**{**fields, **changes})
    with pytest.raises(InputError, match=message):
        solve(problem, PCG())
    assert problem.passes == 0


@pytest.mark.parametrize(
    ("start", "message"), [(np.ones((4, 1)), "shape"), (np.full((4, 2), np.inf), "start from zero")]
)
def test_unusable_starts_are_refused_before_the_first_product(start, message):
    problem = LinearSystem(as_operator(np.eye(4), psd=True), np.ones((4, 2)))
    with pytest.raises(InputError, match=message):
        solve(problem, PCG(), start=start)
    assert problem.passes == 0


def test_true_residual_is_double_and_per_column(rng):
    A = np.diag([1.0, 2.0, 3.0]).astype(np.float32) / 3
    W, B, shifts = rng.standard_normal((3, 2)), rng.standard_normal((3, 2)), np.array([0.1, 5.0])
    problem = LinearSystem(as_operator(A, psd=True), B, shifts)
    np.testing.assert_allclose(
        problem.true_residual(W), B - A.astype(np.float64) @ W - shifts * W, atol=1e-15
    )
    own = LinearSystem(problem.operator, B, shifts, residual=lambda W: 7 * W)
    np.testing.assert_array_equal(own.true_residual(W), 7 * W)


def test_arguments_become_a_problem(rng):
    A = np.eye(5)
    assert LinearSystem.of(A, [1, 2, 3, 4, 5]).rhs.shape == (5, 1)
    assert LinearSystem.of(A, np.ones((5, 2), np.float32)).rhs.dtype == np.float64
    assert LinearSystem.of(A, np.ones(5)).operator.psd
    with pytest.raises(InputError, match="b has shape"):
        LinearSystem.of(A, np.ones((5, 2, 2)))


def test_preconditioners_in_every_form():
    A, b = np.eye(5), np.ones(5)
    diagonal = Diagonal(np.ones(5))
    assert LinearSystem.of(A, b, preconditioner=diagonal).preconditioner is diagonal
    assert isinstance(LinearSystem.of(A, b).precondition, Identity)
    assert isinstance(LinearSystem.of(A, b, preconditioner=np.eye(5)).precondition, Inverse)
    approximation = nystrom(A, 3, random_state=0)
    assert isinstance(
        LinearSystem.of(A, b, shift=1.0, preconditioner=approximation).precondition, NystromPreconditioner
    )
    with pytest.warns(AccuracyWarning, match="noise floor"):
        LinearSystem.of(A, b, shift=np.array([0.0]), preconditioner=approximation)
    for wrong in (np.eye(4), nystrom(np.eye(4), 3, random_state=0)):
        with pytest.raises(InputError, match="must agree"):
            LinearSystem.of(A, b, preconditioner=wrong)
