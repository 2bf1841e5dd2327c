"""Read Zarr's metadata: can its chunks be decoded here, and how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nysstream.errors import SourceError
from nysstream.sources.chunks import ChunkLayout
from nysstream.sources.decoding import CRC32C, LZ4, Blosc, Deflate, Step, Unshuffle, Zstd, supported

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

#: Where metadata of either format name codecs.
_CODECS = ("codecs", "filters", "compressor", "configuration", "index_codecs")
_ABSENT = np.uint64(2**64 - 1)


@dataclass(frozen=True)
class ShardLayout:
    """Where the inner chunks of a shard lie.

    Attributes
    ----------
    grid : tuple of int
        Inner chunks per shard, in rows and columns.
    at_start : bool
        Whether the index precedes the chunks.
    checksum : bool
        Whether a CRC-32C follows the index.
    """

    grid: tuple[int, int]
    at_start: bool
    checksum: bool

    @property
    def index_bytes(self) -> int:
        """Size of the index."""
        return self.grid[0] * self.grid[1] * 16 + (4 if self.checksum else 0)

    def parse(self, encoded: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Decode the index.

        Returns
        -------
        spans : ndarray of int64, shape (rows, columns, 2)
            First byte and length of each inner chunk.
        present : ndarray of bool, shape (rows, columns)
            Whether it is stored.

        Raises
        ------
        ValueError
            If the index is cut short or its checksum does not match.
        """
        if encoded.nbytes != self.index_bytes:
            message = f"the shard's index has {encoded.nbytes} bytes, not {self.index_bytes}"
            raise ValueError(message)
        index = np.empty(self.grid[0] * self.grid[1] * 16, np.uint8)
        if self.checksum:
            CRC32C().decode(encoded, index)
        else:
            index[:] = encoded
        spans = index.view("<u8").reshape(*self.grid, 2)
        present = (spans != _ABSENT).any(axis=2)
        return spans.astype(np.int64), present


@dataclass(frozen=True)
class ArrayLayout:
    """How an array's objects (chunks, or shards of chunks) are laid out.

    Attributes
    ----------
    shape : tuple of int
        Rows and columns per stored object.
    chunk : ChunkLayout or None
        Of the (inner) chunks; None where only Zarr can decode them.
    shard : ShardLayout or None
        None where each object is one chunk.
    """

    shape: tuple[int, int]
    chunk: ChunkLayout | None
    shard: ShardLayout | None = None


def array_layout(array: Any) -> ArrayLayout:
    """Describe the chunks of a ``zarr.Array`` of one or two dimensions."""
    stored = _two(array.shards or array.chunks)
    metadata = array.metadata
    if metadata.zarr_format == 2:
        steps = _format_2(metadata)
        chunk = None if steps is None else ChunkLayout(stored, array.dtype, metadata.order, steps)
        return ArrayLayout(stored, chunk)
    codecs = metadata.to_dict()["codecs"]
    if codecs[0]["name"] != "sharding_indexed":
        return ArrayLayout(stored, _format_3(codecs, stored, array.dtype))
    if len(codecs) > 1:
        return ArrayLayout(stored, None)
    settings = codecs[0]["configuration"]
    inner = _two(tuple(settings["chunk_shape"]))
    index = [codec["name"] for codec in settings["index_codecs"]]
    plain = index in (["bytes"], ["bytes", "crc32c"])
    endian = settings["index_codecs"][0].get("configuration", {}).get("endian", "little")
    chunk = _format_3(settings["codecs"], inner, array.dtype)
    if chunk is None or not plain or endian != "little":
        return ArrayLayout(stored, None)
    grid = (stored[0] // inner[0], stored[1] // inner[1])
    shard = ShardLayout(grid, settings.get("index_location", "end") == "start", "crc32c" in index)
    return ArrayLayout(stored, chunk, shard)


def refuse_code(array: Any, name: str) -> None:
    """Refuse an array whose chunks would be executed, as those of the codec ``pickle`` are.

    Raises
    ------
    SourceError
        If such a codec is among those of the array.
    """
    if "pickle" in _names(array.metadata.to_dict()):
        message = f"{name} is stored by the codec pickle, which runs what it reads; it is not opened"
        raise SourceError(message)


def is_plain(array: Any) -> bool:
    """Whether chunks are stored as they are: reading them takes what is stored, and runs nothing."""
    if array.metadata.zarr_format == 2:
        return not (array.compressors or array.filters)
    return [codec["name"] for codec in array.metadata.to_dict()["codecs"]] == ["bytes"]


def _names(part: Any) -> set[str]:
    """List what codecs are called, at any depth."""
    if isinstance(part, (list, tuple)):
        return set().union(*(_names(item) for item in part))
    if not isinstance(part, dict):
        config = getattr(part, "get_config", None)
        return _names(config()) if callable(config) else set()
    own = {str(part[key]).removeprefix("numcodecs.") for key in ("id", "name") if key in part}
    inside = (part[key] for key in _CODECS if key in part)
    return own.union(*(_names(item) for item in inside))


def _two(shape: Sequence[int]) -> tuple[int, int]:
    """Give a chunk shape two dimensions."""
    return int(shape[0]), int(shape[1]) if len(shape) == 2 else 1


def _format_2(metadata: Any) -> tuple[Step, ...] | None:
    codecs = [*(metadata.filters or ()), *([metadata.compressor] if metadata.compressor else ())]
    steps: list[Step] = []
    for codec in reversed(codecs):
        step = _step(codec.codec_id, codec.get_config(), format_2=True)
        if step is None:
            return None
        steps.append(step)
    return tuple(steps) if supported(steps) else None


def _format_3(
    codecs: Sequence[Mapping[str, Any]], shape: tuple[int, int], dtype: np.dtype[Any]
) -> ChunkLayout | None:
    order: Literal["C", "F"] = "C"
    steps: list[Step] = []
    stored = None
    for codec in codecs:
        name, settings = codec["name"], codec.get("configuration") or {}
        if name == "transpose" and stored is None:
            order = _transposed(settings["order"], order)
        elif name == "bytes":
            endian = settings.get("endian") or "little"
            stored = dtype.newbyteorder("<" if endian == "little" else ">")
        else:
            step = _step(name, settings, format_2=False)
            if step is None or stored is None:
                return None
            steps.insert(0, step)
    if stored is None or not supported(steps):
        return None
    return ChunkLayout(shape, stored, order, tuple(steps))


def _transposed(order: Any, before: Literal["C", "F"]) -> Literal["C", "F"]:
    if tuple(order) != (1, 0):
        return before
    return "F" if before == "C" else "C"


def _step(name: str, settings: Mapping[str, Any], *, format_2: bool) -> Step | None:
    """Find what undoes a codec: by its identifier in format 2, by its name in format 3."""
    match name.removeprefix("numcodecs."):
        case "blosc":
            return Blosc()
        case "zstd":
            return Zstd()
        case "gzip" | "zlib":
            return Deflate()
        case "lz4":
            return LZ4()
        case "shuffle":
            return Unshuffle(int(settings.get("elementsize", 4)))
        case "crc32c" if name == "crc32c" and not format_2:
            return CRC32C()  # numcodecs' own has put the checksum at either end
        case _:
            return None
