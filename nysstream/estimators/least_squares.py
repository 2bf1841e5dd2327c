"""Regularised least squares on a design: one set-up pass, then systems solved side by side."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from nysstream.errors import AccuracyWarning
from nysstream.features import Identity
from nysstream.operators.gram import GramOperator
from nysstream.sketching.nystrom import Nystrom, Sketch
from nysstream.sketching.test_matrix import TestMatrix
from nysstream.solvers import LinearSystem
from nysstream.streaming import DesignMatrix, SetUp, SquaredResidual, Statistics, centering_of, reduce

if TYPE_CHECKING:

    from numpy.typing import NDArray

    from nysstream.estimators.planning import Plan


@dataclass
class LeastSquares:
    r"""The normal equations of a design, after its set-up pass.

    Attributes
    ----------
    design : DesignMatrix
        Centred and scaled.
    statistics : Statistics
    nystrom : Nystrom or None
        Approximation of the Gram matrix of the centred and scaled design.
    operator : GramOperator
    cross : ndarray, shape (p, q)
        Right-hand sides, one per target.
    width : int
        Columns of the sketch behind ``nystrom``.
    """

    design: DesignMatrix
    statistics: Statistics
    nystrom: Nystrom | None
    operator: GramOperator
    cross: NDArray[np.float64]
    width: int
    _evaluated: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = field(default_factory=list)

    def system(self, targets: NDArray[np.intp], shifts: NDArray[np.float64]) -> LinearSystem:
        """Make the systems of pairs of a target and a shift, one column each."""
        known = self.nystrom is not None and self.nystrom.rank > 0
        preconditioner = self.nystrom.preconditioner() if known and self.nystrom is not None else None

        def residual(W: NDArray[np.float64]) -> NDArray[np.float64]:
            """Recompute residuals in double precision, from the rows; one pass."""
            # Columns of equal number belong to equal systems; the solver asks for all of them.
            reduction = SquaredResidual(np.ascontiguousarray(W), targets)
            double = self.design.with_precision("double")
            ((gradient, squares),) = reduce(double, reduction, name="residual")
            self.operator.passes += 1
            self._evaluated[:] = [(W.copy(), squares)]
            return np.asarray(gradient - shifts * W)

        return LinearSystem(self.operator, self.cross[:, targets], shifts, preconditioner, residual)

    def squares(self, W: NDArray[np.float64], targets: NDArray[np.intp]) -> NDArray[np.float64]:
        """Sum the weighted squared residuals of each column, from the last pass that saw it."""
        result = np.full(W.shape[1], np.nan)
        for evaluated, squares in self._evaluated:
            for j in range(W.shape[1]):
                same = np.flatnonzero(np.all(evaluated == W[:, j : j + 1], axis=0))
                if same.size:
                    result[j] = squares[same[0]]
        missing = np.isnan(result)
        if missing.any():  # a column without a last pass: from the sums of the set-up
            ((_, squares),) = reduce(
                self.design.with_precision("double"),
                SquaredResidual(np.ascontiguousarray(W), targets),
                name="objective",
            )
            result = np.where(missing, squares, result)
        return result

    def coefficients(
        self, W: NDArray[np.float64], targets: NDArray[np.intp]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Turn solutions into coefficients ``(k, p)`` and intercepts ``(k,)`` of the features."""
        centering = self.design.centering
        if centering is None:
            return np.ascontiguousarray(W.T), np.zeros(W.shape[1])
        coef = W / centering.scale[:, None]
        return np.ascontiguousarray(coef.T), centering.target_mean[targets] - centering.mean @ coef


def set_up(
    plan: Plan, *, center: bool, standardize: bool, seed: int, smallest_shift: float, rank: int | str
) -> LeastSquares:
    """Make the set-up pass, and from its sums the sketch's approximation.

    Parameters
    ----------
    plan : Plan
    center : bool
        Whether an unpenalised intercept is wanted.
    standardize : bool
        Whether columns are scaled to unit variance.
    seed : int
    smallest_shift : float
        The hardest system's, for which an automatic rank is chosen.
    rank : int or "auto"

    Notes
    -----
    Cost: one pass; with ``standardize`` also a sample of rows, before it.
    """
    design = plan.design
    p = design.shape[1]
    guess = None
    if standardize and plan.rank:
        guess = _rough_scales(design)
    test = TestMatrix(p, plan.rank, plan.n_probes, seed, guess) if plan.rank else None
    (statistics,) = reduce(design, SetUp(test, plan.rank + plan.n_probes, center), name="set-up")
    centering = centering_of(design, statistics, center=center, standardize=standardize)
    scale = np.ones(p) if centering is None else centering.scale
    nystrom = None
    if test is not None:
        nystrom = _approximate(plan, test, statistics, scale, design.eps, smallest_shift, rank)
        test.forget()
    centred = replace(design, centering=centering)
    cross = statistics.cross / scale[:, None]
    statistics = replace(statistics, sketch=np.empty((p, 0)))  # spent
    return LeastSquares(centred, statistics, nystrom, GramOperator(centred), cross, plan.rank)


def _approximate(
    plan: Plan,
    test: TestMatrix,
    statistics: Statistics,
    scale: NDArray[np.float64],
    eps: float,
    smallest_shift: float,
    rank: int | str,
) -> Nystrom:
    # Deferred standardisation: with Omega = D Omega_0, D^-1 (Z'HZ Omega_0) = (D^-1 Z'HZ D^-1) Omega.
    # A constant column has infinite scale: it vanishes from the scaled design, and from the sketch.
    finite = np.where(np.isfinite(scale), scale, 0.0)
    omega = test() * finite[:, None]
    product = statistics.sketch / scale[:, None]
    s = plan.rank
    sketch = Sketch(
        omega[:, :s],
        product[:, :s],
        eps,
        float(np.sum(statistics.squares / scale**2)),
        omega[:, s:] if plan.n_probes else None,
        product[:, s:] if plan.n_probes else None,
    )
    if rank == "auto" and smallest_shift > 0 and s < test.n_rows:
        return sketch.nystrom(sketch.choose_rank(smallest_shift))
    return sketch.nystrom()


def _rough_scales(design: DesignMatrix) -> NDArray[np.float64]:
    """Estimate the columns' standard deviations from a sample of rows."""
    rows = design.sample_rows()
    Z = rows if isinstance(design.features, Identity) else design.features(rows)
    deviation = np.std(Z, axis=0)
    typical = deviation[deviation > 0]
    return np.where(deviation > 0, deviation, typical.mean() if typical.size else 1.0)


def warn_not_unique(problem: LeastSquares, shifts: NDArray[np.float64]) -> None:
    """Warn where no shift makes the answer unique and the matrix is known to be singular.

    Warns
    -----
    AccuracyWarning
    """
    if not np.any(shifts == 0):
        return
    centering = problem.design.centering
    p = problem.design.shape[1]
    varying = p if centering is None else int(np.isfinite(centering.scale).sum())
    freedom = problem.statistics.n_weighted - (centering is not None)
    nystrom = problem.nystrom
    deficient = problem.width == p and nystrom is not None and nystrom.rank < varying
    if varying < p or freedom < varying or deficient:
        message = (
            "alpha=0 and the columns are linearly dependent, so the solution is not unique: this is the one "
            "of least norm; give a small alpha for a stable answer"
        )
        warnings.warn(message, AccuracyWarning, stacklevel=3)
