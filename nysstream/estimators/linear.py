"""What every linear estimator can do once it has coefficients."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from nysstream.errors import InputError
from nysstream.estimators.inputs import scoring_sources
from nysstream.estimators.model_file import save
from nysstream.estimators.predicting import Predicting
from nysstream.features import FeatureMap, Identity
from nysstream.streaming import (
    DesignMatrix,
    Predict,
    PredictionError,
    pass_needs,
    reduce,
)
from nysstream.streaming.affordable import Room

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


class LinearModel(Predicting):
    """Predictions, scores and files of estimators with ``coef_`` and ``intercept_``.

    ``features_`` is the feature map with its data-dependent settings resolved; the coefficients
    belong to its output.
    """

    coef_: NDArray[np.float64]
    intercept_: Any
    features_: FeatureMap
    memory: Any
    device: Any
    precision: Any

    def predict(self, X: Any, out: str | Path | None = None, *, overwrite: bool = False) -> Any:
        """Predict the targets of the rows of X.

        Parameters
        ----------
        X : array-like, sparse array, RowSource, zarr.Array, h5py.Dataset or dask.array.Array, shape (n, d)
        out : str or path, optional
            Write the predictions to a Zarr array there, block by block, instead of returning them.
        overwrite : bool
            Replace what is at ``out``.

        Returns
        -------
        ndarray, shape (n,) or (n, k)
            Or a RowSource over ``out``.

        Raises
        ------
        InputError
            If X has another number of columns than the training data.
        OutputExistsError
            If ``out`` exists; before anything is predicted.
        CheckpointError
            If the run goes on from a checkpoint of another model, other rows, or other predictions.

        Notes
        -----
        Cost: one pass over X. Within :func:`nysstream.checkpointing` what is written to ``out`` is gone on
        with, and rows whose predictions were written are not read again.
        """
        return self._respond(X, self._predicted, out, overwrite=overwrite)

    def _predicted(self, fitted: NDArray[np.float64]) -> NDArray[Any]:
        """Turn linear predictors, (t, k), into what :meth:`predict` gives, (t, k) or (t,)."""
        return fitted[:, 0] if self.coef_.ndim == 1 else fitted

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the coefficient of determination R2 of the predictions, averaged over targets.

        Parameters
        ----------
        X : as for :meth:`predict`, shape (n, d)
        y : as X, shape (n,) or (n, q)
        sample_weight : as y, shape (n,), optional

        Returns
        -------
        float
            NaN for fewer than two rows, as in scikit-learn.

        Notes
        -----
        Cost: one pass over X and y; nothing of length n is held.
        """
        check_is_fitted(self)
        source, target, weight = scoring_sources(self, X, y, sample_weight)
        coef, intercept = self._matrix()
        if target.shape[1] != coef.shape[1]:
            message = f"{target.name} has {target.shape[1]} targets, the model {coef.shape[1]}"
            raise InputError(message)
        design = self._design(source, target, weight)
        center = getattr(self, "target_mean_", intercept)
        ((errors, squares, _),) = reduce(design, PredictionError(coef, intercept, center), name="score")
        if source.shape[0] < 2:
            return float("nan")
        return float(np.mean(r2(errors, squares)))

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the fitted model to a Zarr group, to be read by :func:`nysstream.load`.

        Parameters
        ----------
        path : str or path
        overwrite : bool
            Replace what is there.

        Raises
        ------
        OutputExistsError
            If ``path`` exists and ``overwrite`` is false.
        """
        check_is_fitted(self)
        save(self, path, overwrite=overwrite)

    def _matrix(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Give the coefficients as ``(p, k)`` and the intercepts as ``(k,)``."""
        coef = np.atleast_2d(self.coef_).T
        return np.ascontiguousarray(coef), np.broadcast_to(self.intercept_, (coef.shape[1],)).astype(
            np.float64
        )

    def _design(self, source: Any, target: Any = None, weight: Any = None) -> DesignMatrix:
        features = getattr(self, "features_", Identity())
        # Predictions of rows as they are lose nothing to large means: reading is what costs.
        precision: Any = "double" if isinstance(features, Identity) else self.precision
        design = DesignMatrix(
            source, target, weight, features=features, precision=precision, device=self.device
        )
        coef, intercept = self._matrix()
        design, budget, _ = Room.of(self.memory).fit(
            design, lambda d: pass_needs(_first_rows(d), Predict(coef, intercept))
        )
        if not source.resident:
            budget.check()
        return design

    def _n_predictors(self) -> int:
        return 1 if self.coef_.ndim == 1 else int(self.coef_.shape[0])

    def _predict_windows(self, source: Any, start: int = 0) -> Iterator[NDArray[np.float64]]:
        """Predict a few partitions at a time, in row order."""
        design = self._design(source)
        coef, intercept = self._matrix()
        width = max(1, design.max_tasks or 1) * 4
        partitions = [partition for partition in design.partitions if partition.rows.stop > start]
        for i in range(0, len(partitions), width):
            window = partitions[i : i + width]
            rows = slice(window[0].rows.start, window[-1].rows.stop)
            (predicted,) = reduce(design.restrict(rows), Predict(coef, intercept), name="predict")
            yield predicted[max(0, start - rows.start) :]


def r2(errors: NDArray[np.float64], squares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute coefficients of determination, those of constant targets as scikit-learn does.

    Parameters
    ----------
    errors : ndarray, shape (..., q)
        Sums of squared errors.
    squares : ndarray, shape (q,)
        Sums of squared deviations of the targets from their means; zero for constant ones.
    """
    constant = squares == 0
    share = errors / np.where(constant, 1.0, squares)
    return np.where(constant, np.where(errors == 0, 1.0, 0.0), 1.0 - share)


def _first_rows(design: DesignMatrix) -> DesignMatrix:
    """Give the part of a design that one window of predictions covers."""
    width = max(1, design.max_tasks or 1) * 4
    window = design.partitions[:width]
    return design.restrict(slice(0, window[-1].rows.stop))
