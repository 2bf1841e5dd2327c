"""Random weights: drawn on the host from settings alone, kept once per process, dtype and device."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
from array_api_compat import device
from numpy.typing import NDArray
from scipy.sparse import issparse

from nysstream.arrays import like, namespace
from nysstream.errors import InputError

Array = Any  # any array of the Python array API standard
HostWeights = tuple[NDArray[Any], ...]

#: Maps whose weights are kept; a pass uses one map, and drawing again costs about one block.
KEPT_MAPS = 4

_kept: OrderedDict[Hashable, tuple[HostWeights, dict[Hashable, tuple[Array, ...]]]] = OrderedDict()
# Held while drawing too: threads that ask for the same weights wait for one draw.
_lock = threading.RLock()


def generator(random_state: int, *key: int | str) -> np.random.Generator:
    """Return the generator that ``random_state`` and ``key`` name, the same in every process.

    Philox is counter-based and its stream is fixed by NumPy's compatibility policy for bit
    generators; ``key`` separates kernels and shapes that share a seed.
    """
    spawn_key = tuple(
        int.from_bytes(part.encode(), "little") if isinstance(part, str) else part for part in key
    )
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(random_state, spawn_key=spawn_key)))


def single(W: NDArray[np.float64]) -> NDArray[np.float32]:
    """Round weights to float32, so that single and double precision evaluate the same map.

    Frequencies of heavy-tailed kernels may leave the range of float32; they are clipped to it, in
    place, so that drawing needs no more memory than keeping both precisions.
    """
    largest = float(np.finfo(np.float32).max)
    return np.clip(W, -largest, largest, out=W).astype(np.float32)


def host_weights(settings: Hashable, n_inputs: int, draw: Callable[[int], HostWeights]) -> HostWeights:
    """Return the weights of one map for ``n_inputs`` columns, drawing them at the first call.

    Parameters
    ----------
    settings : Hashable
        The map; equal maps share their weights.
    n_inputs : int
    draw : callable
        Called with ``n_inputs``; returns host arrays, of which floating ones are float32.

    Returns
    -------
    tuple of ndarray
        Read-only.
    """
    return _entry(settings, n_inputs, draw)[0]


def weights_for(
    X: Array, settings: Hashable, n_inputs: int, draw: Callable[[int], HostWeights]
) -> tuple[Array, ...]:
    """Return the weights in the dtype, namespace and on the device of the array ``X``.

    Integer weights keep their dtype. Copies are kept beside the host weights.

    Parameters
    ----------
    X : array, shape (n, d)
        SciPy sparse rows count as NumPy arrays.
    settings, n_inputs, draw
        As for :func:`host_weights`.
    """
    with _lock:
        host, copies = _entry(settings, n_inputs, draw)
        dtype = host_dtype(X)
        on_host = isinstance(X, np.ndarray) or issparse(X)
        key = dtype.str if on_host else (namespace(X).__name__, str(device(X)), dtype.str)
        if key not in copies:
            # Cast on the host: a copy for a device crosses once and in its final size.
            cast = tuple(_frozen(_cast(w, dtype)) for w in host)
            copies[key] = cast if on_host else tuple(like(X, w) for w in cast)
        return copies[key]


def host_dtype(X: Array) -> np.dtype[Any]:
    """Return the NumPy dtype of an array of any namespace.

    Raises
    ------
    InputError
        If it is neither float32 nor float64.
    """
    name = str(X.dtype).rpartition(".")[2]
    if name not in ("float32", "float64"):
        message = f"feature maps need float32 or float64 rows, not {name}; convert them first"
        raise InputError(message)
    return np.dtype(name)


def forget() -> None:
    """Drop every kept weight; the next use of a map draws them again."""
    with _lock:
        _kept.clear()


def _entry(
    settings: Hashable, n_inputs: int, draw: Callable[[int], HostWeights]
) -> tuple[HostWeights, dict[Hashable, tuple[Array, ...]]]:
    with _lock:
        key = (settings, n_inputs)
        if key in _kept:
            _kept.move_to_end(key)
        else:
            while len(_kept) >= KEPT_MAPS:
                _kept.popitem(last=False)
            _kept[key] = (tuple(_frozen(w) for w in draw(n_inputs)), {})
        return _kept[key]


def _cast(w: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    return w.astype(dtype, copy=False) if w.dtype.kind == "f" else w


def _frozen(w: NDArray[Any]) -> NDArray[Any]:
    w.flags.writeable = False
    return w
