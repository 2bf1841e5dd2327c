"""What every linear operator must do; a new one joins by a line in MAKERS."""

from __future__ import annotations

import array_api_strict
import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.linalg import aslinearoperator

from nysstream.arrays import to_host
from nysstream.errors import InputError
from nysstream.operators import as_operator
from nysstream.sketching import Preconditioned, nystrom
from tests.helpers import with_eigenvalues

P = 23


def psd(dtype=np.float64):
    matrix = with_eigenvalues(10.0 ** -np.linspace(0, 4, P), np.random.default_rng(4))
    return matrix.astype(dtype)


def preconditioned():
    approximation = nystrom(psd(), 8, random_state=0)
    return Preconditioned(as_operator(psd(), psd=True), approximation.preconditioner(), 0.1)


MAKERS = {
    "dense": lambda: as_operator(psd(), psd=True),
    "dense float32": lambda: as_operator(psd(np.float32), psd=True),
    "dense strict": lambda: as_operator(
        array_api_strict.asarray(psd(), device=array_api_strict.Device("device1")), psd=True
    ),
    "sparse": lambda: as_operator(csr_array(psd()), psd=True),
    "sparse float32": lambda: as_operator(csr_array(psd(np.float32)), psd=True),
    "foreign": lambda: as_operator(aslinearoperator(psd()), psd=True),
    "preconditioned": preconditioned,
}


@pytest.fixture(params=MAKERS.values(), ids=MAKERS.keys())
def operator(request):
    return request.param()


def block(operator, rng, k=3):
    return operator.place(rng.standard_normal((operator.shape[1], k)))


def allowed(operator):
    return 100 * operator.eps


def test_products_are_linear(operator, rng):
    V, W = block(operator, rng), block(operator, rng)
    together = to_host(operator.matmat(2.0 * V - W))
    apart = 2.0 * to_host(operator.matmat(V)) - to_host(operator.matmat(W))
    np.testing.assert_allclose(together, apart, atol=allowed(operator))


def test_symmetric_and_positive_in_the_dot_test(operator, rng):
    V, W = block(operator, rng), block(operator, rng)
    AV, AW = to_host(operator.matmat(V)), to_host(operator.matmat(W))
    np.testing.assert_allclose(to_host(W).T @ AV, AW.T @ to_host(V), atol=30 * allowed(operator))
    assert operator.psd
    assert np.all(np.sum(to_host(V) * AV, axis=0) > 0)


def test_block_is_its_columns(operator, rng):
    V = block(operator, rng)
    columns = [to_host(operator @ V[:, j]) for j in range(3)]
    np.testing.assert_allclose(to_host(operator @ V), np.stack(columns, axis=1), atol=allowed(operator))


def test_block_costs_one_pass(operator, rng):
    before = operator.passes
    operator.matmat(block(operator, rng, k=7))
    assert operator.passes == before + 1


def test_products_are_float64_and_accurate_on_demand(operator, rng):
    V = block(operator, rng)
    double = operator.matmat(V, precision="double")
    assert to_host(double).dtype == operator.dtype == np.float64
    default = to_host(operator.matmat(V))
    error = np.abs(default - to_host(double)).max()
    assert error <= allowed(operator)
    if operator.eps > 1e-10:
        assert error > 1e-10, "the default precision should be visible"


def test_products_leave_the_block_alone(operator, rng):
    V = block(operator, rng)
    before = to_host(V).copy()
    operator.matmat(V)
    np.testing.assert_array_equal(to_host(V), before)


def test_wrong_length_is_refused(operator, rng):
    with pytest.raises((InputError, ValueError)):
        operator.matmat(operator.place(rng.standard_normal((operator.shape[1] + 1, 2))))


def test_scipy_sees_the_same_operator(operator, rng):
    if "strict" in type(operator.place(np.zeros(1))).__module__:
        operator = as_operator(to_host(operator.matrix), psd=True)
    V = rng.standard_normal((P, 2))
    scipy_operator = operator.as_scipy()
    assert scipy_operator.shape == operator.shape
    expected = operator.matmat(V)
    np.testing.assert_allclose(scipy_operator.matmat(V), expected, atol=allowed(operator))
    np.testing.assert_allclose(scipy_operator.matvec(V[:, 0]), expected[:, 0], atol=allowed(operator))
    round_trip = as_operator(scipy_operator, psd=True)
    np.testing.assert_allclose(round_trip.matmat(V), expected, atol=allowed(operator))
