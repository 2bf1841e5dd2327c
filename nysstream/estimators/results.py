"""What a fit leaves behind beside its coefficients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from nysstream.sketching.nystrom import Certificate
    from nysstream.trace import PassRecord


@dataclass(frozen=True)
class FitResult:
    """How a fit went: everything a report shows, and no data.

    Attributes
    ----------
    status : str
        ``"converged"``, or what stopped the solver.
    advice : str
        What the status means for the user.
    stats : dict
        The numbers that ``nysstream fit --json`` prints.
    history : list of dict
        One record per step of the solver: ``steps``, ``passes``, ``seconds``, ``relative_residual``.
    passes : list of PassRecord
    needs : dict of str to int
        Projected bytes of the phase that needs most, by what holds them.
    spectrum : ndarray, shape (rank,), or None
        Eigenvalues of the sketch's approximation, descending.
    certificate : Certificate or None
    """

    status: str
    advice: str
    stats: dict[str, Any]
    history: list[dict[str, Any]]
    passes: list[PassRecord]
    needs: dict[str, int]
    spectrum: NDArray[Any] | None
    certificate: Certificate | None

    @property
    def converged(self) -> bool:
        """Whether the tolerance was met."""
        return self.status == "converged"
