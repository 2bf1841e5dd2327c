"""The spectrum of an operator by stochastic Lanczos quadrature."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.linalg import eigh_tridiagonal

from nysstream.arrays import like, namespace, to_host
from nysstream.errors import InputError
from nysstream.operators import LinearOperator, as_operator
from nysstream.sketching.random_matrices import RandomState, as_seed, rademacher

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from nysstream.operators.base import Precision
    from nysstream.sketching.preconditioner import NystromPreconditioner

Array = Any  # any array of the Python array API standard


@dataclass(frozen=True, eq=False)
class SpectralDensity:
    """Gauss quadratures of the spectrum, one per probe.

    Attributes
    ----------
    nodes, weights : ndarray, shape (n_probes, n_steps)
        The weights of a probe sum to one. A probe whose Krylov space was exhausted early is padded
        with its last node at weight zero.
    size : int
        Dimension p of the operator.
    """

    nodes: NDArray[np.float64]
    weights: NDArray[np.float64]
    size: int

    def trace(self, function: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> tuple[float, float]:
        r"""Estimate :math:`\operatorname{tr} f(A)`.

        Parameters
        ----------
        function : callable
            Acts on arrays of eigenvalues.

        Returns
        -------
        estimate, standard_error : float
            The error is that of the mean over probes, NaN for a single probe.
        """
        samples = self.size * np.sum(self.weights * function(self.nodes), axis=1)
        n_probes = samples.size
        error = float(np.std(samples, ddof=1)) / math.sqrt(n_probes) if n_probes > 1 else math.nan
        return float(np.mean(samples)), error

    def effective_dimension(self, shift: float) -> tuple[float, float]:
        r"""Estimate :math:`\operatorname{tr} A (A + \mu I)^{-1}` and its standard error."""
        if not shift > 0:
            message = f"shift={shift!r}: the effective dimension needs a positive shift"
            raise InputError(message)
        # Rounding can push the eigenvalues of a singular operator below zero, never a pole away.
        return self.trace(lambda t: np.maximum(t, 0.0) / (np.maximum(t, 0.0) + shift))

    def density(
        self, grid: NDArray[np.float64] | None = None, *, width: float | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Smooth the quadrature into a density.

        Parameters
        ----------
        grid : ndarray, shape (m,), optional
            By default 1000 points over the range of the nodes, and four widths beyond.
        width : float, optional
            Standard deviation of the Gaussian put at each node, by default a hundredth of the range.

        Returns
        -------
        grid, density : ndarray, shape (m,)
            The density integrates to one over the real line.
        """
        low, high = float(self.nodes.min()), float(self.nodes.max())
        if width is None:
            width = 0.01 * (high - low) or 0.01 * (abs(high) or 1.0)
        if grid is None:
            grid = np.linspace(low - 4 * width, high + 4 * width, 1000)
        nodes, weights = self.nodes.ravel(), self.weights.ravel() / self.nodes.shape[0]
        values = np.zeros(grid.shape)
        for node, weight in zip(nodes, weights, strict=True):
            values += weight * np.exp(-0.5 * ((grid - node) / width) ** 2)
        return grid, values / (width * math.sqrt(2 * math.pi))


class Preconditioned(LinearOperator):
    r"""The operator :math:`P^{-1/2} (A + \mu I) P^{-1/2}`.

    Parameters
    ----------
    operator : LinearOperator, shape (p, p)
    preconditioner : NystromPreconditioner
    shift : float
    """

    def __init__(self, operator: LinearOperator, preconditioner: NystromPreconditioner, shift: float) -> None:
        self.operator = operator
        self.preconditioner = preconditioner
        self.shift = shift
        self.shape = operator.shape
        self.dtype = operator.dtype
        self.psd = operator.psd
        self.eps = operator.eps

    @property
    def passes(self) -> int:  # type: ignore[override]
        """Reads made by the operator inside."""
        return self.operator.passes

    def matmat(self, V: Array, *, precision: Precision | None = None) -> Array:
        """Multiply a block of vectors ``(p, k)``, for one product with A."""
        W = self.preconditioner.inverse_sqrt(V, self.shift)
        W = self.operator.matmat(W, precision=precision) + self.shift * W
        return self.preconditioner.inverse_sqrt(W, self.shift)

    def place(self, host: NDArray[Any]) -> Array:
        """Move a host array to where the operator inside multiplies."""
        return self.operator.place(host)


