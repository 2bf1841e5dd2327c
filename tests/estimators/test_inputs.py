"""Unusable arguments and values are refused with their name, before anything is read where that can be."""

from __future__ import annotations

import dask.array
import numpy as np
import pytest
import zarr

import nysstream
from nysstream import Ridge
from nysstream.errors import InputError, MemoryBudgetError, NysstreamError
from tests.estimators.conftest import assert_same_model, dense_ridge
from tests.streaming.support import Stored

SETTINGS = [
    ({"alpha": -1.0}, "alpha"),
    ({"alpha": np.nan}, "alpha"),
    ({"alpha": np.inf}, "alpha"),
    ({"alpha": "1"}, "alpha"),
    ({"alpha": None}, "alpha"),
    ({"alpha": []}, "alpha"),
    ({"alpha": [[1.0, 2.0]]}, "alpha"),
    ({"alpha": [1.0, -2.0]}, "alpha"),
    ({"alpha": 1j}, "alpha"),
    ({"rank": 0}, "rank=0"),
    ({"rank": 8}, "from 1 to 7"),
    ({"rank": -3}, "rank=-3"),
    ({"rank": 2.5}, "rank=2.5"),
    ({"rank": "full"}, "rank='full'"),
    ({"rank": True}, "rank=True"),
    ({"rank": None}, "rank=None"),
    ({"tol": -1e-3}, "tol"),
    ({"tol": 1.0}, "tol"),
    ({"tol": np.nan}, "tol"),
    ({"tol": "small"}, "tol"),
    ({"tol": None}, "tol"),
    ({"max_passes": 1}, "at least two"),
    ({"max_passes": 0}, "max_passes=0"),
    ({"max_passes": 2.5}, "max_passes=2.5"),
    ({"max_passes": "3"}, "max_passes='3'"),
    ({"time_limit": 0}, "time_limit=0"),
    ({"time_limit": -1.0}, "time_limit"),
    ({"time_limit": np.nan}, "time_limit"),
    ({"time_limit": "1h"}, "time_limit"),
    ({"solver": "lsqr"}, "'lsqr'.*nystrom"),
    ({"solver": None}, "solver=None"),
    ({"precision": "half"}, "'half'"),
    ({"memory": "lots"}, "memory='lots'"),
    ({"memory": -5}, "memory=-5"),
    ({"memory": 0}, "memory=0"),
    ({"memory": "0GiB"}, "memory='0GiB'"),
    ({"features": "fourrier:10"}, "fourrier"),
    ({"features": "fourier:0"}, "0"),
    ({"features": 10}, "features=10"),
    ({"device": "tpu"}, "device='tpu'"),
    ({"random_state": -1}, "random_state|seed"),
    ({"random_state": "x"}, "random_state|seed"),
]


@pytest.mark.parametrize(("settings", "message"), SETTINGS, ids=lambda value: str(value)[:30])
def test_settings(problem, settings, message):
    source = Stored(problem.X)
    with pytest.raises(InputError, match=message):
        Ridge(**settings).fit(source, problem.y)
    assert source.reads.sum() == 0


def test_alphas_for_other_targets(problem):
    source = Stored(problem.X)
    with pytest.raises(InputError, match="3 alphas for 2 targets"):
        Ridge([1.0, 2.0, 3.0]).fit(source, problem.Y)
    assert source.reads.sum() == 0


SPOIL = {"NaN": np.nan, "infinity": np.inf, "-infinity": -np.inf}


