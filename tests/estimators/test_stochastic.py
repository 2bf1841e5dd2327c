"""Estimators whose solver sees batches: answers, certificates, limits, plans."""

from __future__ import annotations

import warnings

import dask.config
import numpy as np
import pytest
import scipy.sparse
from sklearn.exceptions import ConvergenceWarning

import nysstream
from nysstream import ElasticNet, Lasso, LinearSVC, LogisticRegression, PoissonRegressor, Ridge, minimize
from nysstream.errors import InputError, MemoryBudgetError, OrderWarning
from nysstream.estimators import sampled_hessians
from nysstream.estimators.stochastic import STOCHASTIC
from nysstream.features import Fourier
from nysstream.losses import Logistic, Squared
from nysstream.regularizers import GroupLasso, L1Ball, L2Ball, Simplex
from nysstream.streaming import DesignMatrix, partition
from nysstream.streaming.minibatch import blocks_of_window
from tests.streaming.support import Stored, small_blocks

REACHING = ("sketchysvrg", "sketchysaga", "sketchylsvrg", "sapphire", "hybrid")


@pytest.fixture(scope="module")
def data():
    """Make rows with a mean, two targets and four classes."""
    rng = np.random.default_rng(3)
    X = rng.standard_normal((600, 8)) @ np.diag(np.logspace(0, 2, 8)) + 3
    Y = (
        X @ (rng.standard_normal((8, 2)) / np.logspace(0, 2, 8)[:, None])
        + 0.3 * rng.standard_normal((600, 2))
        + 5
    )
    classes = np.digitize(Y[:, 0], np.quantile(Y[:, 0], [0.25, 0.5, 0.75]))
    return X, Y, classes


