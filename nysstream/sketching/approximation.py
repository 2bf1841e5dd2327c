"""The Nyström approximation and its certificate."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.arrays import to_host
from nysstream.errors import AccuracyWarning, InputError
from nysstream.sketching.preconditioner import NystromPreconditioner

if TYPE_CHECKING:
    from numpy.typing import NDArray

Array = Any  # any array of the Python array API standard

#: Probability with which the spectral error may exceed a bound that rests on probes.
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

        Returns
        -------
        int
            From Chebyshev's bound at :meth:`condition_number`, at most p. An upper estimate:
            clustered spectra converge faster.
        """
        p = int(self.vectors.shape[0])
        return int(min(p, chebyshev_iterations(self.condition_number(shift), rtol)))

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
        return NystromPreconditioner(self.vectors, self.values, self.tail, floor)

    @cached_property
    def _values(self) -> NDArray[np.float64]:
        return to_host(self.values)


def chebyshev_iterations(condition_number: float, rtol: float) -> float:
    """Count the iterations after which Chebyshev's bound on the relative error is ``rtol``."""
    if condition_number <= 1 or rtol >= 1:
        return 1.0
    if math.isinf(condition_number) or rtol <= 0:
        return math.inf
    return max(1.0, math.ceil(math.log(2 / rtol) / (2 * math.atanh(1 / math.sqrt(condition_number)))))
