"""Logistic regression on data that do not fit in memory."""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import expit, softmax

from nysstream.errors import InputError
from nysstream.estimators.classifying import LinearClassifier
from nysstream.estimators.lasso import check_strength
from nysstream.estimators.penalised import Penalty
from nysstream.estimators.targets import check_class_weight
from nysstream.losses import Logistic, Loss, Multinomial

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def check_inverse_strength(value: Any) -> None:
    """Refuse a C that is no positive number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not float(value) > 0:
        message = (
            f"C={value!r} is out of range: give a positive number, the inverse of the penalty's strength"
        )
        raise InputError(message)


@dataclass(eq=False, repr=False)
class LogisticRegression(LinearClassifier):
    r"""Classification by penalised logistic loss, streamed from disk, with a duality gap.

    Minimises, as :class:`sklearn.linear_model.LogisticRegression` does,
    :math:`C \sum_i h_i \ell_i(w, b) + \rho \|w\|_1 + \frac{1 - \rho}{2} \|w\|^2`, with :math:`\rho` the
    ``l1_ratio``, weights :math:`h` and :math:`\ell` minus the log-likelihood: binary for two classes,
    multinomial for more. Intercepts are not penalised.

    Parameters
    ----------
    C : float, default 1.0
        Positive; infinity for no penalty.
    l1_ratio : float, default 0.0
        From 0, l2, to 1, l1.
    class_weight : dict or "balanced", optional
        Factors on the weights of the rows of each class.
    features : FeatureMap or str, optional
        Applied to each row as it streams by.
    rank : int or "auto", default "auto"
        Columns of the sketch, for ``solver="admm"`` and preconditioned stochastic methods. Automatic: for
        the latter no sketch but the Hessian of sampled rows, where it fits.
    standardize : bool, default False
        Penalise the coefficients of columns scaled to unit variance.
    fit_intercept : bool, default True
    solver : str, default "auto"
        ``"newton"`` is proximal Newton, with Hessians summed in the same passes as the gradients;
        ``"subsampled"`` with Hessians of sampled rows. ``"admm"`` solves the same models by NysADMM, with
        Hessians as operators over the data. Automatic: Newton where the Hessians fit.

        Stochastic methods see the rows in minibatches, and are good after a few passes:
        ``"sketchysvrg"``, ``"sketchysaga"``, ``"sketchylsvrg"``, ``"sketchykatyusha"`` and ``"sapphire"``
        converge, ``"sketchysgd"`` comes near; ``"svrg"``, ``"saga"`` and ``"sgd"`` are those without a
        preconditioner. ``"hybrid"`` goes on by proximal Newton once the answer is good to 1e-3.
        ``"osgm"`` takes full gradients, with scales that it learns.
    tol : float, default 1e-6
        Relative duality gap at which to stop; for several classes with intercepts, relative distance from
        optimality.
    max_passes, time_limit, precision, memory, device, random_state, callback
        As for :class:`nysstream.ElasticNet`.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
    coef_ : ndarray, shape (1, p) or (n_classes, p)
    intercept_ : ndarray, shape (1,) or (n_classes,)
    features_, n_features_in_, n_iter_, result_
        As for :class:`nysstream.ElasticNet`.

    Notes
    -----
    Cost: one pass to set up, one per model (five to ten of them), and with NysADMM one for each step of
    conjugate gradients. Memory: ``16 p^2`` bytes a class with Newton, ``8 p rank`` with NysADMM.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> model = LogisticRegression().fit(X, ["no", "no", "yes", "yes"])
    >>> model.predict([[-1.0], [4.0]]).tolist()
    ['no', 'yes']
    """

    C: float = 1.0
    l1_ratio: float = 0.0
    class_weight: Any = None

    def _check_own_settings(self) -> None:
        check_inverse_strength(self.C)
        check_strength("l1_ratio", self.l1_ratio, 1.0)
        check_class_weight(self.class_weight)

    def _loss(self) -> Loss:
        return Multinomial() if self.classes_.size > 2 else Logistic()

    def _n_columns(self, n_targets: int) -> int:
        return self.classes_.size if self.classes_.size > 2 else 1

    def _penalty(self, weight: float) -> Penalty:
        return Penalty(self.l1_ratio / self.C, (1 - self.l1_ratio) / self.C)

    def _unit(self, weight: float) -> float:
        return 1.0 / self.C if np.isfinite(self.C) else 1.0

    def predict_proba(self, X: Any, out: str | Path | None = None, *, overwrite: bool = False) -> Any:
        """Give the probability of each class for the rows of X.

        Parameters
        ----------
        X, out, overwrite
            As for :meth:`decision_function`.

        Returns
        -------
        ndarray, shape (n, n_classes)

        Notes
        -----
        Cost: one pass over X.
        """
        return self._respond(X, self._probabilities, out, overwrite=overwrite)

    def predict_log_proba(self, X: Any) -> NDArray[np.float64]:
        """Give the logarithms of the probabilities of :meth:`predict_proba`."""
        return np.asarray(np.log(self.predict_proba(X)))

    def _probabilities(self, fitted: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.classes_.size > 2:
            return np.asarray(softmax(fitted, axis=1))
        return np.column_stack([expit(-fitted[:, 0]), expit(fitted[:, 0])])
