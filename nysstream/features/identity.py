"""The identity: the columns as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from nysstream.features.base import FeatureMap

Array = Any  # any array of the Python array API standard


@dataclass(frozen=True)
class Identity(FeatureMap):
    """Pass rows through unchanged; sparse rows stay sparse."""

    accepts_sparse: ClassVar[bool] = True

    def n_outputs(self, n_inputs: int) -> int:
        """Count the output columns: those of the input."""
        return n_inputs

    def __call__(self, X: Array) -> Array:
        """Return ``X`` itself, shape (n, d), not a copy."""
        return X