def spectral_density(
    A: Any,
    *,
    n_steps: int = 100,
    n_probes: int = 10,
    random_state: RandomState = None,
    reorthogonalize: bool = True,
) -> SpectralDensity:
    """Estimate the distribution of the eigenvalues of a symmetric operator.

    Parameters
    ----------
    A : LinearOperator, array, sparse array or scipy.sparse.linalg.LinearOperator, shape (p, p)
        Symmetric.
    n_steps : int
        Lanczos steps, at most p of which are taken.
    n_probes : int
        Random starts, whose quadratures are averaged.
    random_state : int, numpy.random.Generator or None
        Sole source of randomness.
    reorthogonalize : bool
        Keep all Lanczos vectors orthogonal. Without it converged eigenvalues appear more than
        once, which moves weight among copies and leaves the density and the traces as they are.

    Returns
    -------
    SpectralDensity

    Notes
    -----
    Cost: one pass per step for all probes together; ``8 * n_steps * n_probes * p`` bytes with
    reorthogonalization, ``32 * n_probes * p`` without.

    References
    ----------
    .. [1] Ubaru, Chen and Saad, "Fast estimation of tr(f(A)) via stochastic Lanczos quadrature",
       SIAM J. Matrix Anal. Appl., 2017.
    """
    operator = as_operator(A)
    p = operator.shape[0]
    if operator.shape[1] != p:
        message = f"A has shape {operator.shape}: a spectrum needs a square operator"
        raise InputError(message)
    if n_steps < 1 or n_probes < 1:
        message = f"n_steps={n_steps}, n_probes={n_probes}: both must be positive"
        raise InputError(message)
    start = operator.place(rademacher(p, n_probes, as_seed(random_state)) / math.sqrt(p))
    alpha, beta = _lanczos(operator, start, min(n_steps, p), reorthogonalize)
    nodes, weights = np.zeros_like(alpha), np.zeros_like(alpha)
    for probe in range(n_probes):
        # A vanishing off-diagonal ends the Krylov space: what follows it belongs to no quadrature.
        ends = np.flatnonzero(beta[probe, :-1] == 0)
        m = int(ends[0]) + 1 if ends.size else alpha.shape[1]
        values, vectors = eigh_tridiagonal(alpha[probe, :m], beta[probe, : m - 1])
        nodes[probe, :m], weights[probe, :m] = values, vectors[0] ** 2
        nodes[probe, m:] = values[-1]
    return SpectralDensity(nodes, weights, p)


def _lanczos(
    operator: LinearOperator, start: Array, n_steps: int, reorthogonalize: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Run the three-term recurrence from every column; return both diagonals, (columns, steps)."""
    xp = namespace(start)
    k = start.shape[1]
    alpha, beta = np.zeros((k, n_steps)), np.zeros((k, n_steps))
    previous, current = xp.zeros_like(start), start
    basis = [start]
    scale = np.zeros(k)
    for j in range(n_steps):
        W = operator.matmat(current)
        alpha[:, j] = to_host(xp.sum(current * W, axis=0))
        W = W - _row(W, alpha[:, j]) * current - _row(W, beta[:, j - 1]) * previous
        if reorthogonalize:
            for _ in range(2):
                for Q in basis:
                    W = W - xp.sum(Q * W, axis=0)[None, :] * Q
        norm = np.sqrt(to_host(xp.sum(W * W, axis=0)))
        scale = np.maximum(scale, np.abs(alpha[:, j]) + norm)
        norm[norm <= 10 * operator.eps * scale] = 0.0
        beta[:, j] = norm
        if not norm.any():
            break
        previous = current
        current = W * _row(W, np.divide(1.0, norm, out=np.zeros(k), where=norm > 0))
        if reorthogonalize:
            basis.append(current)
    return alpha, beta


def _row(X: Array, x: NDArray[np.float64]) -> Array:
    return like(X, np.ascontiguousarray(x))[None, :]
