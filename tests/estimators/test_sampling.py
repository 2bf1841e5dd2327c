"""The factored sample as a preconditioner, and the memory of every method, measured."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import scipy.sparse

from nysstream import DesignMatrix
from nysstream.estimators.sampling import factor_sample, sample_needs
from nysstream.features import Fourier
from nysstream.streaming import Centering

rng = np.random.default_rng(0)


def centred(Z, scale):
    p = Z.shape[1]
    return Centering(Z.mean(axis=0), scale * np.ones(p), np.zeros(0))


@pytest.mark.parametrize("m", [30, 200])  # below and above the number of columns
@pytest.mark.parametrize("features", [None, Fourier(60, length_scale=2.0)])
@pytest.mark.parametrize("precision", ["single", "double"])
@pytest.mark.parametrize("center", [False, True])
def test_the_sample_is_scaled_to_the_weight_of_all(m, features, precision, center):
    X = rng.standard_normal((m, 60)) + 3.0
    weight = rng.integers(0, 3, m).astype(np.float64)
    options = {} if features is None else {"features": features}
    Z = X if features is None else features(X)
    centering = centred(Z, 2.0) if center else None
    design = DesignMatrix(X, precision=precision, centering=centering, **options)
    found = factor_sample(design, 10 * weight.sum(), X, weight, 1, all_shifted=True)
    if center:
        Z = (Z - centering.mean) / 2.0
    gram = 10 * (Z * weight[:, None]).T @ Z
    B = rng.standard_normal((60, 3))
    expected = np.linalg.solve(gram + 4.0 * np.eye(60), B)
    rtol = 1e-9 if design.dtype == np.float64 else 1e-3
    assert np.allclose(found.inverse(B, 4.0), expected, rtol=rtol, atol=rtol * np.abs(expected).max())


@pytest.mark.parametrize("m", [10, 90])
def test_sparse_rows(m):
    X = scipy.sparse.random_array((m, 40), density=0.2, rng=rng, format="csr", dtype=np.float32)
    design = DesignMatrix(X, centering=centred(X.toarray(), 0.5))
    found = factor_sample(design, float(m), X, np.ones(m), 1, all_shifted=True)
    Z = (X.toarray().astype(np.float64) - design.centering.mean) / 0.5
    expected = np.linalg.solve(Z.T @ Z + np.eye(40), np.ones((40, 1)))
    assert np.allclose(found.inverse(np.ones((40, 1)), 1.0), expected, rtol=1e-4)


def test_a_sample_that_says_nothing():
    X = rng.standard_normal((5, 8)).astype(np.float32)
    design = DesignMatrix(X)
    assert factor_sample(design, 5.0, X, np.zeros(5), 1, all_shifted=True) is None
    assert factor_sample(design, 5.0, X, np.ones(5), 1, all_shifted=False) is None
    huge = np.full((20, 8), 1e19, np.float32)  # whose squares overflow
    with np.errstate(over="ignore"):
        assert factor_sample(DesignMatrix(huge), 20.0, huge, np.ones(20), 1, all_shifted=True) is None


def test_needs_of_fifteen_thousand_features():
    design = DesignMatrix(np.zeros((100, 90), np.float32), features=Fourier(15_000, length_scale=1.0))
    needs, kept = sample_needs(design, 60_000, 1)
    assert kept == 4 * 15_000**2
    assert sum(needs.values()) < 1.15 * kept


CHILD = """
import json, re, sys, warnings
import numpy as np
warnings.simplefilter("ignore")
from nysstream import Ridge
from nysstream.errors import MemoryBudgetError
from nysstream.features import Fourier
from nysstream.memory import peak_resident_bytes

solver, p, n, alpha, memory = json.loads(sys.argv[1])
rng = np.random.default_rng(0)
X = rng.standard_normal((n, 8), dtype=np.float32)
model = Ridge(alpha, features=Fourier(p, length_scale=4.0), solver=solver, tol=1e-3, max_passes=5)
y = X[:, 0] * X[:, 1]
try:
    model.set_params(memory="1MiB").fit(X, y)
except MemoryBudgetError as error:
    (smallest,) = re.findall(r"memory='(.*?)'", str(error))
model.set_params(memory=smallest).fit(X, y)
print(json.dumps([model.result_.stats["memory_limit_bytes"], peak_resident_bytes()]))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "p", "n", "alpha"),
    [
        ("subsampled", 3000, 12_500, 1.0),
        ("subsampled", 4000, 3_000, 1.0),  # fewer rows than columns
        ("subsampled", 2000, 8_500, [1.0, 2.0, 3.0, 4.0]),  # an eigendecomposition
        ("gram", 3000, 4_000, 1.0),
        ("gram", 2000, 4_000, [1.0, 2.0, 3.0, 4.0]),
    ],
)
def test_peaks_stay_within_the_smallest_limit(solver, p, n, alpha):
    arguments = json.dumps([solver, p, n, alpha, None])
    run = subprocess.run(
        [sys.executable, "-c", CHILD, arguments], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    limit, peak = json.loads(run.stdout)
    assert 0.5 * limit < peak <= limit
