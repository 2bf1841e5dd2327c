"""The feature map: seeded, row by row, applied after upload and never stored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

Array = Any  # any array of the Python array API standard


class FeatureMap(ABC):
    """A deterministic map of rows ``(n, d)`` to rows ``(n, m)``.

    Concrete maps are frozen dataclasses of settings. Random weights are drawn on the host from the
    seed alone, rounded to float32 so that single and double precision evaluate the same map, and
    kept once per process and device; a pickled map holds its settings only.
    """

    #: Whether ``scipy.sparse`` rows are accepted.
    accepts_sparse: ClassVar[bool] = False

    @abstractmethod
    def n_outputs(self, n_inputs: int) -> int:
        """Count the output columns for ``n_inputs`` input columns."""

    @abstractmethod
    def __call__(self, X: Array) -> Array:
        """Map rows ``(n, d)`` to ``(n, m)``, in the dtype and on the device of ``X``."""

    @property
    def needs_sample(self) -> bool:
        """Whether :meth:`fit` must see rows before the map can be used."""
        return False

    def fit(self, sample: Array) -> FeatureMap:
        """Return the map with data-dependent settings replaced by numbers.

        Parameters
        ----------
        sample : ndarray, shape (k, d)
            Rows drawn from the data.
        """
        return self

    def work_bytes(self, n_rows: int, n_inputs: int, itemsize: int) -> int:
        """Bytes needed to map ``n_rows`` rows beside input and output; weights not counted."""
        return 0

    def weight_bytes(self, n_inputs: int) -> int:
        """Bytes of the random weights kept in memory for ``n_inputs`` input columns."""
        return 0
