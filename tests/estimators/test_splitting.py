"""What is passed as cv becomes folds that hold out the same rows."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import (
    GroupKFold,
    KFold,
    LeaveOneGroupOut,
    PredefinedSplit,
    RepeatedKFold,
    ShuffleSplit,
    StratifiedKFold,
    TimeSeriesSplit,
)

from nysstream import GivenFolds, HashedFolds
from nysstream.errors import InputError
from nysstream.estimators.splitting import as_folds
from nysstream.sources import as_source
from nysstream.streaming import ContiguousFolds

N = 43
GROUPS = np.random.default_rng(0).integers(0, 9, N)
LABELS = np.arange(N) % 2


def assert_splits(folds, splits):
    rows = folds.of_rows(slice(0, N), N)
    splits = list(splits)
    assert folds.n_splits == len(splits)
    for fold, (train, test) in enumerate(splits):
        np.testing.assert_array_equal(np.flatnonzero(rows == fold), np.sort(test))
        np.testing.assert_array_equal(np.flatnonzero(rows != fold), np.sort(train))


@pytest.mark.parametrize("number", [3, np.int64(3)])
def test_a_number_means_consecutive_rows(number):
    assert as_folds(number, N) == ContiguousFolds(3)


def test_plain_k_fold_takes_no_memory_for_the_rows():
    assert as_folds(KFold(4), N) == ContiguousFolds(4)


def test_rules_are_taken_as_they_are():
    folds = HashedFolds(4)
    assert as_folds(folds, N) is folds


@pytest.mark.parametrize(
    "splitter",
    [
        KFold(4, shuffle=True, random_state=0),
        GroupKFold(4),
        LeaveOneGroupOut(),
        PredefinedSplit(GROUPS),
        StratifiedKFold(3),
    ],
    ids=lambda splitter: type(splitter).__name__,
)
def test_splitters(splitter):
    X = np.zeros((N, 1))
    groups = GROUPS if "Group" in type(splitter).__name__ else None
    expected = list(splitter.split(X, LABELS, groups))
    assert_splits(as_folds(splitter, N, target=as_source(LABELS), groups=groups), expected)
    assert_splits(as_folds(expected, N), expected)
    assert_splits(as_folds(iter(expected), N), expected)


def test_splits_may_be_masks():
    held = [np.arange(N) % 3 == k for k in range(3)]
    masks = [(~test, test) for test in held]
    assert_splits(as_folds(masks, N), [(np.flatnonzero(a), np.flatnonzero(b)) for a, b in masks])


@pytest.mark.parametrize(
    ("cv", "message"),
    [
        (ShuffleSplit(2, random_state=0, test_size=0.5), "held out by splits 0 and 1|never held out"),
        (ShuffleSplit(2, random_state=0), "row .* never held out|held out by splits"),
        (RepeatedKFold(n_splits=2, n_repeats=2), "held out by splits"),
        (TimeSeriesSplit(3), "each row must be one or the other"),
        (GroupKFold(4), "groups"),
        (KFold(N + 1), f"n_samples={N}"),
        (N + 1, f"n_samples={N}"),
        (1, "n_splits=1"),
        (True, "cv=True"),
        (None, "cv=None"),
        ("hash", "cv='hash'"),
        (2.5, "cv=2.5"),
        ([], "never held out by the 0 splits"),
        (
            [(np.arange(10), np.arange(10, 43)), (np.arange(43 - 9), np.arange(43 - 9, 43))],
            "held out by splits",
        ),
        ([(np.arange(43), np.arange(3))], "one or the other"),
        ([(np.arange(42), np.array([43]))], "name row 43"),
        ([(np.zeros(5, bool), np.ones(5, bool))], "mask of 5 rows"),
        (GivenFolds([0, 1]), "2 rows, the data have 43"),
    ],
)
def test_what_does_not_hold_every_row_out_once_is_refused(cv, message):
    with pytest.raises(InputError, match=message):
        as_folds(cv, N)


def test_groups_are_for_splitters():
    with pytest.raises(InputError, match="GroupedFolds"):
        as_folds(5, N, groups=GROUPS)
