"""Rows that have arrived since a model was fitted, added to what it kept of the others."""

from __future__ import annotations

from typing import Any, TypeVar

from nysstream.errors import InputError
from nysstream.estimators.inputs import training_sources
from nysstream.estimators.ridge import Ridge
from nysstream.sketching.origin import Origin
from nysstream.streaming import DesignMatrix

M = TypeVar("M")


def update(model: M, X: Any, y: Any, sample_weight: Any = None) -> M:
    """Fit a model to the data that it was fitted to and the rows that were added to them since.

    Parameters
    ----------
    model : Ridge
        Fitted with ``keep_statistics=True``. Changed in place, at the end.
    X : array-like, sparse array, RowSource, zarr.Array, h5py.Dataset or dask.array.Array, shape (n, d)
        All rows: those of the fit, unchanged, and after them the new ones.
    y : as X, shape (n,) or (n, q)
    sample_weight : as y, shape (n,), optional
        Where the fit had them.

    Returns
    -------
    Ridge
        ``model``. In its ``result_.stats``, ``new_rows`` counts the rows added, and ``passes`` the rows
        read in units of all rows.

    Raises
    ------
    InputError
        If the model keeps no statistics, or the data do not begin with the rows of the fit.
    MemoryBudgetError
        If the job does not fit the model's ``memory``.
    SourceError
        If the data cannot be read.

    Notes
    -----
    Cost: the new rows are read once. With the Gram matrix kept (``solver="gram"``) that is all; with
    another method, the solve starts from the coefficients of the fit and makes a pass over all rows
    per iteration, and one to verify. Beside that, seven chunks of the old rows are read to make sure
    that they are the same.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((100, 3))
    >>> y = X @ [1.0, 2.0, 3.0]
    >>> model = Ridge(alpha=1e-6, keep_statistics=True).fit(X[:90], y[:90])
    >>> update(model, X, y).result_.stats["new_rows"]
    10
    """
    if not isinstance(model, Ridge):
        message = f"{type(model).__name__} keeps no statistics that rows could be added to; Ridge does"
        raise InputError(message)
    sketch = getattr(model, "statistics_", None)
    if sketch is None:
        message = "the model keeps no statistics to add rows to: fit it with keep_statistics=True"
        raise InputError(message)
    if sketch.origin is None:
        message = (
            "which rows of the data the model has seen is not known: fit it with keep_statistics=True, or "
            "add rows by partial_fit"
        )
        raise InputError(message)
    model._check_settings()
    sources = training_sources(model, X, y, sample_weight, reset=False)
    design = DesignMatrix(*sources, features=sketch.features)
    sketch.origin.check(design)
    n_rows, n_old = design.shape[0], sketch.watermark
    model._run(*sources, sketch=sketch, read=slice(n_old, n_rows))
    model.statistics_.origin = Origin.of(design)
    result = model.result_
    result.stats["passes"] = sum(record.cost.rows for record in result.passes) / n_rows
    result.stats["new_rows"] = n_rows - n_old
    return model
