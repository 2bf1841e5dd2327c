"""Randomized Nyström approximation of a positive semidefinite operator from one product."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg
from scipy.special import gammaincinv

from nysstream.arrays import like, namespace, to_host
from nysstream.errors import AccuracyWarning, InputError, NotPositiveSemidefinite
from nysstream.operators import LinearOperator, as_operator
from nysstream.operators.base import Precision
from nysstream.sketching.preconditioner import NystromPreconditioner
from nysstream.sketching.random_matrices import RandomState, as_seed, gaussian, orthonormal, probe_seed

Array = Any  # any array of the Python array API standard

#: Relative size of a negative eigenvalue that rounding cannot explain, in single precision either.
_INDEFINITE = 1e-5

#: Probability with which the spectral error may exceed its bound.
FAILURE_PROBABILITY = 1e-6


@dataclass(frozen=True)
class Certificate:
    """How far a Nyström approximation can be from its operator.

    Attributes
    ----------
    trace : float or None
        Trace of the operator, where it is known.
    nuclear_error : float
        Bound on the nuclear norm of the error, ``inf`` without the trace. Tight: the error is
        positive semidefinite, so that its nuclear norm is its trace.
    spectral_error : float
        Bound on the largest eigenvalue of the error; it holds with probability
        ``1 - FAILURE_PROBABILITY`` if it rests on probes and always if on the trace; ``inf``
        without both.
    noise_floor : float
        Eigenvalues below this drown in the rounding of the products.
    """

    trace: float | None
    nuclear_error: float
    spectral_error: float
    noise_floor: float


@dataclass(frozen=True, eq=False)
class Nystrom:
    r"""The approximation :math:`\hat A = U \Lambda U^\top`, with :math:`0 \preceq \hat A \preceq A`.

    Attributes
    ----------
    vectors : array, shape (p, r)
        Orthonormal columns.
    values : array, shape (r,)
        Descending, all above the noise floor.
    tail : float
        The next eigenvalue of the sketch after those kept: the level at which the preconditioner
        continues. The last value, if the sketch holds no more.
    certificate : Certificate
    """

    vectors: Array
    values: Array
    tail: float
    certificate: Certificate

    @property
    def rank(self) -> int:
        """Number of eigenpairs kept."""
        return int(self.values.shape[0])

    def effective_dimension(self, shift: float) -> tuple[float, float]:
        r"""Bracket :math:`\operatorname{tr} A (A + \mu I)^{-1}` without a pass.

        Parameters
        ----------
        shift : float
            Positive.

        Returns
        -------
        lower, upper : float
        """
        if not shift > 0:
            message = f"shift={shift!r}: the effective dimension needs a positive shift"
            raise InputError(message)
        p = self.vectors.shape[0]
        values, error = self._values, self.certificate.spectral_error
        lower = float(np.sum(values / (values + shift)))
        upper = min(float(p), lower + self.certificate.nuclear_error / shift)
        if math.isfinite(error):
            # Weyl: no eigenvalue of A exceeds that of the approximation by more than the error.
            raised = float(np.sum((values + error) / (values + error + shift)))
            upper = min(upper, raised + (p - self.rank) * error / (error + shift))
        return lower, max(lower, upper)

    def condition_number(self, shift: float) -> float:
        """Bound the condition number of the preconditioned ``A + shift I``.

        Parameters
        ----------
        shift : float

        Returns
        -------
        float
            ``(tail + shift + spectral_error) / shift`` [1]_, ``inf`` without a shift.

        References
        ----------
        .. [1] Frangella, Tropp and Udell, "Randomized Nyström Preconditioning", 2023, Prop. 5.3.
        """
        if not shift > 0:
            return math.inf
        return (self.tail + shift + self.certificate.spectral_error) / shift

    def predicted_iterations(self, shift: float, rtol: float) -> int:
        """Bound the iterations that shrink the energy norm of PCG's error by ``rtol``.

        Parameters
        ----------
        shift : float
        rtol : float
            Between 0 and 1.

        Returns
        -------
        int
            From Chebyshev's bound at :meth:`condition_number`, at most p. An upper estimate:
            clustered spectra converge faster.
        """
        p = int(self.vectors.shape[0])
        kappa = self.condition_number(shift)
        if kappa == 1:
            return 1
        root = math.sqrt(kappa)
        if not math.isfinite(root):
            return p
        return min(p, max(1, math.ceil(math.log(2 / rtol) / (2 * math.atanh(1 / root)))))

    def truncate(self, rank: int) -> Nystrom:
        """Keep the leading ``rank`` eigenpairs; the certificate follows.

        Parameters
        ----------
        rank : int
            A rank not below the present one changes nothing.
        """
        if rank >= self.rank:
            return self
        values = self._values
        nuclear = self.certificate.nuclear_error + float(np.sum(values[rank:]))
        spectral = min(nuclear, self.certificate.spectral_error + float(values[rank]))
        certificate = replace(self.certificate, nuclear_error=nuclear, spectral_error=spectral)
        return Nystrom(self.vectors[:, :rank], self.values[:rank], float(values[rank]), certificate)

    def preconditioner(self, shift: float | None = None) -> NystromPreconditioner:
        """Make the preconditioner of ``A + shift I`` for every shift.

        Parameters
        ----------
        shift : float, optional
            The smallest shift it will meet, only to warn where the sketch is too coarse for it.

        Warns
        -----
        AccuracyWarning
            If the shift lies below the noise floor.
        """
        floor = self.certificate.noise_floor
        if shift is not None and shift < floor:
            message = (
                f"shift {shift:.1e} lies below the noise floor {floor:.1e} of the sketch, where the "
                'preconditioner is blind: expect more passes, or sketch with precision="double"'
            )
            warnings.warn(message, AccuracyWarning, stacklevel=2)
        return NystromPreconditioner(self.vectors, self.values, self.tail)

    @cached_property
    def _values(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        return to_host(self.values)


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
        rank = int(self.product.shape[1])
        allowed = (1 + slack) * self.nystrom().predicted_iterations(shift, rtol)
        while rank > 1:
            half = math.ceil(rank / 2)
            if self.nystrom(half).predicted_iterations(shift, rtol) > allowed:
                break
            rank = half
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
        :math:`\|u^\top G\|^2` is chi-squared with q degrees of freedom. Against the customary
        bound, the largest :math:`10 \sqrt{2/\pi} \|E g_j\|` [1]_, the block norm gains a factor of
        three or more at equal probability.

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


def nystrom(
    A: Any,
    rank: int,
    *,
    random_state: RandomState = None,
    n_probes: int = 10,
    precision: Precision | None = None,
) -> Nystrom:
    r"""Approximate a psd operator by :math:`U \Lambda U^\top` from one product.

    Parameters
    ----------
    A : LinearOperator, array, sparse array or scipy.sparse.linalg.LinearOperator, shape (p, p)
        A LinearOperator of ours must declare ``psd``; giving a bare matrix declares it psd.
    rank : int
        Columns of the sketch, at most p.
    random_state : int, numpy.random.Generator or None
        Sole source of randomness.
    n_probes : int
        Further columns that only serve to bound the error.
    precision : {"single", "double"}, optional
        Precision of the products; the operator's own by default.

    Returns
    -------
    Nystrom
        ``vectors`` (p, r), orthonormal; ``values`` (r,), descending; r <= rank.

    Raises
    ------
    InputError
        If ``rank`` is out of range, or the operator does not declare ``psd``.
    NotPositiveSemidefinite
        If the operator turns out not to be.

    Notes
    -----
    Cost: one pass; ``4 * p * (rank + n_probes)`` elements.

    References
    ----------
    .. [1] Frangella, Tropp and Udell, "Randomized Nyström Preconditioning", SIAM J. Matrix Anal.
       Appl., 2023.

    Examples
    --------
    >>> import numpy as np
    >>> approximation = nystrom(np.diag([4.0, 1.0, 0.0, 0.0]), rank=3, random_state=0)
    >>> approximation.rank
    2
    """
    operator = as_operator(A, psd=True)
    _check_psd(operator)
    p = operator.shape[0]
    if n_probes < 0:
        message = f"n_probes={n_probes}: use zero or more"
        raise InputError(message)
    if not 1 <= rank <= p:
        message = f"rank={rank}: the operator has {p} rows; ask for 1 to {p}"
        raise InputError(message)
    seed = as_seed(random_state)
    V = operator.place(np.hstack([orthonormal(p, rank, seed), gaussian(p, n_probes, probe_seed(seed))]))
    AV = operator.matmat(V, precision=precision)
    eps = float(np.finfo(np.float64).eps) if precision == "double" else operator.eps
    sketch = Sketch(V[:, :rank], AV[:, :rank], eps, operator.trace(), V[:, rank:], AV[:, rank:])
    return sketch.nystrom()


def _check_psd(operator: LinearOperator) -> None:
    if not operator.psd:
        message = (
            "the operator does not declare psd, which a Nyström approximation needs: if it is symmetric "
            "positive semidefinite, say so, as in as_operator(A, psd=True)"
        )
        raise InputError(message)


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
