"""What many tests need: tolerances, matrices with a known spectrum, sources and operators that count."""

from __future__ import annotations

from typing import Any

import numpy as np

from nysstream.operators.base import LinearOperator
from nysstream.sources.base import RowSource


def tolerance(*dtypes: Any, terms: int = 1, slack: float = 32.0) -> float:
    """Relative error to allow for a sum of ``terms`` products in the coarsest of ``dtypes``.

    Rounding errors of a sum add up like a random walk, hence the square root.
    """
    eps = max(float(np.finfo(dtype).eps) for dtype in (*dtypes, np.float64) if np.dtype(dtype).kind == "f")
    return slack * eps * max(1.0, np.sqrt(terms))


def assert_close(actual: Any, expected: Any, *, dtype: Any = np.float64, terms: int = 1) -> None:
    """Compare in norm: no entry may be off by more than rounding errors of the largest entry."""
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    scale = float(np.abs(expected).max(initial=0.0))
    bound = tolerance(dtype, terms=terms) * scale
    np.testing.assert_allclose(actual, expected, rtol=0, atol=max(bound, np.finfo(np.float64).tiny))


def orthonormal(n: int, k: int, rng: np.random.Generator) -> np.ndarray:
    """Draw ``k <= n`` orthonormal columns of length ``n`` uniformly."""
    q, r = np.linalg.qr(rng.standard_normal((n, k)))
    return q * np.sign(np.diag(r))


def with_singular_values(n: int, values: Any, rng: np.random.Generator) -> np.ndarray:
    """Make an ``n x p`` matrix ``U S V'`` with the ``p`` singular values given, in float64."""
    values = np.asarray(values, np.float64)
    p = len(values)
    return (orthonormal(n, p, rng) * values) @ orthonormal(p, p, rng).T


def with_eigenvalues(values: Any, rng: np.random.Generator) -> np.ndarray:
    """Make a symmetric matrix ``Q D Q'`` with the eigenvalues given, in float64."""
    values = np.asarray(values, np.float64)
    q = orthonormal(len(values), len(values), rng)
    product = (q * values) @ q.T
    return (product + product.T) / 2


#: Spectra that stress a low-rank method in different ways, as functions of the dimension.
SPECTRA = {
    "fast": lambda p: 10.0 ** (-8.0 * np.arange(p) / p),
    "slow": lambda p: 1.0 / (1.0 + np.arange(p)),
    "gap": lambda p: np.where(np.arange(p) < p // 5, 1.0, 1e-6),
    "rank-deficient": lambda p: np.where(np.arange(p) < p // 2, 1.0 / (1.0 + np.arange(p)), 0.0),
    "flat": lambda p: np.ones(p),
}


class CountingSource(RowSource):
    """Wraps a source and counts, for each row, how often it was read."""

    def __init__(self, source: RowSource) -> None:
        self.source = source
        self.name, self.shape, self.dtype = source.name, source.shape, source.dtype
        self.chunk_rows, self.vector, self.sparse = source.chunk_rows, source.vector, source.sparse
        self.reads = np.zeros(source.shape[0], np.int64)

    @property
    def fingerprint(self) -> str:
        """As the wrapped source."""
        return self.source.fingerprint

    def read(self, rows, out=None):
        """Read and count."""
        np.add.at(self.reads, np.arange(rows.start, rows.stop), 1)
        return self.source.read(rows, out)

    @property
    def passes(self) -> int:
        """Number of times that every row was read; fails if some rows were read more often than others."""
        assert self.reads.min() == self.reads.max(), "rows were read unequally often"
        return int(self.reads[0])


class DenseOperator(LinearOperator):
    """A symmetric matrix in memory, seen as an operator whose products count as passes."""

    def __init__(self, matrix: np.ndarray, *, psd: bool = True) -> None:
        self.matrix = matrix
        self.shape = matrix.shape
        self.dtype = matrix.dtype
        self.psd = psd
        self.eps = float(np.finfo(matrix.dtype).eps)

    def matmat(self, V, *, precision=None):
        """Multiply, in float64 where asked."""
        self.passes += 1
        dtype = np.float64 if precision == "double" else self.matrix.dtype
        return self.matrix.astype(dtype) @ np.asarray(V, dtype)
