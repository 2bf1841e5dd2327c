"""The sketch: what one pass leaves of an operator, and the approximation made of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from scipy.special import gammaincinv

from nysstream.arrays import like, namespace, to_host
from nysstream.errors import InputError, NotPositiveSemidefinite
from nysstream.sketching.approximation import FAILURE_PROBABILITY, Certificate, Nystrom, chebyshev_iterations

Array = Any  # any array of the Python array API standard

#: Relative size of a negative eigenvalue that rounding cannot explain, in single precision either.
_INDEFINITE = 1e-5


@dataclass(frozen=True, eq=False)
class Sketch:
    r"""What one pass leaves of an operator: products with random vectors.

    Attributes
    ----------
    test : array, shape (p, s)
        Test matrix :math:`\Omega`. Orthonormal columns are best; any columns will do.
    product : array, shape (p, s)
        :math:`A \Omega`, summed in float64.
    eps : float
        Relative rounding error of the products.
    trace : float, optional
        Trace of A.
    probes, probe_products : array, shape (p, q), optional
        Gaussian vectors independent of the test matrix, and their products with A.
    """

    test: Array
    product: Array
    eps: float
    trace: float | None = None
    probes: Array | None = None
    probe_products: Array | None = None

    def __post_init__(self) -> None:
        xp = namespace(self.product)
        if self.test.shape != self.product.shape:
            message = (
                f"test {tuple(self.test.shape)} and product {tuple(self.product.shape)} must agree in shape"
            )
            raise InputError(message)
        if not bool(xp.all(xp.isfinite(self.product))):
            message = "the sketch holds NaN or infinity: look for missing or overflowing values in the data"
            raise InputError(message)

    def nystrom(self, rank: int | None = None) -> Nystrom:
        r"""Form the Nyström approximation :math:`Y (\Omega^\top Y)^\dagger Y^\top`.

        Parameters
        ----------
        rank : int, optional
            Use only the leading columns of the sketch; any number of them is a valid sketch.

        Returns
        -------
        Nystrom
            Of at most ``rank`` eigenpairs: those at the noise floor are dropped.

        Raises
        ------
        NotPositiveSemidefinite
            If the operator shows an eigenvalue too negative for rounding.

        Notes
        -----
        Cost: no pass; ``O(p rank^2)`` flops and ``3 * p * rank`` temporary elements.

        The products carry errors of size ``eps * norm(product)``, so the approximation is made of
        A + nu I with nu of that size, and nu is subtracted from the eigenvalues. Where the core
        still has no Cholesky factor nu grows tenfold, and the shifted product and core are both
        formed again: shifting the core alone would approximate no matrix at all.

        References
        ----------
        .. [1] Tropp, Yurtsever, Udell and Cevher, "Fixed-rank approximation of a
           positive-semidefinite matrix from streaming data", NeurIPS, 2017.
        """
        xp = namespace(self.product)
        columns = self._prefix(rank)
        Omega, Y = self.test[:, :columns], self.product[:, :columns]
        # Measured against the test matrix, so that rescaling it changes nothing.
        scale = float(xp.linalg.matrix_norm(Omega)) / math.sqrt(columns)
        nu = self.eps * float(xp.linalg.matrix_norm(Y)) / scale if scale > 0 else 0.0
        if nu == 0:
            return self._certify(Y[:, :0], Y[0, :0], 0.0, 0.0)
        B, nu = _factor(Omega, Y, nu)
        if B.shape[1] == 0:
            return self._certify(Y[:, :0], Y[0, :0], 0.0, nu)
        Q, R = xp.linalg.qr(B)
        left, singular, _ = scipy.linalg.svd(to_host(R))
        values = np.maximum(singular**2 - nu, 0.0)
        kept = int(np.count_nonzero(values > nu))
        tail = float(values[min(kept, values.size - 1)])
        vectors = xp.matmul(Q, like(Q, np.ascontiguousarray(left[:, :kept])))
        return self._certify(vectors, like(Q, values[:kept]), tail, nu)

    def choose_rank(self, shift: float, *, rtol: float = 1e-6, slack: float = 0.1) -> int:
        """Find the smallest prefix that predicts nearly as few iterations as the whole sketch.

        Parameters
        ----------
        shift : float
            The smallest shift to be solved for.
        rtol : float
            Accuracy at which iterations are counted.
        slack : float
            Fraction of iterations, hence of passes, to give away for a smaller rank.

        Returns
        -------
        int
            One of s, s/2, s/4 ... Whether the whole sketch is good enough is for
            :meth:`Nystrom.predicted_iterations` to say.

        Notes
        -----
        Cost: no pass; less than twice the flops of :meth:`nystrom`.
        """

        # Not capped at p, where a hopeless prefix would look as good as the whole.
        def iterations(columns: int) -> float:
            return chebyshev_iterations(self.nystrom(columns).condition_number(shift), rtol)

        rank = int(self.product.shape[1])
        allowed = (1 + slack) * iterations(rank)
        while math.isfinite(allowed) and rank > 1 and iterations(math.ceil(rank / 2)) <= allowed:
            rank = math.ceil(rank / 2)
        return rank

    def _prefix(self, rank: int | None) -> int:
        available = int(self.product.shape[1])
        if rank is None:
            return available
        if not 1 <= rank <= available:
            message = f"rank={rank}: this sketch has {available} columns; ask for 1 to {available}"
            raise InputError(message)
        return rank

    def _certify(self, vectors: Array, values: Array, tail: float, nu: float) -> Nystrom:
        nuclear = math.inf
        if self.trace is not None:
            captured = float(np.sum(to_host(values)))
            if captured > self.trace + values.shape[0] * nu + _INDEFINITE * abs(self.trace):
                message = (
                    f"the sketch captures {captured:.6g} of an operator whose trace is {self.trace:.6g}: an "
                    "operator with a smaller trace is not positive semidefinite"
                )
                raise NotPositiveSemidefinite(message)
            # Rounding perturbs the order Â <= A by about nu in each captured direction.
            nuclear = max(self.trace - captured, 0.0) + values.shape[0] * nu
        spectral = min(nuclear, self._probe_error(vectors, values))
        return Nystrom(vectors, values, tail, Certificate(self.trace, nuclear, spectral, nu))

    def _probe_error(self, vectors: Array, values: Array) -> float:
        r"""Bound the spectral norm of the error :math:`E` by its products with the probes.

        For the top eigenvector u of E, :math:`\|E G\| \ge \|E\| \|u^\top G\|`, where
        :math:`\|u^\top G\|^2` is chi-squared with q degrees of freedom. Against the
        customary bound, the largest :math:`10 \sqrt{2/\pi} \|E g_j\|` [1]_, the block norm is up to
        twice as tight at equal probability.

        References
        ----------
        .. [1] Halko, Martinsson and Tropp, "Finding structure with randomness", SIAM Review,
           2011, Lemma 4.1.
        """
        if self.probes is None or self.probe_products is None or self.probes.shape[1] == 0:
            return math.inf
        xp = namespace(self.probe_products)
        q = self.probes.shape[1]
        coordinates = values[:, None] * xp.matmul(vectors.T, self.probes)
        error = self.probe_products - xp.matmul(vectors, coordinates)
        quantile = 2 * float(gammaincinv(q / 2, FAILURE_PROBABILITY))
        rounding = self.eps * _spectral_norm(self.probe_products)
        return (_spectral_norm(error) + rounding) / math.sqrt(quantile)


def _factor(Omega: Array, Y: Array, nu: float) -> tuple[Array, float]:
    """Return B with B B' = (Y + nu Omega) C^+ (Y + nu Omega)', and the nu that made it work."""
    xp = namespace(Y)
    for _ in range(6):
        shifted = Y + nu * Omega
        C = to_host(xp.matmul(Omega.T, shifted))
        C = (C + C.T) / 2
        try:
            L = scipy.linalg.cholesky(C, lower=True)
        except np.linalg.LinAlgError:
            nu *= 10
        else:
            return xp.linalg.solve(like(Y, L), shifted.T).T, nu
    nu /= 10
    weights, basis = scipy.linalg.eigh(C)
    if weights[0] < -_INDEFINITE * weights[-1]:
        message = (
            f"the core of the sketch has eigenvalues from {weights[0]:.2e} to {weights[-1]:.2e}, which "
            "rounding does not explain: the operator is not symmetric positive semidefinite, or its products "
            "are far less accurate than its eps declares"
        )
        raise NotPositiveSemidefinite(message)
    kept = weights > 10 * nu
    return xp.matmul(shifted, like(Y, basis[:, kept] / np.sqrt(weights[kept]))), nu


def _spectral_norm(X: Array) -> float:
    """Spectral norm of a tall block, by its small R factor on the host."""
    return float(np.linalg.norm(to_host(namespace(X).linalg.qr(X)[1]), 2))
