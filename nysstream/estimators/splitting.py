"""What users pass as cv, turned into folds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.model_selection import KFold

from nysstream.errors import InputError
from nysstream.sources import as_source
from nysstream.streaming import ContiguousFolds, Folds, GivenFolds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.sources import RowSource


def as_folds(cv: Any, n_rows: int, *, target: RowSource | None = None, groups: Any = None) -> Folds:
    """Turn a number of folds, a rule, a splitter or a list of splits into folds.

    Parameters
    ----------
    cv : int, Folds, scikit-learn splitter, or iterable of (train, test)
        Splits hold row numbers or boolean masks.
    n_rows : int
    target : RowSource, optional
        For splitters that look at the target; read only if it is in memory.
    groups : array-like, shape (n,), optional
        For splitters that need them.

    Raises
    ------
    InputError
        If the splits do not hold every row out exactly once, or train on fewer than all others.

    Notes
    -----
    A splitter or a list of splits takes memory for the numbers of all rows; an int or a rule none.
    """
    has_splits = hasattr(cv, "split") and not isinstance(cv, str)
    if groups is not None and not has_splits:
        message = "groups are for splitters such as cv=GroupKFold(5); or give cv=GroupedFolds(5, groups)"
        raise InputError(message)
    if isinstance(cv, Folds):
        folds = cv
    elif isinstance(cv, (int, np.integer)) and not isinstance(cv, bool):
        folds = ContiguousFolds(int(cv))
    elif type(cv) is KFold and not cv.shuffle:
        folds = ContiguousFolds(cv.n_splits)
    elif has_splits:
        rows = np.broadcast_to(np.float64(0), (n_rows, 1))
        y = target.read(slice(0, n_rows))[:, 0] if target is not None and target.resident else None
        try:
            folds = _from_splits(cv.split(rows, y, groups), n_rows)
        except ValueError as error:
            message = f"cv={cv!r}: {error}"
            raise InputError(message) from error
    elif isinstance(cv, Iterable) and not isinstance(cv, (str, bytes)):
        folds = _from_splits(cv, n_rows)
    else:
        message = f"cv={cv!r}: give a number of folds, a rule such as HashedFolds(5), or a splitter"
        raise InputError(message)
    folds.check(n_rows)
    return folds


def _from_splits(splits: Iterable[Any], n_rows: int) -> Folds:
    folds = np.full(n_rows, -1, np.int32)
    count = 0
    for train, test in splits:
        seen, held = _mask(train, n_rows), _mask(test, n_rows)
        if np.any(seen & held) or not np.all(seen | held):
            message = (
                f"split {count} trains on {int(seen.sum())} of {n_rows} rows and holds out {held.sum()}: "
                "each row must be one or the other, so that training sets are sums of folds"
            )
            raise InputError(message)
        twice = np.flatnonzero(held & (folds >= 0))
        if twice.size:
            message = (
                f"row {twice[0]} is held out by splits {folds[twice[0]]} and {count}: every row must be held "
                "out exactly once, as by KFold, GroupKFold or PredefinedSplit"
            )
            raise InputError(message)
        folds[held] = count
        count += 1
    never = np.flatnonzero(folds < 0)
    if never.size:
        message = (
            f"row {never[0]} is never held out by the {count} splits: every row must be held out exactly "
            "once, as by KFold, GroupKFold or PredefinedSplit (splits of a generator last for one fit)"
        )
        raise InputError(message)
    return GivenFolds(as_source(folds), count)


def _mask(rows: Any, n_rows: int) -> NDArray[np.bool_]:
    index = np.asarray(rows)
    mask = np.zeros(n_rows, np.bool_)
    if index.dtype == np.bool_ and index.shape != mask.shape:
        message = f"a mask of {index.size} rows was given for {n_rows}"
        raise InputError(message)
    if index.dtype != np.bool_ and index.size and not -n_rows <= index.min() <= index.max() < n_rows:
        message = f"the splits name row {index.max()}, but there are {n_rows} rows"
        raise InputError(message)
    mask[index if index.dtype == np.bool_ else index.astype(np.intp)] = True
    return mask
