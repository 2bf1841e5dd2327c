"""Kernel ridge regression by conjugate gradients on the exact kernel matrix."""

from __future__ import annotations

import warnings
from dataclasses import KW_ONLY, dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import scipy.linalg
from sklearn.base import MultiOutputMixin, RegressorMixin
from sklearn.metrics import r2_score

from nysstream.errors import AccuracyWarning, InputError
from nysstream.estimators.inputs import is_streamed, training_sources
from nysstream.estimators.kernel_machine import (
    KernelMachine,
    check_lengths,
    read_column,
    read_targets,
    tile_bytes,
)
from nysstream.estimators.kernel_plan import KernelPlan
from nysstream.estimators.settings import check_alphas
from nysstream.operators.kernel import TILE_ROWS, KernelOperator
from nysstream.sketching import nystrom
from nysstream.sketching.random_matrices import as_seed
from nysstream.solvers import PCG, LinearSystem, Status, solve
from nysstream.solvers.askotch import askotch
from nysstream.streaming import DesignMatrix, scheduler
from nysstream.trace import Trace, tracing

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from nysstream.sources import RowSource

    Vector = NDArray[np.float64]

#: Systems of no more rows than this are solved by a Cholesky factor.
_DENSE = 2000


@dataclass(eq=False, repr=False)
class KernelRidge(MultiOutputMixin, RegressorMixin, KernelMachine):
    r"""Least squares in the space of a kernel with a ridge penalty, exactly and with a certificate.

    The problem, and the names, of :class:`sklearn.kernel_ridge.KernelRidge`.

    Solves :math:`(K + \alpha H^{-1}) c = y` with the exact kernel matrix K and weights H, and predicts
    :math:`\sum_i c_i k(x, x_i)`.

    Parameters
    ----------
    alpha : float or array-like, shape (q,), default 1.0
        Not negative; one for each target, where several are given.
    kernel : {"linear", "rbf", "poly", "laplacian", "matern12", "matern32", "matern52"}
        See :class:`nysstream.operators.pairwise.Kernel`.
    gamma : float or {"scale", "auto", "median"}, optional
        None is ``"auto"``: one over the number of columns. ``"scale"`` is one over columns times variance;
        ``"median"`` makes the length scale the median distance between rows.
    degree : int, default 3
    coef0 : float, default 1.0
    solver : {"auto", "nystrom", "askotch", "cholesky"}
        ``"nystrom"``: conjugate gradients, preconditioned by a sketch of the kernel matrix. ``"askotch"``:
        block coordinate descent, which never needs a product with the whole matrix but to certify, for one
        alpha. ``"cholesky"``: the matrix in memory in double precision. Automatic: Cholesky up to 2000
        rows, then Nyström.
    rank : int or "auto", default "auto"
        Columns of the sketch, or rank of those of ASkotch's blocks; automatic is four times the root of
        the number of rows, or 100.
    tol : float, default 1e-6
        Relative residual, of every target, with the kernel in double precision.
    max_iterations : int, optional
        Of conjugate gradients, or passes of ASkotch.
    time_limit : float, optional
        Seconds.
    precision : {"single", "double"}
        Of the kernel of more than 2048 rows; residuals are double in any case.
    memory : int or str, optional
        Limit for the process. What the sketch leaves keeps rows, and then tiles of the kernel matrix.
    random_state : int, default 0
    callback : callable, optional
        Called with the solution after every step.

    Attributes
    ----------
    dual_coef_ : ndarray, shape (n,) or (n, q)
    X_fit_ : ndarray, sparse array or RowSource, shape (n, d)
        The rows, as they were given.
    kernel_ : Kernel
    n_features_in_, n_iter_, result_

    Notes
    -----
    Cost: ``n^2 d`` flops for each product with K whose tiles do not fit, and as many bytes as rows take
    times ``n / 2048`` where rows do not. Nyström: one product for the sketch and one for each step.

    References
    ----------
    .. [1] Frangella, Tropp and Udell, "Randomized Nyström Preconditioning", SIAM J. Matrix Anal.
       Appl., 2023.
    .. [2] Rathore, Frangella, Yang, Dereziński and Udell, "Have ASkotch: a neat solution for
       large-scale kernel ridge regression", 2024.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.linspace(0, 1, 5)[:, None]
    >>> model = KernelRidge(alpha=1e-3, kernel="rbf", gamma=5.0).fit(X, X[:, 0] ** 2)
    >>> model.predict([[0.5]]).round(2).tolist()
    [0.25]
    """

    alpha: Any = 1.0
    _: KW_ONLY
    kernel: str = "linear"
    gamma: Any = None
    coef0: float = 1.0
    tol: float = 1e-6
    solver: str = "auto"
    rank: Any = "auto"
    max_iterations: int | None = None

    def _check_settings(self) -> None:
        super()._check_settings()
        check_alphas("alpha", self.alpha)
        if self.solver not in ("auto", "nystrom", "askotch", "cholesky"):
            message = f"solver={self.solver!r} is not known: use auto, nystrom, askotch or cholesky"
            raise InputError(message)
        for name in ("rank", "max_iterations"):
            value = getattr(self, name)
            if value in ("auto", None):
                continue
            if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
                message = f"{name}={value!r}: give a positive whole number"
                raise InputError(message)

    def plan(self, X: Any, y: Any, sample_weight: Any = None) -> KernelPlan:
        """Say how a fit would run: memory, method, concurrency. Reads metadata only.

        Raises
        ------
        MemoryBudgetError
            If the sketch or the matrix does not fit ``memory``; names the smallest limit that would do.
        """
        self._check_settings()
        source, target, weight = training_sources(self, X, y, sample_weight)
        check_lengths(source, target, weight)
        return self._plan(source, target, weight)

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the model.

        Parameters
        ----------
        X : array-like, sparse array, RowSource, zarr.Array, h5py.Dataset or dask.array.Array, shape (n, d)
        y : as X, shape (n,) or (n, q)
        sample_weight : as y, shape (n,), or float, optional

        Raises
        ------
        InputError
            If an argument or a value of the data cannot be used; names it.
        MemoryBudgetError
            If the sketch does not fit ``memory``.

        Warns
        -----
        ConvergenceWarning
            If a limit came first.
        """
        self._check_settings()
        source, target, weight = training_sources(self, X, y, sample_weight)
        check_lengths(source, target, weight)
        n, d = source.shape
        trace = Trace()
        with tracing(trace):
            plan = self._plan(source, target, weight)
            method, rank, budget = plan.method, plan.rank, plan.budget
            kernel = self._settle_kernel(source)
            Y = read_targets(target)
            if not np.isfinite(Y).all():
                message = "the targets contain NaN or infinity; replace or remove such values"
                raise InputError(message)
            root = None if weight is None else np.sqrt(read_column(weight))
            memory = budget.spare + budget.needs["rows"]
            operator = KernelOperator(source, kernel, scale=root, memory=memory)
            self.kernel_, self.origin_ = kernel, operator.origin
            rhs = Y if root is None else root[:, None] * Y
            dual, status, stats, history = self._solve(operator, rhs, self._alphas(Y.shape[1]), method, rank)
        dual = dual if root is None else root[:, None] * dual
        self.dual_coef_ = dual[:, 0] if target.vector else dual
        self.X_fit_ = source.read(slice(0, n)) if source.resident else source
        self.n_iter_ = max(1, int(stats["iterations"]))
        own = {
            "method": method,
            "rank": rank,
            "n_rows": n,
            "n_features": d,
            "kernel_products": operator.passes,
        }
        self._finish(status, own | stats, history, trace, budget)
        return self

    def _plan(self, source: RowSource, target: RowSource, weight: RowSource | None) -> KernelPlan:
        """Choose the method, and count what it holds; what is left keeps the rows, then tiles; no read."""
        (n, d), q = source.shape, target.shape[1]
        alphas = self._alphas(q)
        method, why = self.solver, "it was asked for"
        if method == "auto":
            if n <= _DENSE:
                method, why = "cholesky", "so few rows are solved for at once"
            elif not alphas.all():
                method, why = "cholesky", "without a penalty the matrix may be singular"
            else:
                method, why = "nystrom", "steps cost less than a factor of so many rows"
        rank = self._rank(n, method)
        needs = {
            "vectors": 8 * n * (8 * q + (4 * rank if method == "nystrom" else 0)),
            "tiles": tile_bytes(d),
            "matrix": 16 * n * n if method == "cholesky" else 0,
        }
        budget = self._budget(needs, "a smaller rank, or solver='askotch'")
        budget.check()
        kernel, whole = self._kernel(n), method == "cholesky"
        rows = n * d * kernel.row_dtype.itemsize
        # Without them it is slower, but as right.
        budget = replace(budget, needs=budget.needs | {"rows": rows if rows <= budget.spare else 0})
        dtype = np.dtype(np.float64) if whole else kernel.dtype
        tile = TILE_ROWS * TILE_ROWS * dtype.itemsize
        # Tiles on the diagonal and on one side of it.
        matrix = n * (n if whole else (n + min(n, TILE_ROWS)) // 2) * dtype.itemsize
        return KernelPlan(
            DesignMatrix(source, target, weight),
            budget,
            method,
            why,
            rank,
            n_sampled=0,
            most_movable=0,
            n_systems=q,
            scheduler="threads",
            n_tasks=scheduler()[1],
            dtype=str(dtype),
            matrix_bytes=matrix,
            kept_bytes=matrix if whole else min(matrix, budget.spare // tile * tile),
        )

    def _alphas(self, q: int) -> Vector:
        """Give the penalty of each target."""
        alphas = np.asarray(self.alpha, np.float64)
        if alphas.size not in (1, q):
            message = f"alpha has {alphas.size} values for {q} targets: give one, or one for each"
            raise InputError(message)
        return np.broadcast_to(alphas.ravel(), (q,)).copy()

    def _rank(self, n: int, method: str) -> int:
        if method == "cholesky":
            return 0
        default = int(4 * n**0.5) if method == "nystrom" else 100
        return min(n, default if self.rank == "auto" else int(self.rank))

    def _solve(
        self, operator: KernelOperator, rhs: Vector, alphas: Vector, method: str, rank: int
    ) -> tuple[Vector, Status, dict[str, Any], list[dict[str, Any]]]:
        """Solve for the coefficients of the scaled system."""
        if method == "cholesky":
            return _solve_dense(operator.dense(), rhs, alphas, self.tol)
        if method == "askotch":
            if np.ptp(alphas):
                message = "solver='askotch' solves for one alpha; use solver='nystrom' for several"
                raise InputError(message)
            return askotch(
                operator,
                rhs,
                shift=float(alphas[0]),
                rank=rank,
                tol=self.tol,
                max_epochs=self.max_iterations or 200,
                time_limit=self.time_limit,
                rng=np.random.default_rng(as_seed(self.random_state)),
                callback=self.callback,
            )
        sketch = nystrom(operator, rank, random_state=as_seed(self.random_state))
        positive = alphas[alphas > 0]
        preconditioner = sketch.preconditioner(float(positive.min()) if positive.size else None)
        system = LinearSystem(operator, rhs, alphas, preconditioner)
        solver = PCG(self.tol, max_iterations=self.max_iterations)

        def notify(state: Any, record: dict[str, Any]) -> None:
            if self.callback is not None and record["steps"]:
                self.callback(solver.value(system, state))

        result = solve(system, solver, time_limit=self.time_limit, callback=notify)
        stats = {key: result.stats[key] for key in ("iterations", "relative_residual")}
        stats["iterations"] = int(np.max(stats["iterations"]))
        stats["relative_residual"] = float(np.max(stats["relative_residual"]))
        return result.value, result.status, stats, result.history

    def _expansion(self) -> tuple[Any, Vector, Vector]:
        coef = self.dual_coef_[:, None] if self.dual_coef_.ndim == 1 else self.dual_coef_
        return self.X_fit_, coef, np.zeros(coef.shape[1])

    def predict(self, X: Any, out: str | Path | None = None, *, overwrite: bool = False) -> Any:
        """Predict the targets of the rows of X.

        Parameters
        ----------
        X : array-like, sparse array, RowSource, zarr.Array, h5py.Dataset or dask.array.Array, shape (t, d)
        out : str or path, optional
            Write the predictions to a Zarr array there instead of returning them.
        overwrite : bool

        Returns
        -------
        ndarray, shape (t,) or (t, q)

        Notes
        -----
        Cost: one pass over X, ``2 t n d`` flops, in double precision.
        """
        return self._respond(X, self._predicted, out, overwrite=overwrite)

    def _predicted(self, z: Vector) -> Vector:
        return z[:, 0] if self.dual_coef_.ndim == 1 else z

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the coefficient of determination R2 of the predictions, averaged over targets."""
        truth = read_targets(y) if is_streamed(y) else y
        weight = read_column(sample_weight) if is_streamed(sample_weight) else sample_weight
        return float(r2_score(truth, self.predict(X), sample_weight=weight))

    def _stored(self) -> dict[str, Any]:
        """Name the arrays of the fitted model."""
        return {"dual_coef_": self.dual_coef_, "X_fit_": read_targets(self.X_fit_), "origin_": self.origin_}


