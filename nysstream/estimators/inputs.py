"""What users pass as X, y and weights, turned into sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils.validation import _check_sample_weight, validate_data

from nysstream.errors import InputError
from nysstream.sources import RowSource, as_source

#: Libraries whose arrays are streamed; anything else is validated, in memory, as scikit-learn does.
_STREAMED = {"zarr", "h5py", "dask"}
#: Dtypes that are multiplied as they are; everything else in memory becomes the first.
_DTYPES = [np.float64, np.float32]


def is_streamed(obj: object) -> bool:
    """Whether an argument is read in passes rather than validated in memory first."""
    return isinstance(obj, (RowSource, np.memmap)) or type(obj).__module__.partition(".")[0] in _STREAMED


def training_sources(
    estimator: Any, X: Any, y: Any, sample_weight: Any
) -> tuple[RowSource, RowSource, RowSource | None]:
    """Check training data and give them as sources; sets the estimator's ``n_features_in_``.

    Parameters
    ----------
    estimator : estimator
        Named in scikit-learn's messages.
    X : array-like, sparse array, RowSource, zarr.Array, h5py.Dataset or dask.array.Array, shape (n, d)
    y : as X, shape (n,) or (n, q)
    sample_weight : as y, or a number, or None

    Raises
    ------
    InputError
        If X is a path, or shapes disagree.
    """
    _refuse_paths(X=X, y=y, sample_weight=sample_weight)
    if y is None:
        message = f"{type(estimator).__name__}.fit requires y to be passed, but the target y is None"
        raise InputError(message)
    if not is_streamed(X) and not is_streamed(y):
        X, y = validate_data(
            estimator, X, y, accept_sparse="csr", dtype=_DTYPES, multi_output=True, y_numeric=True
        )
        if sample_weight is not None and not is_streamed(sample_weight):
            sample_weight = _check_sample_weight(sample_weight, X, dtype=np.float64)
    elif not is_streamed(X):
        X = validate_data(estimator, X, accept_sparse="csr", dtype=_DTYPES)
    source, target = as_source(X), as_source(y)
    estimator.n_features_in_ = source.shape[1]
    if np.isscalar(sample_weight):
        sample_weight = np.broadcast_to(np.asarray(sample_weight, np.float64), (source.shape[0],))
    weight = None if sample_weight is None else as_source(sample_weight)
    return source, target, weight


def prediction_source(estimator: Any, X: Any) -> RowSource:
    """Check data to predict from and give them as a source.

    Raises
    ------
    InputError
        If the number of columns is not that of the training data, or X is a path.
    """
    _refuse_paths(X=X)
    if not is_streamed(X):
        return as_source(validate_data(estimator, X, accept_sparse="csr", dtype=_DTYPES, reset=False))
    source = as_source(X)
    if source.shape[1] != estimator.n_features_in_:
        message = (
            f"{source.name} has {source.shape[1]} features, but {type(estimator).__name__} is expecting "
            f"{estimator.n_features_in_} features as input"
        )
        raise InputError(message)
    return source


def _refuse_paths(**arguments: Any) -> None:
    for name, value in arguments.items():
        if isinstance(value, (str, Path)):
            path = str(value)
            message = f"{name}={path!r} is a path; open it first: {name}=nysstream.open({path!r}, ...)"
            raise InputError(message)
