"""Models that rows are added to, against fits to all rows."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge as Reference

import nysstream
from nysstream import Ridge, RidgeCV, update
from nysstream.errors import InputError, MemoryBudgetError
from nysstream.sources import as_source
from tests.helpers import CountingSource
from tests.strategies import cuts, float_dtypes

N, OLD, P = 3000, 2850, 60


def data(seed=0, dtype=np.float64, n=N, p=P):
    rng = np.random.default_rng(seed)
    X = (rng.standard_normal((n, p)) / np.arange(1, p + 1) + 1).astype(dtype)
    return X, X @ rng.standard_normal(p) + 0.1 * rng.standard_normal(n), rng.random(n)


X, y, weight = data()
METHODS = [
    {"solver": "gram"},
    {"solver": "nystrom", "rank": 20},
    {"solver": "subsampled"},
    {"solver": "cg"},
]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m["solver"])
@pytest.mark.parametrize("standardize", [False, True])
def test_an_update_is_a_fit_of_all_rows_for_fewer_passes(method, standardize):
    options = {"alpha": 0.5, "standardize": standardize, "tol": 1e-8, **method}
    cold = Ridge(**options).fit(X, y, weight)
    model = Ridge(**options, keep_statistics=True).fit(X[:OLD], y[:OLD], weight[:OLD])
    source = CountingSource(as_source(X))
    assert update(model, source, y, weight) is model
    np.testing.assert_allclose(model.coef_, cold.coef_, rtol=0, atol=1e-5)
    assert model.intercept_ == pytest.approx(cold.intercept_, abs=1e-5)
    stats = model.result_.stats
    assert (stats["status"], stats["new_rows"], stats["n_rows"]) == ("converged", N - OLD, N)
    assert stats["objective"] == pytest.approx(cold.result_.stats["objective"], rel=1e-9)
    assert stats["passes"] < cold.result_.stats["passes"]
    if method["solver"] == "gram":
        assert stats["passes"] == pytest.approx(0.05)
        assert stats["bytes_read"] == (N - OLD) * P * 8
        new = source.reads[OLD:]
        # Old rows are looked at only where they are sampled, to see that they are the same.
        assert new.max() <= 1 + 2 * 7
    assert model.statistics_.watermark == N


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m["solver"])
def test_updates_go_on_from_saved_models(tmp_path, method):
    options = {"alpha": [0.5, 5.0], **method}
    model = Ridge(**options, keep_statistics=True).fit(X[:OLD], y[:OLD])
    for end in (OLD + 50, N):
        model.save(tmp_path / "m", overwrite=True)
        model = nysstream.load(tmp_path / "m", statistics=True)
        update(model, X[:end], y[:end])
        model.save(tmp_path / "m", overwrite=True)
        np.testing.assert_array_equal(nysstream.load(tmp_path / "m").coef_, model.coef_)
    assert model.keep_statistics
    for coef, alpha in zip(model.coef_, options["alpha"], strict=True):
        np.testing.assert_allclose(coef, Reference(alpha=alpha).fit(X, y).coef_, rtol=0, atol=2e-4)


def test_a_changed_alpha_counts():
    model = Ridge(alpha=0.5, solver="nystrom", rank=30, keep_statistics=True, tol=1e-9).fit(X[:OLD], y[:OLD])
    update(model.set_params(alpha=50.0), X, y)
    np.testing.assert_allclose(model.coef_, Reference(alpha=50.0).fit(X, y).coef_, rtol=0, atol=1e-6)
    update(model.set_params(alpha=5.0), X, y)
    assert model.result_.stats["new_rows"] == 0
    np.testing.assert_allclose(model.coef_, Reference(alpha=5.0).fit(X, y).coef_, rtol=0, atol=1e-6)


def test_columns_that_begin_to_vary():
    grown = X.copy()
    grown[:OLD, 3] = 2.0
    for method in METHODS:
        model = Ridge(alpha=0.5, keep_statistics=True, tol=1e-9, **method).fit(grown[:OLD], y[:OLD])
        assert model.coef_[3] == 0
        update(model, grown, y)
        np.testing.assert_allclose(model.coef_, Reference(alpha=0.5).fit(grown, y).coef_, rtol=0, atol=1e-6)


def test_features_are_those_of_the_fit():
    spec = "fourier:40,length_scale=median"
    model = Ridge(alpha=0.1, features=spec, keep_statistics=True).fit(X[:OLD, :5], y[:OLD])
    settled = model.features_
    moved = X[:, :5].copy()
    moved[OLD:] *= 50
    update(model, moved, y)
    assert model.features_ == settled
    cold = Ridge(alpha=0.1, features=settled).fit(moved, y)
    np.testing.assert_allclose(model.coef_, cold.coef_, rtol=0, atol=1e-3 * abs(cold.coef_).max())


@settings(max_examples=10)
@given(parts=cuts(60, max_parts=4), dtype=float_dtypes(), sparse=st.booleans(), intercept=st.booleans())
def test_partial_fit_is_exact(parts, dtype, sparse, intercept):
    rows, targets, w = data(3, dtype, n=60, p=5)
    w = w.astype(np.float64)
    model = Ridge(alpha=0.3, fit_intercept=intercept)
    for part in parts:
        if part.start < part.stop:
            block = scipy.sparse.csr_array(rows[part]) if sparse else rows[part]
            model.partial_fit(block, targets[part], w[part])
    expected = Reference(alpha=0.3, fit_intercept=intercept).fit(rows.astype(float), targets, w)
    accuracy = 1e-3 if dtype == np.float32 else 1e-9
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=0, atol=accuracy)
    assert model.intercept_ == pytest.approx(expected.intercept_, abs=accuracy)
    assert model.result_.stats["n_rows"] == 60
    assert model.result_.converged


def test_partial_fit_goes_on_from_a_fit_and_a_fit_begins_anew():
    model = Ridge(alpha=0.5).fit(X[:OLD], y[:OLD]).partial_fit(X[OLD:], y[OLD:])
    np.testing.assert_allclose(model.coef_, Reference(alpha=0.5).fit(X, y).coef_, rtol=0, atol=1e-9)
    model.fit(X[:100], y[:100])
    model.partial_fit(X[100:200], y[100:200])
    np.testing.assert_allclose(model.coef_, Reference(alpha=0.5).fit(X[:200], y[:200]).coef_, atol=1e-9)


def test_partial_fit_is_refused_where_rows_would_be_missing():
    model = Ridge(solver="nystrom", rank=20).fit(X, y)
    with pytest.raises(InputError, match=r"did not keep.*nysstream\.update"):
        model.partial_fit(X, y)
    with pytest.raises(MemoryBudgetError, match=r"whole Gram matrix.*nysstream\.update"):
        Ridge(memory="120MiB").partial_fit(np.ones((2, 6000)), np.ones(2))
    model = Ridge().partial_fit(X, y)
    with pytest.raises(InputError, match="comes with 2 targets"):
        model.partial_fit(X, np.column_stack([y, y]))
    with pytest.raises(ValueError, match="59 features"):
        model.partial_fit(X[:, :59], y)
    with pytest.raises(InputError, match="fit_intercept=False"):
        model.set_params(fit_intercept=False).partial_fit(X, y)


def test_what_cannot_be_updated_is_refused_and_left_alone():
    model = Ridge(alpha=0.5, solver="nystrom", rank=20, keep_statistics=True).fit(X[:OLD], y[:OLD])
    before = model.coef_.copy()
    changed, bad = X.copy(), X.copy()
    changed[7, 7] += 1
    bad[OLD + 1, 2] = np.nan
    for arguments, message in (
        ((X[: OLD - 1], y[: OLD - 1]), "fewer than the 2850"),
        ((changed, y), "are not those that were read before"),
        ((X, y, weight), "weights of .* were not given then"),
        ((X[:, :-1], y), "59 features"),
        ((bad, y), "NaN"),
    ):
        with pytest.raises((InputError, ValueError), match=message):
            update(model, *arguments)
        np.testing.assert_array_equal(model.coef_, before)
        assert model.statistics_.watermark == OLD
    with pytest.raises(InputError, match="keep_statistics=True"):
        update(Ridge(solver="cg").fit(X, y), X, y)
    with pytest.raises(InputError, match="which rows of the data"):
        update(Ridge().partial_fit(X, y), X, y)
    with pytest.raises(InputError, match="RidgeCV keeps no statistics"):
        update(RidgeCV(cv=2).fit(X, y), X, y)


def test_methods_that_gather_nothing_keep_nothing():
    with pytest.raises(InputError, match="keep_statistics=True: solver='saga'"):
        Ridge(solver="saga", keep_statistics=True).fit(X, y)


def test_models_without_statistics_say_so(tmp_path):
    Ridge(alpha=1.0).fit(X, y).save(tmp_path / "m")
    with pytest.raises(InputError, match="holds no statistics"):
        nysstream.load(tmp_path / "m", statistics=True)
