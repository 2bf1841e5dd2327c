"""Folds depend on the row alone, and hold every row once."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import KFold

from nysstream.errors import InputError
from nysstream.streaming import ContiguousFolds, DesignMatrix, GivenFolds, GroupedFolds, HashedFolds, Tile
from nysstream.streaming.folds import RowFolds
from tests.streaming.support import Stored, small_blocks


def all_folds(folds, n):
    return folds.of_rows(slice(0, n), n)


@given(n=st.integers(2, 200), data=st.data())
def test_contiguous_folds_are_those_of_scikit_learn(n, data):
    k = data.draw(st.integers(2, n))
    found = all_folds(ContiguousFolds(k), n)
    for fold, (_, test) in enumerate(KFold(k).split(np.zeros(n))):
        np.testing.assert_array_equal(np.flatnonzero(found == fold), test)


GROUPS = np.random.default_rng(0).integers(-50, 50, 1000)
RULES = {
    "contiguous": ContiguousFolds(7),
    "hashed": HashedFolds(7, seed=3),
    "grouped": GroupedFolds(7, GROUPS),
    "given": GivenFolds(GROUPS % 7),
}


@pytest.mark.parametrize("folds", RULES.values(), ids=RULES.keys())
class TestEveryRule:
    @given(start=st.integers(0, 1000), length=st.integers(0, 1000))
    def test_a_run_of_rows_is_a_run_of_the_folds(self, folds, start, length):
        stop = min(1000, start + length)
        np.testing.assert_array_equal(
            folds.of_rows(slice(start, stop), 1000), all_folds(folds, 1000)[start:stop]
        )

    def test_uses_every_fold(self, folds):
        found = all_folds(folds, 1000)
        assert np.unique(found).tolist() == list(range(7))
        assert found.shape == (1000,)

    def test_survives_pickling(self, folds):
        np.testing.assert_array_equal(
            all_folds(pickle.loads(pickle.dumps(folds)), 1000), all_folds(folds, 1000)
        )

    def test_refuses_fewer_rows_than_folds(self, folds):
        folds.check(1000)
        with pytest.raises(InputError, match="n_samples=6"):
            folds.check(6)

    def test_tiles_get_the_folds_of_their_rows(self, folds, monkeypatch):
        small_blocks(monkeypatch)
        design = DesignMatrix(Stored(np.zeros((1000, 2)), chunk_rows=37))
        rows = RowFolds(folds, design)
        expected = all_folds(folds, 1000)
        for partition in design.partitions:
            for a, b in partition.blocks:
                Z = np.zeros((b - a, 2))
                np.testing.assert_array_equal(rows.of_tile(Tile(a, Z, Z, None, None)), expected[a:b])


class TestHashes:
    def test_deal_evenly(self):
        n, k = 100_000, 10
        counts = np.bincount(all_folds(HashedFolds(k), n), minlength=k)
        assert np.abs(counts - n / k).max() < 5 * np.sqrt(n / k)

    def test_neighbours_are_independent(self):
        found = all_folds(HashedFolds(2), 100_000)
        assert abs(np.mean(found[1:] == found[:-1]) - 0.5) < 0.01

    def test_follow_the_seed(self):
        one, same, other = (all_folds(HashedFolds(4, seed), 4000) for seed in (0, 0, 1))
        np.testing.assert_array_equal(one, same)
        assert 0.15 < np.mean(one == other) < 0.35

    def test_do_not_change_between_versions(self):
        assert all_folds(HashedFolds(5, seed=42), 12).tolist() == FROZEN
        assert all_folds(GroupedFolds(5, np.arange(12), seed=42), 12).tolist() == FROZEN


FROZEN = [0, 1, 0, 3, 0, 2, 3, 1, 0, 2, 1, 4]


class TestGroups:
    @pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint16, np.float32, np.float64])
    def test_are_never_split(self, dtype):
        groups = np.abs(GROUPS).astype(dtype)
        found = all_folds(GroupedFolds(3, groups), 1000)
        for group in np.unique(groups):
            assert np.unique(found[groups == group]).size == 1

    def test_zeros_are_one_group(self):
        found = all_folds(GroupedFolds(64, np.array([0.0, -0.0])), 2)
        assert found[0] == found[1]

    def test_are_read_from_a_store(self):
        source = Stored(GROUPS, chunk_rows=100)
        np.testing.assert_array_equal(
            GroupedFolds(3, source).of_rows(slice(150, 420), 1000),
            all_folds(GroupedFolds(3, GROUPS), 1000)[150:420],
        )
        assert source.reads.sum() == 270

    def test_must_be_finite(self):
        groups = np.ones(10)
        groups[7] = np.nan
        with pytest.raises(InputError, match="row 7"):
            GroupedFolds(2, groups).of_rows(slice(5, 10), 10)


class TestGivenFolds:
    def test_are_taken_as_they_are(self):
        assert all_folds(GivenFolds([2, 0, 1, 0]), 4).tolist() == [2, 0, 1, 0]

    def test_in_a_store_need_their_number(self):
        source = Stored(np.array([0, 1, 1]))
        with pytest.raises(InputError, match="n_splits="):
            GivenFolds(source)
        assert GivenFolds(source, 2).of_rows(slice(1, 3), 3).tolist() == [1, 1]

    @pytest.mark.parametrize("wrong", [-1, 3, 0.5, np.nan])
    def test_must_be_folds(self, wrong):
        values = np.array([0.0, 1.0, wrong, 2.0])
        with pytest.raises(InputError, match="fold of row 2"):
            all_folds(GivenFolds(values, 3), 4)
        if wrong != 3:  # else there are four folds
            with pytest.raises(InputError, match="fold of row 2"):
                all_folds(GivenFolds(values), 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ContiguousFolds(1), "n_splits=1"),
        (lambda: ContiguousFolds(2.5), "n_splits=2.5"),
        (lambda: HashedFolds(True), "n_splits=True"),
        (lambda: HashedFolds("5"), "n_splits='5'"),
        (lambda: HashedFolds(5, seed=-1), "seed=-1"),
        (lambda: GroupedFolds(5, np.zeros((3, 2))), "one number per row"),
        (lambda: GroupedFolds(2, np.zeros(3)).check(4), "3 rows, the data have 4"),
        (lambda: GivenFolds([0, 1, 0]).check(4), "3 rows, the data have 4"),
    ],
)
def test_what_cannot_be_used_is_named(make, message):
    with pytest.raises(InputError, match=message):
        make()
