"""SketchySGD comes near scikit-learn's optimum in a few epochs, in one go or over rows as they arrive."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from sklearn import linear_model
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import parametrize_with_checks

import nysstream as ny
from nysstream.errors import InputError, OrderWarning
from nysstream.sources import as_source
from nysstream.sources.runs import RowRuns, split_rows
from nysstream.streaming import partition
from tests.streaming.support import Stored

#: Weights change what a batch holds, so that they equal repeated rows in the limit only, as for any SGD.
WEIGHTS = {
    f"check_sample_weight_equivalence_on_{kind}_data": "batches differ" for kind in ("dense", "sparse")
}


@parametrize_with_checks(
    [ny.SketchySGDRegressor(tol=0.05), ny.SketchySGDClassifier(tol=0.05, n_iter_no_change=2)],
    expected_failed_checks=lambda _: WEIGHTS,
)
def test_scikit_learn_conventions(estimator, check):
    check(estimator)


class Problem:
    """Rows with columns of very different sizes, and targets with noise."""

    def __init__(self, seed=0, n=2000, p=12):
        rng = np.random.default_rng(seed)
        self.X = rng.standard_normal((n, p)) * np.geomspace(1, 1e-3, p) + rng.standard_normal(p)
        z = (self.X - self.X.mean(axis=0)) / self.X.std(axis=0) @ rng.standard_normal(p)
        self.z = z
        self.y = z + rng.standard_normal(n) + 5
        self.two = np.where(z + rng.logistic(size=n) > 0, "yes", "no")
        self.three = np.digitize(z + rng.logistic(size=n), [-2, 2])
        self.weight = rng.random(n) + 0.1

    def squared(self, model, alpha):
        residual = self.y - self.X @ model.coef_ - model.intercept_
        return 0.5 * np.mean(residual**2) + 0.5 * alpha * np.sum(model.coef_**2)

    def logistic(self, model, alpha):
        z = self.X @ model.coef_[0] + model.intercept_[0]
        margin = np.where(self.two == "yes", 1, -1) * z
        return np.mean(np.logaddexp(0, -margin)) + 0.5 * alpha * np.sum(model.coef_**2)


@pytest.fixture(scope="module")
def problem():
    return Problem()


@pytest.mark.parametrize("alpha", [0.0, 1e-4])
def test_least_squares_come_near_the_minimum_on_columns_as_they_are(problem, alpha):
    model = ny.SketchySGDRegressor(alpha=alpha, tol=1e-5).fit(problem.X, problem.y)
    dense = linear_model.Ridge(alpha * len(problem.y), solver="svd").fit(problem.X, problem.y)
    least = problem.squared(dense, alpha)
    assert problem.squared(model, alpha) <= least * (1 + 1e-3)
    stats = model.result_.stats
    assert stats["objective"] == pytest.approx(problem.squared(model, alpha), rel=1e-9)
    assert stats["iterations"] == model.n_iter_ == stats["passes"] - 2
    scaled = (problem.X - problem.X.mean(axis=0)) / problem.X.std(axis=0)
    residual = problem.X @ model.coef_ + model.intercept_ - problem.y
    gradient = scaled.T @ residual / len(residual) + alpha * model.coef_ / problem.X.std(axis=0)
    at_zero = np.abs(scaled.T @ problem.y).max() / len(residual)
    off = max(np.abs(gradient).max(), abs(residual.mean())) / at_zero
    assert stats["optimality"] == pytest.approx(off, rel=1e-6)
    assert off < 0.1


def test_logistic_regression_comes_near_the_minimum(problem):
    model = ny.SketchySGDClassifier(tol=1e-5).fit(problem.X, problem.two)
    scaled = ny.LogisticRegression(C=1 / (1e-4 * len(problem.two)), tol=1e-9).fit(problem.X, problem.two)
    assert problem.logistic(model, 1e-4) <= problem.logistic(scaled, 1e-4) * (1 + 1e-3)
    np.testing.assert_allclose(model.predict_proba(problem.X), scaled.predict_proba(problem.X), atol=0.05)
    assert model.score(problem.X, problem.two) == np.mean(model.predict(problem.X) == problem.two)


@pytest.mark.parametrize("loss", ["log_loss", "squared_hinge", "multinomial"])
def test_several_classes(problem, loss):
    model = ny.SketchySGDClassifier(loss, penalty=None).fit(problem.X, problem.three)
    dense = linear_model.LogisticRegression(C=10).fit(
        (problem.X - problem.X.mean(0)) / problem.X.std(0), problem.three
    )
    expected = dense.score((problem.X - problem.X.mean(0)) / problem.X.std(0), problem.three)
    assert model.score(problem.X, problem.three) > expected - 0.03
    assert model.coef_.shape == (3, 12)
    if loss == "squared_hinge":
        assert not hasattr(model, "predict_proba")
    else:
        probabilities = model.predict_proba(problem.X)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
        np.testing.assert_array_equal(probabilities.argmax(axis=1), model.predict(problem.X))
        np.testing.assert_allclose(model.predict_log_proba(problem.X), np.log(probabilities))


def test_an_l1_penalty_gives_exact_zeros(problem):
    X = (problem.X - problem.X.mean(axis=0)) / problem.X.std(axis=0)
    y = X[:, 0] - X[:, 1] + 0.1 * problem.z
    model = ny.SketchySGDRegressor(penalty="l1", alpha=0.3, tol=1e-5, average=False).fit(X, y)
    dense = linear_model.Lasso(0.3).fit(X, y)
    np.testing.assert_allclose(model.coef_, dense.coef_, atol=0.02)
    assert 0 < np.count_nonzero(model.coef_) < 12
    mixed = ny.SketchySGDRegressor(penalty="elasticnet", alpha=0.3, l1_ratio=0.5, tol=1e-5).fit(X, y)
    dense = linear_model.ElasticNet(0.3, l1_ratio=0.5).fit(X, y)
    np.testing.assert_allclose(mixed.coef_, dense.coef_, atol=0.02)


def test_huber_loss_bears_outliers(problem):
    y = np.where(np.arange(2000) % 50 == 0, 1000.0, problem.y)
    model = ny.SketchySGDRegressor("huber", epsilon=1.0, penalty=None).fit(problem.X, y)
    clean = np.arange(2000) % 50 != 0
    assert model.score(problem.X[clean], y[clean]) > 0.85


def test_same_seed_same_bits_and_another_seed_another_order(problem):
    fits = [ny.SketchySGDRegressor(random_state=seed).fit(problem.X, problem.y) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(fits[0].coef_, fits[1].coef_)
    assert not np.array_equal(fits[0].coef_, fits[2].coef_)
    chunked = [
        ny.SketchySGDClassifier(random_state=1)
        .partial_fit(problem.X[:900], problem.three[:900], classes=[0, 1, 2])
        .partial_fit(problem.X[900:], problem.three[900:])
        for _ in range(2)
    ]
    np.testing.assert_array_equal(chunked[0].coef_, chunked[1].coef_)


@pytest.mark.parametrize("size", [50, 400])
def test_one_epoch_over_chunks_is_near_the_minimum(problem, size):
    model = ny.SketchySGDRegressor()
    for start in range(0, 2000, size):
        rows = slice(start, start + size)
        model.partial_fit(problem.X[rows], problem.y[rows])
    dense = linear_model.Ridge(0.2, solver="svd").fit(problem.X, problem.y)
    assert problem.squared(model, 1e-4) < problem.squared(dense, 1e-4) * 1.05
    assert model.n_iter_ == 2000 // size
    assert model.result_.stats["status"] == "partial"


@pytest.mark.parametrize("size", [1, 3, 16, 100])
def test_few_rows_at_a_time_of_a_rare_class_are_learned(size):
    n = min(800, 300 * size)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, 2))
    y = (rng.random(n) < 1 / (1 + np.exp(3.0 - X @ [1.0, -1.0]))).astype(int)
    model = ny.SketchySGDClassifier()
    for a in range(0, len(X), size):
        model.partial_fit(X[a : a + size], y[a : a + size], classes=[0, 1])
    dense = linear_model.LogisticRegression(C=1 / (1e-4 * len(y)), tol=1e-8).fit(X, y)
    truth, found = (m.predict_proba(X)[:, 1] for m in (dense, model))
    np.testing.assert_allclose(found, truth, atol=0.2)
    assert np.mean(found) == pytest.approx(y.mean(), abs=0.05)


@pytest.mark.parametrize("size", [1, 3, 16])
def test_few_rows_at_a_time_of_a_regression_are_learned(size):
    n = min(600, 200 * size)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, 3))
    y = X @ [1.0, -1.0, 0.5] + 2 + rng.standard_normal(n)
    model = ny.SketchySGDRegressor()
    for a in range(0, len(X), size):
        model.partial_fit(X[a : a + size], y[a : a + size])
    np.testing.assert_allclose(model.coef_, [1.0, -1.0, 0.5], atol=0.2)
    assert model.intercept_ == pytest.approx(2.0, abs=0.2)


def test_a_row_of_a_large_loss_counts_as_any_other(problem):
    y = problem.z + 0.1 * np.random.default_rng(1).standard_normal(len(problem.z))
    y[5] += 1000 * problem.z.std()
    model = ny.SketchySGDRegressor(alpha=0.0, tol=1e-5).fit(problem.X, y)
    dense = linear_model.LinearRegression().fit(problem.X, y)
    least, found = (np.sum((m.predict(problem.X) - y) ** 2) for m in (dense, model))
    assert found <= least * (1 + 1e-3)


def test_heavy_rows_of_a_rare_class_do_not_lead_astray():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((8192, 5))
    y = (rng.random(8192) < 1 / (1 + np.exp(20.5 - X @ [1.0, 2.0, 3.0, 4.0, 5.0]))).astype(int)
    settings = {"class_weight": "balanced"}
    best = ny.LogisticRegression(C=1 / (1e-4 * 8192), **settings).fit(X, y).result_.stats["objective"]
    model = ny.SketchySGDClassifier(tol=1e-4, max_passes=60, **settings).fit(X, y)
    z = X @ model.coef_[0] + model.intercept_
    weight = len(y) / (2 * np.bincount(y))[y]
    assert np.sum(weight * np.logaddexp(0, np.where(y, -z, z))) <= 1.2 * best


def test_partial_fit_takes_sources_sparse_rows_and_features(problem):
    rows = slice(0, 1000)
    by_array = ny.SketchySGDRegressor().partial_fit(problem.X[rows], problem.y[rows])
    stored = ny.SketchySGDRegressor().partial_fit(
        Stored(problem.X[rows], chunk_rows=1000), as_source(problem.y[rows])
    )
    np.testing.assert_allclose(stored.coef_, by_array.coef_)
    X = np.where(np.abs(problem.X) > 0.5, problem.X, 0.0)
    sparse = ny.SketchySGDClassifier()
    for _ in range(3):
        sparse.partial_fit(scipy.sparse.csr_array(X), problem.two, classes=["no", "yes"])
    assert sparse.score(X, problem.two) > 0.6
    mapped = ny.SketchySGDRegressor(features="fourier:50,random_state=0")
    for start in (0, 1000):
        mapped.partial_fit(problem.X[start : start + 1000], problem.y[start : start + 1000])
    assert mapped.coef_.shape == (50,)
    assert np.isfinite(mapped.predict(problem.X)).all()


def test_rows_that_are_all_beyond_their_margins_do_no_harm():
    X = np.repeat([[-1.0], [1.0]], 100, axis=0) * 10
    y = np.repeat([0, 1], 100)
    model = ny.SketchySGDClassifier("squared_hinge", penalty=None).fit(X, y)
    for _ in range(4):
        model.partial_fit(X, y)
    assert model.score(X, y) == 1.0


def test_columns_that_are_constant_at_first_are_learned_later(problem):
    X = problem.X.copy()
    X[:500, 0] = 1.0
    model = ny.SketchySGDRegressor()
    for start in range(0, 2000, 500):
        model.partial_fit(X[start : start + 500], problem.y[start : start + 500])
    assert abs(model.coef_[0]) > 0.1


def test_partial_fit_goes_on_from_a_fit_and_fit_begins_anew(problem, tmp_path):
    model = ny.SketchySGDClassifier(tol=1e-5).fit(problem.X, problem.two)
    before = problem.logistic(model, 1e-4)
    first = model.coef_.copy()
    model.partial_fit(problem.X, problem.two)
    assert problem.logistic(model, 1e-4) < before * 1.02
    np.testing.assert_array_equal(model.fit(problem.X, problem.two).coef_, first)
    model.partial_fit(problem.X, problem.two).save(tmp_path / "model.zarr")
    loaded = ny.load(tmp_path / "model.zarr")
    np.testing.assert_array_equal(loaded.predict(problem.X), model.predict(problem.X))


def test_labels_may_be_missing_from_rows_but_not_new(problem):
    model = ny.SketchySGDClassifier().partial_fit(problem.X[:9], ["no"] * 9, classes=["yes", "no"])
    assert model.classes_.tolist() == ["no", "yes"]
    with pytest.raises(InputError, match="'maybe' in row 1"):
        model.partial_fit(problem.X[:2], ["no", "maybe"])
    with pytest.raises(InputError, match="not the same"):
        model.partial_fit(problem.X[:2], ["no", "no"], classes=["no", "maybe"])
    with pytest.raises(InputError, match="classes must be passed"):
        ny.SketchySGDClassifier().partial_fit(problem.X, problem.two)
    with pytest.raises(InputError, match="class_weight='balanced'"):
        ny.SketchySGDClassifier(class_weight="balanced").partial_fit(problem.X, problem.two, ["no", "yes"])
    stored = as_source(np.arange(3.0))
    with pytest.raises(InputError, match="label 2"):
        ny.SketchySGDClassifier().partial_fit(Stored(problem.X[:3]), stored, classes=[0, 1])


def test_early_stopping_stops_on_rows_that_were_held_out(problem):
    source, target = Stored(problem.X, chunk_rows=100), as_source((problem.two == "yes").astype(float))
    model = ny.SketchySGDClassifier(early_stopping=True, validation_fraction=0.2, tol=0.01).fit(
        source, target
    )
    stats = model.result_.stats
    assert model.result_.status == "converged"
    assert stats["n_rows"] == 1600
    assert stats["passes"] == pytest.approx(0.8 * (model.n_iter_ + 2) + 0.2 * model.n_iter_, abs=1e-3)
    starts, stops = split_rows(source, 0.2, 0)[2:]
    held = np.concatenate([np.arange(a, b) for a, b in zip(starts, stops, strict=True)])
    margin = np.where(problem.two == "yes", 1, -1) * (problem.X @ model.coef_[0] + model.intercept_[0])
    shown = [record["loss"] for record in model.result_.history if np.isfinite(record["loss"])]
    assert min(shown) == pytest.approx(np.sum(np.logaddexp(0, -margin[held])), rel=1e-6)
    assert len(set(shown)) == model.n_iter_ < 20


@pytest.mark.parametrize("n_rows", [2, 3, 10, 999, 5000])
@pytest.mark.parametrize("chunk_rows", [1, 7])
@pytest.mark.parametrize("sparse", [False, True])
def test_runs_are_all_rows_once(n_rows, chunk_rows, sparse):
    values = np.arange(2.0 * n_rows).reshape(n_rows, 2)
    source = as_source(scipy.sparse.csr_array(values)) if sparse else Stored(values, chunk_rows=chunk_rows)
    found = split_rows(source, 0.2, 3)
    kept, held = RowRuns(source, *found[:2]), RowRuns(source, *found[2:])
    parts = []
    for part in (kept, held):
        assert 0 < part.shape[0] < n_rows
        whole = part.read(slice(0, part.shape[0]))
        parts.append(whole.toarray() if sparse else whole)
        middle = slice(part.shape[0] // 3, part.shape[0] // 3 * 2)
        if not sparse:
            out = np.empty((middle.stop - middle.start, 2))
            np.testing.assert_array_equal(part.read(middle, out), whole[middle])
        if chunk_rows == 7 and not sparse and n_rows > 7:
            assert np.all(found[0] % 7 == 0)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)[:, 0]), values[:, 0])
    if n_rows >= 10 * chunk_rows:
        assert held.shape[0] == pytest.approx(0.2 * n_rows, rel=0.6)


def test_sorted_labels_warn(problem, monkeypatch):
    monkeypatch.setattr(partition, "BLOCK_BYTES", 1)  # every chunk is a block
    order = np.argsort(problem.two)
    rows, labels = Stored(problem.X[order], chunk_rows=100), as_source((problem.two[order] == "yes") * 1.0)
    with pytest.warns(OrderWarning, match="--shuffle"):
        ny.SketchySGDClassifier(tol=0.1).fit(rows, labels)
    shuffled = Stored(problem.X, chunk_rows=100), as_source((problem.two == "yes") * 1.0)
    assert ny.SketchySGDClassifier(tol=0.1).fit(*shuffled).result_.converged


def test_limits_are_kept_and_told(problem):
    with pytest.warns(ConvergenceWarning, match="pass limit"):
        model = ny.SketchySGDRegressor(max_passes=5).fit(problem.X, problem.y)
    assert model.result_.stats["passes"] == 5
    assert model.n_iter_ == 3
    assert np.isfinite(model.result_.stats["optimality"])


def test_settings_that_cannot_be_used_are_refused(problem):
    for settings, message in (
        ({"loss": "hinge"}, "loss='hinge'"),
        ({"penalty": "l3"}, "penalty='l3'"),
        ({"alpha": -1.0}, "alpha=-1.0"),
        ({"validation_fraction": 1.0}, "validation_fraction=1.0"),
        ({"n_iter_no_change": 0}, "n_iter_no_change=0"),
        ({"solver": "newton"}, "solver='newton'"),
        ({"solver": "sgd", "rank": 5}, "rank=5"),
    ):
        with pytest.raises(InputError, match=message):
            ny.SketchySGDRegressor(**settings).fit(problem.X, problem.y)
