"""Support vector classification with kernels or features, to a duality gap."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array

from nysstream.errors import InputError
from nysstream.estimators.inputs import is_streamed, training_sources
from nysstream.estimators.kernel_machine import check_lengths, read_column
from nysstream.estimators.support import Support, solve_all
from nysstream.estimators.targets import check_class_weight, class_factors, find_classes
from nysstream.losses import Hinge
from nysstream.solvers.svm_dual import BoxDual, DualResult
from nysstream.streaming import Labels
from nysstream.streaming.row_steps import Costs
from nysstream.trace import Trace, tracing

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from nysstream.estimators.composite_plan import LossPlan

    Vector = NDArray[np.float64]


@dataclass(eq=False, repr=False)
class SVC(ClassifierMixin, Support):
    r"""Classification by the hinge loss in the space of a kernel, as :class:`sklearn.svm.SVC`.

    For each pair of classes minimises :math:`\tfrac12 \|f\|^2 + C \sum_i h_i \max(0, 1 - s_i (f(x_i) + b))`
    with signs :math:`s_i = \pm 1` and f in the space of the kernel; pairs then vote. With ``features`` the
    kernel is the inner product of these, and rows are streamed from wherever they are.

    Parameters
    ----------
    C : float, default 1.0
        Positive.
    class_weight : dict or "balanced", optional
        Factors on C for the rows of each class.
    kernel : {"rbf", "linear", "poly", "laplacian", "matern12", "matern32", "matern52"}
        See :class:`nysstream.operators.pairwise.Kernel`.
    gamma : float or {"scale", "auto", "median"}, default "scale"
        ``"scale"`` is one over columns times variance, ``"auto"`` one over columns; ``"median"`` makes the
        length scale the median distance between rows.
    degree : int, default 3
    coef0 : float, default 0.0
    decision_function_shape : {"ovr", "ovo"}
        Whether decisions are given for each class or for each pair.
    tol : float, default 1e-3
        Relative duality gap at which to stop, of every pair.
    time_limit : float, optional
        Seconds; of a kernel, for each pair.
    precision : {"single", "double"}
        Of the kernel of more than 2048 rows, or of products; what certifies these is always double.
    memory : int or str, optional
        Limit for the process. What rows leave of it keeps rows of the kernel matrix, or blocks of rows.
    random_state : int, default 0
        Chooses the rows to begin with.
    callback : callable, optional
        Called with a record of every working set, or pass.
    features : FeatureMap or str, optional
        Of :mod:`nysstream.features`, such as ``Fourier(4000)``; ``"none"`` for the columns as they are. Then
        ``kernel``, ``gamma``, ``degree`` and ``coef0`` are not looked at.
    max_passes : int, optional
        Limit on reads of the rows, with features.
    device : str, optional
        As for :class:`nysstream.Ridge`, with features.

    Attributes
    ----------
    classes_ : ndarray, shape (c,)
    support_ : ndarray, shape (s,)
        Rows with coefficients, class by class.
    support_vectors_ : ndarray, shape (s, d)
    n_support_ : ndarray, shape (c,)
    dual_coef_ : ndarray, shape (c - 1, s)
        Of each support vector against each other class, laid out as in scikit-learn.
    intercept_ : ndarray, shape (c (c - 1) / 2,)
    kernel_ : Kernel
    coef_ : ndarray, shape (c (c - 1) / 2, p)
        With features, instead of what belongs to a kernel and its vectors.
    features_ : FeatureMap
        Likewise.
    n_features_in_, n_iter_, result_

    Notes
    -----
    Cost with a kernel: one pass, which leaves the rows in memory; then, for each pair, one row of its kernel
    matrix for each variable that was ever in a working set, usually about twice the number of support
    vectors. Pairs are solved in parallel. The whole matrix is never made.
    :func:`nysstream.solvers.svm_dual.solve_dual` tells how.

    Cost with features: one pass to set up, and one for each iteration, which all pairs share: ten to thirty
    where a p x p matrix for each pair fits (:class:`nysstream.solvers.augmented.AugmentedLagrangian`),
    otherwise tens to hundreds (:class:`nysstream.solvers.row_splitting.RowSplitting`). ``32 n`` bytes for
    each pair are kept in memory up to 256 MiB, else in a scratch file.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[0.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    >>> model = SVC(C=10.0, gamma=1.0).fit(X, ["same", "same", "other", "other"])
    >>> model.predict([[0.9, 0.9], [0.1, 0.9]]).tolist()
    ['same', 'other']
    """

    C: float = 1.0
    class_weight: Any = None
    decision_function_shape: str = "ovr"

    def _check_settings(self) -> None:
        super()._check_settings()
        if self.decision_function_shape not in ("ovr", "ovo"):
            message = f"decision_function_shape={self.decision_function_shape!r}: use 'ovr' or 'ovo'"
            raise InputError(message)
        check_class_weight(self.class_weight)

    def plan(self, X: Any, y: Any, sample_weight: Any = None) -> LossPlan:
        """Say how a fit would run: memory, method, concurrency. Reads the targets, at most a sample of rows.

        Raises
        ------
        MemoryBudgetError
            If it does not fit ``memory``; names the smallest limit that would do.
        """
        self._check_settings()
        source, target, weight, *_ = self._labels(X, y, sample_weight)
        c = self.classes_.size
        return self._plan(source, target, weight, c * (c - 1) // 2)

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the model.

        Parameters
        ----------
        X : array-like, sparse array, RowSource, zarr.Array, h5py.Dataset or dask.array.Array, shape (n, d)
        y : array-like, or as X, shape (n,)
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
        trace = Trace(listener=None)
        with tracing(trace):
            source, target, weight, stored, factors = self._labels(X, y, sample_weight)
            c = self.classes_.size
            pairs = list(combinations(range(c), 2))
            if self.features is not None:
                self._fit_features(source, target, weight, self._costs(pairs, stored, factors), trace)
                return self
            codes = np.searchsorted(stored, read_column(target))
            weights = (np.ones(len(codes)) if weight is None else read_column(weight)) * factors[codes]
            rows, kernel, budget = self._prepare(source, target, weight, len(pairs))
            members = [np.flatnonzero((codes == k) & (weights > 0)) for k in range(c)]
            problems = []
            for i, j in pairs:
                chosen = np.sort(np.concatenate([members[i], members[j]]))
                # The sign of two classes is turned, so that positive decisions mean the second.
                signs = np.where(codes[chosen] == (i if c > 2 else j), 1.0, -1.0)
                box = self.C * weights[chosen] * signs
                dual = BoxDual(signs, np.minimum(box, 0), np.maximum(box, 0), 0.0, lambda rows: rows)
                problems.append((chosen, dual))
            results = solve_all(self, kernel, rows, problems, budget)
        self._keep(source, codes, pairs, problems, results)
        self._conclude(results, trace, budget, source.shape)
        return self

    def _labels(self, X: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any, Vector, Vector]:
        """Find the classes; gives rows, targets, weights, the classes as stored, and their factors."""
        in_memory = y is not None and not is_streamed(y) and not isinstance(y, str)
        if in_memory:
            labels = column_or_1d(check_array(y, ensure_2d=False, dtype=None, input_name="y"), warn=True)
            check_classification_targets(labels)
            self.classes_, numbers = np.unique(labels, return_inverse=True)
            y = numbers.astype(np.float64)
        source, target, weight = training_sources(self, X, y, sample_weight)
        check_lengths(source, target, weight)
        stored, sums = find_classes(target, weight)
        if not in_memory:
            self.classes_ = stored.astype(np.int64) if np.all(stored == np.rint(stored)) else stored
        if stored.size < 2:
            message = (
                f"{type(self).__name__} needs samples of at least 2 classes in the data, but the data "
                f"contains only one class: {self.classes_[0]!r}"
            )
            raise InputError(message)
        counts = sums if weight is None else find_classes(target, None)[1]
        factors = class_factors(self.class_weight, self.classes_, counts)
        empty = np.flatnonzero(factors * sums == 0)
        if empty.size:
            message = f"class {self.classes_[empty[0]]!r} has no row of positive weight: leave it out"
            raise InputError(message)
        return source, target, weight, stored, factors

    def _costs(self, pairs: list[tuple[int, int]], stored: Vector, factors: Vector) -> Costs:
        """Say what errors cost: a column for each pair of classes, which does not see the others' rows."""
        c, two = self.classes_.size, self.classes_.size == 2
        costs, targets = np.zeros((c, len(pairs))), np.zeros((c, len(pairs)))
        for k, (i, j) in enumerate(pairs):
            costs[[i, j], k] = self.C * factors[[i, j]]
            # The sign of two classes is turned, so that positive decisions mean the second.
            targets[j if two else i, k] = 1.0
        return Costs(Hinge(), costs, Labels(stored), targets)

    def _keep(self, source: Any, codes: Any, pairs: Any, problems: Any, results: list[DualResult]) -> None:
        """Lay out the coefficients as scikit-learn does."""
        n, c = source.shape[0], self.classes_.size
        coefficients = np.zeros((c - 1, n))
        used = np.zeros(n, np.bool_)
        for (i, j), (chosen, _), result in zip(pairs, problems, results, strict=True):
            of_first = codes[chosen] == i
            coefficients[j - 1, chosen[of_first]] = result.beta[of_first]
            coefficients[i, chosen[~of_first]] = result.beta[~of_first]
            used[chosen[result.beta != 0]] = True
        support = np.flatnonzero(used)
        self.support_ = support[np.argsort(codes[support], kind="stable")].astype(np.int32)
        self.n_support_ = np.bincount(codes[support], minlength=c).astype(np.int32)
        self.dual_coef_ = np.ascontiguousarray(coefficients[:, self.support_])
        self.intercept_ = np.array([result.intercept for result in results])
        self._keep_vectors(source)

    def _expansion(self) -> tuple[Any, Vector, Vector]:
        c = self.classes_.size
        if c == 2:
            return self.support_vectors_, self.dual_coef_.T, self.intercept_
        ends = np.concatenate([[0], np.cumsum(self.n_support_)])
        pairs = list(combinations(range(c), 2))
        coef = np.zeros((ends[-1], len(pairs)))
        for k, (i, j) in enumerate(pairs):
            first, second = slice(ends[i], ends[i + 1]), slice(ends[j], ends[j + 1])
            coef[first, k] = self.dual_coef_[j - 1, first]
            coef[second, k] = self.dual_coef_[i, second]
        return self.support_vectors_, coef, self.intercept_

    def decision_function(self, X: Any, out: str | Path | None = None, *, overwrite: bool = False) -> Any:
        """Give decisions for the rows of X.

        Parameters
        ----------
        X : array-like, sparse array, RowSource, zarr.Array, h5py.Dataset or dask.array.Array, shape (n, d)
        out : str or path, optional
            Write them to a Zarr array there instead of returning them.
        overwrite : bool

        Returns
        -------
        ndarray, shape (n,) for two classes, (n, c) or for ``"ovo"`` (n, c (c - 1) / 2) for more
            With ``"ovr"`` votes of the pairs, and within them sums of their decisions.

        Notes
        -----
        Cost: one pass over X, ``2 n s d`` flops for s support vectors.
        """
        return self._respond(X, self._decisions, out, overwrite=overwrite)

    def _decisions(self, z: Vector) -> Vector:
        if self.classes_.size == 2:
            return z[:, 0]
        if self.decision_function_shape == "ovo":
            return z
        votes, sums = self._votes(z)
        return np.asarray(votes + sums / (3 * (np.abs(sums) + 1)))

    def _votes(self, z: Vector) -> tuple[Vector, Vector]:
        c = self.classes_.size
        votes, sums = np.zeros((len(z), c)), np.zeros((len(z), c))
        for k, (i, j) in enumerate(combinations(range(c), 2)):
            first = z[:, k] > 0
            votes[:, i] += first
            votes[:, j] += ~first
            sums[:, i] += z[:, k]
            sums[:, j] -= z[:, k]
        return votes, sums

    def predict(self, X: Any, out: str | Path | None = None, *, overwrite: bool = False) -> Any:
        """Predict the classes of the rows of X.

        Parameters
        ----------
        X, out, overwrite
            As for :meth:`decision_function`.

        Returns
        -------
        ndarray, shape (n,)

        Notes
        -----
        Cost: as for :meth:`decision_function`.
        """
        return self._respond(X, self._predicted, out, overwrite=overwrite)

    def _predicted(self, z: Vector) -> NDArray[Any]:
        if self.classes_.size == 2:
            return np.asarray(self.classes_[(z[:, 0] > 0).astype(np.intp)])
        return np.asarray(self.classes_[np.argmax(self._votes(z)[0], axis=1)])

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the (weighted) share of rows whose class is predicted.

        Notes
        -----
        Cost: one pass over X.
        """
        labels = read_column(y) if is_streamed(y) else y
        weight = read_column(sample_weight) if is_streamed(sample_weight) else sample_weight
        return float(accuracy_score(labels, self.predict(X), sample_weight=weight))
