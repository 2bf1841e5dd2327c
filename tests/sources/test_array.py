import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nysstream.errors import InputError
from nysstream.sources import ArraySource

DTYPES = [
    np.dtype(name) for name in ("?", "i1", "u2", "i4", "u8", "f2", "f4", "f8", "g", ">f4", ">i8", ">f2")
]


@given(st.data())
def test_rows_equal_the_arrays_in_any_order_dtype_and_byte_order(data):
    dtype = data.draw(st.sampled_from(DTYPES))
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=9))
    values = np.arange(np.prod(shape)).reshape(shape).astype(dtype, order=data.draw(st.sampled_from("CF")))
    start = data.draw(st.integers(0, shape[0]))
    stop = data.draw(st.integers(start, shape[0]))
    source = ArraySource(values)
    expected = values.reshape(shape[0], -1 if values.size else (1 if len(shape) == 1 else shape[1]))[
        start:stop
    ]
    block = source.read(slice(start, stop))
    assert source.vector == (len(shape) == 1)
    assert source.resident
    assert block.dtype == source.dtype == dtype.newbyteorder("=")
    np.testing.assert_array_equal(block, expected)
    out = np.empty(expected.shape, np.float32)
    assert source.read(slice(start, stop), out) is out
    np.testing.assert_array_equal(out, expected.astype(np.float32))


def test_reading_without_an_output_copies_nothing():
    values = np.ones((10, 3))
    assert np.shares_memory(ArraySource(values).read(slice(2, 7)), values)


def test_pickle_ships_the_values():
    source = pickle.loads(pickle.dumps(ArraySource(np.arange(12.0).reshape(4, 3))))
    np.testing.assert_array_equal(source.read(slice(1, 3)), [[3, 4, 5], [6, 7, 8]])


def test_a_narrower_output_overflows_to_infinity_without_a_warning():
    out = np.empty((1, 2), np.float32)
    ArraySource(np.array([[1e300, -1.0]])).read(slice(0, 1), out)
    np.testing.assert_array_equal(out, [[np.inf, -1.0]])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((2, 2), complex), "complex128.*real and the imaginary"),
        (np.array([["a"]]), "dtype <U1.*encode the strings"),
        (np.array([[b"a"]]), "encode the strings"),
        (np.array([[None]]), "dtype object.*astype"),
        (np.zeros(3, [("a", "f4")]), "each field"),
        (np.zeros((2, 2), "M8[s]"), "timedelta64"),
        (np.zeros((2, 2), "m8[s]"), "durations"),
        (np.zeros((2, 2, 2)), r"3 dimensions.*reshape"),
        (np.zeros(()), "0 dimensions"),
        (np.ma.masked_array([[1.0, 2.0]], [[0, 1]]), "masked"),
    ],
)
def test_what_is_no_matrix_of_real_numbers_is_refused(values, message):
    with pytest.raises(InputError, match=message):
        ArraySource(values)


@pytest.mark.parametrize("rows", [slice(0, 5), slice(-1, 2), slice(3, 2), slice(0, 4, 2)])
def test_rows_that_are_not_there_are_refused(rows):
    with pytest.raises(InputError, match="need 0 <= start <= stop <= 4"):
        ArraySource(np.ones((4, 2))).read(rows)


def test_an_output_of_another_shape_is_refused():
    with pytest.raises(InputError, match=r"out has shape \(2, 2\).*\(3, 2\)"):
        ArraySource(np.ones((4, 2))).read(slice(0, 3), np.empty((2, 2)))