def quietly(model, *args):
    """Fit, whether the tolerance is met or not."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(*args)


def assert_as_good(model, reference, rtol=1e-6):
    """Compare objectives."""
    found, best = (np.asarray(m.result_.stats["objective"]) for m in (model, reference))
    assert (found - best <= rtol * np.abs(best)).all()


@pytest.mark.parametrize("solver", REACHING)
def test_ridge_agrees_for_every_pair_of_target_and_alpha(data, solver):
    X, Y, _ = data
    for alpha, y in ((1.0, Y[:, 0]), ([1.0, 100.0], Y), ([1.0, 10.0], Y[:, 1])):
        reference = Ridge(alpha, tol=1e-10).fit(X, y)
        model = quietly(Ridge(alpha, solver=solver, tol=1e-8, max_passes=40), X, y)
        assert_as_good(model, reference)
        assert model.coef_.shape == reference.coef_.shape
        np.testing.assert_allclose(model.coef_, reference.coef_, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(model.intercept_, reference.intercept_, rtol=1e-4)
        np.testing.assert_allclose(model.predict(X[:5]), reference.predict(X[:5]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("solver", REACHING)
@pytest.mark.parametrize("l1_ratio", [0.0, 1.0])
def test_logistic_regression_agrees_for_two_classes(data, solver, l1_ratio):
    X, _, classes = data
    settings = {"C": 0.1, "l1_ratio": l1_ratio, "class_weight": {0: 2.0}}
    reference = LogisticRegression(**settings, tol=1e-7).fit(X, classes > 1)
    model = quietly(LogisticRegression(**settings, solver=solver, max_passes=40), X, classes > 1)
    assert_as_good(model, reference, rtol=2e-6)
    assert (model.coef_ == 0).sum() == (reference.coef_ == 0).sum()


@pytest.mark.parametrize(
    ("solver", "l1_ratio"), [("sketchysvrg", 0.0), ("sketchysaga", 0.0), ("sapphire", 1.0)]
)
def test_logistic_regression_agrees_for_many_classes(data, solver, l1_ratio):
    X, _, classes = data
    settings = {"C": 0.01, "l1_ratio": l1_ratio, "class_weight": {0: 2.0}}
    reference = LogisticRegression(**settings, tol=1e-7).fit(X, classes)
    model = quietly(LogisticRegression(**settings, solver=solver, tol=1e-5, max_passes=20), X, classes)
    assert_as_good(model, reference, rtol=1e-5)
    assert model.score(X, classes) == pytest.approx(reference.score(X, classes), abs=0.01)


@pytest.mark.parametrize("solver", ["sapphire", "sketchysaga"])
def test_bounds_and_constraints_hold_exactly(data, solver):
    X, Y, _ = data
    reference = ElasticNet(0.1, positive=True, tol=1e-9).fit(X, Y)
    model = quietly(ElasticNet(0.1, positive=True, solver=solver, tol=1e-7, max_passes=40), X, Y)
    assert_as_good(model, reference)
    assert model.coef_.min() == 0
    np.testing.assert_array_equal(model.coef_ == 0, reference.coef_ == 0)
    X = X / X.std(axis=0)  # no scaling keeps a simplex
    settings = {"fit_intercept": True, "tol": 1e-6}
    best = minimize(Squared(), X, Y[:, 0], Simplex(), **settings)
    found = minimize(Squared(), X, Y[:, 0], Simplex(), solver=solver, max_passes=40, **settings)
    assert found.coef.min() >= 0
    assert found.coef.sum() == pytest.approx(1.0, abs=1e-12)
    assert found.objective == pytest.approx(best.objective, rel=1e-5)


@pytest.mark.parametrize("loss", [Squared(), Logistic()])
@pytest.mark.parametrize(
    "regularizer",
    [GroupLasso(150.0, np.repeat([0, 1, 2, 3], 2)), L1Ball(0.5), L2Ball(0.5), Simplex()],
    ids=lambda r: type(r).__name__,
)
def test_online_scaling_serves_regularizers_that_couple_coefficients(data, regularizer, loss):
    X, Y, classes = data
    X, y = X / X.std(axis=0) * np.logspace(0, 0.5, 8), Y[:, 0] if loss.quadratic else classes > 1
    best = minimize(loss, X, y, regularizer, fit_intercept=True, tol=1e-8)
    for solver in ("osgm", "sapphire"):
        found = minimize(loss, X, y, regularizer, fit_intercept=True, tol=1e-6, solver=solver, max_passes=80)
        assert found.objective == pytest.approx(best.objective, rel=2e-6)


@pytest.mark.parametrize("solver", STOCHASTIC)
def test_every_solver_ends_with_a_certificate_that_holds(data, solver):
    X, Y, _ = data
    best = Lasso(0.05, tol=1e-9).fit(X, Y[:, 0]).result_.stats["objective"]
    model = quietly(Lasso(0.05, solver=solver, tol=0.0, max_passes=12), X, Y[:, 0])
    stats = model.result_.stats
    assert stats["passes"] <= 12
    assert stats["method"] == solver
    residual = Y[:, 0] - model.predict(X)
    objective = 0.5 * np.mean(residual**2) + 0.05 * np.abs(model.coef_).sum()
    assert stats["objective"] == pytest.approx(objective, rel=1e-5)
    assert best <= objective * (1 + 1e-9)
    assert objective - best <= stats["duality_gap"] * objective * (1 + 1e-6)
    assert len(model.result_.history) >= 2


def test_weights_are_repetitions_at_the_optimum(data, rng):
    X, Y, _ = data
    weight = rng.integers(0, 3, len(X))
    repeated = Ridge(1.0, tol=1e-10).fit(np.repeat(X, weight, axis=0), np.repeat(Y[:, 0], weight))
    model = Ridge(1.0, solver="sketchysaga", tol=1e-9, max_passes=40)
    weighted = quietly(model, X, Y[:, 0], weight.astype(float))
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, rtol=1e-3, atol=1e-5)
    assert weighted.result_.stats["objective"] == pytest.approx(repeated.result_.stats["objective"], rel=1e-6)


@pytest.mark.parametrize("solver", ["sketchysvrg", "sketchysaga"])
def test_sparse_rows_are_as_dense_ones(rng, solver):
    X = rng.standard_normal((300, 6)) * (rng.random((300, 6)) < 0.3)
    y = X @ rng.standard_normal(6) + 0.1 * rng.standard_normal(300)
    dense, sparse = (
        quietly(Ridge(1.0, solver=solver, tol=1e-9, max_passes=30), A, y)
        for A in (X, scipy.sparse.csr_array(X))
    )
    np.testing.assert_allclose(sparse.coef_, dense.coef_, rtol=1e-4)


@pytest.mark.parametrize("solver", ["sketchysvrg", "sketchysaga"])
def test_rows_beyond_their_margins_have_no_curvature_and_do_no_harm(solver):
    rng = np.random.default_rng(0)
    y = rng.choice([-1.0, 1.0], 400)
    X = rng.standard_normal((400, 3)) * 0.1 + 3 * y[:, None]
    model = quietly(LinearSVC(C=1e6, solver=solver, max_passes=40), X, y)
    assert model.score(X, y) == 1.0
    assert np.isfinite(model.coef_).all()
    if solver == "sketchysaga":
        assert_as_good(model, LinearSVC(C=1e6, tol=1e-8).fit(X, y), rtol=0.2)
    else:  # slower, where hardly a row has curvature; but it does not stand still
        more = quietly(LinearSVC(C=1e6, solver=solver, max_passes=80), X, y)
        assert more.result_.status == "max_passes"
        assert more.result_.stats["objective"] < 0.1 * model.result_.stats["objective"]


def test_features_and_other_losses(rng):
    X = rng.standard_normal((500, 3))
    y = rng.poisson(np.exp(np.sin(X[:, 0])))
    settings = {"alpha": 1e-2, "features": Fourier(20), "max_passes": 40}
    reference = PoissonRegressor(**settings).fit(X, y)
    assert_as_good(quietly(PoissonRegressor(**settings, solver="sketchysaga"), X, y), reference, rtol=1e-5)


@pytest.mark.parametrize("solver", ["sketchysaga", "sketchykatyusha", "sapphire"])
def test_bits_depend_on_the_seed_alone(data, solver):
    X, _, classes = data

    def fitted(threads, seed):
        with dask.config.set(scheduler="threads", num_workers=threads):
            model = LogisticRegression(solver=solver, l1_ratio=0.5, max_passes=7, random_state=seed)
            return quietly(model, X, classes > 1).coef_

    np.testing.assert_array_equal(fitted(1, 0), fitted(2, 0))
    assert not np.array_equal(fitted(1, 0), fitted(1, 1))


def test_every_block_is_read_once_for_each_pass(monkeypatch, data):
    small_blocks(monkeypatch)
    X, Y, _ = data
    source = Stored(X, chunk_rows=50)
    monkeypatch.setattr("nysstream.streaming.affordable.parse_memory", lambda _: 1 << 40)
    monkeypatch.setattr(nysstream.memory.Budget, "spare", 0)
    model = quietly(Ridge(solver="sketchysaga", max_passes=6), source, Y[:, 0])
    assert (source.reads == model.result_.stats["passes"]).all()
    stats = model.result_.stats
    assert stats["bytes_read"] == stats["passes"] * X.nbytes


def test_sorted_rows_warn_and_the_certificate_shows_what_is_missing(monkeypatch, rng):
    small_blocks(monkeypatch)
    monkeypatch.setattr(partition, "MIN_PARTITIONS", 4)
    X = rng.standard_normal((900, 4))
    y = (X @ rng.standard_normal(4) + 0.5 * rng.standard_normal(900) > 0).astype(float)
    order = np.argsort(y, kind="stable")
    best = LogisticRegression(tol=1e-8).fit(X, y).result_.stats["objective"]
    with pytest.warns(OrderWarning, match="convert --shuffle"):
        model = quietly(
            LogisticRegression(solver="sketchysvrg", tol=1e-6, max_passes=14),
            Stored(X[order], chunk_rows=20),
            Stored(y[order], chunk_rows=20),
        )
    stats = model.result_.stats
    assert stats["objective"] - best <= max(stats["duality_gap"], 1e-9) * stats["objective"] * (1 + 1e-6)
    assert stats["objective"] - best < 1e-3 * best
    with warnings.catch_warnings():
        warnings.simplefilter("error", OrderWarning)
        quietly(
            LogisticRegression(solver="sketchysvrg", max_passes=4),
            Stored(X, chunk_rows=20),
            Stored(y, chunk_rows=20),
        )


def test_hybrid_hands_over_and_reaches_the_last_digits(data):
    X, _, classes = data
    model = LogisticRegression(solver="hybrid", tol=1e-10, max_passes=60).fit(X, classes > 1)
    names = [record.name for record in model.result_.passes]
    assert "epoch" in names
    assert names[-1] == "certify"
    assert model.result_.stats["duality_gap"] <= 1e-10


@pytest.mark.parametrize(
    ("solver", "names"),
    [
        ("sketchysvrg", ["set-up", "epoch", "evaluate", "epoch", "evaluate"]),
        ("sketchysaga", ["set-up", "epoch", "epoch", "epoch", "evaluate"]),
        ("osgm", ["set-up", *["evaluate"] * 4]),
    ],
)
def test_no_pass_evaluates_the_start(data, solver, names):
    X, _, classes = data
    for y in (classes > 1, classes):
        model = quietly(LogisticRegression(solver=solver, max_passes=5, tol=0.0), X, y)
        made = [record.name for record in model.result_.passes]
        assert ["evaluate" if name == "certify" else name for name in made] == names


def test_hybrid_does_not_evaluate_twice_where_it_changes_hands(data):
    X, _, classes = data
    model = LogisticRegression(solver="hybrid", tol=1e-6, max_passes=60).fit(X, classes > 1)
    evaluations = [record for record in model.result_.passes if record.name in ("evaluate", "certify")]
    # The set-up pass told of the start; where the methods change hands one answer is on record twice.
    assert len(evaluations) < len(model.result_.history)


def test_rows_without_weight_are_not_sampled(monkeypatch, rng):
    monkeypatch.setattr(sampled_hessians, "_TARGETS", 1000)  # several reads of the weights
    X = rng.standard_normal((12_000, 3))
    y = X @ [1.0, 2.0, 3.0] + 0.1 * rng.standard_normal(12_000)
    weight, few = np.zeros(12_000), rng.choice(12_000, 40, replace=False)
    weight[few] = 1.0
    reference = Ridge(0.1, tol=1e-10).fit(X[few], y[few])
    model = quietly(Ridge(0.1, solver="sketchysvrg", tol=1e-6, max_passes=60), X, y, weight)
    np.testing.assert_allclose(model.coef_, reference.coef_, rtol=1e-3)
    classes = y > 0
    best = LogisticRegression(solver="newton").fit(X[few], classes[few])
    for solver in ("subsampled", "hybrid"):
        found = LogisticRegression(solver=solver).fit(X, classes, weight)
        np.testing.assert_allclose(found.coef_, best.coef_, rtol=1e-2)


def test_samples_are_uniform_among_the_rows_with_weight(monkeypatch):
    monkeypatch.setattr(sampled_hessians, "_TARGETS", 3)
    weight = np.array([0.0, 1, 2, 0, 0, 0, 0, 0.5, 1, 0, 3, 1, 0])
    design = DesignMatrix(np.zeros((13, 1)), np.zeros(13), weight)
    draws = [sampled_hessians.weighty_rows(design, 3, seed) for seed in range(2000)]
    assert all((np.diff(rows) > 0).all() for rows in draws)
    counts = np.bincount(np.concatenate(draws), minlength=13)
    assert (counts[weight == 0] == 0).all()
    np.testing.assert_allclose(counts[weight > 0], 1000, rtol=0.1)
    np.testing.assert_array_equal(sampled_hessians.weighty_rows(design, 50, 0), np.flatnonzero(weight))


def test_a_sample_without_weight_is_refused(rng):
    X = rng.standard_normal((100_000, 2))
    classes = np.zeros(100_000)
    classes[:2] = 1.0
    with pytest.raises(InputError, match=r"none of the \d+ sampled rows has weight"):
        LogisticRegression(solver="sketchysvrg", class_weight={0: 0.0}).fit(X, classes)


def test_limits_warn_with_the_certificate(data):
    X, Y, _ = data
    with pytest.warns(ConvergenceWarning, match="Relative duality gap"):
        model = Ridge(solver="svrg", max_passes=4).fit(X, Y)
    assert model.result_.stats["passes"] <= 4
    with pytest.warns(ConvergenceWarning, match="time limit"):
        Ridge(solver="svrg", time_limit=1e-3).fit(X, Y)


def test_plans_choose_a_sketch_where_the_matrix_does_not_fit():
    X = np.broadcast_to(np.float32(1), (4000, 3))
    y = np.arange(4000) % 2
    plan = Ridge(solver="sketchysvrg", features=Fourier(6000), memory="8GiB").plan(X, y)
    assert plan.rank == 0
    needed = plan.budget.peak
    smaller = Ridge(solver="sketchysvrg", features=Fourier(6000), memory=needed - (1 << 20)).plan(X, y)
    assert smaller.rank > 0 or smaller.n_tasks < plan.n_tasks
    with pytest.raises(MemoryBudgetError, match="Give memory="):
        Ridge(solver="sketchysvrg", features=Fourier(6000), memory="200MiB").plan(X, y)


def test_plans_sample_fewer_rows_before_they_choose_a_sketch():
    X = np.broadcast_to(np.float32(1), (100_000, 1500))
    y = np.arange(100_000) % 2
    model = LogisticRegression(solver="sketchysvrg", memory="8GiB")
    plan = model.plan(X, y)
    assert plan.n_sampled == 24_000 + 3125
    smaller = LogisticRegression(solver="sketchysvrg", memory=plan.budget.peak - (100 << 20)).plan(X, y)
    assert smaller.rank == 0
    assert smaller.n_sampled < plan.n_sampled


def test_plans_count_the_rows_that_a_preconditioner_is_made_of():
    X, y = scipy.sparse.csr_array((4000, 2_000_000), dtype=np.float32), np.arange(4000) % 2
    plan = LogisticRegression(solver="sketchysvrg", rank=5, memory="200GiB").plan(X, y)
    assert plan.budget.needs["preconditioner"] >= 48 * 5 * 2_000_000 + 3 * 16 * 4 * 2_000_000


@pytest.mark.parametrize("n_classes", [100, 10])  # slopes in a file, and in memory
def test_plans_count_the_slopes_of_a_window(n_classes):
    X = np.broadcast_to(np.float32(1), (400_000, 20))
    plan = LogisticRegression(solver="sketchysaga", memory="20GiB").plan(X, np.arange(400_000) % n_classes)
    rows = min(400_000, blocks_of_window(plan.design) * plan.design.block_rows)
    table = 0 if n_classes == 100 else 400_000
    assert plan.budget.needs["slopes"] == 2 * 8 * (rows + table) * n_classes


def test_settings_that_do_not_go_together_are_refused(data):
    X, Y, _ = data
    with pytest.raises(InputError, match="rank=3 is for preconditioned methods"):
        Ridge(solver="svrg", rank=3).fit(X, Y)
    with pytest.raises(InputError, match="warm_start=True"):
        Ridge(solver="sketchysvrg", warm_start=True).fit(X, Y)
    with pytest.raises(InputError, match="3 alphas for 2 targets"):
        Ridge([1.0, 2.0, 3.0], solver="sketchysvrg").fit(X, Y)


def test_models_are_saved_and_loaded(data, tmp_path):
    X, Y, _ = data
    model = quietly(Ridge(solver="sketchysaga", rank=5, max_passes=6), X, Y)
    model.save(tmp_path / "model.zarr")
    np.testing.assert_array_equal(nysstream.load(tmp_path / "model.zarr").predict(X), model.predict(X))
