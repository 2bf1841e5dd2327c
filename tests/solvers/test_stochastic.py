"""Stochastic methods beside the optimum that proximal Newton finds in double precision."""

from __future__ import annotations

import weakref
from dataclasses import replace
from itertools import pairwise

import dask.config
import numpy as np
import pytest

from nysstream.errors import InputError
from nysstream.estimators.sampled_hessians import sampled_design
from nysstream.estimators.smooth_losses import GeneralLoss
from nysstream.losses import EpsilonInsensitive, Logistic, Squared
from nysstream.regularizers import Separable
from nysstream.sketching.subsampled import SubsampledHessian
from nysstream.solvers import Status, solve, stochastic
from nysstream.solvers.admm import ADMM
from nysstream.solvers.composite import Composite
from nysstream.solvers.curvature import measure
from nysstream.solvers.finite_sum import FiniteSum
from nysstream.solvers.osgm import OnlineScaled
from nysstream.solvers.proximal_newton import ProximalNewton
from nysstream.solvers.stochastic import Stochastic
from nysstream.streaming import DesignMatrix, Outcome, RowSample, SetUp, centering_of, reduce, uniform_rows
from nysstream.streaming.minibatch import Batch, Minibatches
from tests.helpers import with_singular_values

N, P = 800, 10


def finite_sum(X, y, loss, regularizer, *, batch_rows=100, weight=None, sample=400):
    """Make the problem that an estimator would, and where it would start."""
    design = DesignMatrix(X, y, weight, precision="double")
    rows = uniform_rows(design.shape[0], sample, 0)
    statistics, sampled = reduce(design, SetUp(center=True), RowSample(rows))
    centering = centering_of(design, statistics, center=True, standardize=True)
    design = replace(design, centering=replace(centering, target_mean=np.zeros(design.n_targets)))
    outcome = Outcome(loss, np.arange(design.n_targets))
    part = sampled_design(design, rows, sampled, outcome, statistics.weight, mapped=False)
    smooth = GeneralLoss(
        design, outcome, design.n_targets, method="subsampled", fit_intercept=True, sample=part
    )
    start = np.zeros(smooth.shape), np.asarray(loss.start(statistics.target_mean), np.float64)
    scale = np.abs(smooth.begin(*start).gradient).max(axis=0)
    composite = Composite(smooth, regularizer, scale)
    return FiniteSum(composite, Minibatches(design, batch_rows), outcome, part.design, part.factor), start


def optimum(problem, start):
    """Minimise to the last digits."""
    found = solve(problem.composite, ProximalNewton(tol=1e-12, inner=ADMM()), start=start, max_steps=60)
    return found.stats["objective"]


@pytest.fixture(scope="module")
def data():
    """Make rows of condition 1e3, hence a Hessian of 1e6, in a basis that no scaling of columns cures."""
    rng = np.random.default_rng(5)
    X = with_singular_values(N, np.logspace(0, -3, P) * np.sqrt(N), rng)
    z = X @ rng.standard_normal(P) * 3
    return X, z + 0.3 * rng.standard_normal(N), (z + 0.5 * rng.standard_normal(N) > 0).astype(np.float64)


def of(data, loss, regularizer, **options):
    """Choose the targets that go with a loss."""
    X, y, labels = data
    return finite_sum(X, labels if isinstance(loss, Logistic) else y, loss, regularizer, **options)


