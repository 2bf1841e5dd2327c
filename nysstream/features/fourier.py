"""Random Fourier features of shift-invariant kernels."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nysstream.errors import InputError
from nysstream.features import settings
from nysstream.features.bandwidth import Metric, median_distance
from nysstream.features.base import FeatureMap
from nysstream.features.cosine import double_cosine_bytes, scaled_cosine
from nysstream.features.weights import HostWeights, generator, single, weights_for

Array = Any  # any array of the Python array API standard

KERNELS = ("gaussian", "laplacian", "matern")


@dataclass(frozen=True)
class Fourier(FeatureMap):
    r"""Random Fourier features, :math:`\varphi(x) = \sqrt{2/m}\,\cos(Wx + \beta)`.

    Inner products of features approximate a kernel of :math:`r = x - y`:
    :math:`\exp(-\|r\|^2 / 2\ell^2)` for ``"gaussian"``, :math:`\exp(-\|r\|_1 / \ell)` for
    ``"laplacian"``, and for ``"matern"`` the Matérn kernel of smoothness ``nu``, scaled as in
    scikit-learn. Frequencies :math:`W` follow the kernel's spectral density (normal, Cauchy per
    coordinate, multivariate t with ``2 nu`` degrees of freedom) and :math:`\beta` is uniform.

    Parameters
    ----------
    n_features : int
        Features m.
    kernel : {"gaussian", "laplacian", "matern"}
    nu : float, optional
        Smoothness of the Matérn kernel, 1.5 unless given; other kernels refuse it.
    length_scale : float, sequence of d floats, or "median"
        Length :math:`\ell`, for all columns or for each. ``"median"`` stands for the median distance
        between rows (in the 1-norm for ``"laplacian"``, as in its kernel) and is resolved by
        :meth:`fit`.
    orthogonal : bool
        Make the frequencies of each block of d features orthogonal, which lowers the variance at
        equal cost; not defined for ``"laplacian"``, whose density is not rotation invariant.
    random_state : int

    Raises
    ------
    InputError
        If a setting cannot be used.

    Notes
    -----
    Cost: ``2 n d m`` flops and n m cosines; nothing is allocated beside the output in float32.
    Heavy-tailed kernels (``"laplacian"``, ``"matern"`` with small ``nu``) draw a few very large
    frequencies; the phase of such a feature carries the rounding error of the large product
    :math:`Wx`, in float32 visibly so.

    References
    ----------
    .. [1] Rahimi and Recht, "Random features for large-scale kernel machines", 2007.
    .. [2] Yu et al., "Orthogonal random features", 2016.
    """

    accepts_sparse: ClassVar[bool] = True

    n_features: int
    _: KW_ONLY
    kernel: str = "gaussian"
    nu: float | None = None
    length_scale: float | tuple[float, ...] | str = 1.0
    orthogonal: bool = False
    random_state: int = 0

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "n_features", settings.positive_integer("n_features", self.n_features))
        settings.one_of("kernel", self.kernel, KERNELS)
        if self.kernel == "matern":
            put(self, "nu", settings.positive_number("nu", 1.5 if self.nu is None else self.nu))
        elif self.nu is not None:
            message = f"nu belongs to kernel='matern'; leave it out for kernel={self.kernel!r}"
            raise InputError(message)
        put(self, "length_scale", settings.length_scale(self.length_scale))
        put(self, "orthogonal", settings.flag("orthogonal", self.orthogonal))
        if self.orthogonal and self.kernel == "laplacian":
            message = (
                "orthogonal=True needs a rotation-invariant kernel, and kernel='laplacian' is none; "
                "use kernel='matern', nu=0.5 for exp(-r), or orthogonal=False"
            )
            raise InputError(message)
        put(self, "random_state", settings.seed(self.random_state))

    def n_outputs(self, n_inputs: int) -> int:
        """Count the output columns: ``n_features``."""
        return self.n_features

    @property
    def needs_sample(self) -> bool:
        """Whether ``length_scale`` is still ``"median"``."""
        return self.length_scale == "median"

    def fit(self, sample: Array) -> Fourier:
        """Return the map with a numeric length scale.

        Parameters
        ----------
        sample : ndarray or csr_array, shape (k, d)
            Rows drawn from the data, in any order; at most 1000 are used, evenly spaced.

        Raises
        ------
        InputError
            If all rows are equal, or a value is not finite.
        """
        if not self.needs_sample:
            return self
        metric: Metric = "cityblock" if self.kernel == "laplacian" else "euclidean"
        return replace(self, length_scale=median_distance(sample, metric))

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
            If the dtype is another, ``length_scale`` has not d entries, or is still ``"median"``.
        """
        W, phase = weights_for(X, self, X.shape[1], self._draw)
        return scaled_cosine(X @ W, phase, math.sqrt(2 / self.n_features))

    def work_bytes(self, n_rows: int, n_inputs: int, itemsize: int) -> int:
        """Bytes beside input and output: two cached pieces in float64, none in float32."""
        return double_cosine_bytes(n_rows, self.n_features) if itemsize == 8 else 0

    def weight_bytes(self, n_inputs: int) -> int:
        """Bytes of frequencies and phases, held in float32 and, once used, in float64."""
        return 12 * self.n_features * (n_inputs + 1)

    def _draw(self, n_inputs: int) -> HostWeights:
        if isinstance(self.length_scale, str):
            message = "length_scale='median' needs rows: call fit(sample) and use the map it returns"
            raise InputError(message)
        if isinstance(self.length_scale, tuple) and len(self.length_scale) != n_inputs:
            message = (
                f"length_scale has {len(self.length_scale)} entries and the rows have {n_inputs} columns; "
                "give one entry per column, or a single number"
            )
            raise InputError(message)
        rng = generator(self.random_state, self.kernel, n_inputs, self.n_features)
        phase = rng.uniform(0, 2 * np.pi, self.n_features)
        if self.kernel == "laplacian":
            W = rng.standard_cauchy((n_inputs, self.n_features))
        else:
            draw = _orthogonal if self.orthogonal else _gaussian
            W = draw(n_inputs, self.n_features, rng)
            if self.nu is not None:
                # Multivariate t: one radial factor per frequency.
                W *= np.sqrt(2 * self.nu / rng.chisquare(2 * self.nu, self.n_features))
        W /= np.reshape(self.length_scale, (-1, 1))
        return single(W), single(phase)


def _gaussian(n_inputs: int, n_features: int, rng: np.random.Generator) -> NDArray[np.float64]:
    return rng.standard_normal((n_inputs, n_features))


def _orthogonal(n_inputs: int, n_features: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw columns with the normal marginal law, orthogonal within each block of ``n_inputs``."""
    W = np.empty((n_inputs, n_features))
    for start in range(0, n_features, n_inputs):
        block = W[:, start : start + n_inputs]
        Q, R = np.linalg.qr(rng.standard_normal(block.shape))
        # QR fixes the signs of R by convention; the random signs make Q Haar distributed.
        Q *= np.where(np.diagonal(R) < 0, -1.0, 1.0)
        np.multiply(Q, np.sqrt(rng.chisquare(n_inputs, block.shape[1])), out=block)
    return W
