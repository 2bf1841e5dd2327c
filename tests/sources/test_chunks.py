"""The pieces of a read cover it exactly once, and lie where the grid says."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nysstream.sources.chunks import pieces


@given(st.integers(0, 20), st.integers(0, 9), st.integers(1, 7), st.integers(1, 7), st.data())
def test_pieces_cover_the_rectangle_once(n, p, height, width, data):
    start = data.draw(st.integers(0, n))
    stop = data.draw(st.integers(start, n))
    left = data.draw(st.integers(0, p))
    right = data.draw(st.integers(left, p))
    matrix = np.arange(n * p).reshape(n, p)
    padded = np.full((n + height, p + width), -1)
    padded[:n, :p] = matrix
    out = np.full((stop - start, right - left), -1)
    for chunk, inside, target in pieces(slice(start, stop), slice(left, right), (height, width)):
        corner = padded[chunk[0] * height :, chunk[1] * width :]
        assert (out[target] == -1).all()
        assert out[target].size > 0
        out[target] = corner[:height, :width][inside]
    np.testing.assert_array_equal(out, matrix[start:stop, left:right])
