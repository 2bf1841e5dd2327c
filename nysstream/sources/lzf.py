"""LZF, a filter of h5py's own, decoded outside HDF5's lock."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import h5py

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@functools.cache
def lzf_decompress() -> Any:
    """Find the decompressor that h5py registers with HDF5; None where its symbol is hidden.

    HDF5 calls it under a lock that all threads of a process share. Called from here, threads
    decode side by side.
    """
    try:
        function = ctypes.CDLL(h5py.h5z.__file__).lzf_decompress
    except (AttributeError, OSError):
        return None
    function.restype = ctypes.c_uint
    function.argtypes = [ctypes.c_void_p, ctypes.c_uint, ctypes.c_void_p, ctypes.c_uint]
    return function


@dataclass(frozen=True)
class LZF:
    """LZF blocks without a header, as h5py writes them."""

    overhead: ClassVar[int | None] = None

    def decode(self, encoded: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> None:
        """Decompress; the library checks both bounds.

        Raises
        ------
        ValueError
            If the bytes are corrupt.
        """
        size = lzf_decompress()(encoded.ctypes.data, encoded.nbytes, decoded.ctypes.data, decoded.nbytes)
        if size != decoded.nbytes:
            message = f"LZF gives {size} bytes, not {decoded.nbytes}"
            raise ValueError(message)
