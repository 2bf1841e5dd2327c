from __future__ import annotations

import array_api_strict
import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.linalg import aslinearoperator

from nysstream.arrays import to_host
from nysstream.errors import InputError, NotPositiveSemidefinite
from nysstream.operators import as_operator
from nysstream.sketching import nystrom
from tests.helpers import SPECTRA, with_eigenvalues


@pytest.fixture
def matrix(rng):
    return with_eigenvalues(SPECTRA["fast"](50), rng)


def test_one_product_for_sketch_and_probes(matrix):
    operator = as_operator(matrix, psd=True)
    nystrom(operator, 20, random_state=0, n_probes=5)
    assert operator.passes == 1


@pytest.mark.parametrize("wrap", [np.asarray, csr_array, aslinearoperator, array_api_strict.asarray])
def test_every_kind_of_matrix_gives_the_same(matrix, wrap):
    expected, actual = nystrom(matrix, 20, random_state=3), nystrom(wrap(matrix), 20, random_state=3)
    np.testing.assert_allclose(to_host(actual.values), expected.values, rtol=1e-6, atol=1e-13)
    # SciPy's operators know no trace, so that only the probes bound the error.
    assert 1 - 1e-9 <= actual.certificate.spectral_error / expected.certificate.spectral_error < 4


def test_seed_decides(matrix):
    first, again = nystrom(matrix, 10, random_state=3), nystrom(matrix, 10, random_state=3)
    np.testing.assert_array_equal(first.vectors, again.vectors)
    other = nystrom(matrix, 10, random_state=4)
    assert not np.array_equal(first.values, other.values)
    from_generator = nystrom(matrix, 10, random_state=np.random.default_rng(1))
    assert np.array_equal(
        from_generator.values, nystrom(matrix, 10, random_state=np.random.default_rng(1)).values
    )


def test_double_precision_lowers_the_noise_floor(matrix):
    single = matrix.astype(np.float32)
    coarse, fine = (
        nystrom(single, 20, random_state=0),
        nystrom(single, 20, random_state=0, precision="double"),
    )
    assert fine.certificate.noise_floor < 1e-6 * coarse.certificate.noise_floor


def test_approximates(matrix):
    approximation = nystrom(matrix, 40, random_state=0)
    error = matrix - (approximation.vectors * approximation.values) @ approximation.vectors.T
    assert np.linalg.norm(error, 2) < 1e-5


def test_undeclared_and_indefinite_operators_are_refused(matrix):
    with pytest.raises(InputError, match="psd"):
        nystrom(as_operator(matrix), 5)
    with pytest.raises(NotPositiveSemidefinite):
        nystrom(matrix - 0.5 * np.eye(50), 40, random_state=0)


@pytest.mark.parametrize(("rank", "n_probes"), [(0, 10), (51, 10), (5, -1)])
def test_impossible_counts_are_refused(matrix, rank, n_probes):
    operator = as_operator(matrix, psd=True)
    with pytest.raises(InputError, match=r"rank|n_probes"):
        nystrom(operator, rank, n_probes=n_probes)
    assert operator.passes == 0
