"""Rectified random projections: features of the arc-cosine kernel of order one."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import array_api_compat
import numpy as np

from nysstream.arrays import namespace
from nysstream.features import settings
from nysstream.features.base import FeatureMap
from nysstream.features.weights import HostWeights, generator, single, weights_for

Array = Any  # any array of the Python array API standard


@dataclass(frozen=True)
class ReLU(FeatureMap):
    r"""Random ReLU features, :math:`\varphi(x) = \sqrt{2/m}\,\max(Wx, 0)` with normal :math:`W`.

    Inner products approximate the arc-cosine kernel of order one,
    :math:`\|x\|\,\|y\|\,(\sin\theta + (\pi - \theta)\cos\theta) / \pi`, where :math:`\theta` is the
    angle between x and y. The map is homogeneous: scaling rows scales their features.

    Parameters
    ----------
    n_features : int
        Features m.
    random_state : int

    Raises
    ------
    InputError
        If a setting cannot be used.

    Notes
    -----
    Cost: ``2 n d m`` flops; nothing is allocated beside the output.

    References
    ----------
    .. [1] Cho and Saul, "Kernel methods for deep learning", 2009.
    """

    accepts_sparse: ClassVar[bool] = True

    n_features: int
    _: KW_ONLY
    random_state: int = 0

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "n_features", settings.positive_integer("n_features", self.n_features))
        put(self, "random_state", settings.seed(self.random_state))

    def n_outputs(self, n_inputs: int) -> int:
        """Count the output columns: ``n_features``."""
        return self.n_features

    def __call__(self, X: Array) -> Array:
        """Map rows.

        Parameters
        ----------
        X : array or csr_array, shape (n, d)
            Float32 or float64.

        Returns
        -------
        array, shape (n, n_features)

        Raises
        ------
        InputError
            If the dtype is another.
        """
        (W,) = weights_for(X, self, X.shape[1], self._draw)
        Z = X @ W
        if isinstance(Z, np.ndarray) or array_api_compat.is_cupy_array(Z):
            namespace(Z).maximum(Z, 0, out=Z)
            return Z
        xp = namespace(Z)
        return xp.maximum(Z, xp.zeros((), dtype=Z.dtype, device=array_api_compat.device(Z)))

    def weight_bytes(self, n_inputs: int) -> int:
        """Bytes of the projection, held in float32 and, once used, in float64."""
        return 12 * self.n_features * n_inputs

    def _draw(self, n_inputs: int) -> HostWeights:
        W = generator(self.random_state, "relu", n_inputs, self.n_features).standard_normal(
            (n_inputs, self.n_features)
        )
        # max(s z, 0) = s max(z, 0) for s > 0: the scale goes into the weights and costs no sweep.
        W *= np.sqrt(2 / self.n_features)
        return (single(W),)
