"""Ridge solves scikit-learn's problem, to the tolerance it reports."""

from __future__ import annotations

import pickle

import dask
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.linear_model import LinearRegression
from sklearn.linear_model import Ridge as DenseRidge
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from nysstream import Ridge, features
from tests.estimators.conftest import assert_same_model, dense_ridge, regression
from tests.helpers import CountingSource
from tests.streaming.support import Stored


@parametrize_with_checks([Ridge()])
def test_scikit_learn_conventions(estimator, check):
    check(estimator)


@given(
    n=st.integers(2, 40),
    p=st.integers(1, 12),
    q=st.integers(1, 3),
    seed=st.integers(0, 999),
    alpha=st.sampled_from([1e-2, 1.0, 100.0]),
    dtype=st.sampled_from([np.float32, np.float64]),
    chunk_rows=st.integers(1, 50),
    weighted=st.booleans(),
    fit_intercept=st.booleans(),
)
def test_any_shape_and_chunking(n, p, q, seed, alpha, dtype, chunk_rows, weighted, fit_intercept):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)).astype(dtype)
    Y = rng.standard_normal((n, q))
    weight = rng.random(n) if weighted else None
    source = Stored(X, chunk_rows=chunk_rows)
    Y = Y[:, 0] if q == 1 else Y
    with dask.config.set(scheduler="synchronous"):
        model = Ridge(alpha, fit_intercept=fit_intercept, tol=1e-8).fit(source, Y, weight)
    assert_same_model(model, dense_ridge(X, Y, weight, alpha=alpha, fit_intercept=fit_intercept))


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("columns", [slice(0, 1), slice(0, 2), 0])
def test_shapes_of_targets(problem, columns, dtype, fit_intercept):
    X, Y = problem.X.astype(dtype), problem.Y[:, columns]
    model = Ridge(fit_intercept=fit_intercept, tol=1e-9).fit(X, Y)
    expected = dense_ridge(X, Y, fit_intercept=fit_intercept)
    assert model.coef_.shape == (*Y.shape[1:], X.shape[1])
    expected.coef_ = np.reshape(expected.coef_, model.coef_.shape)  # flat for a single column too
    assert_same_model(model, expected)
    assert type(model.intercept_) is (float if columns == 0 or not fit_intercept else np.ndarray)
    assert model.predict(X).shape == Y.shape
    predicted = expected.predict(X).reshape(Y.shape)
    np.testing.assert_allclose(model.predict(X), predicted, rtol=1e-4, atol=1e-4)


class TestWeights:
    def test_whole_numbers_repeat_rows(self, problem):
        times = problem.weight.astype(int)
        repeated = Ridge().fit(np.repeat(problem.X, times, axis=0), np.repeat(problem.Y, times, axis=0))
        assert_same_model(Ridge().fit(problem.X, problem.Y, problem.weight), repeated)

    @pytest.mark.parametrize("standardize", [False, True])
    def test_zero_removes_rows(self, problem, standardize):
        some = problem.weight > 0
        ones = Ridge(standardize=standardize).fit(problem.X, problem.y, some.astype(float))
        removed = Ridge(standardize=standardize).fit(problem.X[some], problem.y[some])
        assert_same_model(ones, removed)

    def test_one_number_divides_alpha(self, problem):
        weighted = Ridge(1.0).fit(problem.X, problem.y, 4.0)
        assert_same_model(weighted, Ridge(0.25).fit(problem.X, problem.y))
        assert_same_model(Ridge(1.0).fit(Stored(problem.X), problem.y, 4), weighted)

    @pytest.mark.parametrize("scale", [1e-12, 1e12])
    def test_scale_with_alpha(self, problem, scale):
        X = problem.X.astype(np.float32)
        scaled = Ridge(scale, tol=1e-8).fit(X, problem.y, scale * problem.weight)
        assert_same_model(scaled, dense_ridge(X, problem.y, problem.weight))


class TestStandardize:
    @pytest.mark.parametrize("fit_intercept", [True, False])
    @pytest.mark.parametrize("sparse", [True, False])
    def test_equals_a_pipeline(self, problem, sparse, fit_intercept):
        X = problem.X * np.geomspace(1e-3, 1e3, 7)
        scaler = StandardScaler(with_mean=fit_intercept)
        ridge = DenseRidge(3.0, solver="svd", fit_intercept=fit_intercept)
        pipeline = make_pipeline(scaler, ridge).fit(X, problem.Y)
        model = Ridge(3.0, standardize=True, fit_intercept=fit_intercept, tol=1e-9)
        model.fit(scipy.sparse.csr_array(X) if sparse else X, problem.Y)
        np.testing.assert_allclose(model.coef_, ridge.coef_ / scaler.scale_, rtol=1e-5)
        np.testing.assert_allclose(model.predict(X), pipeline.predict(X), rtol=1e-6)
        assert model.result_.converged

    def test_with_weights(self, problem):
        scaler = StandardScaler().fit(problem.X, sample_weight=problem.weight)
        expected = dense_ridge(scaler.transform(problem.X), problem.y, problem.weight)
        model = Ridge(standardize=True).fit(problem.X, problem.y, problem.weight)
        np.testing.assert_allclose(model.coef_, expected.coef_ / scaler.scale_, rtol=1e-5)

    def test_a_column_of_ones_may_stand_for_the_intercept(self, problem):
        X = np.column_stack([problem.X, np.ones(len(problem.X))])
        scaler = StandardScaler(with_mean=False)
        expected = dense_ridge(scaler.fit_transform(X), problem.y, fit_intercept=False)
        model = Ridge(standardize=True, fit_intercept=False).fit(X, problem.y)
        np.testing.assert_allclose(model.coef_, expected.coef_ / scaler.scale_, rtol=1e-4, atol=1e-5)


