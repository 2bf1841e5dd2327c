"""Shifted linear systems that share an operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.arrays import like, namespace
from nysstream.errors import InputError
from nysstream.operators import LinearOperator, as_operator
from nysstream.sketching.nystrom import Nystrom
from nysstream.sketching.preconditioner import Identity, Inverse, Preconditioner

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

Array = Any  # any array of the Python array API standard


@dataclass(frozen=True, eq=False)
class LinearSystem:
    r"""Find :math:`w_j` with :math:`(A + \mu_j I) w_j = b_j`, for all columns j together.

    Attributes
    ----------
    operator : LinearOperator, shape (p, p)
    rhs : array, shape (p, k)
        Right-hand sides, float64.
    shift : float or ndarray, shape (k,)
        Non-negative.
    preconditioner : Preconditioner, optional
    residual : callable, optional
        Maps a block ``(p, k)`` of iterates to the residuals ``rhs - (A + shift I) W`` in float64,
        more accurately than by a product with A. It must count its reads in
        ``operator.passes``.
    """

    operator: LinearOperator
    rhs: Array
    shift: float | NDArray[Any] = 0.0
    preconditioner: Preconditioner | None = None
    residual: Callable[[Array], Array] | None = None

    @property
    def passes(self) -> int:
        """Reads of the data made so far by the operator."""
        return self.operator.passes

    @property
    def shifts(self) -> NDArray[np.float64]:
        """The shift of every column, shape (k,)."""
        return np.broadcast_to(np.asarray(self.shift, dtype=np.float64), (self.rhs.shape[1],))

    @classmethod
    def of(
        cls, A: Any, b: Any, *, shift: float | NDArray[Any] = 0.0, preconditioner: Any = None
    ) -> LinearSystem:
        """Make a problem of the arguments of :func:`nysstream.pcg`.

        Raises
        ------
        InputError
            If the shapes do not fit.

        Warns
        -----
        AccuracyWarning
            If a shift lies below the noise floor of a ``Nystrom`` given as preconditioner.
        """
        operator = as_operator(A, psd=True)
        rhs = as_block(operator, b, "b")
        return cls(operator, rhs, shift, as_preconditioner(preconditioner, operator, shift))

    @property
    def precondition(self) -> Preconditioner:
        """The preconditioner, or the identity."""
        return Identity() if self.preconditioner is None else self.preconditioner

    def validate(self, needs: frozenset[str]) -> None:
        """Check shapes and values, and that the operator is declared psd if that is needed."""
        p = self.operator.shape[0]
        if self.operator.shape[1] != p:
            message = f"the operator has shape {self.operator.shape}: a linear system needs a square one"
            raise InputError(message)
        if self.rhs.ndim != 2 or self.rhs.shape[0] != p or self.rhs.shape[1] == 0:
            message = f"rhs has shape {tuple(self.rhs.shape)}: it needs ({p}, k), one column per system"
            raise InputError(message)
        xp = namespace(self.rhs)
        if not bool(xp.all(xp.isfinite(self.rhs))):
            message = "rhs holds NaN or infinity: clean the data first"
            raise InputError(message)
        if np.ndim(self.shift) > 1 or np.size(self.shift) not in {1, self.rhs.shape[1]}:
            message = (
                f"shift has shape {np.shape(self.shift)}: give one number, or one per column "
                f"({self.rhs.shape[1]})"
            )
            raise InputError(message)
        if not (np.all(np.isfinite(self.shifts)) and np.all(self.shifts >= 0)):
            message = f"shift={self.shift}: shifts must be finite and not negative"
            raise InputError(message)
        if "psd" in needs and not self.operator.psd:
            message = (
                "the operator does not declare psd, which this solver needs: if it is symmetric positive "
                "semidefinite, say so, as in as_operator(A, psd=True)"
            )
            raise InputError(message)

    def check_start(self, start: Array) -> None:
        """Refuse a start that is not a finite block shaped like ``rhs``."""
        if start.shape != self.rhs.shape:
            message = (
                f"the start has shape {tuple(start.shape)}, rhs {tuple(self.rhs.shape)}: they must agree"
            )
            raise InputError(message)
        xp = namespace(start)
        if not bool(xp.all(xp.isfinite(start))):
            message = "the start holds NaN or infinity: start from zero instead"
            raise InputError(message)

    def true_residual(self, W: Array) -> Array:
        """Compute ``rhs - (A + shift I) W`` in double precision, for one pass."""
        if self.residual is not None:
            return self.residual(W)
        shifts = like(W, np.ascontiguousarray(self.shifts))
        return self.rhs - self.operator.matmat(W, precision="double") - shifts[None, :] * W


def as_block(operator: LinearOperator, b: Any, name: str) -> Array:
    """Turn a vector or a block of vectors into float64 columns beside the operator."""
    if isinstance(b, (np.ndarray, list, tuple)):
        b = operator.place(np.asarray(b, dtype=np.float64))
    xp = namespace(b)
    if b.ndim not in {1, 2}:
        message = f"{name} has shape {tuple(b.shape)}: give a vector (p,) or a block (p, k)"
        raise InputError(message)
    b = xp.astype(b, xp.float64, copy=False)
    return b[:, None] if b.ndim == 1 else b


def as_preconditioner(M: Any, operator: LinearOperator, shift: float | NDArray[Any]) -> Preconditioner | None:
    """Turn what a caller may give as a preconditioner into one."""
    if M is None or isinstance(M, Preconditioner):
        return M
    shape = (M.vectors.shape[0],) * 2 if isinstance(M, Nystrom) else M.shape
    if tuple(shape) != operator.shape:
        message = (
            f"the preconditioner has shape {tuple(shape)}, the operator {operator.shape}: they must agree"
        )
        raise InputError(message)
    if isinstance(M, Nystrom):
        return M.preconditioner(float(np.min(shift)))
    return Inverse(M)
