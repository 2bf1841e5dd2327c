"""Sampled rows that stand for all, and Hessians of them: of the coefficients that a model moves."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.errors import InputError
from nysstream.features import Identity
from nysstream.journal import unrecorded
from nysstream.operators import as_operator
from nysstream.sketching.shifted_inverse import ShiftedInverse
from nysstream.solvers.composite import Curvature
from nysstream.sources import as_source
from nysstream.streaming import DesignMatrix, Predict, SetUp, reduce, uniform_rows
from nysstream.streaming.kernels import unscale
from nysstream.streaming.panels import scaled_inplace
from nysstream.streaming.reduction import Tile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from nysstream.solvers.composite import Movable
    from nysstream.streaming import Outcome

    Vector = NDArray[np.float64]
    Block = NDArray[np.float64]

#: Change of the curvatures at sampled rows, relative to their sum, up to which a Hessian is kept: the
#: sampling changes it by more.
_STALE = 0.05
#: Arithmetic of single precision in whose time a matrix is inverted, relative to its order cubed.
_FLOPS_OF_INVERSE = 20.0
#: Targets or weights read at a time.
_TARGETS = 1 << 18
#: Coefficients whose sampled Hessian costs little anyway.
_LEAST_MOVABLE = 256


@dataclass(frozen=True, eq=False)
class Sample:
    """A uniform sample of the rows, in memory.

    Attributes
    ----------
    design : DesignMatrix
        Centred and scaled as the whole.
    factor : float
        What its sums are multiplied with to estimate those over all rows.
    weight : float
        Of all rows.
    """

    design: DesignMatrix
    factor: float
    weight: float


def weighty_rows(design: DesignMatrix, n_sample: int, seed: int) -> NDArray[np.int64]:
    """Draw distinct numbers of rows of positive weight, ascending: others say nothing.

    Notes
    -----
    Cost: two reads of the weights where some are zero; they are small beside the rows, and it is no pass.
    """
    n_rows, source = design.shape[0], design.weight
    if source is None:
        return uniform_rows(n_rows, n_sample, seed)

    def pieces() -> Iterator[tuple[int, NDArray[np.int64]]]:
        for a in range(0, n_rows, _TARGETS):
            weight = np.asarray(source.read(slice(a, min(a + _TARGETS, n_rows))))
            yield a, np.flatnonzero(weight > 0)

    count = sum(positive.size for _, positive in pieces())
    if count in (0, n_rows):  # without any weight the set-up says what is wrong
        return uniform_rows(n_rows, n_sample, seed)
    chosen, begun, found = uniform_rows(count, n_sample, seed), 0, []
    for a, positive in pieces():
        first, last = np.searchsorted(chosen, [begun, begun + positive.size])
        found.append(a + positive[chosen[first:last] - begun])
        begun += positive.size
    return np.concatenate(found)


def sampled_design(
    design: DesignMatrix,
    rows: NDArray[np.int64],
    sampled: Any,
    outcome: Outcome,
    total: float,
    *,
    mapped: bool = True,
) -> Sample:
    """Make a design of sampled rows, their features computed once and kept if they are to be mapped.

    Raises
    ------
    InputError
        If the sampled rows have no weight, which the factors of classes may take from them.
    """
    X, weight = sampled
    assert design.target is not None
    y = np.concatenate(
        [
            np.asarray(design.target.read(slice(a, min(a + _TARGETS, design.shape[0]))), np.float64)[
                rows[(rows >= a) & (rows < a + _TARGETS)] - a
            ]
            for a in range(0, design.shape[0], _TARGETS)
        ]
    )
    mapped = mapped and not isinstance(design.features, Identity)
    Z = design.features(X.astype(design.dtype)) if mapped else X
    part = replace(
        design,
        source=as_source(Z),
        target=as_source(y),
        weight=None if design.weight is None else as_source(weight),
        features=Identity() if mapped else design.features,
        cache_bytes=0,
    )
    h = weight
    if outcome.labels is not None:
        h = outcome.labels.weigh(outcome.labels.codes(y), weight)
    weighed = float(np.sum(h))
    if not weighed > 0:
        message = (
            f"none of the {rows.size} sampled rows has weight, so that they cannot stand for the others: "
            "leave out rows of weight zero, or ask for a solver that samples none, such as 'newton' or 'gram'"
        )
        raise InputError(message)
    return Sample(part, total / weighed, total)


@dataclass(eq=False)
class SampledHessians:
    """Hessians of a loss at a sample of the rows, one for each predictor.

    Parameters
    ----------
    sample : Sample
    outcome : Outcome
        Of a loss that does not couple its columns.
    pass_flops : float
        Arithmetic in whose time all rows are read.
    most_movable : int
        Coefficients at most that a Hessian is to be of; 0 for no limit.
    fit_intercept : bool
        Whether an intercept is eliminated.

    Notes
    -----
    A Hessian of p coefficients costs ``m p^2`` flops for m sampled rows, its inverse ``p^3``. It is made anew
    when the curvatures at the sampled rows have changed, or other coefficients are to move.
    """

    sample: Sample
    outcome: Outcome
    pass_flops: float
    most_movable: int
    fit_intercept: bool
    _held: dict[int, Curvature] = field(default_factory=dict, init=False)
    #: The loss's curvatures at the sampled rows when those were made.
    _curvature: Block | None = field(default=None, init=False)

    def n_movable(self, support: int) -> int:
        """Count as many as make a sampled Hessian cost no more than a pass, or 1.5 times the support."""
        # Half of it for the Hessian, half for its inverse, in double precision.
        flops, (m, p) = self.pass_flops, self.sample.design.shape
        affordable = int(min(math.sqrt(flops / (2 * m)), math.cbrt(flops / _FLOPS_OF_INVERSE)))
        return min(self.most_movable or p, max(_LEAST_MOVABLE, affordable, support + support // 2))

    def at(self, W: Block, intercept: Vector, movable: Movable) -> tuple[Curvature, ...]:
        """Give the Hessians at coefficients, of those at least that are to move; no pass."""
        h = self._curvatures(W, intercept)
        old = np.zeros_like(h) if self._curvature is None else self._curvature
        moved = np.abs(h - old).sum(axis=0) > _STALE * old.sum(axis=0)
        for j in range(h.shape[1]):
            index = None if movable is None else movable[j]
            if moved[j] or not self._holds(j, index):
                self._held[j] = self._hessian(h[:, j], index)
                old[:, j] = h[:, j]
        self._curvature = old
        return tuple(self._held[j] for j in range(h.shape[1]))

    def _holds(self, j: int, index: NDArray[np.intp] | None) -> bool:
        """Whether the Hessian that is kept of a column is of these coefficients, at least."""
        held = self._held.get(j)
        if held is None or held.movable is None:
            return held is not None
        return index is not None and bool(np.isin(index, held.movable, assume_unique=True).all())

    def _hessian(self, h: Vector, index: NDArray[np.intp] | None) -> Curvature:
        """Sum the Hessian of some coefficients, given the weighted curvatures at the sampled rows."""
        design = self.sample.design
        n_rows, p = design.shape
        scale = np.ones(p) if design.centering is None else design.centering.scale
        rows = design.source.read(slice(0, n_rows))
        if index is not None:
            rows, scale = rows[:, index], scale[index]
        largest = float(h.max(initial=0.0))
        if largest == 0:
            return in_memory(np.zeros((scale.size, scale.size)), index)
        # Where all rows are fitted well, curvatures themselves may be too small to be squared.
        weight = as_source(h / largest)
        weighted = DesignMatrix(
            as_source(rows), weight=weight, precision=design.precision, device=design.device
        )
        with unrecorded():  # rows in memory: no pass over the data, and not to be counted as one
            # The weighted means of the rows go with the intercept.
            (sums,) = reduce(weighted, SetUp(center=self.fit_intercept, gram=True), name="sample")
        return in_memory(largest * self.sample.factor * scaled_inplace(sums.gram, scale), index)

    def _curvatures(self, W: Block, intercept: Vector) -> Block:
        """Give the loss's weighted curvatures at the sampled rows, (m, k)."""
        design = self.sample.design
        assert design.target is not None
        coef, offset = unscale(design, np.ascontiguousarray(W))
        constant = intercept if offset is None else intercept - offset
        with unrecorded():
            (z,) = reduce(design, Predict(coef, constant), name="sample")
        rows = slice(0, design.shape[0])
        target = np.asarray(design.target.read(rows), np.float64)
        weight = None if design.weight is None else np.asarray(design.weight.read(rows), np.float64)[:, 0]
        y, weight = self.outcome.of(Tile(0, None, None, target, weight))
        h = np.asarray(self.outcome.loss.curvature(z, y))
        return h if weight is None else h * weight[:, None]


def in_memory(hessian: Block, movable: NDArray[np.intp] | None = None) -> Curvature:
    """Make a model of a Hessian in memory."""
    return Curvature(as_operator(hessian, psd=True), ShiftedInverse(hessian), exact=True, movable=movable)