class TestValues:
    @pytest.mark.parametrize("value", SPOIL.values(), ids=SPOIL.keys())
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    @pytest.mark.parametrize("row", [0, 150, 299])
    def test_rows_at_rest(self, problem, value, dtype, row):
        X = problem.X.astype(dtype)
        X[row, 5] = value
        kind = "NaN" if np.isnan(value) else "infinity"
        with pytest.raises(InputError, match=rf"the data contain {kind} \(row {row}, column 5\)"):
            Ridge().fit(Stored(X), problem.y)

    @pytest.mark.parametrize("columns", [0, slice(0, 2)])
    def test_targets_at_rest(self, problem, columns):
        Y = problem.Y[:, columns].copy()
        Y[77] = np.nan
        with pytest.raises(InputError, match=r"the targets contain NaN \(row 77"):
            Ridge().fit(Stored(problem.X), Stored(Y))

    def test_weights_at_rest(self, problem):
        weight = np.ones(300)
        weight[200] = np.inf
        with pytest.raises(InputError, match=r"the weights contain infinity \(row 200\)"):
            Ridge().fit(Stored(problem.X), problem.y, Stored(weight))
        weight[200] = -1
        with pytest.raises(InputError, match=r"weight of row 200 is negative"):
            Ridge().fit(Stored(problem.X), problem.y, Stored(weight))
        with pytest.raises(InputError, match="all weights in stored are zero"):
            Ridge().fit(Stored(problem.X), problem.y, Stored(np.zeros(300)))

    @pytest.mark.parametrize("where", ["X", "y", "sample_weight"])
    def test_in_memory_before_reading(self, problem, where):
        data = {"X": problem.X.copy(), "y": problem.y, "sample_weight": np.ones(300)}
        data[where][3] = np.nan
        with pytest.raises(ValueError, match=f"Input {where} contains NaN"):
            Ridge().fit(**data)
        if where != "X":
            source = Stored(problem.X)
            with pytest.raises(ValueError, match=f"Input {where} contains NaN"):
                Ridge().fit(**data | {"X": source})
            assert source.reads.sum() == 0

    @pytest.mark.parametrize("stored", [True, False])
    @pytest.mark.parametrize(
        ("weight", "message"),
        [
            (np.where(np.arange(300) == 9, -1.0, 1.0), "negative in row 9"),
            (-1.0, "negative"),
            (np.zeros(300), "at least one must be positive"),
            (0.0, "at least one must be positive"),
        ],
        ids=["negative", "negative number", "zeros", "zero"],
    )
    def test_weights_in_memory(self, problem, weight, message, stored):
        source = Stored(problem.X)
        with pytest.raises(InputError, match=message):
            Ridge().fit(source if stored else problem.X, problem.y, weight)
        assert source.reads.sum() == 0

    def test_rows_without_weight_may_hold_anything_finite(self, problem):
        X, weight = problem.X.copy(), np.ones(300)
        X[100:200], weight[100:200] = 1e15, 0
        expected = dense_ridge(np.delete(X, range(100, 200), axis=0), np.delete(problem.y, range(100, 200)))
        assert_same_model(Ridge(tol=1e-9).fit(Stored(X), problem.y, weight), expected)


class TestShapes:
    @pytest.mark.parametrize("stored", [True, False])
    def test_one_dimension(self, problem, stored):
        X = Stored(problem.y) if stored else problem.y
        with pytest.raises(ValueError, match=r"(?i)one dimension|expected 2D"):
            Ridge().fit(X, problem.y)

    @pytest.mark.parametrize("stored", [True, False])
    def test_other_numbers_of_rows(self, problem, stored):
        source = Stored(problem.X)
        X = source if stored else problem.X
        with pytest.raises(ValueError, match=r"299.*300|300.*299"):
            Ridge().fit(X, problem.y[:-1])
        with pytest.raises(ValueError, match=r"301|299"):
            Ridge().fit(X, problem.y, np.ones(299))
        assert source.reads.sum() == 0

    def test_weights_of_two_columns(self, problem):
        for X in (Stored(problem.X), problem.X):
            with pytest.raises(ValueError, match=r"(?i)weight"):
                Ridge().fit(X, problem.y, np.ones((300, 2)))

    def test_three_dimensions(self, problem):
        lazy = dask.array.zeros((10, 2, 2))
        for y in (problem.y[:10], problem.X[:10]):
            with pytest.raises(InputError, match="dimension"):
                Ridge().fit(lazy, y)
            with pytest.raises(ValueError, match=r"dim"):
                Ridge().fit(np.zeros((10, 2, 2)), y)

    def test_no_rows_or_columns(self):
        for shape in [(0, 3), (3, 0)]:
            with pytest.raises(InputError, match="nothing to do"):
                Ridge().fit(Stored(np.zeros(shape)), Stored(np.zeros(shape[0])))

    def test_predicting_from_other_columns(self, problem):
        model = Ridge().fit(problem.X, problem.y)
        for X in (problem.X[:, :6], Stored(problem.X[:, :6])):
            with pytest.raises(ValueError, match=r"6 features.*7 features"):
                model.predict(X)


