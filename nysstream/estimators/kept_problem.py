"""Regularised least squares on sums that are kept, to which new rows are added."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from nysstream.errors import InputError
from nysstream.estimators.choosing import sample_size
from nysstream.estimators.least_squares import LeastSquares, furnish, normal_equations, set_up_reduction
from nysstream.sketching.nystrom_sketch import NystromSketch
from nysstream.streaming.checking import check_weight
from nysstream.streaming.panels import scaled_inplace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.estimators.planning import Plan


def method_of(sketch: NystromSketch) -> tuple[str, int | str]:
    """Say by what method the sums of a sketch can be solved with, and the columns of its sketch."""
    sums = sketch.sums
    assert sums is not None
    if sums.gather.gram:
        return "gram", "auto"
    if sums.gather.test is not None:
        return "nystrom", sums.gather.test.n_columns  # type: ignore[attr-defined]
    return "subsampled" if sums.size else "cg", "auto"


def set_up_kept(
    plan: Plan,
    sketch: NystromSketch | None,
    read: slice,
    *,
    alone: bool,
    center: bool,
    standardize: bool,
    seed: int,
    shifts: NDArray[np.float64],
    rank: int | str,
    start: NDArray[np.float64] | None,
) -> tuple[LeastSquares, NystromSketch]:
    """Add rows to the sums, and make of them the problem and its preconditioner.

    Parameters
    ----------
    plan : Plan
    sketch : NystromSketch, optional
        Left as it is. None begins one.
    read : slice
        The rows of the plan's design to add; may be none.
    alone : bool
        Whether a Gram matrix is the only thing to be multiplied with, since rows are missing or are
        not to be read again.
    center, standardize, seed, shifts, rank, start
        As for :func:`nysstream.estimators.least_squares.set_up`.

    Returns
    -------
    problem : LeastSquares
    sketch : NystromSketch
        With the new rows.

    Raises
    ------
    InputError
        If the sums were made with another setting of the intercept, or rows do not fit.

    Notes
    -----
    Cost: the rows to be added are read once.
    """
    design, k = plan.design, shifts.size
    if sketch is None:
        gather = set_up_reduction(plan, center=center, standardize=standardize, seed=seed)
        if plan.method != "gram":
            gather = replace(gather, given=start)
        size = sample_size(design) if plan.method == "subsampled" else 0
        sketch = NystromSketch.around(gather, design, seed=seed, reservoir=size)
    else:
        sketch = copy.copy(sketch)
    before = 0.0
    if sketch.sums is not None:
        _check(sketch, center)
        before = float(sketch.sums.part["weight"])
        given = sketch.sums.gather.given
        if plan.method == "gram" or (given is not None and given.shape[1] != k):
            sketch.sums = sketch.sums.following(None, None)
    if read.start < read.stop:
        new = design.restrict(read)
        # Rows that are read once are not worth a place in the cache.
        sketch.absorb(replace(new, cache_bytes=0) if alone else new)
    if sketch.sums is not None:
        check_weight(design, sketch.sums.part["weight"])
    statistics, gather = sketch.statistics, sketch.gather_of(design)
    problem = normal_equations(
        plan, statistics, gather.test, center=center, standardize=standardize, shifts=shifts, rank=rank
    )
    if alone and plan.method == "gram":
        centering, matrix = problem.design.centering, sketch.statistics.gram
        assert matrix is not None
        scale = np.ones(len(matrix)) if centering is None else centering.scale
        problem.matrix = scaled_inplace(matrix, scale)
    furnish(problem, gather, statistics, sketch.sample, shifts)
    if problem.started is not None:
        # Only the share of the new rows was multiplied in the precision of the design.
        new_share = max(0.0, 1 - before / statistics.weight)
        eps = max(design.eps * new_share, float(np.finfo(np.float64).eps))
        problem.started = replace(problem.started, eps=eps)
    return problem, sketch


def keep_products(
    problem: LeastSquares,
    sketch: NystromSketch,
    W: NDArray[np.float64],
    targets: NDArray[np.intp],
) -> None:
    """Carry the product of the Gram matrix with the solutions along: the next solve starts there.

    It is known from the last residuals, which are in double precision.

    Parameters
    ----------
    problem : LeastSquares
    sketch : NystromSketch
        Updated in place.
    W : ndarray, shape (p, k)
    targets : ndarray of int, shape (k,)
    """
    assert sketch.sums is not None
    if problem.method == "gram":
        return  # needs no start
    product, known = problem.cross[:, targets], np.zeros(W.shape[1], np.bool_)
    for j, _, gradient in problem.seen(W):
        product[:, j] -= gradient
        known[j] = True
    if not known.all():  # interrupted
        sketch.sums = sketch.sums.following(None, None)
        return
    centering = problem.design.centering
    scale = np.ones(W.shape[0]) if centering is None else centering.scale
    finite = np.where(np.isfinite(scale), scale, 0.0)[:, None]
    sketch.sums = sketch.sums.following(W / scale[:, None], product * finite)


def _check(sketch: NystromSketch, center: bool) -> None:
    assert sketch.sums is not None
    if sketch.sums.gather.center != center:
        message = (
            f"fit_intercept={center}, but the sums were kept with fit_intercept={not center}: set it back, "
            "or fit anew"
        )
        raise InputError(message)
