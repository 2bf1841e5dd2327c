"""The losses at zero coefficients out of the set-up pass, beside a pass that evaluates them there."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse

from nysstream.errors import InputError
from nysstream.losses import Huber, Logistic, Multinomial, Poisson, Squared, SquaredHinge
from nysstream.streaming import DesignMatrix, Labels, LossSums, Outcome, SetUp, centering_of, reduce
from nysstream.streaming.outset import Outset, target_statistics
from nysstream.trace import Trace, tracing
from tests.streaming.support import Stored

LABELS = Labels(np.array([2.0, 3.0, 7.0]), np.array([1.0, 2.0, 0.5]))
CASES = {
    "squares of two targets": (Squared(), [0, 1, 0], None),
    "huber": (Huber(0.5), [1], None),
    "poisson": (Poisson(), [1, 0], None),
    "one class of three": (Logistic(), [0, 1, 2], LABELS),
    "hinge": (SquaredHinge(), [2], LABELS),
    "all classes": (Multinomial(), [0, 1, 2], LABELS),
}


@pytest.mark.filterwarnings("ignore:1 of 5 columns:nysstream.errors.DataWarning")
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_values_are_those_of_a_pass_at_zero(rng, case, weighted, fit_intercept):
    loss, columns, labels = CASES[case]
    n, k = 300, len(columns)
    X = rng.standard_normal((n, 5)) * [1, 10, 100, 1, 0] + [0, 3, 1e4, -2, 5]
    X[:, 3] = (X[:, 0] > 0) - 0.5
    y = rng.choice(LABELS.classes, n) if labels else rng.exponential(2.0, (n, 2)) + 0.1 * X[:, :2] ** 2
    h = rng.choice([0.0, 0.5, 2.0], n) if weighted else None
    design = DesignMatrix(Stored(X, chunk_rows=41), y, h)
    outcome = Outcome(loss, np.array(columns), labels)
    b = rng.standard_normal(k) if fit_intercept else np.zeros(k)

    outset = Outset(design, outcome, b, fit_intercept=fit_intercept)
    (statistics,) = reduce(outset.design, SetUp(center=fit_intercept))
    centering = centering_of(design, statistics, center=fit_intercept, standardize=True)
    found = outset.values(statistics, centering)

    centred = replace(design, centering=replace(centering, target_mean=np.zeros(design.n_targets)))
    (expected,) = reduce(centred, LossSums(outcome, np.zeros((5, k)), b, fit_intercept))
    for name in ("loss", "slope", "curvature", "move", "conjugate"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-12, err_msg=name)
    for name in ("gradient", "cross", "toward"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-9 * n, err_msg=name)
    assert found.gradient.any()


def test_sparse_rows_give_the_same_values(rng):
    X = scipy.sparse.random_array((200, 6), density=0.3, format="csr", rng=rng)
    y = rng.standard_normal(200)
    values = []
    for rows in (X, X.toarray()):
        design = DesignMatrix(rows, y)
        outset = Outset(
            design, Outcome(Huber(1.0), np.zeros(1, np.intp)), np.array([0.3]), fit_intercept=True
        )
        (statistics,) = reduce(outset.design, SetUp())
        values.append(
            outset.values(statistics, centering_of(design, statistics, center=True, standardize=True))
        )
    for name in ("gradient", "cross", "toward"):
        np.testing.assert_allclose(getattr(values[0], name), getattr(values[1], name), atol=1e-9)


def test_statistics_of_targets_are_those_of_the_set_up_and_no_pass(rng):
    X, Y, h = rng.standard_normal((90, 2)), rng.standard_normal((90, 3)) + 1e6, rng.random(90)
    design = DesignMatrix(Stored(X, chunk_rows=7), Y, h)
    (expected,) = reduce(design, SetUp())
    with tracing(Trace()) as trace:
        found = target_statistics(design)
    assert not trace.passes
    np.testing.assert_allclose(found.target_mean, expected.target_mean, rtol=1e-14)
    np.testing.assert_allclose(found.target_squares, expected.target_squares, rtol=1e-10)
    assert found.weight == pytest.approx(expected.weight, rel=1e-14)
    assert (found.n_rows, found.n_weighted) == (expected.n_rows, expected.n_weighted)


def test_targets_that_are_not_finite_are_named_before_a_pass():
    y = np.zeros(30)
    y[11] = np.nan
    with pytest.raises(InputError, match=r"the targets contain NaN \(row 11\)"):
        target_statistics(DesignMatrix(np.ones((30, 2)), y))


def test_identity_and_travel(rng):
    X, y = rng.standard_normal((20, 2)), rng.standard_normal(20)
    design = DesignMatrix(X, y)

    def identity(loss, intercept):
        outcome = Outcome(loss, np.zeros(1, np.intp))
        return Outset(design, outcome, np.array([intercept]), fit_intercept=True).design.fingerprint

    assert identity(Huber(1.0), 0.5) == identity(Huber(1.0), 0.5)
    assert len({identity(Huber(1.0), 0.5), identity(Huber(2.0), 0.5), identity(Huber(1.0), 0.6)}) == 3
    outset = Outset(design, Outcome(Squared(), np.zeros(1, np.intp)), np.ones(1), fit_intercept=True)
    sent = pickle.loads(pickle.dumps(outset.design.target))
    np.testing.assert_array_equal(
        sent.read(slice(3, 7)), np.column_stack([y, 1 - y, np.ones(20), np.minimum(1, abs(1 - y))])[3:7]
    )
