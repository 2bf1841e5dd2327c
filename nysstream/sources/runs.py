"""Some runs of the rows of a source, as a source of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse
import xxhash

from nysstream.sources.base import RowPart

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.sources.base import Rows, RowSource

#: Most runs that rows are dealt in.
_MOST_RUNS = 1000


class RowRuns(RowPart):
    """Several runs of rows of another source, one after the other.

    Parameters
    ----------
    source : RowSource
    starts, stops : ndarray of int, shape (r,)
        First and past-the-last row of each run, ascending.

    Notes
    -----
    Where every run but the last is made of whole chunks, so are the rows here.
    """

    def __init__(self, source: RowSource, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> None:
        self.starts, self.stops = starts, stops
        self.offsets = np.concatenate([[0], np.cumsum(stops - starts)])
        super().__init__(source, int(self.offsets[-1]))
        self.name = f"{source.name}[{len(starts)} runs]"
        self.chunk_start = source.chunk_start if len(starts) and starts[0] == 0 else 0

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the whole source, with the runs."""
        runs = xxhash.xxh3_64_hexdigest(np.stack([self.starts, self.stops]).tobytes())
        return f"{self.source.fingerprint}-{runs}"

    def read(self, rows: slice, out: NDArray[Any] | None = None) -> Rows:
        """Read what the runs have of these rows, each piece at once."""
        first, last = np.searchsorted(self.offsets, [rows.start, rows.stop - 1], side="right") - 1
        pieces: list[Any] = []
        done = 0
        for i in range(first, last + 1):
            shift = self.starts[i] - self.offsets[i]
            start = max(rows.start, self.offsets[i]) + shift
            stop = min(rows.stop, self.offsets[i + 1]) + shift
            part = slice(int(start), int(stop))
            if out is None or self.sparse:
                pieces.append(self.source.read(part))
            else:
                self.source.read(part, out[done : done + part.stop - part.start])
                done += part.stop - part.start
        if out is not None and not self.sparse:
            return out
        if len(pieces) == 1:
            only: Rows = pieces[0]
            return only
        if self.sparse:
            stack: Any = scipy.sparse.vstack
            joined: Rows = stack(pieces, format="csr")
            return joined
        return np.concatenate(pieces) if pieces else np.empty((0, self.shape[1]), self.dtype)


def split_rows(source: RowSource, share: float, seed: int) -> tuple[NDArray[np.int64], ...]:
    """Draw runs of whole chunks that have about a share of the rows.

    Parameters
    ----------
    source : RowSource
    share : float
        Between 0 and 1.
    seed : int

    Returns
    -------
    tuple of ndarray of int
        Starts and stops of the runs that were not drawn, and of those that were; neither is empty where
        there are at least two rows.

    Notes
    -----
    There are up to 1,000 runs, of as few chunks as that allows, so that small data are drawn row by row. A
    source of a single chunk is cut all the same.
    """
    n_rows, chunk = source.shape[0], source.chunk_rows
    if chunk >= n_rows:
        chunk = 1
    step = chunk * max(1, -(-n_rows // (chunk * _MOST_RUNS)))
    edges = np.unique(np.r_[0, np.arange(source.chunk_start % chunk or step, n_rows, step), n_rows])
    count = len(edges) - 1
    wanted = min(max(1, round(share * count)), count - 1)
    rng = np.random.Generator(np.random.Philox(seed))
    drawn = np.zeros(count, np.bool_)
    drawn[rng.permutation(count)[:wanted]] = True
    found: list[NDArray[np.int64]] = []
    for chosen in (~drawn, drawn):
        # Neighbours are joined, so that they are read at once.
        change = np.diff(np.concatenate([[0], chosen.astype(np.int8), [0]]))
        found += [edges[np.flatnonzero(change == 1)], edges[np.flatnonzero(change == -1)]]
    return tuple(found)
