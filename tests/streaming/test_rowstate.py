"""Row state: the same numbers in memory and in a file."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from nysstream.errors import InputError
from nysstream.streaming.rowstate import RowState
from nysstream.streaming.window import Window


def window(starts, sizes):
    """Make a window of blocks with so many rows."""
    return Window(np.array(starts), [np.empty((size, 1)) for size in sizes], False, None, None)


@pytest.mark.parametrize("in_memory", [True, False])
def test_what_is_written_is_read(rng, in_memory):
    values = rng.standard_normal((20, 3))
    state = RowState((20, 3), in_memory)
    state.write(0, values[:12])
    state.write(12, values[12:])
    np.testing.assert_array_equal(state.read(slice(5, 17)), values[5:17])
    np.testing.assert_array_equal(np.asarray(state), values)


@pytest.mark.parametrize("in_memory", [True, False])
def test_windows_go_out_and_in_by_their_blocks(rng, in_memory):
    state = RowState((20, 2), in_memory)
    values = rng.standard_normal((7, 2))
    blocks = window([4, 15], [4, 3])
    state.write_window(blocks, values)
    np.testing.assert_array_equal(state.of_window(blocks), values)
    np.testing.assert_array_equal(state.read(slice(15, 18)), values[4:])
    assert not state.read(slice(8, 15)).any()


@pytest.mark.parametrize("in_memory", [True, False])
def test_copies_hold_the_same_numbers(rng, in_memory):
    state = RowState((5, 1), in_memory)
    state.write(0, rng.standard_normal((5, 1)))
    np.testing.assert_array_equal(np.asarray(pickle.loads(pickle.dumps(state))), np.asarray(state))


def test_a_state_on_disk_is_seen_as_an_array_that_is_not_held(rng):
    values = rng.standard_normal((7, 2))
    state = RowState.of(values, in_memory=False)
    seen = np.asarray(state)
    assert not seen.flags.owndata
    assert not seen.flags.writeable
    del state  # its file is closed
    np.testing.assert_array_equal(seen, values)


def test_shapes_must_be_positive():
    with pytest.raises(InputError, match="at least one row"):
        RowState((0, 1))
