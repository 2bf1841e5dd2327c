"""Support vector regression with kernels or features, to a duality gap."""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.metrics import r2_score
from sklearn.utils import column_or_1d
from sklearn.utils.validation import check_array

from nysstream.errors import InputError
from nysstream.estimators.inputs import is_streamed, training_sources
from nysstream.estimators.kernel_machine import check_lengths, read_column, read_targets
from nysstream.estimators.support import Support, solve_all
from nysstream.losses import EpsilonInsensitive
from nysstream.solvers.svm_dual import BoxDual
from nysstream.streaming.row_steps import Costs
from nysstream.trace import Trace, tracing

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from nysstream.estimators.composite_plan import LossPlan

    Vector = NDArray[np.float64]


@dataclass(eq=False, repr=False)
class SVR(RegressorMixin, Support):
    r"""Regression by the epsilon-insensitive loss in the space of a kernel, as :class:`sklearn.svm.SVR`.

    Minimises :math:`\tfrac12 \|f\|^2 + C \sum_i h_i \max(0, |y_i - f(x_i) - b| - \epsilon)` with f in the
    space of the kernel.

    Parameters
    ----------
    C : float, default 1.0
        Positive.
    epsilon : float, default 0.1
        Not negative: errors up to this cost nothing.
    kernel, gamma, degree, coef0, tol, time_limit, precision, memory, random_state, callback
        As for :class:`nysstream.SVC`.
    features, max_passes, device
        As for :class:`nysstream.SVC`.

    Attributes
    ----------
    support_ : ndarray, shape (s,)
        Rows with coefficients.
    support_vectors_ : ndarray, shape (s, d)
    n_support_ : ndarray, shape (1,)
    dual_coef_ : ndarray, shape (1, s)
    intercept_ : ndarray, shape (1,)
    kernel_ : Kernel
    coef_ : ndarray, shape (1, p)
        With features, instead of what belongs to a kernel and its vectors.
    features_ : FeatureMap
        Likewise.
    n_features_in_, n_iter_, result_

    Notes
    -----
    Cost: as for :class:`nysstream.SVC` with two classes.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.linspace(0, 1, 20)[:, None]
    >>> model = SVR(C=10.0, epsilon=0.01).fit(X, np.sin(6 * X[:, 0]))
    >>> bool(abs(model.predict([[0.25]])[0] - np.sin(1.5)) < 0.02)
    True
    """

    epsilon: float = 0.1

    def _check_settings(self) -> None:
        super()._check_settings()
        e: Any = self.epsilon
        if isinstance(e, bool) or not isinstance(e, numbers.Real) or not 0 <= float(e) < np.inf:
            message = f"epsilon={e!r} is out of range: give a number that is not negative"
            raise InputError(message)

    def plan(self, X: Any, y: Any, sample_weight: Any = None) -> LossPlan:
        """Say how a fit would run: memory, method, concurrency. Reads at most a sample of rows.

        Raises
        ------
        MemoryBudgetError
            If it does not fit ``memory``; names the smallest limit that would do.
        """
        self._check_settings()
        return self._plan(*self._sources(X, y, sample_weight), 1)

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the model.

        Parameters
        ----------
        X : array-like, sparse array, RowSource, zarr.Array, h5py.Dataset or dask.array.Array, shape (n, d)
        y : as X, shape (n,)
        sample_weight : as y, or float, optional
            Factors on C.

        Raises
        ------
        InputError
            If an argument or a value of the data cannot be used; names it.
        MemoryBudgetError
            If the rows do not fit ``memory``, or, with features, a few blocks of them.

        Warns
        -----
        ConvergenceWarning
            If a limit came first; the gap that was reached is kept.
        """
        self._check_settings()
        self._forget()
        trace = Trace()
        with tracing(trace):
            source, stored, weight = self._sources(X, y, sample_weight)
            if self.features is not None:
                costs = Costs(EpsilonInsensitive(float(self.epsilon)), np.full((1, 1), float(self.C)))
                self._fit_features(source, stored, weight, costs, trace)
                return self
            target = read_column(stored)
            if not np.isfinite(target).all():
                message = "the targets contain NaN or infinity; replace or remove such values"
                raise InputError(message)
            box = self.C * (np.ones(len(target)) if weight is None else read_column(weight))
            chosen = np.flatnonzero(box > 0)
            box = box[chosen]
            rows, kernel, budget = self._prepare(source, stored, weight, 1)
            dual = BoxDual(target[chosen], -box, box, float(self.epsilon), lambda wanted: wanted)
            results = solve_all(self, kernel, rows, [(chosen, dual)], budget)
        (result,) = results
        support = np.flatnonzero(result.beta)
        self.support_ = chosen[support].astype(np.int32)
        self.n_support_ = np.array([support.size], np.int32)
        self.dual_coef_ = result.beta[None, support]
        self.intercept_ = np.array([result.intercept])
        self._keep_vectors(source)
        self._conclude(results, trace, budget, source.shape)
        return self

    def _sources(self, X: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
        """Give rows, the one target, and weights."""
        if y is not None and not is_streamed(y) and not isinstance(y, str):
            y = column_or_1d(check_array(y, ensure_2d=False, input_name="y"), warn=True)
        source, target, weight = training_sources(self, X, y, sample_weight)
        check_lengths(source, target, weight)
        if target.shape[1] != 1:
            message = f"{target.name} has {target.shape[1]} columns; {type(self).__name__} fits one target"
            raise InputError(message)
        return source, target, weight

    def _expansion(self) -> tuple[Any, Vector, Vector]:
        return self.support_vectors_, self.dual_coef_.T, self.intercept_

    def predict(self, X: Any, out: str | Path | None = None, *, overwrite: bool = False) -> Any:
        """Predict the target of the rows of X.

        Parameters
        ----------
        X : array-like, sparse array, RowSource, zarr.Array, h5py.Dataset or dask.array.Array, shape (n, d)
        out : str or path, optional
            Write the predictions to a Zarr array there instead of returning them.
        overwrite : bool

        Returns
        -------
        ndarray, shape (n,)

        Notes
        -----
        Cost: one pass over X, ``2 n s d`` flops for s support vectors.
        """
        return self._respond(X, self._predicted, out, overwrite=overwrite)

    def _predicted(self, z: Vector) -> Vector:
        return z[:, 0]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the coefficient of determination R2 of the predictions."""
        truth = read_targets(y) if is_streamed(y) else y
        weight = read_column(sample_weight) if is_streamed(sample_weight) else sample_weight
        return float(r2_score(truth, self.predict(X), sample_weight=weight))
