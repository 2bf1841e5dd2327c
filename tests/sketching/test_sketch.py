from __future__ import annotations

import math

import array_api_strict
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nysstream.arrays import to_host
from nysstream.errors import InputError, NotPositiveSemidefinite
from nysstream.sketching import Sketch, gaussian, orthonormal
from tests.helpers import SPECTRA, with_eigenvalues

DECAYING = 10.0 ** (-0.15 * np.arange(500))
DEFICIENT = np.r_[np.ones(60), np.zeros(440)]
EPS32, EPS64 = float(np.finfo(np.float32).eps), float(np.finfo(np.float64).eps)


def sketch_of(A, s, *, q=10, seed=0, single=False, eps=None, test=None):
    """Sketch A, with products in single precision on request."""
    p = len(A)
    V = np.hstack([orthonormal(p, s, seed) if test is None else test, gaussian(p, q, seed + 1)])
    AV = (A.astype(np.float32) @ V.astype(np.float32)).astype(np.float64) if single else A @ V
    eps = (EPS32 if single else EPS64) if eps is None else eps
    return Sketch(V[:, :s], AV[:, :s], eps, float(np.trace(A)), V[:, s:], AV[:, s:])


def dense(approximation):
    U, values = to_host(approximation.vectors), to_host(approximation.values)
    return (U * values) @ U.T


spectra = st.sampled_from(sorted(SPECTRA))


@given(name=spectra, p=st.integers(20, 60), share=st.floats(0.05, 1.0), seed=st.integers(0, 10**6))
def test_lies_between_zero_and_the_matrix(name, p, share, seed):
    A = with_eigenvalues(SPECTRA[name](p), np.random.default_rng(seed))
    approximation = sketch_of(A, max(1, int(share * p)), seed=seed).nystrom()
    U, values = approximation.vectors, approximation.values
    np.testing.assert_allclose(U.T @ U, np.eye(approximation.rank), atol=1e-12)
    assert np.all(np.diff(values) <= 0)
    assert np.all(values > 0)
    error = np.linalg.eigvalsh(A - dense(approximation))
    assert error[0] >= -1e-7, "the approximation exceeds the matrix"
    assert error[-1] <= approximation.certificate.spectral_error + 1e-14
    assert error.sum() <= approximation.certificate.nuclear_error + 1e-12


@given(name=spectra, seed=st.integers(0, 10**6))
def test_reproduces_the_matrix_on_the_test_vectors(name, seed):
    A = with_eigenvalues(SPECTRA[name](50), np.random.default_rng(seed))
    sketch = sketch_of(A, 15, seed=seed)
    np.testing.assert_allclose(dense(sketch.nystrom()) @ sketch.test, sketch.product, atol=1e-6)


def test_exact_for_a_matrix_of_smaller_rank(rng):
    A = with_eigenvalues(np.r_[np.linspace(1, 3, 12), np.zeros(48)], rng)
    approximation = sketch_of(A, 20).nystrom()
    assert approximation.rank == 12
    np.testing.assert_allclose(dense(approximation), A, atol=1e-12)
    assert approximation.certificate.spectral_error < 1e-12


def test_prefix_is_the_smaller_sketch(rng):
    A = with_eigenvalues(SPECTRA["slow"](40), rng)
    large, small = sketch_of(A, 24), sketch_of(A, 9)
    np.testing.assert_allclose(dense(large.nystrom(9)), dense(small.nystrom()), atol=1e-12)


def test_expected_error_obeys_the_nuclear_bound(rng):
    """E ||A - [Â]_r|| <= (1 + r / (s - r - 1)) ||A - [A]_r|| in the nuclear norm (Tropp et al. 2017)."""
    values = SPECTRA["slow"](60)
    A, r, s = with_eigenvalues(values, rng), 10, 21
    errors = [np.trace(A - dense(sketch_of(A, s, seed=k).nystrom().truncate(r))) for k in range(30)]
    assert np.mean(errors) <= (1 + r / (s - r - 1)) * values[r:].sum()


def test_expected_error_obeys_the_spectral_bound(rng):
    """The a-priori bound of Frangella, Tropp and Udell, for every q."""
    values = SPECTRA["fast"](60)
    A, s = with_eigenvalues(values, rng), 20
    errors = [np.linalg.norm(A - dense(sketch_of(A, s, seed=k).nystrom()), 2) for k in range(30)]
    bound = min(
        (1 + 2 * (s - q) / (q - 1)) * values[s - q] + 2 * math.e**2 * s / (q**2 - 1) * values[s - q :].sum()
        for q in range(2, s - 1)
    )
    assert np.mean(errors) <= bound


def test_rescaled_test_matrix_changes_nothing(rng):
    A = with_eigenvalues(SPECTRA["fast"](50), rng)
    plain = sketch_of(A, 20)
    scaled = Sketch(1e6 * plain.test, 1e6 * plain.product, plain.eps, plain.trace)
    np.testing.assert_allclose(scaled.nystrom().values, plain.nystrom().values, rtol=1e-9, atol=1e-15)


def test_test_matrix_need_not_be_orthonormal(rng):
    A = with_eigenvalues(SPECTRA["slow"](50), rng)
    scales = np.exp(rng.uniform(-2, 2, 50))
    approximation = sketch_of(A, 20, test=scales[:, None] * orthonormal(50, 20, 3)).nystrom()
    error = np.linalg.eigvalsh(A - dense(approximation))
    assert error[0] >= -1e-10
    assert error[-1] <= approximation.certificate.spectral_error


