"""Randomized Nyström approximation of a positive semidefinite operator from one product."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.errors import InputError
from nysstream.operators import LinearOperator, as_operator
from nysstream.sketching.approximation import Certificate, Nystrom
from nysstream.sketching.random_matrices import RandomState, as_seed, gaussian, orthonormal, probe_seed
from nysstream.sketching.sketch import Sketch

if TYPE_CHECKING:
    from nysstream.operators.base import Precision

__all__ = ["Certificate", "Nystrom", "Sketch", "nystrom"]


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
