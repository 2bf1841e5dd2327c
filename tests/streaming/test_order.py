"""Rows in a random order, and those that are not."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nysstream.errors import OrderWarning
from nysstream.streaming import DesignMatrix
from nysstream.streaming.order import variance_between_blocks, warn_if_sorted
from tests.streaming.support import Stored, small_blocks


def design_of(y, chunk=20):
    """Make a design whose blocks have so many rows."""
    return DesignMatrix(Stored(np.ones((len(y), 1)), chunk_rows=chunk), y)


@given(n=st.integers(2, 90), chunk=st.integers(1, 30), window=st.integers(1, 90), seed=st.integers(0, 99))
def test_share_is_that_of_an_analysis_of_variance(n, chunk, window, seed):
    y = np.random.default_rng(seed).standard_normal(n) + 100
    with pytest.MonkeyPatch.context() as patch:
        small_blocks(patch)
        patch.setattr("nysstream.streaming.order._ROWS", window)
        share, _ = variance_between_blocks(design_of(y, chunk))
    blocks = [y[a : a + chunk] for a in range(0, n, chunk)]
    between = sum(len(part) * (part.mean() - y.mean()) ** 2 for part in blocks)
    assert share == pytest.approx(between / np.sum((y - y.mean()) ** 2), abs=1e-9)


def test_sorted_labels_warn_and_shuffled_ones_do_not(monkeypatch, rng):
    small_blocks(monkeypatch)
    y = np.repeat([0.0, 1.0, 2.0], 400)
    with pytest.warns(OrderWarning, match="convert --shuffle"):
        warn_if_sorted(design_of(y), 8, classes=np.array([0.0, 1.0, 2.0]))
    with pytest.warns(OrderWarning, match="means of the targets"):
        warn_if_sorted(design_of(np.sort(rng.standard_normal(1200))), 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_sorted(design_of(rng.permutation(y)), 8, classes=np.array([0.0, 1.0, 2.0]))
        warn_if_sorted(design_of(rng.standard_normal(1200)), 8)
        warn_if_sorted(design_of(y), 60)  # one window holds all blocks
        warn_if_sorted(design_of(np.ones(1200)), 8)