@pytest.mark.parametrize("values", [DECAYING, DEFICIENT], ids=["decaying", "deficient"])
def test_single_precision_products_need_a_shift_of_their_own(values, rng):
    A = with_eigenvalues(values, rng)
    honest = sketch_of(A, 100, single=True).nystrom()
    assert honest.certificate.noise_floor == pytest.approx(
        EPS32 * np.linalg.norm(sketch_of(A, 100, single=True).product), rel=1e-12
    ), "the Cholesky factorization should succeed at the first shift"
    np.testing.assert_allclose(dense(honest), A, atol=2e-5)
    # Negative control: the shift of double precision is too small, and has to grow.
    naive = sketch_of(A, 100, single=True, eps=EPS64)
    core = naive.test.T @ naive.product
    nu = EPS64 * np.linalg.norm(naive.product)
    with pytest.raises(np.linalg.LinAlgError):
        np.linalg.cholesky((core + core.T) / 2 + nu * np.eye(100))


def test_understated_rounding_is_survived(rng):
    """Products rounded far above eps: the shift grows, then the core's eigenvectors take over."""
    A = with_eigenvalues(np.r_[np.ones(30), np.zeros(70)], rng)
    sketch = sketch_of(A, 50)
    noise = rng.standard_normal(sketch.product.shape)
    for level in (1e-13, 1e-9):
        noisy = Sketch(sketch.test, sketch.product + level * noise, EPS64)
        approximation = noisy.nystrom()
        assert approximation.certificate.noise_floor > 5 * EPS64 * np.linalg.norm(sketch.product)
        np.testing.assert_allclose(dense(approximation), A, atol=1e5 * level)


def test_indefinite_matrix_is_refused(rng):
    A = with_eigenvalues(np.linspace(-1, 1, 40), rng)
    sketch = sketch_of(A, 30)
    with pytest.raises(NotPositiveSemidefinite, match="not symmetric positive semidefinite"):
        sketch.nystrom()


def test_trace_smaller_than_what_was_captured_is_refused(rng):
    A = with_eigenvalues(SPECTRA["slow"](30), rng)
    sketch = sketch_of(A, 20)
    wrong = Sketch(sketch.test, sketch.product, EPS64, 0.5 * sketch.trace)
    with pytest.raises(NotPositiveSemidefinite, match="trace"):
        wrong.nystrom()


def test_zero_matrix_has_rank_zero():
    approximation = sketch_of(np.zeros((20, 20)), 5).nystrom()
    assert approximation.rank == 0
    assert approximation.certificate.spectral_error == 0
    assert approximation.condition_number(1.0) == 1.0
    V = np.ones((20, 2))
    np.testing.assert_array_equal(approximation.preconditioner().inverse(V, 1.0), V)


def test_probes_fail_less_often_than_claimed_and_are_not_useless(rng):
    """The block-norm bound holds in every trial, and within a factor of three on a slow decay."""
    A = with_eigenvalues(SPECTRA["slow"](80), rng)
    ratios = []
    for seed in range(100):
        sketch = sketch_of(A, 20, seed=seed)
        without_trace = Sketch(sketch.test, sketch.product, EPS64, None, sketch.probes, sketch.probe_products)
        approximation = without_trace.nystrom()
        assert approximation.certificate.nuclear_error == math.inf
        truth = np.linalg.norm(A - dense(approximation), 2)
        ratios.append(approximation.certificate.spectral_error / truth)
    assert min(ratios) >= 1
    assert np.median(ratios) < 8


def test_without_trace_and_probes_nothing_is_certified(rng):
    A = with_eigenvalues(SPECTRA["slow"](30), rng)
    sketch = sketch_of(A, 10, q=0)
    certificate = Sketch(sketch.test, sketch.product, EPS64).nystrom().certificate
    assert certificate.trace is None
    assert certificate.spectral_error == certificate.nuclear_error == math.inf


def test_auto_rank_stops_where_columns_no_longer_help(rng):
    shift = 1e-2
    gap = sketch_of(with_eigenvalues(np.r_[np.ones(10), np.full(90, 1e-9)], rng), 64)
    assert 10 <= gap.choose_rank(shift) <= 16
    slow = sketch_of(with_eigenvalues(SPECTRA["slow"](100), rng), 64)
    assert slow.choose_rank(1e-4) == 64
    for sketch in (gap, slow):
        chosen = sketch.nystrom(sketch.choose_rank(shift)).predicted_iterations(shift, 1e-6)
        assert chosen <= 1.1 * sketch.nystrom().predicted_iterations(shift, 1e-6)


def test_another_namespace_gives_the_same_approximation(rng):
    A = with_eigenvalues(SPECTRA["fast"](40), rng)
    host = sketch_of(A, 12)
    device = array_api_strict.Device("device1")

    def move(x):
        return array_api_strict.asarray(x, device=device)

    moved = Sketch(
        move(host.test),
        move(host.product),
        host.eps,
        host.trace,
        move(host.probes),
        move(host.probe_products),
    ).nystrom()
    assert moved.vectors.device == device
    expected = host.nystrom()
    np.testing.assert_allclose(dense(moved), dense(expected), atol=1e-14)
    assert moved.certificate.spectral_error == pytest.approx(expected.certificate.spectral_error)


@pytest.mark.parametrize("rank", [0, 11])
def test_impossible_rank_is_refused(rank):
    with pytest.raises(InputError, match="1 to 10"):
        sketch_of(np.eye(20), 10).nystrom(rank)


def test_sketch_with_missing_values_is_refused():
    Y = np.ones((5, 2))
    Y[3, 1] = np.nan
    with pytest.raises(InputError, match="NaN"):
        Sketch(np.ones((5, 2)), Y, EPS64)
    with pytest.raises(InputError, match="shape"):
        Sketch(np.ones((5, 3)), np.ones((5, 2)), EPS64)
