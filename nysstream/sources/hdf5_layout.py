"""Where the bytes of an HDF5 dataset lie in its file, and what undoes their filters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from nysstream.sources.chunks import ChunkLayout
from nysstream.sources.decoding import Blosc, Deflate, Fletcher, Step, Unshuffle, Zstd, supported
from nysstream.sources.files import OpenFile
from nysstream.sources.lzf import LZF, lzf_decompress

if TYPE_CHECKING:
    from collections.abc import Sequence


class ChunkIndex:
    """Byte ranges of the chunks of one dataset.

    Parameters
    ----------
    file : OpenFile or RemoteFile
        The file that holds them.
    shape : tuple of int
        Rows and columns of a chunk.
    dtype : numpy.dtype
        Stored dtype.
    steps : sequence of Step
        What undoes the filters, in the order of the filters.
    starts, sizes, masks : ndarray, shape (grid rows, grid columns)
        First byte (-1 where absent), stored bytes, and the filters skipped, of each chunk.
    """

    def __init__(
        self,
        file: Any,
        shape: tuple[int, int],
        dtype: np.dtype[Any],
        steps: Sequence[Step],
        index: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]],
    ) -> None:
        self.file, self.shape = file, shape
        self._dtype, self._steps = dtype, tuple(steps)
        self._starts, self._sizes, self._masks = index

    def find(self, index: tuple[int, int]) -> tuple[tuple[int, int], int] | None:
        """Byte range and skipped filters of a chunk; None if it was never written."""
        start = int(self._starts[index])
        if start < 0:
            return None
        return (start, start + int(self._sizes[index])), int(self._masks[index])

    def layout(self, mask: int) -> ChunkLayout:
        """How to decode a chunk for which the filters in ``mask`` were skipped."""
        used = [step for number, step in enumerate(self._steps) if not mask >> number & 1]
        return ChunkLayout(self.shape, self._dtype, "C", tuple(reversed(used)))


def contiguous_offset(dataset: Any) -> int | None:
    """First byte of a contiguous dataset in its file; None where it has another layout or no data."""
    if dataset.chunks is not None or not _plain_file(dataset):
        return None
    offset: int | None = dataset.id.get_offset()
    return offset


def chunk_index(dataset: Any, file: Any = None) -> ChunkIndex | None:
    """Find every chunk of a dataset; None where only HDF5 can decode them.

    ``file`` is where they are read from, by default the file of the dataset's name.

    Notes
    -----
    Cost: one walk through the file's index of chunks; 16 bytes per chunk are kept.
    """
    if dataset.chunks is None or not _plain_file(dataset):
        return None
    steps = _steps(dataset)
    if steps is None:
        return None
    chunk = (*dataset.chunks, 1)[:2]
    extent = (*dataset.shape, 1)[:2]
    grid = (-(-extent[0] // chunk[0]), -(-extent[1] // chunk[1]))
    starts = np.full(grid, -1, np.int64)
    sizes = np.zeros(grid, np.uint32)
    masks = np.zeros(grid, np.uint32)

    def note(stored: Any) -> None:
        origin = (*stored.chunk_offset, 0)[:2]
        place = (origin[0] // chunk[0], origin[1] // chunk[1])
        if place[0] < grid[0] and place[1] < grid[1]:
            starts[place], sizes[place], masks[place] = stored.byte_offset, stored.size, stored.filter_mask

    dataset.id.chunk_iter(note)
    file = file or OpenFile(dataset.file.filename)
    return ChunkIndex(file, chunk, dataset.dtype, steps, (starts, sizes, masks))


def missing_filter(dataset: Any) -> str | None:
    """Name and number of a filter that the dataset needs and this process lacks."""
    properties = dataset.id.get_create_plist()
    for number in range(properties.get_nfilters()):
        code, _, _, name = properties.get_filter(number)
        if not h5py.h5z.filter_avail(code):
            return f"{name.decode(errors='replace') or 'unnamed'} ({code})"
    return None


def _plain_file(dataset: Any) -> bool:
    """Whether stored values are as NumPy's and addresses are offsets in one file."""
    if dataset.is_virtual or dataset.external or dataset.file.userblock_size:
        return False
    if dataset.file.driver not in ("sec2", "fileobj"):
        return False
    return bool(dataset.id.get_type() == h5py.h5t.py_create(dataset.dtype, logical=True))


def _steps(dataset: Any) -> list[Step] | None:
    """List what undoes each filter, in their order; None if one is not known here."""
    properties = dataset.id.get_create_plist()
    steps: list[Step] = []
    for number in range(properties.get_nfilters()):
        code = properties.get_filter(number)[0]
        match code:
            case h5py.h5z.FILTER_DEFLATE:
                steps.append(Deflate())
            case h5py.h5z.FILTER_SHUFFLE:
                steps.append(Unshuffle(dataset.dtype.itemsize))
            case h5py.h5z.FILTER_FLETCHER32:
                steps.append(Fletcher())
            case h5py.h5z.FILTER_LZF if lzf_decompress() is not None:
                steps.append(LZF())
            case 32001:  # registered number of blosc
                steps.append(Blosc())
            case 32015:  # registered number of zstd
                steps.append(Zstd())
            case _:
                return None
    return steps if supported(steps[::-1]) else None
