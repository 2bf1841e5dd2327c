from __future__ import annotations

import array_api_strict
import numpy as np
import pytest

from nysstream.errors import InputError
from nysstream.operators import as_operator
from nysstream.sketching import Preconditioned, nystrom, spectral_density
from tests.helpers import SPECTRA, with_eigenvalues


@pytest.mark.parametrize("reorthogonalize", [True, False])
def test_traces_lie_within_their_errors(rng, reorthogonalize):
    values = SPECTRA["slow"](150)
    A = with_eigenvalues(values, rng)
    spectrum = spectral_density(A, n_steps=40, n_probes=40, random_state=0, reorthogonalize=reorthogonalize)
    for f in (np.ones_like, lambda t: t, lambda t: t**2, lambda t: np.log(np.abs(t) + 0.1)):
        estimate, error = spectrum.trace(f)
        assert abs(estimate - np.sum(f(values))) <= 4 * error + 1e-8
    estimate, error = spectrum.effective_dimension(1e-2)
    assert abs(estimate - np.sum(values / (values + 1e-2))) <= 4 * error
    assert error < 5


def test_quadrature_is_exact_for_polynomials(rng):
    """M Lanczos steps integrate degree 2m - 1 exactly: compare with v' A^j v of the same probes."""
    A = with_eigenvalues(np.linspace(0, 1, 30), rng)
    spectrum = spectral_density(A, n_steps=4, n_probes=1, random_state=5)
    from nysstream.sketching import rademacher

    v = rademacher(30, 1, 5)[:, 0]
    for power in range(8):
        expected = v @ np.linalg.matrix_power(A, power) @ v
        assert spectrum.trace(lambda t, power=power: t**power)[0] == pytest.approx(expected, rel=1e-10)


def test_full_krylov_space_finds_every_eigenvalue(rng):
    values = np.linspace(1, 2, 15)
    spectrum = spectral_density(with_eigenvalues(values, rng), n_steps=50, n_probes=2, random_state=0)
    assert spectrum.nodes.shape == (2, 15)
    np.testing.assert_allclose(spectrum.nodes, np.stack([values] * 2), atol=1e-10)


def test_exhausted_krylov_space_is_padded_without_weight(rng):
    A = with_eigenvalues(np.r_[np.full(10, 3.0), np.full(20, 1.0)], rng)
    spectrum = spectral_density(A, n_steps=12, n_probes=4, random_state=0)
    np.testing.assert_allclose(spectrum.weights[:, 2:], 0)
    np.testing.assert_allclose(spectrum.nodes[:, :2], [[1.0, 3.0]] * 4)
    np.testing.assert_allclose(spectrum.weights.sum(axis=1), 1)
    zero = spectral_density(np.zeros((5, 5)), n_steps=3, n_probes=2, random_state=0)
    assert zero.trace(lambda t: t)[0] == 0


def test_one_pass_per_step_for_all_probes(rng):
    operator = as_operator(with_eigenvalues(SPECTRA["slow"](40), rng), psd=True)
    spectral_density(operator, n_steps=9, n_probes=6, random_state=0)
    assert operator.passes == 9


def test_density_integrates_to_one_and_sits_on_the_eigenvalues(rng):
    A = with_eigenvalues(np.r_[np.full(30, 1.0), np.full(10, 5.0)], rng)
    grid, density = spectral_density(A, n_steps=10, n_probes=20, random_state=0).density(width=0.1)
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-3)
    share = np.trapezoid(density[grid > 3], grid[grid > 3])
    assert share == pytest.approx(0.25, abs=0.1)
    wide = spectral_density(A, n_steps=10, n_probes=2, random_state=0).density(np.linspace(-1, 7, 50))
    assert wide[0].shape == wide[1].shape == (50,)


def test_preconditioning_narrows_the_spectrum(rng):
    A, shift = with_eigenvalues(SPECTRA["fast"](60), rng), 1e-3
    approximation = nystrom(A, 40, random_state=0)
    operator = Preconditioned(as_operator(A, psd=True), approximation.preconditioner(), shift)
    spectrum = spectral_density(operator, n_steps=20, n_probes=3, random_state=0)
    assert spectrum.nodes.max() / spectrum.nodes.min() <= approximation.condition_number(shift)
    assert operator.passes == 20
    assert np.ptp(spectral_density(A, n_steps=20, n_probes=3, random_state=0).nodes) > 0.9


def test_another_device_gives_the_same(rng):
    A = with_eigenvalues(SPECTRA["slow"](30), rng)
    moved = array_api_strict.asarray(A, device=array_api_strict.Device("device1"))
    expected = spectral_density(A, n_steps=8, n_probes=2, random_state=0)
    actual = spectral_density(moved, n_steps=8, n_probes=2, random_state=0)
    np.testing.assert_allclose(actual.nodes, expected.nodes, atol=1e-12)


def test_bad_requests_are_refused():
    with pytest.raises(InputError, match="square"):
        spectral_density(np.ones((3, 2)))
    with pytest.raises(InputError, match="positive"):
        spectral_density(np.eye(3), n_steps=0)
    with pytest.raises(InputError, match="positive shift"):
        spectral_density(np.eye(3), random_state=0).effective_dimension(0.0)
