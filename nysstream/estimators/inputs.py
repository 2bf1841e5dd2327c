"""What users pass as X, y and weights, turned into sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils.validation import check_array, validate_data

from nysstream.checkpoint import settings_of
from nysstream.errors import InputError
from nysstream.journal import current_journal
from nysstream.sources import RowSource, as_source

#: Libraries whose arrays are streamed; anything else is validated, in memory, as scikit-learn does.
_STREAMED = {"zarr", "h5py", "dask"}
#: Dtypes that are multiplied as they are; everything else in memory becomes the first.
_DTYPES = [np.float64, np.float32]


def is_streamed(obj: object) -> bool:
    """Whether an argument is read in passes rather than validated in memory first."""
    return isinstance(obj, (RowSource, np.memmap)) or type(obj).__module__.partition(".")[0] in _STREAMED


def training_sources(
    estimator: Any, X: Any, y: Any, sample_weight: Any, *, reset: bool = True
) -> tuple[RowSource, RowSource, RowSource | None]:
    """Check training data and give them as sources; sets the estimator's ``n_features_in_``.

    Parameters
    ----------
    estimator : estimator
        Named in scikit-learn's messages.
    X : array-like, sparse array, RowSource, zarr.Array, h5py.Dataset or dask.array.Array, shape (n, d)
    y : as X, shape (n,) or (n, q)
    sample_weight : as y, or a number, or None
    reset : bool
        Whether the estimator begins anew; else the columns must be those that it knows.

    Raises
    ------
    InputError
        If X is a path, or shapes disagree.
    CheckpointError
        If the run goes on from a checkpoint of other data, or of an estimator with other settings.
    """
    _refuse_paths(X=X, y=y, sample_weight=sample_weight)
    if y is None:
        message = f"{type(estimator).__name__}.fit requires y to be passed, but the target y is None"
        raise InputError(message)
    if not is_streamed(X) and not is_streamed(y):
        X, y = validate_data(
            estimator,
            X,
            y,
            accept_sparse="csr",
            dtype=_DTYPES,
            multi_output=True,
            y_numeric=True,
            reset=reset,
        )
    elif not is_streamed(X):
        X = validate_data(estimator, X, accept_sparse="csr", dtype=_DTYPES, reset=reset)
    elif not is_streamed(y):
        y = check_array(y, ensure_2d=False, input_name="y")
    source, target = as_source(X), as_source(y)
    if not reset:
        _check_columns(estimator, source)
    elif is_streamed(X):
        vars(estimator).pop("feature_names_in_", None)  # of an earlier fit
    estimator.n_features_in_ = source.shape[1]
    weight = None if sample_weight is None else _weight_source(sample_weight, source.shape[0])
    journal = current_journal()
    if journal is not None:
        data = {"X": source, "y": target, **({} if weight is None else {"sample_weight": weight})}
        identities = {key: part.fingerprint for key, part in data.items()}
        journal.declare({"estimator": type(estimator).__name__, **settings_of(estimator), **identities})
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
    _check_columns(estimator, source)
    return source


def scoring_sources(
    estimator: Any, X: Any, y: Any, sample_weight: Any
) -> tuple[RowSource, RowSource, RowSource | None]:
    """Check data to score on and give them as sources; arguments as for :func:`training_sources`.

    Raises
    ------
    InputError
        If the number of columns is not that of the training data, or something is a path.
    """
    _refuse_paths(y=y, sample_weight=sample_weight)
    source = prediction_source(estimator, X)
    if not is_streamed(y):
        y = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
    weight = None if sample_weight is None else _weight_source(sample_weight, source.shape[0])
    return source, as_source(y), weight


def _check_columns(estimator: Any, source: RowSource) -> None:
    if source.shape[1] != estimator.n_features_in_:
        message = (
            f"{source.name} has {source.shape[1]} features, but {type(estimator).__name__} is expecting "
            f"{estimator.n_features_in_} features as input"
        )
        raise InputError(message)


def _weight_source(sample_weight: Any, n_rows: int) -> RowSource:
    """Check weights in memory, where it costs no pass; stored ones are checked as they are read."""
    if is_streamed(sample_weight):
        return as_source(sample_weight)
    if np.isscalar(sample_weight):
        sample_weight = np.broadcast_to(sample_weight, (n_rows,))
    weight = check_array(sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight")
    negative = np.flatnonzero(weight < 0)
    if negative.size:
        message = f"sample_weight is negative in row {negative[0]}; weights must be zero or positive"
        raise InputError(message)
    if not weight.any():
        message = "sample_weight is zero in every row; at least one must be positive"
        raise InputError(message)
    return as_source(weight)


def _refuse_paths(**arguments: Any) -> None:
    for name, value in arguments.items():
        if isinstance(value, (str, Path)):
            path = str(value)
            message = f"{name}={path!r} is a path; open it first: {name}=nysstream.open({path!r}, ...)"
            raise InputError(message)
