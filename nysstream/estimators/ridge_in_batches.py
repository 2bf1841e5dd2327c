"""Ridge regression by stochastic methods: squares as a loss like others."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.base import MultiOutputMixin

from nysstream.errors import InputError
from nysstream.estimators.penalised import Penalised, Penalty, Settings
from nysstream.estimators.stochastic import STOCHASTIC
from nysstream.losses import Loss, Squared
from nysstream.streaming import Outcome

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vector = NDArray[np.float64]
    Block = NDArray[np.float64]


def pair_targets(alpha: Any, n_targets: int, *, vector: bool) -> tuple[NDArray[np.intp], Vector]:
    """Pair targets with strengths: what the columns of a ridge regression are.

    Parameters
    ----------
    alpha : float or array-like
    n_targets : int
    vector : bool
        Whether the targets are one-dimensional.

    Returns
    -------
    targets : ndarray of int, shape (k,)
    shifts : ndarray, shape (k,)

    Raises
    ------
    InputError
        If the numbers do not go together.
    """
    alphas, q = np.asarray(alpha, dtype=np.float64), n_targets
    if alphas.ndim == 0:
        return np.arange(q), np.full(q, float(alphas))
    if vector:
        return np.zeros(alphas.size, np.intp), alphas
    if alphas.size in (1, q):
        return np.arange(q), np.broadcast_to(alphas, q).copy()
    message = f"{alphas.size} alphas for {q} targets: give one for all, or one per target"
    raise InputError(message)


@dataclass(eq=False, repr=False)
class RidgeInBatches(MultiOutputMixin, Penalised):
    """The sum of squares and an l2 penalty, with a column for each pair of target and strength."""

    methods: ClassVar[tuple[str, ...]] = STOCHASTIC
    least_squares: ClassVar[bool] = True

    alpha: Any = 1.0

    @classmethod
    def of(cls, ridge: Any) -> RidgeInBatches:
        """Take over the settings of a :class:`nysstream.Ridge`."""
        if ridge.warm_start:
            message = (
                f"warm_start=True does not go with solver={ridge.solver!r}: leave it out, or use 'nystrom'"
            )
            raise InputError(message)
        return cls(alpha=ridge.alpha, **{item.name: getattr(ridge, item.name) for item in fields(Settings)})

    def hand_over(self, ridge: Any) -> None:
        """Give what was fitted."""
        names = ("coef_", "intercept_", "target_mean_", "features_", "n_iter_", "result_")
        for name in names:
            setattr(ridge, name, getattr(self, name))
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self, name):
                setattr(ridge, name, getattr(self, name))

    def _loss(self) -> Loss:
        return Squared()

    def _unit(self, weight: float) -> float:
        return 0.5  # the loss is half the square

    def _pairs(self, q: int) -> tuple[NDArray[np.intp], Vector]:
        return pair_targets(self.alpha, q, vector=self._vector)

    def _sources(self, X: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
        source, target, weight = super()._sources(X, y, sample_weight)
        self._vector = bool(target.vector)
        self._single_target = self._vector and np.ndim(self.alpha) == 0
        self._shifts = self._pairs(target.shape[1])[1]
        return source, target, weight

    def _n_columns(self, n_targets: int) -> int:
        return int(self._shifts.size)

    def _penalty(self, weight: float) -> Penalty:
        return Penalty(0.0, self._shifts)

    def _outcome(self, loss: Loss, statistics: Any, target: Any) -> tuple[Outcome, Vector, float]:
        targets, _ = self._pairs(statistics.target_mean.size)
        return Outcome(loss, targets), statistics.target_mean[targets].copy(), statistics.weight

    def _set_coefficients(self, coef: Block, intercept: Vector) -> None:
        super()._set_coefficients(coef, intercept)
        if not self.fit_intercept:
            self.intercept_ = 0.0
