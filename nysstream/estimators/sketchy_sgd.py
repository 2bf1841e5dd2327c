"""SketchySGD with what users of scikit-learn's SGD estimators know: losses, ``partial_fit``, averages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from scipy.special import expit, softmax
from sklearn.base import RegressorMixin
from sklearn.utils.metaestimators import available_if

from nysstream.arrays import namespace
from nysstream.errors import InputError
from nysstream.estimators.classifying import LinearClassifier
from nysstream.estimators.linear import LinearModel
from nysstream.estimators.partial_rows import classified_rows, regression_rows
from nysstream.estimators.sketched_epochs import SketchedEpochs
from nysstream.estimators.targets import check_class_weight, find_classes
from nysstream.losses import Huber, Logistic, Loss, Multinomial, Squared, SquaredHinge

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from nysstream.streaming import DesignMatrix


class _Majorised(Huber):
    """The Huber loss with the curvature of the parabola that touches it and is never below it.

    Its own curvature is zero wherever residuals are large, and says nothing about the length of steps.
    """

    def curvature(self, z: Any, y: Any) -> Any:
        """Give delta over the residual, and one at most."""
        xp = namespace(z)
        size = xp.abs(z - y)
        return xp.where(size > self.delta, self.delta / xp.where(size > 0, size, 1.0), xp.ones_like(size))


class _Floored(SquaredHinge):
    """The squared hinge loss with some curvature left where it is flat.

    Once no sampled row is within its margin there would be none to measure steps by.
    """

    def curvature(self, z: Any, y: Any) -> Any:
        """Give a thousandth of the bound at least."""
        found = super().curvature(z, y)
        least = namespace(z).zeros_like(found) + 1e-3 * self.curvature_bound
        return namespace(z).where(found > least, found, least)


@dataclass(eq=False, repr=False)
class SketchySGDRegressor(RegressorMixin, SketchedEpochs):
    r"""Regression by SketchySGD, streamed from disk: good after a few passes.

    Minimises :math:`\frac{1}{\sum h} \sum_i h_i \ell(\phi(x_i)^\top w + b, y_i) + \alpha R(w)` with weights
    :math:`h`, feature map :math:`\phi` and unpenalised intercept b, as
    :class:`sklearn.linear_model.SGDRegressor` does. Steps are along gradients of minibatches, preconditioned
    with the curvature of sampled rows: there is no learning rate to choose, and columns need no scaling.

    Parameters
    ----------
    loss : {"squared_error", "huber"}
        Half the square of the error; or that up to ``epsilon``, and linear beyond.
    penalty : {"l2", "l1", "elasticnet", None}
        R: half the square of the norm; the sum of absolute values, whose zeros are exact; or a mixture.
    alpha : float, default 1e-4
        Not negative.
    l1_ratio : float, default 0.15
        Share of l1 in the mixture.
    early_stopping : bool, default False
        Stop when the loss on rows held out no longer falls, and keep the coefficients of its least value.
    validation_fraction : float, default 0.1
        Of the rows, to be held out: whole chunks of a store, read once after every epoch.
    n_iter_no_change : int, default 5
        Epochs in a row that may fail to lower the loss by ``tol``. Each of them halves the steps.
    average : bool, default True
        Give the mean of the epochs' results, later ones weighing more, rather than the last. An epoch's
        result is the mean over its second half in any case. Short calls of ``partial_fit`` need it most.
    tol : float, default 1e-3
        Part of the loss by which an epoch must lower it, to count. The loss is that of the rows held out; or
        without them, what the batches of an epoch showed as they came.
    epsilon : float, default 0.1
        Of the Huber loss, in the units of the targets.
    features : FeatureMap or str, optional
        Applied to each row as it streams by.
    rank : int or "auto", default "auto"
        Of the preconditioner. Automatic: the whole matrix where it fits, and nothing asks for less.
    solver : {"auto", "sketchysgd", "sgd"}
        ``"sgd"`` is without preconditioner.
    max_passes : int, optional
        Limit on reads of the data: one to set up, one an epoch, one at the end.
    standardize, fit_intercept, time_limit, precision, memory, device, random_state, callback
        As for :class:`nysstream.ElasticNet`.

    Attributes
    ----------
    coef_ : ndarray, shape (p,)
    intercept_ : float
    features_, n_features_in_
        As for :class:`nysstream.ElasticNet`.
    n_iter_ : int
        Epochs.
    result_ : FitResult
        ``stats["optimality"]`` is the distance from optimality after the last epoch, of the full gradient in
        double precision. ``history`` has the ``loss`` that was watched.

    Notes
    -----
    Cost: two passes and one for each epoch. Memory: the preconditioner, ``4 p^2`` or ``48 p rank`` bytes,
    the sampled rows, and two windows of chunks.

    Rows must not be stored in an order that means something, such as sorted by the target: convert them with
    ``--shuffle`` then.

    References
    ----------
    .. [1] Frangella, Rathore, Zhao and Udell, "SketchySGD: Reliable stochastic optimization via randomized
       curvature estimates", SIMODS 2024.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).standard_normal((500, 3)) * [1.0, 10.0, 100.0]
    >>> SketchySGDRegressor(alpha=0.0).fit(X, X @ [1.0, 2.0, 3.0]).coef_.round(2).tolist()
    [1.0, 2.0, 3.0]
    """

    losses: ClassVar[tuple[str, ...]] = ("squared_error", "huber")
    score = LinearModel.score  # scikit-learn's holds all rows

    epsilon: float = 0.1

    def _check_own_settings(self) -> None:
        super()._check_own_settings()
        if not self.epsilon > 0:
            message = f"epsilon={self.epsilon!r} is out of range: give a positive number"
            raise InputError(message)

    def _loss(self) -> Loss:
        return _Majorised(self.epsilon) if self.loss == "huber" else Squared()

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Run one epoch over some rows, from where the last call, or ``fit``, has ended.

        Parameters
        ----------
        X : array-like, sparse array, RowSource, zarr.Array, h5py.Dataset or dask.array.Array, shape (n, d)
        y : as X, shape (n,)
        sample_weight : as y, shape (n,), optional

        Raises
        ------
        InputError
            If an argument or a value of the data cannot be used; names it.

        Notes
        -----
        Cost: two reads of these rows. A sample of all rows so far is kept for the preconditioner, which is
        made anew whenever their number has doubled. Fewer than 64 rows are stepped over together with sampled
        ones, so that single rows may be given, at the price of 64.
        """
        self._check_settings()
        first = not hasattr(self, "coef_")
        return self._partial(*regression_rows(self, X, y, sample_weight, reset=first))


