import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from nysstream.errors import InputError
from nysstream.sources import CSRSource
from nysstream.streaming.partition import cut_blocks


def random_csr(n, p, seed, dtype=np.float64):
    return sparse.random_array(
        (n, p), density=0.3, format="csr", rng=np.random.default_rng(seed), dtype=dtype
    )


@given(st.integers(0, 20), st.integers(1, 8), st.integers(0, 99), st.data())
def test_rows_equal_slices_and_share_the_data(n, p, seed, data):
    matrix = random_csr(n, p, seed)
    start = data.draw(st.integers(0, n))
    stop = data.draw(st.integers(start, n))
    source = CSRSource(matrix)
    block = source.read(slice(start, stop))
    assert source.sparse
    assert source.resident
    assert isinstance(block, sparse.csr_array)
    np.testing.assert_array_equal(block.toarray(), matrix.toarray()[start:stop])
    assert block.nnz == 0 or np.shares_memory(block.data, matrix.data)


def test_duplicate_entries_are_added_in_a_copy():
    matrix = sparse.csr_array((np.array([1.0, 2.0]), np.array([1, 1]), np.array([0, 2])), shape=(1, 3))
    block = CSRSource(matrix).read(slice(0, 1))
    assert block.nnz == 1
    np.testing.assert_array_equal(block.multiply(block).toarray(), [[0, 9, 0]])
    assert matrix.nnz == 2


def test_big_endian_values_come_out_native():
    matrix = sparse.csr_matrix(np.eye(3))
    matrix.data = matrix.data.astype(">f8")
    block = CSRSource(matrix).read(slice(0, 3))
    assert block.dtype.isnative
    np.testing.assert_array_equal(block.toarray(), np.eye(3))


def test_pickle_and_fingerprint():
    source = CSRSource(random_csr(50, 6, 1))
    copy = pickle.loads(pickle.dumps(source))
    assert copy.fingerprint == source.fingerprint
    assert CSRSource(random_csr(50, 6, 2)).fingerprint != source.fingerprint


@pytest.mark.parametrize("form", ["csc", "coo", "dia", "lil"])
def test_other_formats_are_refused_with_the_remedy(form):
    with pytest.raises(InputError, match=r"tocsr\(\)"):
        CSRSource(random_csr(5, 4, 0).asformat(form))


def test_complex_values_are_refused():
    with pytest.raises(InputError, match="complex128"):
        CSRSource(sparse.csr_array(np.eye(2, dtype=complex)))


def test_rows_that_are_not_there_are_refused():
    with pytest.raises(InputError, match="rows slice"):
        CSRSource(random_csr(5, 4, 0)).read(slice(0, 6))


@pytest.mark.parametrize(("p", "expected"), [(1000, 8), (100_000, 8), (400_000, 12.3), (10_000_000, 64)])
def test_blocks_grow_with_the_columns_that_their_products_are_as_long_as(p, expected):
    n, width = 200_000, 50
    rng = np.random.default_rng(0)
    indices = np.sort(rng.integers(0, p // width, (n, width)) + p // width * np.arange(width), axis=1)
    arrays = (
        np.ones(n * width, np.float32),
        indices.ravel().astype(np.int32),
        np.arange(n + 1, dtype=np.int32) * width,
    )
    source = CSRSource(sparse.csr_array(arrays, shape=(n, p)))
    first, last = cut_blocks(source)[0]
    assert (last - first) * source.row_bytes == pytest.approx(expected * (1 << 20), rel=0.05)
