"""Predictions of all rows: returned, or written a few rows at a time."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.utils.validation import check_is_fitted

from nysstream.checkpoint import lasting_settings
from nysstream.errors import InputError
from nysstream.estimators.inputs import prediction_source
from nysstream.journal import current_journal, journaling, key_of
from nysstream.sources import RowSource
from nysstream.sources import open as open_source
from nysstream.sources.continuing import continued
from nysstream.sources.layout import Layout
from nysstream.sources.writing import RowWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from nysstream.sources.continuing import Continued


class Predicting:
    """Estimators whose predictions are functions of a few linear predictors of every row."""

    @abstractmethod
    def _predict_windows(self, source: RowSource, start: int = 0) -> Iterator[NDArray[np.float64]]:
        """Give the predictors of the rows from ``start`` on, (t, k), a few rows at a time.

        The same bits wherever it starts.
        """

    @abstractmethod
    def _n_predictors(self) -> int:
        """Count the predictors of a row."""

    def _respond(
        self,
        X: Any,
        respond: Callable[[NDArray[np.float64]], NDArray[Any]],
        out: str | Path | None,
        *,
        overwrite: bool,
    ) -> Any:
        """Give a function of the predictors of every row, or write it; its name tells what it gives."""
        check_is_fitted(self)
        source = prediction_source(self, X)
        if out is None:
            return np.concatenate([respond(z) for z in self._predict_windows(source)])
        empty = respond(np.zeros((1, self._n_predictors())))
        if empty.dtype.kind not in "fiub":
            message = f"out={str(out)!r}: the labels are no numbers, which is all that arrays on disk hold"
            raise InputError(message)
        n_outputs = 1 if empty.ndim == 1 else empty.shape[1]
        layout = Layout(n_outputs, np.dtype(np.float64), vector=empty.ndim == 1)
        begun = self._begun(source, respond.__name__.strip("_"), str(out))
        if begun is None or not begun.done:
            writer = RowWriter(str(out), layout, n_rows=source.shape[0], overwrite=overwrite, continued=begun)
            with journaling(None), writer:  # what is written need not be kept a second time
                for z in self._predict_windows(source, 0 if begun is None else begun.rows):
                    writer.append(respond(z).reshape(len(z), -1).astype(np.float64, copy=False))
        return open_source(str(out))

    def _begun(self, source: RowSource, what: str, out: str) -> Continued | None:
        """Say how far an earlier run of the job has come, if it keeps a checkpoint."""
        if current_journal() is None:
            return None
        fitted = {
            name: value.fingerprint if isinstance(value, RowSource) else value
            for name, value in sorted(vars(self).items())
            # How the fit went differs between two that end with the same model.
            if name.endswith("_") and name not in ("result_", "statistics_")
        }
        model = {"model": key_of(fitted), "estimator": type(self).__name__, **lasting_settings(self)}
        return continued(out, {"X": source.fingerprint, "predictions": what, **model})