def _solve_dense(
    K: Vector, rhs: Vector, alphas: Vector, tol: float
) -> tuple[Vector, Status, dict[str, Any], list[dict[str, Any]]]:
    """Solve with the matrix in memory; where it is singular, for the least residual."""
    X = np.empty_like(rhs)
    diagonal = np.diag_indices_from(K)
    for alpha in np.unique(alphas):
        columns = np.flatnonzero(alphas == alpha)
        A = K.copy()
        A[diagonal] += alpha
        try:
            factor = scipy.linalg.cho_factor(A, lower=True, overwrite_a=True, check_finite=False)
            X[:, columns] = scipy.linalg.cho_solve(factor, rhs[:, columns], check_finite=False)
        except np.linalg.LinAlgError:
            message = f"the kernel matrix with alpha={alpha:g} is singular: the least squares answer is kept"
            warnings.warn(message, AccuracyWarning, stacklevel=4)
            values, vectors = scipy.linalg.eigh(K + alpha * np.eye(len(K)))
            kept = values > len(K) * np.finfo(np.float64).eps * values[-1]
            V = vectors[:, kept]
            X[:, columns] = V @ ((V.T @ rhs[:, columns]) / values[kept, None])
    R = rhs - K @ X - alphas * X
    size = np.linalg.norm(rhs, axis=0)
    residual = float(np.max(np.linalg.norm(R, axis=0) / np.where(size > 0, size, 1.0)))
    # Without a penalty the least residual is the answer, however large.
    status = Status.CONVERGED if residual <= tol or not alphas.all() else Status.STALLED
    return X, status, {"iterations": 1, "relative_residual": residual}, []
