"""The check that all values of a block are finite."""

from __future__ import annotations

import numpy as np
import pytest

from nysstream.errors import InputError
from nysstream.sources.layout import Layout
from nysstream.sources.stream import RowStream, check_finite


class Named(RowStream):
    name = "named"

    def __init__(self):
        self.layouts = {
            "x": Layout(2, np.dtype("f8"), columns=("height", "width")),
            "y": Layout(1, np.dtype("f4"), vector=True),
        }

    def blocks(self, block_rows):
        yield {}


def test_the_first_bad_value_is_named():
    block = {"x": np.ones((5, 2)), "y": np.ones(5, "f4")}
    check_finite(Named(), block, 100)
    block["y"][3] = np.inf
    with pytest.raises(InputError, match="row 103 of named: column 0 of y is inf as float32"):
        check_finite(Named(), block, 100)
    block["x"][2:, 1] = np.nan
    with pytest.raises(InputError, match="row 102 of named: column 'width' is nan as float64"):
        check_finite(Named(), block, 100)


def test_sums_that_overflow_are_no_reason_to_refuse():
    check_finite(Named(), {"x": np.full((5, 2), 1e308), "y": np.full(5, 3e38, "f4")}, 0)


def test_integers_pass_without_a_look():
    check_finite(Named(), {"x": np.full((5, 2), 2**62), "y": np.arange(5)}, 0)


def test_infinities_that_cancel_to_nan_are_found():
    with pytest.raises(InputError, match="row 0 of named"):
        check_finite(Named(), {"x": np.array([[np.inf, -np.inf]]), "y": np.ones(1)}, 0)