@dataclass(eq=False, repr=False)
class SketchySGDClassifier(LinearClassifier, SketchedEpochs):
    r"""Classification by SketchySGD, streamed from disk: good after a few passes.

    Minimises :math:`\frac{1}{\sum h} \sum_i h_i \ell(\phi(x_i)^\top w + b, y_i) + \alpha R(w)`, as
    :class:`sklearn.linear_model.SGDClassifier` does: one class against the rest where there are more than
    two, all from the same passes. Steps are along gradients of minibatches, preconditioned with the curvature
    of sampled rows: there is no learning rate to choose, and columns need no scaling.

    Parameters
    ----------
    loss : {"log_loss", "squared_hinge", "multinomial"}
        The last is the logistic loss of all classes together.
    penalty, alpha, l1_ratio, early_stopping, validation_fraction, n_iter_no_change, average, tol
        As for :class:`SketchySGDRegressor`.
    class_weight : dict or "balanced", optional
        Factors on the weights of the rows of each class.
    features, rank, standardize, fit_intercept, solver, max_passes, time_limit, precision
        As for :class:`SketchySGDRegressor`.
    memory, device, random_state, callback
        As for :class:`SketchySGDRegressor`.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
    coef_ : ndarray, shape (1, p) or (n_classes, p)
    intercept_ : ndarray, shape (1,) or (n_classes,)
    features_, n_features_in_, n_iter_, result_
        As for :class:`SketchySGDRegressor`.

    Notes
    -----
    Costs are those of :class:`SketchySGDRegressor`, with a preconditioner for each class.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).standard_normal((500, 3))
    >>> model = SketchySGDClassifier().fit(X, np.where(X[:, 0] > 0, "up", "down"))
    >>> model.predict([[2.0, 0.0, 0.0], [-2.0, 0.0, 0.0]]).tolist()
    ['up', 'down']
    """

    losses: ClassVar[tuple[str, ...]] = ("log_loss", "squared_hinge", "multinomial")

    loss: str = "log_loss"
    class_weight: Any = None
    tol: float = field(default=1e-3, kw_only=True)

    def _check_own_settings(self) -> None:
        super()._check_own_settings()
        check_class_weight(self.class_weight)

    def _loss(self) -> Loss:
        if self.loss == "squared_hinge":
            return _Floored()
        return Multinomial() if self.loss == "multinomial" and self.classes_.size > 2 else Logistic()

    def _n_columns(self, n_targets: int) -> int:
        return self.classes_.size if self.classes_.size > 2 else 1

    def _train_on(self, design: DesignMatrix) -> None:
        assert design.target is not None
        stored, sums = find_classes(design.target, design.weight)
        self._class_sums = np.zeros(self._stored_classes.size)
        self._class_sums[np.searchsorted(self._stored_classes, stored)] = sums

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Run one epoch over some rows, from where the last call, or ``fit``, has ended.

        Parameters
        ----------
        X : array-like, sparse array, RowSource, zarr.Array, h5py.Dataset or dask.array.Array, shape (n, d)
        y : as X, shape (n,)
        classes : array-like, shape (n_classes,)
            All there will be. Needed in the first call; those of a fitted model need not be given.
        sample_weight : as y, shape (n,), optional

        Raises
        ------
        InputError
            If an argument or a value of the data cannot be used; names it.

        Notes
        -----
        Cost: as for :meth:`SketchySGDRegressor.partial_fit`.
        """
        self._check_settings()
        first = not hasattr(self, "coef_")
        if isinstance(self.class_weight, str):
            message = (
                "class_weight='balanced' needs all rows, which partial_fit has not: give a dict of weights"
            )
            raise InputError(message)
        if first and classes is None:
            message = "classes must be passed on the first call to partial_fit"
            raise InputError(message)
        if classes is not None:
            given = np.unique(np.asarray(classes))
            if not first and not np.array_equal(given, self.classes_):
                message = f"classes={classes!r} is not the same as on last call to partial_fit or fit"
                raise InputError(message)
            if given.size < 2:
                message = f"classes={classes!r}: there must be at least two"
                raise InputError(message)
        else:
            given = self.classes_
        return self._partial(*classified_rows(self, X, y, sample_weight, given, reset=first))

    def _probable(self) -> bool:
        if self.loss == "squared_hinge":
            message = f"probabilities are not available for loss={self.loss!r}"
            raise AttributeError(message)
        return True

    @available_if(_probable)  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any, out: str | Path | None = None, *, overwrite: bool = False) -> Any:
        """Give the probability of each class for the rows of X.

        Parameters
        ----------
        X, out, overwrite
            As for :meth:`decision_function`.

        Returns
        -------
        ndarray, shape (n, n_classes)
            Of classes against the rest, those of each row are scaled to a sum of one.

        Notes
        -----
        Cost: one pass over X.
        """
        return self._respond(X, self._probabilities, out, overwrite=overwrite)

    @available_if(_probable)  # type: ignore[untyped-decorator]
    def predict_log_proba(self, X: Any) -> NDArray[np.float64]:
        """Give the logarithms of the probabilities of :meth:`predict_proba`."""
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(self.predict_proba(X)))

    def _probabilities(self, fitted: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.classes_.size == 2:
            return np.column_stack([expit(-fitted[:, 0]), expit(fitted[:, 0])])
        if self.loss == "multinomial":
            return np.asarray(softmax(fitted, axis=1))
        each = expit(fitted)
        total = each.sum(axis=1, keepdims=True)
        return np.asarray(np.where(total > 0, each / np.where(total > 0, total, 1), 1 / self.classes_.size))
