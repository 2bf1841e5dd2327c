"""Bounds on single coefficients under their own names."""

from __future__ import annotations

from typing import Any

import numpy as np

from nysstream.regularizers.separable import Separable
from nysstream.regularizers.settings import positive, vector


class Box(Separable):
    """Bounds on every coefficient.

    Parameters
    ----------
    lower, upper : float or array-like, shape (p,), default 0 and 1
        One for all coefficients, or one for each; infinite for none.
    """

    def __init__(self, lower: Any = 0.0, upper: Any = 1.0) -> None:
        sides = (vector("Box", name, value) for name, value in (("lower", lower), ("upper", upper)))
        low, high = (side[:, None] if np.ndim(side) else side for side in sides)
        super().__init__(lower=low, upper=high)


class NonNegative(Separable):
    """No coefficient below zero."""

    def __init__(self) -> None:
        super().__init__(lower=0.0)


class LinfBall(Separable):
    """Coefficients of at most a given size.

    Parameters
    ----------
    radius : float or array-like, shape (k,), default 1
        Positive; one for all columns of coefficients, or one for each.
    """

    def __init__(self, radius: Any = 1.0) -> None:
        size = positive("LinfBall", "radius", radius)
        size = size[None, :] if np.ndim(size) else size
        super().__init__(lower=-size, upper=size)
