"""Generalised linear models on data that do not fit in memory."""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils.validation import check_is_fitted

from nysstream.errors import InputError
from nysstream.estimators.inputs import scoring_sources
from nysstream.estimators.lasso import check_strength
from nysstream.estimators.penalised import Penalised, Penalty
from nysstream.losses import Gamma, Loss, Poisson, Tweedie

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(eq=False, repr=False)
class _GeneralizedLinear(RegressorMixin, Penalised):
    """Half the mean deviance and an l2 penalty; predictions are expected values."""

    #: What ``score`` gives.
    measure: ClassVar[str] = "d2"

    alpha: float = 1.0

    def _check_own_settings(self) -> None:
        check_strength("alpha", self.alpha)

    def _penalty(self, weight: float) -> Penalty:
        return Penalty(0.0, self.alpha * weight)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # The smallest valid target is not below zero where negative ones are refused.
        tags.target_tags.positive_only = bool(self._loss().invalid(np.array([[-1.0]])).any())
        return tags

    def _predicted(self, fitted: NDArray[np.float64]) -> NDArray[Any]:
        return np.asarray(self._loss().predict(super()._predicted(fitted)))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return D2, the share of the deviance that the model explains; 1 is best.

        Notes
        -----
        Cost: one pass over X, two reads of y; nothing of length n is held.
        """
        check_is_fitted(self)
        source, target, weight = scoring_sources(self, X, y, sample_weight)
        loss, n_rows = self._loss(), source.shape[0]

        def read(rows: slice) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
            values = np.asarray(target.read(rows), np.float64)
            h = np.ones((len(values), 1)) if weight is None else np.asarray(weight.read(rows), np.float64)
            return values, h

        sums = total = 0.0
        for a in range(0, n_rows, 1 << 18):
            values, h = read(slice(a, min(a + (1 << 18), n_rows)))
            sums, total = sums + float(np.sum(h * values)), total + float(np.sum(h))
        null = np.asarray(loss.start(np.array([sums / total])), np.float64)
        model = constant = least = 0.0
        start = 0
        for fitted in self._predict_windows(source):
            values, h = read(slice(start, start + len(fitted)))
            start += len(fitted)
            model += float(np.sum(h * loss.value(fitted, values)))
            constant += float(np.sum(h * loss.value(np.broadcast_to(null, fitted.shape), values)))
            least += float(np.sum(h * -np.asarray(loss.conjugate(np.zeros_like(values), values))))
        return 1.0 - (model - least) / (constant - least)


@dataclass(eq=False, repr=False)
class PoissonRegressor(_GeneralizedLinear):
    r"""Poisson regression with log link and l2 penalty, streamed from disk, with a duality gap.

    Minimises :math:`\frac{1}{2 \sum h} \sum_i h_i\, d(y_i, \mu_i) + \frac{\alpha}{2} \|w\|^2` with the
    Poisson deviance d, as :class:`sklearn.linear_model.PoissonRegressor` does. Targets must not be negative.

    Parameters
    ----------
    alpha : float, default 1.0
        Not negative.
    features, rank, standardize, fit_intercept, solver, tol, max_passes, time_limit, precision
        As for :class:`nysstream.LogisticRegression`.
    memory, device, random_state, callback
        As for :class:`nysstream.LogisticRegression`.

    Attributes
    ----------
    coef_ : ndarray, shape (p,)
    intercept_ : float
    features_, n_features_in_, n_iter_, result_
        As for :class:`nysstream.ElasticNet`.
    """

    def _loss(self) -> Loss:
        return Poisson()


@dataclass(eq=False, repr=False)
class GammaRegressor(_GeneralizedLinear):
    r"""Gamma regression with log link and l2 penalty, streamed from disk, with a duality gap.

    The objective is that of :class:`nysstream.PoissonRegressor` with the Gamma deviance, as in
    :class:`sklearn.linear_model.GammaRegressor`. Targets must be positive.

    Parameters
    ----------
    alpha, features, rank, standardize, fit_intercept, solver, tol, max_passes, time_limit, precision
        As for :class:`nysstream.PoissonRegressor`.
    memory, device, random_state, callback
        As for :class:`nysstream.PoissonRegressor`.

    Attributes
    ----------
    coef_, intercept_, features_, n_features_in_, n_iter_, result_
        As for :class:`nysstream.PoissonRegressor`.
    """

    def _loss(self) -> Loss:
        return Gamma()


@dataclass(eq=False, repr=False)
class TweedieRegressor(_GeneralizedLinear):
    r"""Regression with a Tweedie deviance and l2 penalty, streamed from disk.

    The objective is that of :class:`nysstream.PoissonRegressor` with the Tweedie deviance of the given power,
    as in :class:`sklearn.linear_model.TweedieRegressor`; the link is the identity for powers up to 0 and the
    logarithm beyond.

    Parameters
    ----------
    power : float, default 0.0
        0 normal, 1 Poisson, 2 Gamma, 3 inverse Gaussian; none between 0 and 1.
    alpha, features, rank, standardize, fit_intercept, solver, tol, max_passes, time_limit, precision
        As for :class:`nysstream.PoissonRegressor`.
    memory, device, random_state, callback
        As for :class:`nysstream.PoissonRegressor`.

    Attributes
    ----------
    coef_, intercept_, features_, n_features_in_, n_iter_, result_
        As for :class:`nysstream.PoissonRegressor`.
    """

    power: float = 0.0

    def _check_own_settings(self) -> None:
        super()._check_own_settings()
        power: Any = self.power
        if isinstance(power, bool) or not isinstance(power, numbers.Real) or 0 < float(power) < 1:
            message = f"power={self.power!r} is out of range: give a number that is not between 0 and 1"
            raise InputError(message)

    def _loss(self) -> Loss:
        return Tweedie(float(self.power))
