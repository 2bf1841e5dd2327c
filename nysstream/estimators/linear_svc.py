"""Linear support vector classification on data that do not fit in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nysstream.estimators.classifying import LinearClassifier
from nysstream.estimators.logistic import check_inverse_strength
from nysstream.estimators.penalised import Penalty
from nysstream.estimators.targets import check_class_weight
from nysstream.losses import Loss, SquaredHinge


@dataclass(eq=False, repr=False)
class LinearSVC(LinearClassifier):
    r"""Classification by the squared hinge loss and an l2 penalty, streamed from disk.

    Minimises :math:`\tfrac12 \|w\|^2 + C \sum_i h_i \max(0, 1 - s_i (\phi(x_i)^\top w + b))^2` with signs
    :math:`s_i = \pm 1`, one class against the rest where there are more than two, all from the same passes.
    The objective is that of :class:`sklearn.linear_model.LinearSVC` but for the intercept, which is not
    penalised here.

    Parameters
    ----------
    C : float, default 1.0
        Positive.
    class_weight : dict or "balanced", optional
        Factors on the weights of the rows of each class.
    features, rank, standardize, fit_intercept, solver, tol, max_passes, time_limit, precision
        As for :class:`nysstream.LogisticRegression`.
    memory, device, random_state, callback
        As for :class:`nysstream.LogisticRegression`.

    Attributes
    ----------
    classes_, coef_, intercept_, features_, n_features_in_, n_iter_, result_
        As for :class:`nysstream.LogisticRegression`.
    """

    C: float = 1.0
    class_weight: Any = None

    def _check_own_settings(self) -> None:
        check_inverse_strength(self.C)
        check_class_weight(self.class_weight)

    def _loss(self) -> Loss:
        return SquaredHinge()

    def _n_columns(self, n_targets: int) -> int:
        return self.classes_.size if self.classes_.size > 2 else 1

    def _penalty(self, weight: float) -> Penalty:
        return Penalty(0.0, 1.0 / self.C)

    def _unit(self, weight: float) -> float:
        return 1.0 / self.C
