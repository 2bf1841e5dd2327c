"""Sources read as streams."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse

from nysstream.errors import InputError
from nysstream.sources import ArraySource, as_source
from nysstream.sources.sequential import SourceStream, open_stream


def test_layouts_and_memory_of_sources(rng):
    x = rng.random((20, 3)) < 0.5
    weight = rng.random(20).astype(">f4")
    stream = SourceStream(ArraySource(x), weight=ArraySource(weight))
    assert stream.n_rows == 20
    assert stream.layouts["x"].dtype == np.uint8
    assert stream.layouts["weight"].vector
    assert stream.layouts["weight"].dtype == np.dtype("f4")
    assert stream.resident_bytes == 20 * 3 + 20 * 4
    assert stream.where(7) == "row 7 of array"


@pytest.mark.parametrize("sparse", [False, True])
def test_blocks_follow_each_other(rng, sparse):
    x = rng.standard_normal((20, 3))
    stream = SourceStream(
        as_source(scipy.sparse.csr_array(x)) if sparse else ArraySource(x), ArraySource(x[:, 0])
    )
    blocks = [{name: a.copy() for name, a in block.items()} for block in stream.blocks(7)]
    assert [len(block["x"]) for block in blocks] == [7, 7, 6]
    np.testing.assert_array_equal(np.concatenate([block["x"] for block in blocks]), x)
    np.testing.assert_array_equal(np.concatenate([block["y"] for block in blocks]), x[:, 0])


def test_lengths_must_agree(rng):
    with pytest.raises(InputError, match="weight array has 3 rows, but x array has 4"):
        SourceStream(ArraySource(rng.random((4, 2))), weight=ArraySource(rng.random(3)))


def test_a_stream_is_taken_as_it_is(rng):
    stream = SourceStream(ArraySource(rng.random((4, 2))))
    assert open_stream(stream) is stream
