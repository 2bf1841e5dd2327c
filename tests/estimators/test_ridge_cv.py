"""RidgeCV scores what scikit-learn's explicit loop scores, and shares its passes."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Ridge as DenseRidge
from sklearn.metrics import mean_squared_error, r2_score
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import nysstream
from nysstream import GivenFolds, GroupedFolds, HashedFolds, Ridge, RidgeCV, features
from nysstream.errors import AccuracyWarning, InputError, MemoryBudgetError
from tests.estimators.conftest import assert_same_model, dense_ridge, regression
from tests.helpers import CountingSource, with_singular_values
from tests.streaming.support import Stored, small_blocks

ALPHAS = [1e-3, 1e-1, 10.0, 1e2, 1e4]


@parametrize_with_checks([RidgeCV()])
def test_scikit_learn_conventions(estimator, check):
    check(estimator)


def explicit_scores(
    X, y, weight, splits, *, alphas=ALPHAS, standardize=False, metric=r2_score, fit_intercept=True
):
    """Fit and score every alpha on every fold, in memory, in double precision."""
    scores = np.empty((len(alphas), len(splits)))
    for f, (train, test) in enumerate(splits):
        w_train, w_test = (None, None) if weight is None else (weight[train], weight[test])
        Z = X
        if standardize:
            Z = StandardScaler(with_mean=fit_intercept).fit(X[train], sample_weight=w_train).transform(X)
        for i, alpha in enumerate(alphas):
            model = dense_ridge(Z[train], y[train], w_train, alpha=alpha, fit_intercept=fit_intercept)
            scores[i, f] = metric(y[test], model.predict(Z[test]), sample_weight=w_test)
    return scores


def assert_chose(model, scores, alphas=ALPHAS):
    """Compare the results of a cross-validation with explicit scores."""
    results = model.cv_results_
    np.testing.assert_allclose(results["scores"], scores, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(results["mean"], results["scores"].mean(axis=1))
    np.testing.assert_allclose(results["std"], results["scores"].std(axis=1))
    np.testing.assert_array_equal(results["alphas"], alphas)
    best = int(np.argmax(scores.mean(axis=1)))
    assert model.alpha_ == alphas[best]
    assert model.best_score_ == pytest.approx(scores.mean(axis=1)[best], abs=1e-6)


METHODS = {
    "gram": {"solver": "gram"},
    "nystrom": {"solver": "nystrom", "rank": 3, "tol": 1e-9},
    "cg": {"solver": "cg", "tol": 1e-9},
}


@pytest.mark.parametrize("settings", METHODS.values(), ids=METHODS.keys())
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("several", [False, True])
def test_scores_are_those_of_an_explicit_loop(problem, settings, standardize, weighted, several):
    weight = problem.weight if weighted else None
    y = problem.Y if several else problem.y
    model = RidgeCV(ALPHAS, standardize=standardize, **settings).fit(problem.X, y, weight)
    splits = list(KFold(5).split(problem.X))
    assert_chose(model, explicit_scores(problem.X, y, weight, splits, standardize=standardize))
    alone = Ridge(model.alpha_, standardize=standardize, tol=1e-10).fit(problem.X, y, weight)
    assert_same_model(model, alone, rtol=1e-6)
    np.testing.assert_allclose(model.predict(problem.X), alone.predict(problem.X), rtol=1e-5)


class TestLikeScikitLearn:
    @pytest.mark.parametrize("scoring", ["r2", "neg_mean_squared_error"])
    def test_grid_search_of_a_pipeline(self, problem, scoring):
        pipeline = make_pipeline(StandardScaler(), DenseRidge())
        search = GridSearchCV(pipeline, {"ridge__alpha": ALPHAS}, cv=4, scoring=scoring)
        search.fit(problem.X, problem.y)
        model = RidgeCV(ALPHAS, cv=4, standardize=True, scoring=scoring).fit(problem.X, problem.y)
        assert model.alpha_ == search.best_params_["ridge__alpha"]
        scores = np.stack([search.cv_results_[f"split{f}_test_score"] for f in range(4)], axis=1)
        np.testing.assert_allclose(model.cv_results_["scores"], scores, rtol=1e-6)
        ridge, scaler = search.best_estimator_["ridge"], search.best_estimator_["standardscaler"]
        np.testing.assert_allclose(model.coef_, ridge.coef_ / scaler.scale_, rtol=1e-6)

    def test_weighted_mean_squared_error(self, problem):
        model = RidgeCV(ALPHAS, scoring="neg_mean_squared_error").fit(problem.X, problem.Y, problem.weight)
        splits = list(KFold(5).split(problem.X))
        scores = explicit_scores(problem.X, problem.Y, problem.weight, splits, metric=mean_squared_error)
        assert_chose(model, -scores)

    def test_without_an_intercept(self, problem):
        model = RidgeCV(ALPHAS, fit_intercept=False).fit(problem.X, problem.y)
        splits = list(KFold(5).split(problem.X))
        assert_chose(model, explicit_scores(problem.X, problem.y, None, splits, fit_intercept=False))
        assert model.intercept_ == 0.0

    def test_group_k_fold(self, problem):
        groups = np.random.default_rng(0).integers(0, 20, len(problem.X))
        splits = list(GroupKFold(5).split(problem.X, groups=groups))
        scores = explicit_scores(problem.X, problem.y, None, splits)
        assert_chose(RidgeCV(ALPHAS, cv=GroupKFold(5)).fit(problem.X, problem.y, groups=groups), scores)
        assert_chose(RidgeCV(ALPHAS, cv=splits).fit(problem.X, problem.y), scores)

    def test_shuffled_k_fold(self, problem):
        cv = KFold(3, shuffle=True, random_state=0)
        scores = explicit_scores(problem.X, problem.y, None, list(cv.split(problem.X)))
        assert_chose(RidgeCV(ALPHAS, cv=cv).fit(problem.X, problem.y), scores)


def splits_of(folds, n):
    rows = folds.of_rows(slice(0, n), n)
    return [(np.flatnonzero(rows != f), np.flatnonzero(rows == f)) for f in range(folds.n_splits)]


class TestFolds:
    @pytest.mark.parametrize(
        "folds",
        [
            HashedFolds(4, seed=1),
            GroupedFolds(3, np.arange(300) // 7),
            GroupedFolds(3, Stored(np.arange(300) // 7, chunk_rows=50)),
            GivenFolds(np.arange(300) % 6),
            GivenFolds(Stored((np.arange(300) % 6).astype(np.float32), chunk_rows=50), 6),
        ],
        ids=["hashed", "grouped", "grouped, stored", "given", "given, stored"],
    )
    def test_rules(self, problem, folds, monkeypatch):
        small_blocks(monkeypatch)
        scores = explicit_scores(problem.X, problem.y, None, splits_of(folds, 300))
        model = RidgeCV(ALPHAS, cv=folds).fit(Stored(problem.X, chunk_rows=17), problem.y)
        assert_chose(model, scores)
        assert clone(model).cv.n_splits == folds.n_splits

    @given(
        n=st.integers(10, 60),
        p=st.integers(1, 8),
        q=st.integers(1, 2),
        k=st.integers(2, 5),
        seed=st.integers(0, 999),
        dtype=st.sampled_from([np.float32, np.float64]),
        chunk_rows=st.integers(1, 70),
        weighted=st.booleans(),
    )
    def test_any_shape_and_chunking(self, n, p, q, k, seed, dtype, chunk_rows, weighted):
        rng = np.random.default_rng(seed)
        X = rng.standard_normal((n, p)).astype(dtype)
        Y = rng.standard_normal((n, q))
        weight = rng.random(n) + 0.1 if weighted else None
        with dask.config.set(scheduler="synchronous"):
            model = RidgeCV([0.1, 10.0], cv=k, tol=1e-9).fit(Stored(X, chunk_rows=chunk_rows), Y, weight)
        splits = list(KFold(k).split(X))
        scores = explicit_scores(X.astype(np.float64), Y, weight, splits, alphas=[0.1, 10.0])
        np.testing.assert_allclose(model.cv_results_["scores"], scores, rtol=1e-6, atol=1e-6)

    def test_sparse_rows(self, problem):
        X = np.where(problem.X > 0, problem.X, 0.0)
        model = RidgeCV(ALPHAS, standardize=True).fit(scipy.sparse.csr_array(X), problem.y)
        splits = list(KFold(5).split(X))
        assert_chose(model, explicit_scores(X, problem.y, None, splits, standardize=True))

    def test_features(self, problem):
        X = problem.X - problem.X.mean(axis=0)
        mapping = features.Fourier(40, length_scale=4.0)
        model = RidgeCV(ALPHAS, features=mapping, precision="double").fit(Stored(X), problem.y)
        assert_chose(model, explicit_scores(mapping(X), problem.y, None, list(KFold(5).split(X))))

    def test_means_far_from_zero(self, problem):
        X = (problem.X + 1000).astype(np.float32)
        model = RidgeCV(ALPHAS, tol=1e-9).fit(X, problem.y)
        scores = explicit_scores(X.astype(np.float64), problem.y, None, list(KFold(5).split(X)))
        assert_chose(model, scores)

    def test_a_column_may_be_constant_in_a_training_set(self, problem):
        X = problem.X.copy()
        X[:, 2] = 7.0
        X[:60, 2] += np.arange(60)  # varies in the first fold only
        model = RidgeCV(ALPHAS, standardize=True).fit(X, problem.y)
        splits = list(KFold(5).split(X))
        assert_chose(model, explicit_scores(X, problem.y, None, splits, standardize=True))

    def test_a_constant_fold_scores_as_in_scikit_learn(self, problem):
        y = problem.y.copy()
        y[:60] = 3.0
        model = RidgeCV(ALPHAS).fit(problem.X, y)
        assert_chose(model, explicit_scores(problem.X, y, None, list(KFold(5).split(problem.X))))
        assert np.all(model.cv_results_["scores"][:, 0] == 0)

    def test_zero_alpha(self, problem):
        model = RidgeCV([0.0, 1.0]).fit(problem.X.astype(np.float32), problem.y)
        scores = explicit_scores(
            problem.X, problem.y, None, list(KFold(5).split(problem.X)), alphas=[0.0, 1.0]
        )
        assert_chose(model, scores, [0.0, 1.0])

    def test_zero_alpha_without_a_unique_answer(self, problem):
        with pytest.warns(AccuracyWarning, match="not unique"):
            RidgeCV([0.0, 1.0]).fit(np.column_stack([problem.X, problem.X[:, 0]]), problem.y)

    def test_equal_scores_take_the_first(self, problem):
        model = RidgeCV([1.0, 1.0, 1.0]).fit(problem.X, np.zeros(300))
        assert model.alpha_ == 1.0
        np.testing.assert_array_equal(model.cv_results_["mean"], np.ones(3))


def slow_problem():
    """Rows whose systems need tens of iterations."""
    rng = np.random.default_rng(0)
    X = with_singular_values(400, np.sqrt(400) / np.arange(1, 61), rng).astype(np.float32)
    return X, X @ rng.standard_normal(60) + rng.standard_normal(400)


class TestPasses:
    def test_gram_matrices_need_two(self, problem):
        source = CountingSource(Stored(problem.X))
        model = RidgeCV(np.geomspace(1e-3, 1e3, 20)).fit(source, problem.y)
        assert model.result_.stats["passes"] == 2
        assert [record.name for record in model.result_.passes] == ["set-up", "residual"]

    @pytest.mark.parametrize("settings", [{"solver": "nystrom", "rank": 10}, {"solver": "cg"}])
    def test_are_hardly_more_than_those_of_the_hardest_system(self, settings):
        X, y = slow_problem()
        alphas = np.geomspace(1e-1, 1e3, 20)
        together = RidgeCV(alphas, **settings).fit(X, y)
        alone = []
        for train, _ in [*KFold(5).split(X), (np.arange(len(X)), None)]:
            alone.append(Ridge(alphas[0], **settings).fit(X[train], y[train]).result_.stats["passes"])
        assert max(alone) > 15
        assert together.result_.stats["passes"] <= 1.2 * max(alone)

    def test_read_every_row_equally_often(self):
        X, y = slow_problem()
        source = CountingSource(Stored(X, chunk_rows=100))
        source_bytes = X.nbytes
        model = RidgeCV(solver="nystrom", rank=10).fit(source, y)
        stats = model.result_.stats
        assert stats["passes"] * source_bytes == stats["bytes_read"] + stats["bytes_from_cache"]
        assert source.passes >= 1

    def test_stop_at_the_limit(self):
        X, y = slow_problem()
        with pytest.warns(ConvergenceWarning, match="pass limit"):
            model = RidgeCV(solver="cg", max_passes=6).fit(X, y)
        assert model.result_.stats["passes"] <= 6
        assert model.result_.status == "max_passes"
        assert np.isfinite(model.cv_results_["scores"]).all()


class TestMemory:
    def test_too_little_is_refused_before_reading(self, problem):
        source = CountingSource(Stored(problem.X))
        with pytest.raises(MemoryBudgetError, match="Give memory="):
            RidgeCV(memory="1MiB").fit(source, problem.y)
        assert source.reads.max() == 0

    def test_alphas_go_in_groups_where_they_do_not_fit(self, monkeypatch, problem):
        from nysstream.estimators import ridge_cv

        plan_fit = ridge_cv.plan_fit

        def limited(design, *, n_systems, **settings):
            if n_systems > 6 * 2:
                message = "too many"
                raise MemoryBudgetError(message)
            return plan_fit(design, n_systems=n_systems, **settings)

        together = RidgeCV(ALPHAS, solver="cg").fit(problem.X, problem.y)
        monkeypatch.setattr(ridge_cv, "plan_fit", limited)
        model = RidgeCV(ALPHAS, solver="cg")
        assert model.plan(problem.X, problem.y).n_systems == 6 * 2
        model.fit(problem.X, problem.y)
        assert model.alpha_ == together.alpha_
        np.testing.assert_allclose(model.cv_results_["scores"], together.cv_results_["scores"], atol=1e-5)
        assert_same_model(model, together)
        assert model.result_.converged
        assert model.result_.stats["passes"] > together.result_.stats["passes"]

    def test_counts_the_folds(self, problem):
        model = RidgeCV(solver="gram", memory="8GiB")
        needs = [
            sum(model.set_params(cv=k).plan(Stored(np.ones((100, 600))), np.ones(100)).budget.needs.values())
            for k in (2, 10)
        ]
        assert needs[1] - needs[0] > 8 * 8 * 600**2


def test_every_scheduler_gives_the_same_bits(monkeypatch):
    small_blocks(monkeypatch, partitions=5)
    X, y = slow_problem()
    fits = []
    for scheduler in ("synchronous", "threads"):
        with dask.config.set(scheduler=scheduler, num_workers=3):
            model = RidgeCV(cv=HashedFolds(3), solver="nystrom", rank=10)
            fits.append(model.fit(Stored(X, chunk_rows=64), y))
    np.testing.assert_array_equal(fits[0].cv_results_["scores"], fits[1].cv_results_["scores"])
    np.testing.assert_array_equal(fits[0].coef_, fits[1].coef_)


def test_models_remember_what_was_chosen(problem, tmp_path):
    model = RidgeCV(ALPHAS, cv=HashedFolds(5)).fit(problem.X, problem.Y)
    model.save(tmp_path / "model")
    loaded = nysstream.load(tmp_path / "model")
    assert type(loaded) is RidgeCV
    assert (loaded.alpha_, loaded.best_score_) == (model.alpha_, model.best_score_)
    for key, values in model.cv_results_.items():
        np.testing.assert_array_equal(loaded.cv_results_[key], values)
    np.testing.assert_array_equal(loaded.predict(problem.X), model.predict(problem.X))
    assert loaded.score(problem.X, problem.Y) == model.score(problem.X, problem.Y)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alphas": [-1.0]}, r"alphas=\[-1.0\] is out of range"),
        ({"alphas": []}, r"alphas=\[\]"),
        ({"alphas": "all"}, "alphas='all'"),
        ({"scoring": "accuracy"}, "scoring='accuracy'"),
        ({"solver": "subsampled"}, "solver='subsampled'"),
        ({"tol": 2.0}, "tol=2.0"),
        ({"cv": None}, "cv=None"),
        ({"cv": 301}, "n_samples=300"),
        ({"cv": 300}, "fold 0 holds one row"),
        ({"rank": 8}, "rank=8"),
    ],
)
def test_settings_that_cannot_be_used_are_named(problem, settings, message):
    with pytest.raises(InputError, match=message):
        RidgeCV(**settings).fit(problem.X, problem.y)


def test_one_row_per_fold_may_be_scored_by_its_error():
    problem = regression(n=20, p=3)
    model = RidgeCV(ALPHAS, cv=20, scoring="neg_mean_squared_error").fit(problem.X, problem.y)
    splits = list(KFold(20).split(problem.X))
    assert_chose(model, -explicit_scores(problem.X, problem.y, None, splits, metric=mean_squared_error))
