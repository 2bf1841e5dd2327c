"""The recipe of a sketch's test matrix: tasks carry it instead of the matrix."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nysstream.arrays import single_threaded_blas
from nysstream.sketching.random_matrices import gaussian, orthonormal, probe_seed

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class TestMatrix:
    """Orthonormal test vectors followed by Gaussian probes, drawn from a seed where they are needed.

    Parameters
    ----------
    n_rows : int
    n_columns : int
        Test vectors, at most ``n_rows``.
    n_probes : int
    seed : int
    scale : ndarray, shape (n_rows,), optional
        Divides each row: rough scales of the columns of a design that is to be standardised, so
        that the vectors are well spread over the standardised columns.

    Notes
    -----
    The last matrix drawn is kept, once per process. It is drawn on one BLAS thread, so that every
    process of a cluster draws the same bits.
    """

    n_rows: int
    n_columns: int
    n_probes: int
    seed: int
    scale: NDArray[np.float64] | None = None

    __test__: ClassVar[bool] = False  # not a test class, whatever its name looks like to pytest
    _lock: ClassVar[threading.Lock] = threading.Lock()
    _kept: ClassVar[dict[tuple[Any, ...], NDArray[np.float64]]] = {}

    def __call__(self) -> NDArray[np.float64]:
        """Give the matrix, ndarray of shape (n_rows, n_columns + n_probes)."""
        scale = None if self.scale is None else self.scale.tobytes()
        key = (self.n_rows, self.n_columns, self.n_probes, self.seed, scale)
        with self._lock:
            if key not in self._kept:
                self._kept.clear()
                self._kept[key] = self._draw()
            return self._kept[key]

    def _draw(self) -> NDArray[np.float64]:
        with single_threaded_blas():
            test = orthonormal(self.n_rows, self.n_columns, self.seed)
        matrix = np.hstack([test, gaussian(self.n_rows, self.n_probes, probe_seed(self.seed))])
        return matrix if self.scale is None else matrix / self.scale[:, None]

    @property
    def nbytes(self) -> int:
        """Bytes of the matrix."""
        return 8 * self.n_rows * (self.n_columns + self.n_probes)

    @classmethod
    def forget(cls) -> None:
        """Free the matrix kept by this process."""
        with cls._lock:
            cls._kept.clear()
