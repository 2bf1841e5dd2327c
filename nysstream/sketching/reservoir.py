"""A uniform sample of rows that have come and gone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse
import xxhash

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Reservoir:
    """Rows as stored, drawn without replacement from all rows seen.

    Attributes
    ----------
    X : ndarray or csr_array, shape (m, d)
    weight : ndarray, shape (m,)
    n_rows : int
        Rows that they were drawn from.
    """

    X: Any
    weight: NDArray[np.float64]
    n_rows: int

    def merge(self, other: Reservoir, size: int, seed: int) -> Reservoir:
        """Draw a sample of the rows of both, of at most ``size`` rows.

        Parameters
        ----------
        other : Reservoir
            Of other rows.
        size : int
            What both were drawn for.
        seed : int

        Notes
        -----
        How many come from each is drawn first, as if all rows were at hand; then as many of each
        sample, which are a sample of its rows.
        """
        rng = np.random.Generator(np.random.Philox(seed))
        left, right = self.n_rows, other.n_rows
        # A sample that forgotten rows were taken from limits what can be drawn without bias.
        short = [len(s.weight) for s in (self, other) if len(s.weight) < min(size, s.n_rows)]
        wanted, mine = min(size, left + right, *short), 0
        for u in rng.random(wanted):
            if u * (left + right) < left:
                left, mine = left - 1, mine + 1
            else:
                right -= 1
        kept = np.sort(rng.choice(len(self.weight), mine, replace=False))
        added = np.sort(rng.choice(len(other.weight), wanted - mine, replace=False))
        stack: Any = scipy.sparse.vstack
        rows = [self.X[kept], other.X[added]]
        X = stack(rows, format="csr") if scipy.sparse.issparse(self.X) else np.concatenate(rows)
        weight = np.concatenate([self.weight[kept], other.weight[added]])
        return Reservoir(X, weight, self.n_rows + other.n_rows)

    def without(self, rows: Any) -> Reservoir:
        """Take forgotten rows, ndarray or sparse array (k, d), out of the sample where they are in it."""
        gone: dict[str, int] = {}
        for key in _keys(rows, self.X.dtype):
            gone[key] = gone.get(key, 0) + 1
        kept = []
        for i, key in enumerate(_keys(self.X, self.X.dtype)):
            if gone.get(key, 0):
                gone[key] -= 1
            else:
                kept.append(i)
        return Reservoir(self.X[kept], self.weight[kept], self.n_rows - int(rows.shape[0]))


def _keys(rows: Any, dtype: Any) -> list[str]:
    """Give a digest of each row in the dtype of the sample."""
    dense = np.ascontiguousarray(rows.toarray() if hasattr(rows, "toarray") else rows, dtype)
    return [xxhash.xxh3_128_hexdigest(row.data) for row in dense]
