"""Sums of a set-up pass that are kept: added to, taken from, faded and widened without the rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from nysstream.streaming.checking import check_sums
from nysstream.streaming.moments import SetUp

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.streaming.design import DesignMatrix
    from nysstream.streaming.reduction import Part

#: What locates the rows, and is no sum over them.
_PLACES = ("shift", "offset", "target_shift", "target_offset")
_TARGETS = ("target_shift", "target_offset", "target_squares")


@dataclass(frozen=True)
class KeptSetUp(SetUp):
    """A set-up whose result is the settled part itself.

    Notes
    -----
    Result: what :meth:`SetUp.combine` adds to others and :meth:`SetUp.statistics` reads. Rows of no
    weight at all are no error: others may have some.
    """

    def finish(self, design: DesignMatrix, part: Part) -> Part:  # type: ignore[override]
        """Settle the part, and refuse sums that overflow or underflow."""
        part = self.settled(part)
        check_sums(design, part)
        return part


def negated(part: Part) -> Part:
    """Give the sums of a settled part with the opposite sign: combined, they take its rows out.

    Rounding errors of both add up, so what they are relative to keeps its sign.
    """
    return {
        name: value if name in (*_PLACES, "summed_squares") else 0 - value for name, value in part.items()
    }


def faded(part: Part, factor: float) -> Part:
    """Multiply the weight of every row by ``factor``; the rows are still counted."""
    return {name: value if name in (*_PLACES, "rows") else factor * value for name, value in part.items()}


def joined(part: Part, more: Part) -> Part:
    """Put the targets of a settled part of the same rows beside those of another."""
    joined = {name: np.concatenate([part[name], more[name]]) for name in _TARGETS}
    return {**part, **joined, "cross": np.hstack([part["cross"], more["cross"]])}


def followed(part: Part, n_test: int, product: NDArray[np.float64]) -> Part:
    """Replace the products of given columns, which come after the test vectors in the sketch."""
    return {**part, "sketch": np.hstack([part["sketch"][:, :n_test], product])}