class TestKinds:
    @pytest.mark.parametrize("where", ["X", "y", "sample_weight"])
    def test_paths(self, problem, where, tmp_path):
        data = {"X": problem.X, "y": problem.y, "sample_weight": np.ones(300)}
        for path in ("train.zarr", tmp_path / "train.npy"):
            with pytest.raises(InputError, match=rf"{where}=.*is a path.*nysstream.open"):
                Ridge().fit(**data | {where: path})
        with pytest.raises(InputError, match="is a path"):
            Ridge().fit(problem.X, problem.y).predict("test.zarr")

    def test_no_targets(self, problem):
        for X in (problem.X, Stored(problem.X)):
            with pytest.raises(ValueError, match="target y is None"):
                Ridge().fit(X, None)

    @pytest.mark.parametrize("dtype", ["complex128", "U5", "S3", "datetime64[s]"])
    def test_what_is_no_number(self, problem, dtype):
        lazy = dask.array.zeros((300, 2), dtype=dtype)
        for X, y in ((lazy, problem.y), (Stored(problem.X), lazy)):
            with pytest.raises(InputError, match=r"(?i)complex|number|numeric|dtype"):
                Ridge().fit(X, y)

    @pytest.mark.parametrize(
        "values", [np.full((300, 2), "word"), np.full((300, 2), 1j)], ids=["words", "complex"]
    )
    def test_what_is_no_number_in_memory(self, problem, values):
        for X, y in ((values, problem.y), (problem.X, values), (Stored(problem.X), values)):
            with pytest.raises(ValueError, match=r"(?i)complex|convert|numeric|real number"):
                Ridge().fit(X, y)

    def test_objects(self, problem):
        X = problem.X.astype(object)
        assert_same_model(Ridge(tol=1e-9).fit(X, problem.y), dense_ridge(problem.X, problem.y))
        X[3, 2] = "a word"
        with pytest.raises(ValueError, match="a word"):
            Ridge().fit(X, problem.y)

    def test_groups_and_files_are_not_arrays(self, problem, tmp_path):
        group = zarr.open_group(tmp_path / "x.zarr", mode="w")
        group["X"] = problem.X
        with pytest.raises(InputError, match="one of its arrays"):
            Ridge().fit(group, problem.y)


class TestMemory:
    @pytest.mark.parametrize("settings", [{}, {"rank": 5}, {"features": "fourier:3000"}], ids=str)
    def test_too_little_names_what_would_do(self, zarr_store, rng, settings):
        X, y = rng.standard_normal((2_000, 50)), rng.standard_normal(2_000)
        source = nysstream.open(zarr_store(X, chunk_rows=500))
        with pytest.raises(MemoryBudgetError, match=r"Give memory='\d+MiB' or more") as caught:
            Ridge(memory="50MiB", **settings).fit(source, y)
        enough = str(caught.value).split("memory='")[1].split("'")[0]
        model = Ridge(memory=enough, tol=1e-3, **settings).fit(source, y)
        assert model.result_.stats["memory_limit_bytes"] == int(enough[:-3]) << 20
        assert sum(model.result_.needs.values()) <= model.result_.stats["memory_limit_bytes"]

    def test_nothing_is_read_before_refusing(self, problem):
        source = Stored(problem.X)
        with pytest.raises(MemoryBudgetError) as caught:
            Ridge(memory="1MiB").fit(source, problem.y)
        assert source.reads.sum() == 0
        assert isinstance(caught.value, NysstreamError)
        assert isinstance(caught.value, MemoryError)
