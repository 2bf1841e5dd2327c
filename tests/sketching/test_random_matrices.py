from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nysstream.errors import InputError
from nysstream.sketching.random_matrices import as_seed, gaussian, orthonormal, probe_seed, rademacher


@pytest.mark.parametrize("draw", [gaussian, rademacher])
@given(p=st.integers(1, 40), s=st.integers(1, 12), more=st.integers(0, 12), seed=st.integers(0, 2**64 - 1))
def test_leading_columns_do_not_depend_on_the_count(draw, p, s, more, seed):
    np.testing.assert_array_equal(draw(p, s + more, seed)[:, :s], draw(p, s, seed))


@given(p=st.integers(2, 60), seed=st.integers(0, 2**32), data=st.data())
def test_orthonormal_extends_a_smaller_one(p, seed, data):
    s = data.draw(st.integers(1, p))
    smaller = data.draw(st.integers(1, s))
    Q = orthonormal(p, s, seed)
    np.testing.assert_allclose(Q.T @ Q, np.eye(s), atol=1e-13)
    # Late columns of a nearly square matrix are the least determined.
    np.testing.assert_allclose(Q[:, :smaller], orthonormal(p, smaller, seed), atol=1e-9)


def test_orthonormal_spans_what_gaussian_spans():
    G, Q = gaussian(50, 6, 3), orthonormal(50, 6, 3)
    np.testing.assert_allclose(Q @ (Q.T @ G), G, atol=1e-12)
    assert np.all(np.diagonal(Q.T @ G) > 0)


def test_draws_have_the_moments_they_should():
    G, S = gaussian(2000, 20, 1), rademacher(2000, 20, 1)
    assert abs(G.mean()) < 0.02
    assert abs(G.std() - 1) < 0.02
    assert set(np.unique(S)) == {-1.0, 1.0}
    assert abs(S.mean()) < 0.02


def test_probes_are_unrelated_to_the_test_matrix():
    G, H = gaussian(1000, 5, 7), gaussian(1000, 5, probe_seed(7))
    assert np.abs(G.T @ H / 1000).max() < 0.2


def test_seeds_from_everything_that_may_hold_one():
    assert as_seed(5) == 5
    assert as_seed(np.int64(5)) == 5
    rng = np.random.default_rng(0)
    first, second = as_seed(rng), as_seed(rng)
    assert first != second
    assert first == as_seed(np.random.default_rng(0))
    assert as_seed(None) != as_seed(None)


@pytest.mark.parametrize("state", [-1, 1.5, "seed"])
def test_other_random_states_are_refused(state):
    with pytest.raises(InputError, match="random_state"):
        as_seed(state)


@pytest.mark.parametrize("s", [0, 4])
def test_too_many_orthonormal_columns_are_refused(s):
    with pytest.raises(InputError, match="1 to 3"):
        orthonormal(3, s, 0)
