"""What classifiers add to linear models: labels, decisions, probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted

from nysstream.errors import InputError
from nysstream.estimators.inputs import is_streamed, scoring_sources, training_sources
from nysstream.estimators.penalised import Penalised
from nysstream.estimators.targets import class_factors, find_classes
from nysstream.streaming import Labels, Outcome

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from nysstream.losses import Loss

    Vector = NDArray[np.float64]


class LinearClassifier(ClassifierMixin, Penalised):
    """Decisions and labels of linear models with ``classes_``."""

    classes_: NDArray[Any]
    class_weight: Any
    _class_sums: NDArray[np.float64]
    _stored_classes: NDArray[np.float64]

    def _sources(self, X: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
        """Find the classes; labels in memory are given as numbers of classes, stored ones as they are."""
        in_memory = y is not None and not is_streamed(y) and not isinstance(y, str)
        if in_memory:
            labels = column_or_1d(check_array(y, ensure_2d=False, dtype=None, input_name="y"), warn=True)
            check_classification_targets(labels)
            self.classes_, codes = np.unique(labels, return_inverse=True)
            y = codes.astype(np.float64)
        source, target, weight = training_sources(self, X, y, sample_weight)
        stored, self._class_sums = find_classes(target, weight)
        if not in_memory:
            self.classes_ = stored.astype(np.int64) if np.all(stored == np.rint(stored)) else stored
        self._stored_classes = stored
        weighted = np.flatnonzero(self._class_sums > 0)
        if weighted.size < 2:
            name = type(self).__name__
            message = (
                f"{name} needs samples of at least 2 classes in the data, but those of positive weight "
                f"contain only one class: {self.classes_[weighted[0] if weighted.size else 0]!r}"
            )
            raise InputError(message)
        return source, target, weight

    def _outcome(self, loss: Loss, statistics: Any, target: Any) -> tuple[Outcome, Vector, float]:
        """Weigh the classes; one column for two of them, else one for each."""
        stored, weights = self._stored_classes, self._class_sums
        factors = class_factors(self.class_weight, self.classes_, weights)
        labels = Labels(stored, None if np.all(factors == 1) else factors)
        shares = factors * weights / np.sum(factors * weights)
        columns = np.array([1]) if stored.size == 2 and not loss.coupled else np.arange(stored.size)
        if loss.coupled:
            start = np.log(np.maximum(shares, 1e-12))
            start -= start.mean()
        else:
            start = np.asarray(loss.start(np.clip(shares[columns], 1e-12, 1 - 1e-12)), np.float64)
        return Outcome(loss, columns, labels), start, float(np.sum(factors * weights))

    def decision_function(self, X: Any, out: str | Path | None = None, *, overwrite: bool = False) -> Any:
        """Give the linear predictors of the rows of X.

        Parameters
        ----------
        X : array-like, sparse array, RowSource, zarr.Array, h5py.Dataset or dask.array.Array, shape (n, d)
        out : str or path, optional
            Write them to a Zarr array there instead of returning them.
        overwrite : bool

        Returns
        -------
        ndarray, shape (n,) for two classes, (n, n_classes) for more

        Notes
        -----
        Cost: one pass over X.
        """
        return self._respond(X, self._decisions, out, overwrite=overwrite)

    def _decisions(self, fitted: Vector) -> Vector:
        return fitted[:, 0] if self.classes_.size == 2 else fitted

    def _predicted(self, fitted: Vector) -> NDArray[Any]:
        if self.classes_.size == 2:
            return np.asarray(self.classes_[(fitted[:, 0] > 0).astype(np.intp)])
        return np.asarray(self.classes_[np.argmax(fitted, axis=1)])

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the (weighted) share of rows whose label is predicted.

        Notes
        -----
        Cost: one pass over X and y; nothing of length n is held where y is stored.
        """
        check_is_fitted(self)
        if not is_streamed(y):
            labels = column_or_1d(check_array(y, ensure_2d=False, dtype=None, input_name="y"))
            known = dict(zip(self.classes_.tolist(), range(self.classes_.size), strict=True))
            y = np.array([known.get(label, -1) for label in labels.tolist()], np.float64)
            number = True
        else:
            number = False
        source, target, weight = scoring_sources(self, X, y, sample_weight)
        right = total = 0.0
        start = 0
        for fitted in self._predict_windows(source):
            rows = slice(start, start + len(fitted))
            start = rows.stop
            predicted = self._predicted(fitted)
            truth = np.asarray(target.read(rows))[:, 0]
            if number:
                predicted = np.searchsorted(self.classes_, predicted)
            h = np.ones(len(fitted)) if weight is None else np.asarray(weight.read(rows))[:, 0]
            right += float(np.sum(h * (predicted == truth)))
            total += float(np.sum(h))
        return right / total
