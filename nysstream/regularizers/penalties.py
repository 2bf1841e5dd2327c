"""Separable penalties under their own names."""

from __future__ import annotations

from typing import Any

from nysstream.regularizers.separable import Separable
from nysstream.regularizers.settings import strength as checked


class Zero(Separable):
    """No penalty and no constraint."""

    def __init__(self) -> None:
        super().__init__()


class L1(Separable):
    r"""The penalty :math:`\lambda \sum_i \omega_i |w_i|`.

    Parameters
    ----------
    strength : float or array-like, shape (k,)
        One for all columns of coefficients, or one for each.
    weights : array-like, shape (p,), optional
        Factors of the strength, one for each coefficient. Zero leaves one free.
    """

    def __init__(self, strength: Any = 1.0, weights: Any = None) -> None:
        super().__init__(l1=checked("L1", "strength", strength, weights))


class L2(Separable):
    r"""The penalty :math:`\tfrac12 \lambda \sum_i \omega_i w_i^2`.

    Parameters
    ----------
    strength : float or array-like, shape (k,)
        One for all columns of coefficients, or one for each.
    weights : array-like, shape (p,), optional
        Factors of the strength, one for each coefficient. Zero leaves one free.
    """

    def __init__(self, strength: Any = 1.0, weights: Any = None) -> None:
        super().__init__(l2=checked("L2", "strength", strength, weights))


class ElasticNet(Separable):
    r"""The penalty :math:`\lambda_1 \|w\|_1 + \tfrac12 \lambda_2 \|w\|^2`.

    Parameters
    ----------
    l1, l2 : float or array-like, shape (k,)
        One for all columns of coefficients, or one for each.
    """

    def __init__(self, l1: Any = 1.0, l2: Any = 1.0) -> None:
        super().__init__(l1=checked("ElasticNet", "l1", l1), l2=checked("ElasticNet", "l2", l2))