class TestAlphas:
    ALPHAS = np.array([100.0, 1e-3, 1.0])

    def test_each_gives_a_model(self, problem):
        model = Ridge(self.ALPHAS).fit(problem.X, problem.y)
        for i, alpha in enumerate(self.ALPHAS):
            expected = dense_ridge(problem.X, problem.y, alpha=alpha)
            np.testing.assert_allclose(model.coef_[i], expected.coef_, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(model.predict(problem.X)[:, i], expected.predict(problem.X), atol=1e-4)

    @pytest.mark.parametrize("solver", ["nystrom", "cg"])
    def test_take_the_passes_of_the_hardest(self, solver):
        problem = regression(n=500, p=60)
        alone = []
        for alpha in self.ALPHAS:
            source = CountingSource(Stored(problem.X))
            Ridge(alpha, solver=solver, rank=5, memory="4GiB").fit(source, problem.y)
            alone.append(source.passes)
        source = CountingSource(Stored(problem.X))
        Ridge(self.ALPHAS, solver=solver, rank=5).fit(source, problem.y)
        assert source.passes <= max(alone)

    def test_one_per_target(self, problem):
        alphas = [0.1, 50.0]
        assert_same_model(
            Ridge(alphas).fit(problem.X, problem.Y), dense_ridge(problem.X, problem.Y, alpha=alphas)
        )

    def test_one_in_a_list_is_for_all_targets(self, problem):
        assert_same_model(
            Ridge([2.0]).fit(problem.X, problem.Y), dense_ridge(problem.X, problem.Y, alpha=2.0)
        )

    def test_zero_among_them(self, problem):
        model = Ridge([0.0, 1.0]).fit(problem.X, problem.y)
        expected = LinearRegression().fit(problem.X, problem.y)
        np.testing.assert_allclose(model.coef_[0], expected.coef_, rtol=1e-4)


class TestMethods:
    @pytest.mark.parametrize("rank", [1, 2, 7, 39, 40, "auto"])
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_any_rank_gives_the_same_answer(self, rank, dtype):
        problem = regression(p=40)
        X = problem.X.astype(dtype)
        model = Ridge(rank=rank, tol=1e-9).fit(X, problem.y)
        assert_same_model(model, dense_ridge(X, problem.y))
        assert model.result_.stats["rank"] <= (40 if rank == "auto" else rank)

    @pytest.mark.parametrize("precision", ["single", "double"])
    def test_without_a_sketch(self, problem, precision):
        model = Ridge(solver="cg", precision=precision, tol=1e-9).fit(problem.X.astype(np.float32), problem.y)
        assert_same_model(model, dense_ridge(problem.X, problem.y))
        assert model.result_.stats["rank"] == 0
        assert model.result_.spectrum is None

    def test_double_precision_reaches_further(self, problem):
        X = problem.X.astype(np.float32)
        model = Ridge(tol=1e-13, precision="double").fit(X, problem.y)
        assert_same_model(model, dense_ridge(X, problem.y), rtol=1e-12)

    def test_the_seed_decides_the_bits(self):
        problem = regression(p=40)
        fits = [Ridge(rank=5, random_state=s).fit(problem.X, problem.y).coef_ for s in (0, 0, 1)]
        np.testing.assert_array_equal(fits[0], fits[1])
        assert not np.array_equal(fits[0], fits[2])
        rng = np.random.default_rng(0)
        assert_same_model(
            Ridge(rank=5, random_state=rng, tol=1e-9).fit(problem.X, problem.y),
            dense_ridge(problem.X, problem.y),
        )


MAPS = {
    "fourier": features.Fourier(40, length_scale=4.0),
    "fourier of median length": features.Fourier(40, length_scale="median"),
    "laplacian": features.Fourier(30, kernel="laplacian", length_scale=20.0),
    "relu": features.ReLU(30),
    "tensor sketch": features.TensorSketch(40, degree=2, gamma=0.1, coef0=1.0),
    "by name": "fourier:40,length_scale=4",
}


@pytest.mark.parametrize("mapping", MAPS.values(), ids=MAPS.keys())
@pytest.mark.parametrize("precision", ["single", "double"])
def test_features(problem, mapping, precision):
    X = problem.X - problem.X.mean(axis=0)
    model = Ridge(0.1, features=mapping, precision=precision, tol=1e-8).fit(Stored(X), problem.Y)
    Z = np.asarray(model.features_(X))
    assert Z.dtype == np.float64
    expected = dense_ridge(Z, problem.Y, alpha=0.1)
    # Features in single precision differ from those in double by a few of its rounding errors.
    assert_same_model(model, expected, rtol=2e-3 if precision == "single" else 1e-6)
    np.testing.assert_allclose(model.predict(X), expected.predict(Z), atol=1e-2)
    assert clone(model).features == mapping


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("alpha", [10.0, [0.0, 1e-2, 1.0]])
def test_the_reported_residual_is_the_true_one(alpha, dtype, fit_intercept, standardize):
    problem = regression(p=30)
    X, h = problem.X.astype(dtype).astype(np.float64), problem.weight
    model = Ridge(alpha, fit_intercept=fit_intercept, standardize=standardize, tol=1e-7, rank=4)
    model.fit(X.astype(dtype), problem.y, h)
    scale = np.sqrt(np.average((X - np.average(X, axis=0, weights=h)) ** 2, axis=0, weights=h))
    if not standardize:
        scale = np.ones(30)
    center = np.average(X, axis=0, weights=h) if fit_intercept else np.zeros(30)
    y = problem.y - (np.average(problem.y, weights=h) if fit_intercept else 0.0)
    Z = (X - center) / scale
    rhs = Z.T @ (h * y)
    residuals, objectives = [], []
    for a, coef in zip(np.atleast_1d(alpha), np.atleast_2d(model.coef_), strict=True):
        intercept = np.average(problem.y - X @ coef, weights=h) if fit_intercept else 0.0
        w = coef * scale
        error = problem.y - X @ coef - intercept
        residuals.append(np.linalg.norm(Z.T @ (h * error) - a * w) / np.linalg.norm(rhs))
        objectives.append(np.sum(h * error**2) + a * np.sum(w**2))
    reported = model.result_.stats["relative_residual"]
    assert reported <= 1e-7
    assert max(residuals) == pytest.approx(reported, rel=1e-2, abs=1e-11)
    # The scales that standardise are as accurate as the products.
    rtol = 1e-5 if standardize and dtype is np.float32 else 1e-9
    np.testing.assert_allclose(np.atleast_1d(model.result_.stats["objective"]), objectives, rtol=rtol)


class TestAsAnEstimator:
    def test_pickles_are_small_and_predict_the_same(self):
        problem = regression(n=20_000)
        source = Stored(problem.X, chunk_rows=1_000)
        model = Ridge().fit(source, problem.y)
        data = pickle.dumps(model)
        assert len(data) < 50_000
        np.testing.assert_array_equal(pickle.loads(data).predict(problem.X), model.predict(problem.X))

    def test_pickles_of_features_do_not_hold_their_weights(self, problem):
        mapping = features.Fourier(20_000, length_scale=100.0)
        model = Ridge(features=mapping, solver="cg", tol=0.5).fit(problem.X, problem.y)
        assert len(pickle.dumps(model)) < 2 * model.coef_.nbytes

    def test_settings_are_kept_as_given(self):
        settings = {"alpha": [1, 2], "features": "relu:5", "memory": "1GiB", "rank": 3, "callback": print}
        model = Ridge(**settings)
        assert settings.items() <= model.get_params().items()
        assert clone(model).get_params() == model.get_params()

    def test_searches_and_cross_validates(self, problem):
        search = GridSearchCV(Ridge(), {"alpha": [1e-3, 1e4]}, cv=3).fit(problem.X, problem.y)
        expected = GridSearchCV(DenseRidge(), {"alpha": [1e-3, 1e4]}, cv=3).fit(problem.X, problem.y)
        assert search.best_params_ == expected.best_params_
        np.testing.assert_allclose(
            search.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"], rtol=1e-5
        )
        np.testing.assert_allclose(
            cross_val_predict(Ridge(), problem.X, problem.y),
            cross_val_predict(DenseRidge(), problem.X, problem.y),
            rtol=1e-4,
        )

    def test_fits_again_from_nothing(self, problem):
        model = Ridge().fit(problem.X, problem.Y)
        again = model.fit(problem.X[:, :3], problem.y)
        assert_same_model(again, dense_ridge(problem.X[:, :3], problem.y))
        assert again.n_features_in_ == 3

    def test_column_names_are_those_of_the_last_fit(self, problem):
        import pandas

        frame = pandas.DataFrame(problem.X, columns=list("abcdefg"))
        model = Ridge().fit(frame, problem.y)
        assert list(model.feature_names_in_) == list("abcdefg")
        model.fit(Stored(problem.X), problem.y)
        assert not hasattr(model, "feature_names_in_")
        model.predict(problem.X)  # warns of missing names if it remembers them
