"""Linear support vector classification on data that do not fit in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.errors import InputError
from nysstream.estimators.classifying import LinearClassifier
from nysstream.estimators.kinked import fit_penalised, plan_kinked
from nysstream.estimators.logistic import check_inverse_strength
from nysstream.estimators.penalised import Penalty
from nysstream.estimators.targets import check_class_weight, class_factors
from nysstream.losses import Hinge, Loss, SquaredHinge
from nysstream.streaming import Labels
from nysstream.streaming.row_steps import Costs

if TYPE_CHECKING:
    from nysstream.solvers import Result
    from nysstream.streaming import DesignMatrix
    from nysstream.trace import Trace


@dataclass(eq=False, repr=False)
class LinearSVC(LinearClassifier):
    r"""Classification by the hinge loss or its square and an l2 penalty, streamed from disk.

    Minimises :math:`\tfrac12 \|w\|^2 + C \sum_i h_i \max(0, 1 - s_i (\phi(x_i)^\top w + b))^q` with signs
    :math:`s_i = \pm 1`, one class against the rest where there are more than two, all from the same passes.
    The objective is that of :class:`sklearn.svm.LinearSVC` but for the intercept, which is not penalised.

    Parameters
    ----------
    C : float, default 1.0
        Positive.
    class_weight : dict or "balanced", optional
        Factors on the weights of the rows of each class.
    loss : {"squared_hinge", "hinge"}
        Whether q is 2 or 1. The hinge loss has a kink, and methods of its own, those of
        :class:`nysstream.SVC` with features; it goes with ``solver="auto"``. A rank asks for operator
        splitting then.
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
    loss: str = "squared_hinge"

    def _check_own_settings(self) -> None:
        check_inverse_strength(self.C)
        check_class_weight(self.class_weight)
        if self.loss not in ("squared_hinge", "hinge"):
            message = f"loss={self.loss!r} is not known: use 'squared_hinge' or 'hinge'"
            raise InputError(message)
        if self.loss == "hinge" and self.solver != "auto":
            message = f"solver={self.solver!r} is for smooth losses: loss='hinge' goes with solver='auto'"
            raise InputError(message)

    def _loss(self) -> Loss:
        return SquaredHinge() if self.loss == "squared_hinge" else Hinge()

    def _n_columns(self, n_targets: int) -> int:
        return self.classes_.size if self.classes_.size > 2 else 1

    def _penalty(self, weight: float) -> Penalty:
        return Penalty(0.0, 1.0 / self.C)

    def _unit(self, weight: float) -> float:
        return 1.0 / self.C if self.loss == "squared_hinge" else 1.0

    def _plan(self, design: DesignMatrix) -> Any:
        if self.loss == "squared_hinge":
            return super()._plan(design)
        return plan_kinked(
            design, memory=self.memory, rank=self.rank, n_columns=self._n_columns(design.n_targets)
        )

    def _fit_loss(self, design: DesignMatrix, trace: Trace) -> tuple[Result[Any], Any, float]:
        if self.loss == "squared_hinge":
            return super()._fit_loss(design, trace)
        return fit_penalised(self, self._plan(design), self._costs(), trace)

    def _costs(self) -> Costs:
        """Say what errors cost: each column has a class of its own; of two classes, the second."""
        factors = class_factors(self.class_weight, self.classes_, self._class_sums)
        own = np.eye(factors.size)[:, [1] if factors.size == 2 else slice(None)]
        return Costs(Hinge(), self.C * factors[:, None] + 0 * own, Labels(self._stored_classes), own)
