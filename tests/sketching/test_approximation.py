from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nysstream.errors import AccuracyWarning, InputError
from nysstream.sketching import nystrom
from tests.helpers import SPECTRA, with_eigenvalues

spectra = st.sampled_from(sorted(SPECTRA))
seeds = st.integers(0, 10**6)
shifts = st.floats(-8, 1).map(lambda exponent: 10.0**exponent)


@given(
    name=spectra, p=st.integers(20, 60), share=st.floats(0.05, 1.0), shift=shifts, seed=st.integers(0, 10**6)
)
def test_effective_dimension_is_bracketed(name, p, share, shift, seed):
    values = SPECTRA[name](p)
    A = with_eigenvalues(values, np.random.default_rng(seed))
    lower, upper = nystrom(A, max(1, int(share * p)), random_state=seed).effective_dimension(shift)
    truth = np.sum(values / (values + shift))
    assert lower <= truth * (1 + 1e-6) + 1e-6
    assert truth <= upper * (1 + 1e-6) + 1e-6
    assert upper <= p + 1e-6


@given(name=spectra, rank=st.integers(1, 40), shift=shifts, seed=seeds)
def test_condition_number_bounds_the_truth(name, rank, shift, seed):
    p = 40
    A = with_eigenvalues(SPECTRA[name](p), np.random.default_rng(seed))
    approximation = nystrom(A, 40, random_state=seed).truncate(rank)
    P = approximation.preconditioner()
    B = P.inverse_sqrt(P.inverse_sqrt(A + shift * np.eye(p), shift).T, shift)
    true = np.linalg.cond((B + B.T) / 2)
    assert true <= approximation.condition_number(shift) * (1 + 1e-6) + 1e-6


def test_tail_after_dropping_noise_survives_a_gap(rng):
    shift = 1e-3
    A = with_eigenvalues(np.r_[np.ones(10), np.full(50, 1e-5)], rng)
    approximation = nystrom(A, 30, random_state=0).truncate(10)
    P = approximation.preconditioner()
    # Negative control: continuing at the last kept value leaves the whole gap in the spectrum.
    wrong = replace(P, tail=float(approximation.values[-1]))
    conditions = [
        np.linalg.cond(Q.inverse_sqrt(Q.inverse_sqrt(A + shift * np.eye(60), shift).T, shift))
        for Q in (P, wrong)
    ]
    assert conditions[0] < 1.1
    assert conditions[1] > 500
    assert approximation.condition_number(shift) < 1.5


def test_truncation_is_the_best_of_its_rank(rng):
    A = with_eigenvalues(SPECTRA["slow"](50), rng)
    full = nystrom(A, 30, random_state=1)
    cut = full.truncate(7)
    assert cut.rank == 7
    assert cut.tail == full.values[7]
    error = np.linalg.eigvalsh(A - (cut.vectors * cut.values) @ cut.vectors.T)
    assert error[-1] <= cut.certificate.spectral_error
    assert error.sum() == pytest.approx(cut.certificate.nuclear_error, rel=1e-9)
    assert full.truncate(100) is full


def test_predicted_iterations_follow_the_condition_number(rng):
    A = with_eigenvalues(SPECTRA["slow"](200), rng)
    few, many = nystrom(A, 5, random_state=0), nystrom(A, 100, random_state=0)
    assert many.predicted_iterations(1e-2, 1e-6) < few.predicted_iterations(1e-2, 1e-6)
    kappa = few.condition_number(1e-2)
    t = few.predicted_iterations(1e-2, 1e-6)
    rate = (math.sqrt(kappa) - 1) / (math.sqrt(kappa) + 1)
    assert 2 * rate**t <= 1e-6 < 2 * rate ** (t - 1)
    assert few.predicted_iterations(0.0, 1e-6) == 200
    assert few.condition_number(0.0) == math.inf
    assert few.predicted_iterations(1e-2, 0.0) == 200
    assert few.predicted_iterations(1e-2, 1.0) == 1


def test_a_rank_of_three_effective_dimensions_conditions_below_28(rng):
    """S = 2 ceil(1.5 d_eff) + 1 gives an expected condition number below 28 (Frangella et al.)."""
    values, shift = SPECTRA["slow"](200) ** 2, 1e-3
    A = with_eigenvalues(values, rng)
    s = 2 * math.ceil(1.5 * np.sum(values / (values + shift))) + 1
    conditions = []
    for seed in range(5):
        P = nystrom(A, s, random_state=seed).preconditioner()
        conditions.append(np.linalg.cond(P.inverse(A + shift * np.eye(200), shift)))
    assert np.mean(conditions) < 28


def test_shift_below_the_noise_floor_warns(rng):
    A = with_eigenvalues(SPECTRA["fast"](60), rng).astype(np.float32)
    approximation = nystrom(A, 40, random_state=0)
    floor = approximation.certificate.noise_floor
    with pytest.warns(AccuracyWarning, match='precision="double"'):
        approximation.preconditioner(shift=floor / 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        approximation.preconditioner(shift=2 * floor)
        approximation.preconditioner()


def test_effective_dimension_needs_a_shift():
    with pytest.raises(InputError, match="positive shift"):
        nystrom(np.eye(5), 3, random_state=0).effective_dimension(0.0)
