"""TensorSketch: features of polynomial kernels from count sketches and the FFT."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

import numpy as np
import scipy.fft
from array_api_compat import device
from numpy.typing import NDArray
from scipy.sparse import csr_array, issparse

from nysstream.arrays import namespace
from nysstream.errors import InputError
from nysstream.features import settings
from nysstream.features.base import FeatureMap
from nysstream.features.weights import HostWeights, generator, host_dtype, host_weights, weights_for

Array = Any  # any array of the Python array API standard

#: Bytes of one sketch worked on at a time: small enough for a cache of the host, large enough to
#: keep the launches of a device few.
HOST_PIECE_BYTES = 1 << 20
DEVICE_PIECE_BYTES = 1 << 21

# Arrays of the size of a piece that are alive together, at most: a sketch, its spectrum, the
# product of spectra and its inverse, or on a device the gather and its product with the signs.
_PIECES_ALIVE = 6


@dataclass(frozen=True)
class TensorSketch(FeatureMap):
    r"""TensorSketch features of the polynomial kernel :math:`(\gamma\,x^\top y + c)^q`.

    Each of q independent count sketches hashes the columns (and a constant) into m buckets with
    random signs; the features are their circular convolution. Inner products of features are
    unbiased estimates of the kernel.

    Parameters
    ----------
    n_features : int
        Buckets m. Products of small primes make the FFT fast.
    degree : int
        Degree q.
    gamma : float
        Above zero.
    coef0 : float
        Constant c, zero or more.
    random_state : int

    Raises
    ------
    InputError
        If a setting cannot be used.

    Notes
    -----
    Cost: ``O(n q (d + m log m))`` flops, proportional to the stored values for sparse rows; work
    arrays of a few MiB. The relative error grows as :math:`3^{q/2} / \sqrt{m}`.

    References
    ----------
    .. [1] Pham and Pagh, "Fast and scalable polynomial kernels via explicit feature maps", 2013.
    """

    accepts_sparse: ClassVar[bool] = True

    n_features: int
    _: KW_ONLY
    degree: int = 2
    gamma: float = 1.0
    coef0: float = 0.0
    random_state: int = 0

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "n_features", settings.positive_integer("n_features", self.n_features))
        put(self, "degree", settings.positive_integer("degree", self.degree))
        put(self, "gamma", settings.positive_number("gamma", self.gamma))
        put(self, "coef0", settings.finite_number("coef0", self.coef0))
        if self.coef0 < 0:
            message = f"coef0 must be zero or more, not {self.coef0}: the kernel is indefinite below"
            raise InputError(message)
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
        return self._map_host(X) if issparse(X) or isinstance(X, np.ndarray) else self._map_device(X)

    def work_bytes(self, n_rows: int, n_inputs: int, itemsize: int) -> int:
        """Bytes of the arrays of one piece of rows."""
        row_bytes = itemsize * (_PIECES_ALIVE * (self.n_features + 2) + 2 * n_inputs)
        return min(n_rows, self._piece_rows(DEVICE_PIECE_BYTES, itemsize)) * row_bytes

    def weight_bytes(self, n_inputs: int) -> int:
        """Bytes of hashes and signs; the form for devices is the larger one."""
        buckets, _ = self._hashes(n_inputs)
        slots = max(int(np.bincount(row[:-1]).max(initial=0)) for row in buckets)
        return self.degree * max(60 * (n_inputs + 1), (20 * slots + 12) * self.n_features)

    @property
    def _scale(self) -> float:
        return float(self.gamma ** (self.degree / 2))

    @property
    def _constant(self) -> float:
        # (gamma x'y + c)^q = gamma^q (x'y + c / gamma)^q: the columns need no scaling.
        return math.sqrt(self.coef0 / self.gamma)

    def _piece_rows(self, piece_bytes: int, itemsize: int) -> int:
        return max(1, piece_bytes // (itemsize * self.n_features))

    def _map_host(self, X: Any) -> NDArray[Any]:
        m, n_inputs = self.n_features, X.shape[1]
        dtype = host_dtype(X)
        sketch = _hash_sparse if issparse(X) else _hash_dense
        draw = self._hashes if issparse(X) else self._sorted_hashes
        weights = weights_for(X, (self, sketch.__name__), n_inputs, draw)
        buckets, signs = host_weights((self, "hashes"), n_inputs, self._hashes)
        out = np.empty((X.shape[0], m), dtype)
        rows = self._piece_rows(HOST_PIECE_BYTES, dtype.itemsize)
        for start in range(0, X.shape[0], rows):
            piece = X[start : start + rows]
            product: Any = None
            for j in range(self.degree):
                Z = sketch(piece, j, m, weights)
                Z[:, buckets[j, -1]] += float(signs[j, -1]) * self._constant
                # scipy.fft, because numpy.fft is three times slower in single precision.
                spectrum = scipy.fft.rfft(Z, axis=1)
                product = spectrum if product is None else np.multiply(product, spectrum, out=product)
            features = scipy.fft.irfft(product, n=m, axis=1, overwrite_x=True)
            np.multiply(features, self._scale, out=out[start : start + rows])
        return out

    def _map_device(self, X: Array) -> Array:
        xp, m, n_inputs = namespace(X), self.n_features, X.shape[1]
        weights = weights_for(X, (self, "slots"), n_inputs, self._slots)
        out = xp.empty((X.shape[0], m), dtype=X.dtype, device=device(X))
        rows = self._piece_rows(DEVICE_PIECE_BYTES, host_dtype(X).itemsize)
        for start in range(0, X.shape[0], rows):
            stop = min(start + rows, X.shape[0])
            piece = X[start:stop, :]
            product: Any = None
            for j in range(self.degree):
                columns, signs, constant = weights[3 * j : 3 * j + 3]
                Z = xp.broadcast_to(constant * self._constant, (piece.shape[0], m))
                for slot in range(columns.shape[0]):
                    Z = Z + xp.take(piece, columns[slot, :], axis=1) * signs[slot, :]
                spectrum = xp.fft.rfft(Z, axis=1)
                product = spectrum if product is None else product * spectrum
            out[start:stop, :] = xp.fft.irfft(product, n=m, axis=1) * self._scale
        return out

    def _hashes(self, n_inputs: int) -> HostWeights:
        """Draw the bucket and the sign of every column, the constant last; shape (q, d + 1) each."""
        rng = generator(self.random_state, "tensor_sketch", n_inputs, self.n_features)
        shape = (self.degree, n_inputs + 1)
        buckets = rng.integers(0, self.n_features, shape)
        return buckets, (2 * rng.integers(0, 2, shape) - 1).astype(np.float32)

    def _sorted_hashes(self, n_inputs: int) -> HostWeights:
        """Order the columns by bucket, so that every bucket is one run; four arrays per sketch."""
        arrays: list[NDArray[Any]] = []
        for buckets, signs in zip(*self._hashes(n_inputs), strict=True):
            order = np.argsort(buckets[:-1], kind="stable")
            present, starts = np.unique(buckets[order], return_index=True)
            arrays += [order, signs[order], starts, present]
        return tuple(arrays)

    def _slots(self, n_inputs: int) -> HostWeights:
        """List the columns of each bucket, padded to the fullest one, so that a device can gather.

        Three arrays per sketch: columns and signs, shape (slots, m), and the constant's, shape (m,).
        """
        arrays: list[NDArray[Any]] = []
        for buckets, signs in zip(*self._hashes(n_inputs), strict=True):
            order = np.argsort(buckets[:-1], kind="stable")
            present, starts, counts = np.unique(buckets[order], return_index=True, return_counts=True)
            slot = np.arange(n_inputs) - np.repeat(starts, counts)
            columns = np.zeros((int(counts.max(initial=0)), self.n_features), np.int64)
            weights = np.zeros(columns.shape, np.float32)
            columns[slot, np.repeat(present, counts)] = order
            weights[slot, np.repeat(present, counts)] = signs[order]
            constant = np.zeros(self.n_features, np.float32)
            constant[buckets[-1]] = signs[-1]
            arrays += [columns, weights, constant]
        return tuple(arrays)


def _hash_dense(X: NDArray[Any], j: int, n_features: int, weights: HostWeights) -> NDArray[Any]:
    order, signs, starts, buckets = weights[4 * j : 4 * j + 4]
    Z = np.zeros((len(X), n_features), X.dtype)
    gathered = X[:, order]
    gathered *= signs
    Z[:, buckets] = np.add.reduceat(gathered, starts, axis=1)
    return Z


def _hash_sparse(X: Any, j: int, n_features: int, weights: HostWeights) -> NDArray[Any]:
    buckets, signs = weights
    # Renaming the columns multiplies by the sketch; toarray adds the values that share a bucket.
    hashed = csr_array(
        (X.data * signs[j, X.indices], buckets[j, X.indices], X.indptr), shape=(X.shape[0], n_features)
    )
    return np.asarray(hashed.toarray())
