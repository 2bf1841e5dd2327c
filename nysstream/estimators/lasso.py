"""Least squares with an l1 penalty, an elastic net, or bounds, streamed from disk."""

from __future__ import annotations

import numbers
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from sklearn.base import MultiOutputMixin, RegressorMixin

from nysstream.errors import InputError
from nysstream.estimators.linear import LinearModel
from nysstream.estimators.penalised import Penalised, Penalty
from nysstream.estimators.stochastic import STOCHASTIC
from nysstream.losses import Loss, Squared
from nysstream.streaming import DesignMatrix

LEAST_SQUARES_METHODS = ("gram", "admm", *STOCHASTIC)


@dataclass(eq=False, repr=False)
class _LeastSquares(MultiOutputMixin, RegressorMixin, Penalised):
    """Half the mean of squares, and a penalty."""

    methods: ClassVar[tuple[str, ...]] = LEAST_SQUARES_METHODS
    least_squares: ClassVar[bool] = True
    score = LinearModel.score  # scikit-learn's holds all rows

    def _loss(self) -> Loss:
        return Squared()


def check_strength(name: str, value: Any, most: float = np.inf) -> None:
    """Refuse a strength that is no number, negative, or beyond ``most``."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= float(value) <= most:
        upper = "" if most == np.inf else f" and at most {most:g}"
        message = f"{name}={value!r} is out of range: give a number that is not negative{upper}"
        raise InputError(message)
    if not np.isfinite(float(value)):
        message = f"{name}={value!r} is out of range: it must be finite"
        raise InputError(message)


@dataclass(eq=False, repr=False)
class ElasticNet(_LeastSquares):
    r"""Least squares with l1 and l2 penalties, streamed from disk, with a duality gap.

    Minimises, as :class:`sklearn.linear_model.ElasticNet` does,
    :math:`\frac{1}{2 \sum h} \sum_i h_i (y_i - b - \phi(x_i)^\top w)^2 + \alpha \rho \|w\|_1 +
    \frac{\alpha (1 - \rho)}{2} \|w\|^2` with sample weights :math:`h`, feature map :math:`\phi`,
    unpenalised intercept b and :math:`\rho` the ``l1_ratio``. With two-dimensional y, one model for each
    target, from the same passes.

    Parameters
    ----------
    alpha : float, default 1.0
        Not negative.
    l1_ratio : float, default 0.5
        From 0, ridge, to 1, lasso.
    positive : bool, default False
        Whether coefficients must not be negative.
    features : FeatureMap or str, optional
        Applied to each row as it streams by.
    rank : int or "auto", default "auto"
        Columns of the sketch, for ``solver="admm"``.
    standardize : bool, default False
        Penalise the coefficients of columns scaled to unit variance.
    fit_intercept : bool, default True
    solver : str, default "auto"
        ``"gram"`` sums the Gram matrix in the set-up pass, solves in memory and refines with passes in
        double precision. ``"admm"`` is NysADMM: products with the data, preconditioned with a sketch.
        Automatic: the Gram matrix where it fits. Or a stochastic method, as for
        :class:`nysstream.LogisticRegression`.
    tol : float, default 1e-6
        Relative duality gap at which to stop; where the penalty admits none, relative distance from
        optimality.
    max_passes : int, optional
        Limit on reads of the data, the set-up pass included.
    time_limit : float, optional
        Limit on seconds.
    precision : {"single", "double"}, default "single"
        Of products with float32 data and with random features; certificates are always double.
    memory : int or str, optional
        Limit for the whole process, for example ``"2GiB"``; half of what is available if None.
    device : str, optional
        ``"cpu"`` or ``"cuda"``; None takes a GPU where there is one.
    random_state : int, numpy.random.Generator or None, default 0
        Of the sketch.
    callback : callable, optional
        Called with :class:`nysstream.trace.Progress` as rows are done.

    Attributes
    ----------
    coef_ : ndarray, shape (p,) or (q, p)
        Of the features; zeros are exact.
    intercept_ : float or ndarray, shape (q,)
    features_ : FeatureMap
    n_features_in_ : int
    n_iter_ : int
        Quadratic models solved.
    result_ : FitResult
        History, trace and statistics of the fit; ``stats["duality_gap"]`` bounds how far the objective is
        from its minimum, relative to it.

    Notes
    -----
    Cost: with the Gram matrix two or three passes, ``n p^2`` flops and ``24 p^2`` bytes; with NysADMM two
    passes and one for each step of conjugate gradients, and ``8 p rank`` bytes. Memory does not grow with
    the rows.

    References
    ----------
    .. [1] Zhao, Frangella and Udell, "NysADMM: faster composite convex optimization via low-rank
       approximation", ICML 2022.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.eye(4)[[0, 1, 2, 3, 0, 1]]
    >>> model = ElasticNet(alpha=0.05, l1_ratio=1.0).fit(X, X @ [2.0, -2.0, 0.0, 0.0])
    >>> model.coef_.round(2).tolist()
    [1.85, -1.85, -0.0, -0.0]
    """

    alpha: float = 1.0
    l1_ratio: float = 0.5
    positive: bool = False

    def _check_own_settings(self) -> None:
        check_strength("alpha", self.alpha)
        check_strength("l1_ratio", self.l1_ratio, 1.0)

    def _penalty(self, weight: float) -> Penalty:
        lower = 0.0 if self.positive else -np.inf
        l1, l2 = self.alpha * self.l1_ratio, self.alpha * (1 - self.l1_ratio)
        return Penalty(l1 * weight, l2 * weight, lower)


@dataclass(eq=False, repr=False)
class Lasso(_LeastSquares):
    r"""Least squares with an l1 penalty, streamed from disk, with a duality gap.

    Minimises :math:`\frac{1}{2 \sum h} \sum_i h_i (y_i - b - \phi(x_i)^\top w)^2 + \alpha \|w\|_1`, as
    :class:`sklearn.linear_model.Lasso` does.

    Parameters
    ----------
    alpha : float, default 1.0
        Not negative.
    positive : bool, default False
        Whether coefficients must not be negative.
    features, rank, standardize, fit_intercept, solver, tol, max_passes, time_limit, precision
        As for :class:`ElasticNet`.
    memory, device, random_state, callback
        As for :class:`ElasticNet`.

    Attributes
    ----------
    coef_, intercept_, features_, n_features_in_, n_iter_, result_
        As for :class:`ElasticNet`.
    """

    alpha: float = 1.0
    positive: bool = False

    def _check_own_settings(self) -> None:
        check_strength("alpha", self.alpha)

    def _penalty(self, weight: float) -> Penalty:
        return Penalty(self.alpha * weight, 0.0, 0.0 if self.positive else -np.inf)


@dataclass(eq=False, repr=False)
class BoundedRegression(_LeastSquares):
    r"""Least squares whose coefficients stay within bounds, streamed from disk.

    Minimises the objective of :class:`ElasticNet` subject to :math:`l \le w \le u`. With the defaults these
    are non-negative least squares.

    Parameters
    ----------
    lower, upper : float or array-like, shape (p,), default 0 and infinity
        Bounds on the coefficients of the features; they hold exactly.
    alpha : float, default 0.0
    l1_ratio : float, default 0.0
        Penalty, as for :class:`ElasticNet`.
    features, rank, standardize, fit_intercept, solver, tol, max_passes, time_limit, precision
        As for :class:`ElasticNet`.
    memory, device, random_state, callback
        As for :class:`ElasticNet`.

    Attributes
    ----------
    coef_, intercept_, features_, n_features_in_, n_iter_, result_
        As for :class:`ElasticNet`.

    Notes
    -----
    A duality gap exists where every coefficient has two finite bounds or an l2 penalty; else the distance
    from optimality is certified.
    """

    lower: Any = 0.0
    upper: Any = np.inf
    alpha: float = 0.0
    l1_ratio: float = 0.0

    def _check_own_settings(self) -> None:
        check_strength("alpha", self.alpha)
        check_strength("l1_ratio", self.l1_ratio, 1.0)
        lower, upper = np.asarray(self.lower, np.float64), np.asarray(self.upper, np.float64)
        if lower.ndim > 1 or upper.ndim > 1 or np.isnan(lower).any() or np.isnan(upper).any():
            message = "lower and upper must be numbers, or one-dimensional arrays of numbers, and not NaN"
            raise InputError(message)
        try:
            crossed = np.atleast_1d(lower > upper)
        except ValueError as error:
            message = f"lower has {lower.size} entries, upper {upper.size}: give one for each feature"
            raise InputError(message) from error
        if crossed.any():
            j = int(np.flatnonzero(crossed)[0])
            pair = np.broadcast_arrays(lower, upper)
            values = [float(np.atleast_1d(bound)[j]) for bound in pair]
            message = f"lower > upper at feature {j} ({values[0]:g} > {values[1]:g}): no coefficient fits"
            raise InputError(message)

    def _plan(self, design: DesignMatrix) -> Any:
        p = design.shape[1]
        for name in ("lower", "upper"):
            size = np.size(getattr(self, name))
            if size not in (1, p):
                message = f"{name} has {size} entries for {p} features: give a number, or one for each"
                raise InputError(message)
        return super()._plan(design)

    def _penalty(self, weight: float) -> Penalty:
        l1, l2 = self.alpha * self.l1_ratio, self.alpha * (1 - self.l1_ratio)
        return Penalty(l1 * weight, l2 * weight, self.lower, self.upper)
