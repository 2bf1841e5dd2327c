"""Random test matrices, drawn on the host from a seed so that every backend gets the same one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

RandomState = int | np.integer[Any] | np.random.Generator | None


def as_seed(random_state: RandomState) -> int:
    """Turn a seed, a generator or None into an integer seed that can be stored.

    Parameters
    ----------
    random_state : int, numpy.random.Generator or None
        A generator is advanced by one draw; None takes entropy from the system.
    """
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1, np.uint64)[0])
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**63))
    if isinstance(random_state, (int, np.integer)) and random_state >= 0:
        return int(random_state)
    message = f"random_state={random_state!r}: use a non-negative integer, a numpy.random.Generator or None"
    raise InputError(message)


def gaussian(n_rows: int, n_columns: int, seed: int) -> NDArray[np.float64]:
    """Draw a standard Gaussian matrix column by column.

    Parameters
    ----------
    n_rows, n_columns : int
    seed : int

    Returns
    -------
    ndarray, shape (n_rows, n_columns)
        In Fortran order. The leading columns do not depend on ``n_columns``.
    """
    rng = np.random.Generator(np.random.Philox(seed))
    return rng.standard_normal((n_columns, n_rows)).T


def rademacher(n_rows: int, n_columns: int, seed: int) -> NDArray[np.float64]:
    """Draw random signs column by column, with the same prefix property as :func:`gaussian`."""
    rng = np.random.Generator(np.random.Philox(seed))
    return np.where(rng.random((n_columns, n_rows)) < 0.5, -1.0, 1.0).T


def orthonormal(n_rows: int, n_columns: int, seed: int) -> NDArray[np.float64]:
    """Draw a uniformly distributed matrix with orthonormal columns.

    Parameters
    ----------
    n_rows : int
    n_columns : int
        At most ``n_rows``.
    seed : int

    Returns
    -------
    ndarray, shape (n_rows, n_columns)
        The Q factor of :func:`gaussian`. Up to rounding, the leading columns do not depend on
        ``n_columns``: a larger matrix extends a smaller one.

    Raises
    ------
    InputError
        If more columns than rows are asked for.
    """
    if not 1 <= n_columns <= n_rows:
        message = f"{n_columns} orthonormal columns do not fit in {n_rows} rows: ask for 1 to {n_rows}"
        raise InputError(message)
    Q, R = np.linalg.qr(gaussian(n_rows, n_columns, seed))
    # LAPACK leaves the signs free. Fixing them makes Q the Gram-Schmidt basis, hence uniform.
    return np.asarray(Q * np.where(np.diagonal(R) < 0, -1.0, 1.0))


def probe_seed(seed: int) -> int:
    """Derive the seed of the probe vectors, independent of the test matrix drawn from ``seed``."""
    return int(np.random.SeedSequence([seed, 1]).generate_state(1, np.uint64)[0])
