"""Sums over rows as values: of one pass, of two sets of rows together, of one without the other."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from nysstream.arrays import single_threaded_blas
from nysstream.errors import InputError
from nysstream.sketching.of_statistics import growth_of, sketch_of
from nysstream.sketching.reservoir import Reservoir
from nysstream.sketching.test_matrix import TestMatrix
from nysstream.streaming import Reduction, RowSample, Statistics, reduce, uniform_rows
from nysstream.streaming.kept_sums import KeptSetUp, faded, followed, joined, negated

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.sketching.approximation import Nystrom
    from nysstream.streaming import DesignMatrix, SetUp
    from nysstream.streaming.reduction import Part

#: Of sums of squares: what rounding leaves where rows are taken out again.
_LEFT_OVER = 64.0
#: Relative differences of sums over the same rows, summed twice.
_SAME = 1e-6


@dataclass(frozen=True, eq=False)
class Sums:
    """What a set-up pass gathers, and a uniform sample of the rows.

    Attributes
    ----------
    gather : KeptSetUp
        What was gathered, and combines it.
    part : dict of str to ndarray
        Settled sums.
    eps : float
        Relative rounding error of the products.
    growth : float
        By how much that grows where rows were added one after the other.
    size : int
        Rows that the sample is to hold.
    sample : Reservoir or None
    """

    gather: KeptSetUp
    part: Part
    eps: float
    growth: float
    size: int = 0
    sample: Reservoir | None = None

    @classmethod
    def read(
        cls, design: DesignMatrix, gather: KeptSetUp, name: str, *, size: int = 0, seed: int = 0
    ) -> Self:
        """Read the rows of a design once."""
        reductions = passed(design, gather, size, seed)
        part, *sampled = reduce(design, *reductions, name=name)
        sample = Reservoir(sampled[0][0], sampled[0][1], design.shape[0]) if sampled else None
        return cls(gather, part, design.eps, growth_of(design), size, sample)

    @property
    def n_rows(self) -> int:
        """Rows that were summed."""
        return int(self.part["rows"][0])

    @property
    def shape(self) -> tuple[int, int]:
        """Columns of the rows, after the feature map, and of the targets."""
        return self.part["squares"].size, self.part["target_squares"].size

    @property
    def nbytes(self) -> int:
        """Bytes of the sums."""
        return sum(np.asarray(value).nbytes for value in self.part.values())

    @property
    def statistics(self) -> Statistics:
        """All sums, about the means.

        Raises
        ------
        InputError
            If no row has a positive weight.
        """
        if not self.part["weight"] > 0:
            message = "all weights are zero; at least one must be positive"
            raise InputError(message)
        return self.gather.statistics(self.part)

    def check(self, design: DesignMatrix, *, targets: bool = True) -> None:
        """Refuse rows of another shape than those before.

        Raises
        ------
        InputError
            Names the rows and what they should have.
        """
        p, q = self.shape
        if design.shape[1] != p:
            message = f"{design.source.name} has {design.shape[1]} columns, the rows before had {p}"
            raise InputError(message)
        if targets and design.n_targets != q:
            message = (
                f"{design.source.name} comes with {design.n_targets} targets, the rows before with {q}: give "
                "the same targets always"
            )
            raise InputError(message)

    def check_alike(self, other: Sums) -> None:
        """Refuse sums that were gathered with other settings.

        Raises
        ------
        InputError
            Names the setting.
        """
        settings = self._settings(), other._settings()
        for name, mine in settings[0].items():
            theirs = settings[1][name]
            if not np.array_equal(mine, theirs):
                message = f"sketches differ in {name}, {mine} and {theirs}: make them with the same settings"
                raise InputError(message)

    def _weighs(self, other: Sums) -> bool:
        """Whether the rows have the same weight in all."""
        mine, theirs = float(self.part["weight"]), float(other.part["weight"])
        return abs(theirs - mine) <= _SAME * abs(mine)

    def _settings(self) -> dict[str, Any]:
        test: Any = self.gather.test
        of_test = ("n_columns", "n_probes", "seed", "scale")
        return {
            "columns": self.shape[0],
            "targets": self.shape[1],
            "center": self.gather.center,
            "gram": self.gather.gram,
            "reservoir": self.size,
            **{f"{name} of the test matrix": getattr(test, name, None) for name in of_test},
        }

    def plus(self, other: Sums, seed: int = 0) -> Self:
        """Add the sums over other rows, gathered alike."""
        sample = self.sample
        if sample is not None and other.sample is not None:
            sample = sample.merge(other.sample, self.size, seed)
        with single_threaded_blas():
            part = self.gather.combine(self.part, other.part)
        eps, growth = max(self.eps, other.eps), max(self.growth, other.growth)
        return replace(self, part=part, eps=eps, growth=growth, sample=sample)

    def minus(self, other: Sums) -> Self | None:
        """Take the sums over some of the rows out again; None if they were all.

        Raises
        ------
        InputError
            If sums of squares show that the rows were not among these.
        """
        n_rows, n_weighted = (int(count) for count in self.part["rows"] - other.part["rows"])
        if n_weighted > 0:
            with single_threaded_blas():
                part = self.gather.combine(self.part, negated(other.part))
        else:  # what is left is rounding
            part = faded(self.part, 0.0) | {"rows": self.part["rows"] - other.part["rows"]}
        summed = self.part["summed_squares"] + other.part["summed_squares"]
        noise = max(_SAME, _LEFT_OVER * max(self.eps, other.eps)) * summed
        if n_weighted > 0:
            lighter = part["weight"] > 0
        else:
            spare = np.abs(self.part["squares"] - other.part["squares"])
            lighter = self._weighs(other) and np.all(spare <= noise)
        if min(n_rows, n_weighted) < 0 or not lighter or np.any(part["squares"] < -noise):
            message = (
                "rows, or weights, that are to be forgotten are not among those that were added: sums of "
                "squares would become negative"
            )
            raise InputError(message)
        if n_rows == 0:
            return None
        eps, growth = max(self.eps, other.eps), max(self.growth, other.growth)
        return replace(self, part=part, eps=eps, growth=growth)

    def times(self, factor: float) -> Self:
        """Multiply the weights of all rows."""
        return replace(self, part=faded(self.part, factor))

    def beside(self, other: Sums) -> Self:
        """Put targets of the same rows beside these.

        Raises
        ------
        InputError
            If counts, weights or means show that the rows are others.
        """
        mine, theirs = self.part, other.part
        spread = np.sqrt(np.maximum(mine["summed_squares"], 0) / max(float(mine["weight"]), 1e-300))
        apart = (theirs["shift"] - mine["shift"]) + (theirs["offset"] - mine["offset"])
        slack = math.sqrt(max(self.eps, other.eps)) * spread + _SAME * np.abs(mine["shift"] + mine["offset"])
        if int(theirs["rows"][0]) != self.n_rows or not self._weighs(other) or np.any(np.abs(apart) > slack):
            message = (
                f"new targets must be of the {self.n_rows} rows that were added, with their weights: these "
                "are other rows or weights, or the weights were multiplied since"
            )
            raise InputError(message)
        return replace(self, part=joined(mine, theirs))

    def nystrom(self, rank: int | None, scale: NDArray[np.float64] | None) -> Nystrom:
        """Approximate the Gram matrix of the columns, divided by ``scale``, shape (p,)."""
        statistics, test = self.statistics, self.gather.test
        if not isinstance(test, TestMatrix):
            message = "rank=0: this sketch keeps no products with test vectors"
            raise InputError(message)
        scale = np.ones(statistics.mean.size) if scale is None else np.asarray(scale, np.float64)
        if scale.shape != statistics.mean.shape or not np.all(scale > 0):
            message = f"scale of shape {scale.shape}: give a positive number for each column"
            raise InputError(message)
        sketch = sketch_of(statistics, test(), test.n_columns, scale, eps=self.eps, growth=self.growth)
        if sketch is None:
            message = (
                "the means of some columns are so large beside their spread that rounding hides the sketch: "
                "subtract such means first, or use precision='double'"
            )
            raise InputError(message)
        return sketch.nystrom(rank)

    def following(self, coef: NDArray[np.float64] | None, product: NDArray[np.float64] | None) -> Self:
        """Carry the product of the Gram matrix with coefficients along, ndarrays (p, k), from now on."""
        gather = replace(self.gather, given=coef)
        empty = np.empty((self.shape[0], 0))
        part = followed(self.part, gather.n_test, empty if product is None else product)
        return replace(self, gather=gather, part=part)


def kept(gather: SetUp) -> KeptSetUp:
    """Give the set-up whose results are kept, of one whose results are used up."""
    return KeptSetUp(gather.test, gather.n_test, gather.center, gather.gram, gather.given)


def gathering(p: int, rank: int, n_probes: int, center: bool, gram: bool, *, seed: int) -> KeptSetUp:
    """Say what is gathered of rows of ``p`` columns."""
    if rank > p:
        message = f"rank={rank}: the rows have {p} columns; ask for at most {p}"
        raise InputError(message)
    n_probes = n_probes if 0 < rank < p else 0
    test = TestMatrix(p, rank, n_probes, seed) if rank else None
    return KeptSetUp(test, rank + n_probes, center, gram)


def passed(design: DesignMatrix, gather: KeptSetUp, size: int, seed: int) -> list[Reduction]:
    """Say what a pass over new rows computes."""
    if size == 0:
        return [gather]
    return [gather, RowSample(uniform_rows(design.shape[0], size, seed))]
