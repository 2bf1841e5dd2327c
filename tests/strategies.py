"""Hypothesis strategies: matrices, and ways to store and to cut them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from hypothesis import strategies as st

FLOATS = (np.float32, np.float64)
INTEGERS = (np.int8, np.uint8, np.int16, np.uint16, np.int32, np.int64)


def float_dtypes() -> st.SearchStrategy[np.dtype]:
    """Dtypes that are computed in as they are."""
    return st.sampled_from([np.dtype(dtype) for dtype in FLOATS])


def stored_dtypes(*, byte_orders: str = "<>") -> st.SearchStrategy[np.dtype]:
    """Dtypes as found in stores: floats of three widths, integers, booleans; both byte orders."""
    base = st.sampled_from([np.dtype(dtype) for dtype in (np.float16, *FLOATS, *INTEGERS, np.bool_)])
    return st.builds(lambda dtype, order: dtype.newbyteorder(order), base, st.sampled_from(byte_orders))


@dataclass(frozen=True)
class Layout:
    """A shape and a chunking; the last chunk and the last block are ragged more often than not."""

    n_rows: int
    n_columns: int
    chunk_rows: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.n_rows, self.n_columns


@st.composite
def layouts(draw: st.DrawFn, *, max_rows: int = 200, max_columns: int = 12, min_rows: int = 1) -> Layout:
    """Draw shapes with all kinds of chunkings: single rows, ragged, exact, longer than the data."""
    n_rows = draw(st.integers(min_rows, max_rows))
    n_columns = draw(st.integers(1, max_columns))
    chunk_rows = draw(st.one_of(st.integers(1, max(1, n_rows)), st.sampled_from([1, n_rows, n_rows + 3])))
    return Layout(n_rows, n_columns, chunk_rows)


@st.composite
def matrices(draw: st.DrawFn, layout: Layout, dtype: np.dtype | type = np.float64) -> np.ndarray:
    """Draw a matrix of moderate values; its seed shrinks, its entries do not (they need not)."""
    dtype = np.dtype(dtype)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if dtype.kind == "b":
        return rng.random(layout.shape) < 0.5
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        values = rng.integers(max(info.min, -100), min(info.max, 100), layout.shape, endpoint=True)
        return values.astype(dtype)
    return rng.standard_normal(layout.shape).astype(dtype)


@st.composite
def row_slices(draw: st.DrawFn, n_rows: int) -> slice:
    """Draw contiguous runs of rows, empty ones included."""
    start = draw(st.integers(0, n_rows))
    return slice(start, draw(st.integers(start, n_rows)))


@st.composite
def cuts(draw: st.DrawFn, n_rows: int, *, max_parts: int = 6) -> list[slice]:
    """Draw a partition of ``n_rows`` rows into consecutive, possibly empty, runs."""
    inner = draw(st.lists(st.integers(0, n_rows), max_size=max_parts - 1))
    edges = [0, *sorted(inner), n_rows]
    return [slice(start, stop) for start, stop in pairwise(edges)]
