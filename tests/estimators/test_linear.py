"""Predictions and scores, from memory and at rest, to memory and to a store."""

from __future__ import annotations

import dask
import numpy as np
import pytest
import scipy.sparse
import zarr
from hypothesis import given
from hypothesis import strategies as st
from sklearn.exceptions import NotFittedError
from sklearn.metrics import r2_score

import nysstream
from nysstream import Ridge
from nysstream.errors import InputError, MemoryBudgetError, OutputExistsError
from tests.estimators.conftest import regression
from tests.helpers import CountingSource
from tests.streaming.support import Stored


@pytest.fixture(params=[0, slice(0, 2)], ids=["one target", "two targets"])
def fitted(request, problem):
    """Fit a model, and give the targets it was fitted to."""
    Y = problem.Y[:, request.param]
    return Ridge().fit(problem.X, Y), Y


class TestPredict:
    def test_is_the_linear_function(self, problem, fitted):
        model, Y = fitted
        expected = problem.X @ model.coef_.T + model.intercept_
        assert expected.shape == Y.shape
        for X in (problem.X, problem.X.tolist(), scipy.sparse.csr_array(problem.X), Stored(problem.X)):
            predicted = model.predict(X)
            assert predicted.dtype == np.float64
            np.testing.assert_allclose(predicted, expected, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("as_path", [str, lambda path: path])
    def test_to_a_store(self, problem, fitted, tmp_path, as_path):
        model, Y = fitted
        out = tmp_path / "predicted.zarr"
        source = CountingSource(Stored(problem.X))
        result = model.predict(source, as_path(out))
        assert source.passes == 1
        expected = model.predict(problem.X)
        np.testing.assert_allclose(zarr.open_array(out)[:], expected, rtol=1e-12)
        assert result.vector == (Y.ndim == 1)
        assert model.score(problem.X, result) == pytest.approx(1.0)  # a source of targets like any other

    def test_does_not_replace_what_is_there(self, problem, fitted, tmp_path):
        model, _ = fitted
        out = tmp_path / "predicted.zarr"
        model.predict(problem.X[:5], out)
        source = Stored(problem.X)
        with pytest.raises(OutputExistsError, match=r"predicted\.zarr"):
            model.predict(source, out)
        assert source.reads.sum() == 0
        model.predict(source, out, overwrite=True)
        assert zarr.open_array(out).shape[0] == 300

    def test_leaves_nothing_where_it_fails(self, problem, fitted, tmp_path):
        class Failing(Stored):
            def before_read(self, rows):
                if rows.stop > 200:
                    message = "the disk is gone"
                    raise OSError(message)

        with pytest.raises(OSError, match="the disk is gone"):
            fitted[0].predict(Failing(problem.X), tmp_path / "predicted.zarr")
        assert list(tmp_path.iterdir()) == []

    @given(n=st.integers(1, 120), chunk_rows=st.integers(1, 50), start=st.integers(0, 20))
    def test_any_chunking_in_order(self, n, chunk_rows, start):
        problem = regression(n=140, p=3)
        model = Ridge().fit(problem.X, problem.Y)
        rows = slice(start, start + n)
        source = Stored(problem.X, chunk_rows=chunk_rows).restrict(rows)
        with dask.config.set(scheduler="synchronous"):
            np.testing.assert_allclose(model.predict(source), model.predict(problem.X)[rows], rtol=1e-12)

    def test_means_far_beyond_the_spread(self, problem):
        X = (problem.X + 1e6).astype(np.float32)
        model = Ridge().fit(X, problem.y)
        expected = X.astype(np.float64) @ model.coef_ + model.intercept_
        np.testing.assert_allclose(model.predict(Stored(X)), expected, rtol=0, atol=1e-7)

    def test_several_alphas(self, problem):
        model = Ridge([0.1, 1.0, 10.0]).fit(problem.X, problem.y)
        assert model.predict(Stored(problem.X)).shape == (300, 3)

    def test_of_an_unfitted_model(self, problem):
        for method in ("predict", "score", "save"):
            arguments = {"predict": (problem.X,), "score": (problem.X, problem.y), "save": ("x",)}[method]
            with pytest.raises(NotFittedError):
                getattr(Ridge(), method)(*arguments)

    def test_within_its_limit(self, rng, zarr_store, tmp_path):
        X = rng.standard_normal((4_000, 20))
        model = Ridge(memory="40MiB").set_params(memory=None).fit(X, X[:, 0])
        model.memory = "40MiB"
        with pytest.raises(MemoryBudgetError, match="Give memory="):
            model.predict(nysstream.open(zarr_store(X)), tmp_path / "out.zarr")
        assert list(tmp_path.glob("out*")) == []


class TestScore:
    @pytest.mark.parametrize("weighted", [True, False])
    @pytest.mark.parametrize("stored", [True, False])
    def test_equals_r2(self, problem, fitted, weighted, stored):
        model, Y = fitted
        X, y = problem.X[100:], Y[100:]
        weight = problem.weight[100:] if weighted else None
        expected = r2_score(y, model.predict(X), sample_weight=weight)
        if stored:
            X, y = CountingSource(Stored(X)), Stored(y)
            weight = Stored(weight) if weighted else None
        assert model.score(X, y, weight) == pytest.approx(expected, rel=1e-10)
        if stored:
            assert X.passes == 1

    @pytest.mark.parametrize("scale", [1e-12, 1e-6, 1.0, 1e12])
    @pytest.mark.parametrize("offset", [0.0, 1.0, 1e6])
    def test_whatever_the_scale_of_the_targets(self, problem, scale, offset):
        y = scale * (problem.y / problem.y.std() + offset)
        model = Ridge().fit(problem.X, y)
        expected = r2_score(y, model.predict(problem.X))
        assert model.score(problem.X, y) == pytest.approx(expected, rel=1e-8)

    @pytest.mark.parametrize("value", [0.0, 5.0, -2e9, 1e-12])
    def test_constant_targets(self, problem, value):
        y = np.full(300, value)
        exact = Ridge().fit(problem.X, y)
        assert exact.score(problem.X, y) == r2_score(y, exact.predict(problem.X))
        off = Ridge().fit(problem.X, problem.y)
        assert off.score(problem.X, y) == 0.0

    def test_fewer_than_two_rows(self, problem, fitted):
        model, Y = fitted
        assert np.isnan(model.score(problem.X[:1], Y[:1]))

    def test_values_that_are_not_finite(self, problem, fitted):
        model, Y = fitted
        bad = Y.copy()
        bad[17] = np.nan
        for y in (bad, Stored(bad)):
            with pytest.raises(ValueError, match="NaN"):
                model.score(problem.X, y)

    def test_targets_that_do_not_fit(self, problem, fitted):
        model, Y = fitted
        with pytest.raises(InputError, match="3 targets"):
            model.score(problem.X, np.zeros((300, 3)))
        with pytest.raises(ValueError, match="299"):
            model.score(problem.X, Y[:-1])
        with pytest.raises(InputError, match="is a path"):
            model.score(problem.X, "y.npy")
