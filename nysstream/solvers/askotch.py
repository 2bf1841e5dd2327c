"""Accelerated block coordinate descent for kernel matrices."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.arrays import single_threaded_blas
from nysstream.errors import InputError
from nysstream.journal import Entry, remembered
from nysstream.sketching import nystrom
from nysstream.solvers.base import Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from nysstream.operators.kernel import KernelOperator

    Vector = NDArray[np.float64]

_POWER_STEPS = 10


def askotch(
    operator: KernelOperator,
    rhs: Vector,
    *,
    shift: float,
    rank: int = 100,
    block: int | None = None,
    tol: float = 1e-6,
    max_epochs: int = 200,
    time_limit: float | None = None,
    rng: np.random.Generator,
    callback: Callable[[Vector], object] | None = None,
) -> tuple[Vector, Status, dict[str, Any], list[dict[str, Any]]]:
    r"""Solve :math:`(K + \mu I) x = b` by steps on random blocks of coordinates.

    Parameters
    ----------
    operator : KernelOperator, shape (n, n)
    rhs : ndarray, shape (n, q)
    shift : float
        Positive.
    rank : int
        Of the sketch of each block.
    block : int, optional
        Coordinates of a step, by default a hundredth of them, but twice the rank at least.
    tol : float
        Relative residual, of every column, in double precision.
    max_epochs : int
        One is ``n / block`` steps.
    time_limit : float, optional
        Seconds.
    rng : numpy.random.Generator
        Sole source of randomness.
    callback : callable, optional
        Called with the solution after every epoch.

    Returns
    -------
    x : ndarray, shape (n, q)
    status : Status
    stats : dict
        ``iterations``, which are steps, and the true ``relative_residual``.
    history : list of dict
        One record for each epoch, with the residual as the steps of the epoch estimate it.

    Notes
    -----
    Cost: a step makes ``block`` rows of K, ``2 n block d`` flops; an epoch as much as a product with K
    that does not use symmetry. The residual is estimated by the gradients of the blocks, and verified by a
    product in double precision when the estimate is small enough.

    Departs from [1]_ where the shift is large: :math:`\hat\mu` is at most the share of coordinates in a
    block, without which the momentum is undefined.

    References
    ----------
    .. [1] Rathore, Frangella, Yang, Dereziński and Udell, "Have ASkotch: a neat solution for large-scale
       kernel ridge regression", 2024.
    """
    if not shift > 0:
        message = f"alpha={shift!r}: ASkotch needs a positive one"
        raise InputError(message)
    clock = time.perf_counter()
    n, q = rhs.shape
    b = min(n, block or max(n // 100, 2 * rank))
    steps_per_epoch = -(-n // b)
    mu, nu = min(shift, b / n), n / b
    beta, gamma = 1 - (mu / nu) ** 0.5, 1 / (mu * nu) ** 0.5
    mix = 1 / (1 + gamma * nu)
    w, z = np.zeros((n, q)), np.zeros((n, q))
    size = np.linalg.norm(rhs, axis=0)
    size = np.where(size > 0, size, 1.0)
    history: list[dict[str, Any]] = []
    status, residual, steps = Status.MAX_ITERATIONS, np.inf, 0
    factor = 1.0
    seed = int(rng.integers(2**62))

    def epoch(w: Vector, z: Vector, number: int) -> tuple[Vector, Vector, Vector]:
        """Take steps on as many coordinates as there are, drawn for this epoch."""
        own = np.random.default_rng([seed, number])
        squares = np.zeros(q)
        for _ in range(steps_per_epoch):
            chosen = np.sort(own.choice(n, b, replace=False))
            y = mix * z + (1 - mix) * w
            with single_threaded_blas():  # the products have threads of their own
                g = operator.block_product(chosen, y) + shift * y[chosen] - rhs[chosen]
                d = _direction(operator, chosen, g, shift, min(rank, b), own)
            squares += np.einsum("ij,ij->j", g, g)
            z = beta * z + (1 - beta) * y
            z[chosen] -= gamma * d
            w = y
            w[chosen] -= d
        return w, z, squares

    while len(history) < max_epochs:
        (w, z, squares), _ = remembered(
            "epoch",
            (operator, rhs, shift, rank, b, seed, len(history), w, z),
            lambda w=w, z=z: epoch(w, z, len(history)),  # type: ignore[misc]
            lambda found: Entry(dict(zip("wzs", found, strict=True))),
            lambda entry: (entry.arrays["w"], entry.arrays["z"], entry.arrays["s"]),
        )
        steps += steps_per_epoch
        estimate = float(np.max(np.sqrt(squares * n / b / steps_per_epoch) / size))
        seconds = time.perf_counter() - clock
        history.append({"steps": steps, "seconds": seconds, "relative_residual": estimate})
        if callback is not None:
            try:
                callback(w)
            except StopIteration:
                status = Status.STOPPED
                break
        if estimate <= factor * tol:
            residual = _residual(operator, w, rhs, shift, size)
            if residual <= tol:
                status = Status.CONVERGED
                break
            factor /= 4
            if factor < 1e-2:
                status = Status.STALLED
                break
        if time_limit is not None and seconds >= time_limit:
            status = Status.TIME_LIMIT
            break
    if status is not Status.CONVERGED:
        residual = _residual(operator, w, rhs, shift, size)
        status = Status.CONVERGED if residual <= tol else status
    return w, status, {"iterations": steps, "relative_residual": residual}, history


def _residual(operator: KernelOperator, w: Vector, rhs: Vector, shift: float, size: Vector) -> float:
    R = rhs - operator.matmat(w, precision="double") - shift * w
    return float(np.max(np.linalg.norm(R, axis=0) / size))


def _direction(
    operator: KernelOperator,
    chosen: NDArray[np.intp],
    g: Vector,
    shift: float,
    rank: int,
    rng: np.random.Generator,
) -> Vector:
    """Give the preconditioned step of a block: the gradient, by a sketch, over the largest eigenvalue."""
    K = operator.block(chosen)
    sketch = nystrom(K, rank, random_state=rng, n_probes=0)
    U, values = np.asarray(sketch.vectors), np.asarray(sketch.values)
    damping = shift + sketch.tail

    def inverse(v: Vector) -> Vector:
        c = U.T @ v
        return np.asarray((v - U @ c) / damping + U @ (c / (values[:, None] + damping)))

    v = rng.standard_normal((len(K), 1))
    largest = 1.0
    for _ in range(_POWER_STEPS):
        v = v / np.linalg.norm(v)
        u = K @ v + shift * v
        image = inverse(u)
        largest = float(np.linalg.norm(image))
        v = image
    # The power method approaches from below.
    return inverse(g) / (1.05 * largest)
