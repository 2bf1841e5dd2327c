"""What a fit reads, and what is left when a limit, or the user, ends it."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from nysstream import Ridge, features
from tests.estimators.conftest import assert_same_model, dense_ridge, regression
from tests.helpers import CountingSource
from tests.streaming.support import Stored

SOLVERS = ("gram", "nystrom", "subsampled", "cg")


def slow_problem():
    """Make a problem on which conjugate gradients need many iterations."""
    rng = np.random.default_rng(1)
    U = rng.standard_normal((600, 80))
    return U * np.geomspace(1, 1e-3, 80), U @ rng.standard_normal(80) + rng.standard_normal(600)


def counted(X, chunk_rows=50):
    return CountingSource(Stored(X, chunk_rows=chunk_rows))


class TestReads:
    """One read of each row for set-up, one per iteration, one to verify, and none more."""

    @pytest.mark.parametrize("solver", ["nystrom", "subsampled", "cg"])
    @pytest.mark.parametrize("memory", ["1GiB", None])
    def test_iterations(self, solver, memory):
        X, y = slow_problem()
        source = counted(X)
        # No restart in double precision: what is verified is what was iterated.
        model = Ridge(
            1e-2, solver=solver, rank="auto" if solver != "nystrom" else 10, memory=memory, tol=1e-4
        )
        model.fit(source, y)
        stats = model.result_.stats
        names = [record.name for record in model.result_.passes]
        checks = 1 + stats["iterations"] // 50
        assert stats["iterations"] > 3
        assert stats["passes"] == len(names) == 1 + stats["iterations"] + checks
        assert names == ["set-up", *names[1:-1], "residual"]
        assert names.count("residual") == checks
        # Rows that fit the limit were kept after the first read.
        assert source.passes == 1
        assert stats["bytes_read"] == X.nbytes
        assert stats["bytes_from_cache"] == (stats["passes"] - 1) * X.nbytes

    @pytest.mark.parametrize("solver", SOLVERS)
    def test_without_a_cache(self, solver, monkeypatch):
        X, y = slow_problem()
        source = counted(X)
        monkeypatch.setattr("nysstream.streaming.cache.BlockCache.offer", lambda *_: None)
        model = Ridge(1e-2, solver=solver, tol=1e-4).fit(source, y)
        stats = model.result_.stats
        assert source.passes == stats["passes"]
        assert stats["bytes_read"] == stats["passes"] * X.nbytes
        assert stats["bytes_from_cache"] == 0

    def test_the_gram_matrix_takes_two(self, problem):
        source = counted(problem.X)
        Ridge(solver="gram").fit(source, problem.y)
        assert source.passes == 1  # the second comes from the cache
        model = Ridge(solver="gram").fit(counted(problem.X), problem.Y)
        assert model.result_.stats["passes"] == 2
        assert [record.name for record in model.result_.passes] == ["set-up", "residual"]

    def test_targets_and_weights_are_read_as_often_as_needed(self, problem, monkeypatch):
        y, weight = counted(problem.y), counted(problem.weight)
        model = Ridge(solver="nystrom", rank=3, tol=1e-9).fit(Stored(problem.X), y, weight)
        assert y.passes == 2  # set-up and residual; products need no targets
        assert weight.passes == model.result_.stats["passes"]

    def test_samples_are_counted(self):
        problem = regression(n=4_096)
        model = Ridge(features=features.Fourier(20, length_scale="median"), solver="gram")
        model.fit(Stored(problem.X), problem.y)
        assert model.result_.stats["bytes_read"] == (1 + 1 / 4) * problem.X.nbytes

    def test_all_columns_are_solved_in_the_same_passes(self):
        X, y = slow_problem()
        alone = Ridge(1e-2, solver="cg").fit(Stored(X), y)
        Y = np.column_stack([y, np.roll(y, 1), X[:, 0]])
        together = Ridge(1e-2, solver="cg").fit(Stored(X), Y)
        assert together.result_.stats["passes"] < 1.5 * alone.result_.stats["passes"]


class TestLimits:
    @pytest.mark.parametrize("solver", ["nystrom", "subsampled", "cg"])
    @pytest.mark.parametrize("max_passes", [2, 3, 5, 10])
    def test_max_passes(self, solver, max_passes):
        X, y = slow_problem()
        settings = {"solver": solver, "rank": 2 if solver == "nystrom" else "auto", "tol": 1e-14}
        with pytest.warns(ConvergenceWarning, match="The pass limit was reached"):
            model = Ridge(1e-4, max_passes=max_passes, **settings).fit(Stored(X), y)
        stats = model.result_.stats
        assert model.result_.status == stats["status"] == "max_passes"
        assert stats["passes"] <= max_passes
        assert not model.result_.converged
        self.check_residual(model, X, y, 1e-4)

    @staticmethod
    def check_residual(model, X, y, alpha):
        Z, centred = X - X.mean(axis=0), y - y.mean()
        rhs = Z.T @ centred
        residual = rhs - Z.T @ (Z @ model.coef_) - alpha * model.coef_
        relative = np.linalg.norm(residual) / np.linalg.norm(rhs)
        assert relative == pytest.approx(model.result_.stats["relative_residual"], rel=1e-6)
        assert model.intercept_ == pytest.approx(y.mean() - X.mean(axis=0) @ model.coef_)

    def test_more_passes_are_better(self):
        X, y = slow_problem()
        errors = []
        best = dense_ridge(X, y, alpha=1e-2)
        for max_passes in (3, 10, 40):
            with pytest.warns(ConvergenceWarning):
                model = Ridge(1e-2, solver="cg", tol=1e-12, max_passes=max_passes).fit(X, y)
            errors.append(np.linalg.norm(X @ (model.coef_ - best.coef_)))
        assert errors[0] > errors[1] > errors[2]

    def test_time_limit(self):
        X, y = slow_problem()
        with pytest.warns(ConvergenceWarning, match="The time limit was reached"):
            model = Ridge(1e-4, solver="cg", tol=1e-14, time_limit=1e-3).fit(Stored(X), y)
        assert model.result_.status == "time_limit"
        assert model.result_.stats["passes"] <= 3
        self.check_residual(model, X, y, 1e-4)

    def test_limits_that_are_not_met(self, problem):
        model = Ridge(max_passes=100, time_limit=600.0, tol=1e-9).fit(problem.X, problem.y)
        assert model.result_.converged
        assert_same_model(model, dense_ridge(problem.X, problem.y))


class Interrupt:
    """Interrupts, as a user does, once a number of passes is done; then again at every report."""

    def __init__(self, after: int) -> None:
        self.after = after
        self.seen: list[int] = []

    def __call__(self, progress):
        self.seen.append(progress.number)
        if progress.number > self.after:
            raise KeyboardInterrupt


class TestInterrupts:
    @pytest.mark.parametrize("solver", ["nystrom", "cg"])
    def test_the_last_complete_step_is_kept(self, solver):
        X, y = slow_problem()
        settings = {"solver": solver, "rank": 2 if solver == "nystrom" else "auto", "tol": 1e-12}
        with pytest.warns(ConvergenceWarning, match="interrupted"):
            model = Ridge(1e-4, callback=Interrupt(after=6), **settings).fit(Stored(X), y)
        assert model.result_.status == "interrupted"
        assert model.result_.stats["passes"] == 6
        assert model.result_.stats["iterations"] == 5
        assert np.isfinite(model.coef_).all()
        assert np.isnan(model.result_.stats["objective"])  # would have taken one more pass
        assert np.std(y - model.predict(X)) < np.std(y)

    def test_nothing_is_kept_of_a_set_up(self, problem):
        model = Ridge(callback=Interrupt(after=0))
        with pytest.raises(KeyboardInterrupt):
            model.fit(Stored(problem.X), problem.y)
        assert not hasattr(model, "coef_")

    def test_an_error_in_the_callback_is_an_error(self, problem):
        def fail(progress):
            message = "no more"
            raise RuntimeError(message)

        with pytest.raises(RuntimeError, match="no more"):
            Ridge(callback=fail).fit(Stored(problem.X), problem.y)

    def test_a_failed_fit_leaves_the_last_one(self, problem):
        model = Ridge().fit(problem.X, problem.y)
        coef = model.coef_.copy()
        spoilt = problem.X.copy()
        spoilt[5, 5] = np.nan
        with pytest.raises(ValueError, match="NaN"):
            model.fit(Stored(spoilt), problem.y)
        np.testing.assert_array_equal(model.coef_, coef)


def test_progress_says_what_is_expected(problem):
    reports = []
    problem = regression(n=1_000, p=40)

    def note(progress):
        reports.append((progress.number, progress.rows_done, progress.rows_total, progress.residual))

    model = Ridge(rank=5, callback=note).fit(Stored(problem.X, chunk_rows=100), problem.y)
    passes = model.result_.stats["passes"]
    assert {number for number, *_ in reports} == set(range(1, passes + 1))
    for number in range(1, passes + 1):
        assert max(done for n, done, *_ in reports if n == number) == 1_000
    assert {total for _, _, total, _ in reports} == {1_000}
    assert reports[0][3] is None
    assert 0 < reports[-1][3] < 1


def test_history_and_trace(problem):
    X, y = slow_problem()
    model = Ridge(1e-2, solver="nystrom", rank=10).fit(Stored(X), y)
    result = model.result_
    residuals = [record["relative_residual"] for record in result.history]
    assert residuals[0] == 1.0
    assert residuals[-1] == result.stats["relative_residual"] <= 1e-6
    assert [record["passes"] for record in result.history] == sorted(r["passes"] for r in result.history)
    assert result.spectrum.shape == (10,)
    assert (np.diff(result.spectrum) <= 0).all()
    values = np.linalg.eigvalsh((X - X.mean(axis=0)).T @ (X - X.mean(axis=0)))[::-1]
    lower, upper = result.stats["effective_dimension"]
    assert lower <= np.sum(values / (values + 1e-2)) <= upper
    assert result.certificate.trace == pytest.approx(values.sum())
    assert sum(record.cost.rows for record in result.passes) == 600 * result.stats["passes"]
    assert {"seconds", "peak_bytes", "memory_limit_bytes", "objective", "n_rows", "n_features"} <= set(
        result.stats
    )


@pytest.mark.parametrize("mapping", ["relu:60", "fourier:60,length_scale=5", None])
def test_what_is_cached_does_not_change_the_bits(mapping, monkeypatch):
    monkeypatch.setattr("nysstream.streaming.partition.BLOCK_BYTES", 16 << 10)
    X = np.random.default_rng(0).standard_normal((1_001, 17)).astype(np.float32)
    y = np.sin(X[:, 0]) + X[:, 1]
    coefs = []
    for spare in (0, X.nbytes // 2, 3 * X.nbytes, 1 << 30):
        monkeypatch.setattr("nysstream.memory.Budget.spare", spare)
        model = Ridge(features=mapping, solver="cg", tol=1e-4).fit(Stored(X, chunk_rows=7), y)
        coefs.append(model.coef_)
    assert model.result_.stats["bytes_from_cache"] > 0
    for coef in coefs:
        np.testing.assert_array_equal(coef, coefs[0])