METHODS = {
    "svrg": Stochastic("snapshot"),
    "saga": Stochastic("table"),
    "l-svrg": Stochastic("loopless"),
    "katyusha": Stochastic("loopless", accelerated=True),
    "sapphire": Stochastic("snapshot", hessian=SubsampledHessian("nystrom", 10)),
}
PENALTIES = {"l2": Separable(l2=1e-2), "l1": Separable(l1=5.0, l2=1e-2)}


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("loss", [Squared(), Logistic()], ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("method", METHODS)
def test_reaches_the_optimum_where_the_plain_method_does_not(data, method, loss, penalty):
    problem, start = of(data, loss, PENALTIES[penalty])
    best = optimum(problem, start)
    found = solve(problem, replace(METHODS[method], tol=1e-8), start=start, max_passes=60)
    near = [r["passes"] for r in found.history if r["objective"] - best <= 1e-6 * best]
    assert near
    if method in ("svrg", "saga"):
        plain, start = of(data, loss, PENALTIES[penalty])
        identity = replace(METHODS[method], hessian=SubsampledHessian("identity"), tol=0.0)
        slow = solve(plain, identity, start=start, max_passes=10 * near[0])
        assert slow.stats["objective"] - best > 1e-6 * best


@pytest.mark.parametrize("kind", ["newton", "nystrom", "columns", "rows", "diagonal"])
def test_every_preconditioner_serves(data, kind):
    problem, start = of(data, Squared(), Separable(l2=1.0))
    best = optimum(problem, start)
    solver = Stochastic("table", hessian=SubsampledHessian(kind, 10 if kind == "nystrom" else 60), tol=0.0)
    found = solve(problem, solver, start=start, max_passes=16)
    plain, start = of(data, Squared(), Separable(l2=1.0))
    slow = solve(plain, replace(solver, hessian=SubsampledHessian("identity")), start=start, max_passes=16)
    ahead = (found.stats["objective"] - best) / (slow.stats["objective"] - best)
    assert ahead < (1.5 if kind == "diagonal" else 0.5)


def test_sgd_comes_near_and_reports_an_evaluation(data):
    problem, start = of(data, Logistic(), Separable(l2=1e-2))
    best = optimum(problem, start)
    found = solve(problem, Stochastic("none"), start=start, max_passes=40)
    at, _ = problem.evaluate(problem.join(*found.value), precise=True)
    np.testing.assert_allclose(found.stats["objective"], at.objective, rtol=1e-9)
    assert found.stats["objective"] - best < 0.02 * best
    assert found.status is Status.MAX_PASSES


def test_online_scaling_descends_and_beats_fixed_steps(data):
    problem, start = of(data, Squared(), Separable(l2=1.0))
    best = optimum(problem, start)
    found = solve(problem, OnlineScaled(tol=0.0), start=start, max_passes=80)
    objectives = [record["objective"][0] for record in found.history]
    assert all(after <= before for before, after in pairwise(objectives))
    V = problem.join(*start)
    length = 1 / measure(problem, V, SubsampledHessian("identity"), 0).smoothness
    for _ in range(80):
        _, gradient = problem.evaluate(V, precise=True)
        V = V - length * (gradient + problem.l2 * V)
    fixed = problem.evaluate(V, precise=True)[0].objective
    assert found.stats["objective"] - best < 0.5 * (fixed - best)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_online_scaling_converges_on_well_conditioned_rows(rng, penalty):
    X = rng.standard_normal((400, 6))
    y = X @ rng.standard_normal(6) + 0.1 * rng.standard_normal(400)
    problem, start = finite_sum(X, y, Squared(), PENALTIES[penalty], sample=200)
    found = solve(problem, OnlineScaled(tol=1e-8), start=start, max_passes=300)
    assert found.converged
    best = optimum(problem, start)
    np.testing.assert_allclose(found.stats["objective"], best, rtol=1e-7)


@pytest.mark.parametrize("method", ["svrg", "saga", "katyusha"])
def test_same_seed_same_bits_whatever_the_threads(data, method):
    def fitted(threads, seed):
        with dask.config.set(scheduler="threads", num_workers=threads):
            problem, start = of(data, Logistic(), PENALTIES["l1"], batch_rows=200)
            solver = replace(METHODS[method], seed=seed)
            return solve(problem, solver, start=start, max_passes=8).value[0]

    first = fitted(1, 3)
    np.testing.assert_array_equal(first, fitted(2, 3))
    assert not np.array_equal(first, fitted(1, 4))


@pytest.mark.parametrize("method", METHODS)
def test_goes_on_from_a_state_with_the_same_bits(data, method):
    problem, start = of(data, Logistic(), PENALTIES["l2"])
    whole = solve(problem, METHODS[method], start=start, max_steps=4)
    problem, start = of(data, Logistic(), PENALTIES["l2"])
    half = solve(problem, METHODS[method], start=start, max_steps=2)
    states = []
    problem, start = of(data, Logistic(), PENALTIES["l2"])
    solve(problem, METHODS[method], start=start, max_steps=2, callback=lambda s, _: states.append(s))
    problem, _ = of(data, Logistic(), PENALTIES["l2"])
    rest = solve(problem, METHODS[method], state=states[-1], max_steps=2)
    np.testing.assert_array_equal(whole.value[0], rest.value[0])
    assert half.stats["passes"] < whole.stats["passes"]


def test_tables_in_memory_and_on_disk_are_the_same(data):
    values = []
    for in_memory in (True, False):
        problem, start = of(data, Logistic(), PENALTIES["l1"])
        solver = replace(METHODS["saga"], table_in_memory=in_memory)
        values.append(solve(problem, solver, start=start, max_passes=6).value[0])
    np.testing.assert_array_equal(*values)


def test_tables_hold_the_slopes_of_the_last_visits(data):
    problem, start = of(data, Squared(), Separable(l2=1e-2))
    state = solve(problem, METHODS["saga"], start=start, max_steps=3).state
    table = np.asarray(state.table)
    total = problem.change(Batch.of(problem.batches.design), np.zeros(problem.shape), slopes=-table)
    none = problem.change(Batch.of(problem.batches.design), np.zeros(problem.shape))
    np.testing.assert_allclose(total.gradient - none.gradient, state.known, rtol=1e-6, atol=1e-6)


def test_tables_survive_steps_that_are_taken_back(data):
    problem, start = of(data, Squared(), Separable(l2=1e-2))
    state = solve(problem, replace(METHODS["saga"], length=50.0, tol=0.0), start=start, max_steps=4).state
    assert (state.step < 1).all()
    rows, zero = Batch.of(problem.batches.design), np.zeros(problem.shape)
    total = problem.change(rows, zero, slopes=-np.asarray(state.table)).gradient
    none = problem.change(rows, zero).gradient
    np.testing.assert_allclose(total - none, state.known, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["saga", "sgd"])
def test_a_row_of_a_large_loss_is_not_a_rise(data, method):
    X, y, _ = data
    y = y.copy()
    y[7] += 3000
    problem, start = finite_sum(X, y, Squared(), Separable(l2=1.0))
    best = optimum(problem, start)
    solver = replace({**METHODS, "sgd": Stochastic("none")}[method], tol=0.0)
    found = solve(problem, solver, start=start, max_passes=30)
    assert (found.state.step >= 0.25).all()
    assert found.stats["objective"] - best <= 1e-2 * best


def test_rows_without_weight_tell_nothing_of_the_curvature(rng):
    X = rng.standard_normal((4000, 3))
    y = X @ [1.0, 2.0, 3.0] + 0.1 * rng.standard_normal(4000)
    weight = np.zeros(4000)
    weight[rng.choice(4000, 30, replace=False)] = 1.0
    problem, start = finite_sum(X, y, Squared(), Separable(l2=1e-3), weight=weight, sample=4000)
    best = optimum(problem, start)
    assert measure(problem, problem.join(*start), SubsampledHessian(), 0).smoothness[0] > 0.1
    found = solve(problem, replace(METHODS["svrg"], tol=0.0), start=start, max_passes=30)
    assert found.stats["objective"] - best <= 1e-6 * best


def test_the_accelerated_method_takes_lengths_and_the_identity(data):
    problem, start = of(data, Squared(), Separable(l2=0.0))
    values = []
    for length in (1.0, 1e-2):
        problem, start = of(data, Squared(), Separable(l2=0.0))
        solver = replace(METHODS["katyusha"], hessian=SubsampledHessian("identity"), length=length, tol=0.0)
        values.append(solve(problem, solver, start=start, max_passes=20).stats["objective"][0])
    at_start = problem.evaluate(problem.join(*start), precise=True)[0].objective[0]
    assert values[0] < values[1] < at_start


def test_zeros_are_exact_and_bounds_hold(data):
    problem, start = of(data, Squared(), Separable(l1=100.0, lower=-1.0, upper=0.5))
    for method in METHODS.values():
        W, _ = solve(problem, method, start=start, max_passes=6).value
        assert np.count_nonzero(W == 0) > 0
        assert W.min() >= -1.0
        assert W.max() <= 0.5


def test_too_long_steps_are_cut(data):
    problem, start = of(data, Squared(), Separable(l2=1e-2))
    best = optimum(problem, start)
    found = solve(problem, Stochastic("snapshot", length=200.0, tol=1e-7), start=start, max_passes=80)
    assert (found.state.step < 1).all()
    assert found.stats["objective"] - best <= 1e-5 * best


@pytest.mark.parametrize("method", METHODS)
def test_limits_on_passes_are_kept(data, method):
    for limit in (2, 3, 5, 8):
        problem, start = of(data, Logistic(), PENALTIES["l2"])
        found = solve(problem, replace(METHODS[method], tol=0.0), start=start, max_passes=limit)
        assert found.stats["passes"] <= limit


@pytest.mark.parametrize("compared", [None, "block", "slopes"])
def test_changes_are_sums_over_the_rows(rng, compared):
    X, Y = rng.standard_normal((150, 4)), rng.standard_normal((150, 2))
    weight = rng.integers(0, 3, 150).astype(float)
    problem, _ = finite_sum(X, Y, Squared(), Separable(l2=1.0), weight=weight, sample=100)
    design = problem.batches.design
    c = design.centering
    R = np.hstack([(X - c.mean) / c.scale, np.ones((150, 1))])
    V, other, slopes = rng.standard_normal((5, 2)), rng.standard_normal((5, 2)), rng.standard_normal((150, 2))
    settings = {None: {}, "block": {"compared": other}, "slopes": {"slopes": slopes}}[compared]
    change = problem.change(Batch.of(design), V, **settings)
    reference = {None: 0.0, "block": R @ other - Y, "slopes": slopes}[compared]
    expected = R.T @ (weight[:, None] * (R @ V - Y - reference))
    np.testing.assert_allclose(change.gradient, expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(change.slopes, R @ V - Y, rtol=1e-9, atol=1e-9)
    assert change.loss == pytest.approx(0.5 * np.sum(weight[:, None] * (R @ V - Y) ** 2))


def test_smoothness_is_that_of_fresh_rows(data):
    problem, start = of(data, Squared(), Separable(l2=1e-2), batch_rows=300)
    found = measure(problem, problem.join(*start), SubsampledHessian("newton"), 0)
    assert 1 < found.smoothness[0] < 3
    identity = measure(problem, problem.join(*start), SubsampledHessian("identity"), 0)
    c = problem.batches.design.centering
    R = (data[0] - c.mean) / c.scale
    assert identity.smoothness[0] == pytest.approx(np.linalg.norm(R, 2) ** 2, rel=0.3)


def test_a_metric_is_freed_before_the_next_is_made(data, monkeypatch):
    problem, start = of(data, Logistic(), Separable(l2=1.0))
    metrics = []

    def watched(*args):
        assert all(metric() is None for metric in metrics)
        found = measure(*args)
        metrics.append(weakref.ref(found.metric))
        return found

    monkeypatch.setattr(stochastic, "measure", watched)
    solve(problem, Stochastic("snapshot", tol=0.0), start=start, max_passes=9)
    assert len(metrics) > 2


def test_settings_are_checked(data):
    with pytest.raises(InputError, match="reference='best'"):
        Stochastic("best")
    with pytest.raises(InputError, match="accelerated"):
        Stochastic("snapshot", accelerated=True)
    with pytest.raises(InputError, match="length=0"):
        Stochastic("snapshot", length=0)
    with pytest.raises(InputError, match="tol=2"):
        OnlineScaled(tol=2)
    problem, _ = of(data, Squared(), Separable())
    kinked = replace(problem, outcome=replace(problem.outcome, loss=EpsilonInsensitive(0.1)))
    with pytest.raises(InputError, match="has a kink"):
        solve(kinked, Stochastic("snapshot"))
