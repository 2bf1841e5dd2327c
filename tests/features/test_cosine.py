"""The cosine in place."""

from __future__ import annotations

import numpy as np
import pytest

from nysstream.features.cosine import PIECE_BYTES, scaled_cosine


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("largest", [1e-3, 1.0, 1e3, 1e6])
def test_as_accurate_as_the_phase_is_rounded(dtype, largest, rng):
    Z = rng.uniform(-largest, largest, (400, 301)).astype(dtype)
    phase = rng.uniform(0, 2 * np.pi, 301).astype(dtype)
    expected = 0.5 * np.cos(Z.astype(np.longdouble) + phase)
    result = scaled_cosine(Z, phase, 0.5)
    assert result is Z
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(result, expected.astype(np.float64), rtol=0, atol=eps * (4 + largest))


def test_quarter_turns_hit_their_values():
    Z = np.arange(-8, 9)[None, :] * (np.pi / 2)
    expected = np.cos(Z)
    np.testing.assert_allclose(scaled_cosine(Z, np.zeros(17), 1.0), expected, rtol=0, atol=2e-15)


@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (3, PIECE_BYTES // 8 + 1), (70, 1000)])
def test_pieces_cover_every_row(shape, rng):
    Z = rng.standard_normal(shape)
    expected = np.cos(Z)
    np.testing.assert_allclose(scaled_cosine(Z, np.zeros(shape[1]), 1.0), expected, rtol=0, atol=2e-15)


def test_not_finite_stays_not_finite():
    Z = np.array([[np.nan, np.inf, 0.0]])
    with np.errstate(invalid="ignore"):
        result = scaled_cosine(Z, np.zeros(3), 1.0)
    assert np.isnan(result[0, :2]).all()
    assert result[0, 2] == 1
