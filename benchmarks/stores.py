"""The stores that passes are timed on: one matrix in every layout, kept between runs."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from benchmarks.measuring import Scale, Settings

_SEED = 20261101
_PATTERN_ROWS = 1 << 10


@dataclass(frozen=True)
class Store:
    """One layout.

    Attributes
    ----------
    name : str
    codec : str
        What decodes it, for the limit: a codec, ``hdf5-...`` or nothing.
    write : callable
        ``write(path, scale)``.
    suffix : str
    large : bool
        Whether its chunks (not its shards) are the large ones.
    dataset : str or None
        Name within the file.
    """

    name: str
    codec: str
    write: Callable[[Path, Scale], None]
    suffix: str
    large: bool = False
    dataset: str | None = None

    def path(self, settings: Settings) -> Path:
        """Where the store lies."""
        scale = settings.scale
        return settings.folder / f"{scale.n_rows}x{scale.n_columns}" / f"{self.name}{self.suffix}"

    def made(self, settings: Settings) -> Path:
        """Write the store unless an earlier run has, and return where it lies."""
        path = self.path(settings)
        done = path.with_name(f"{path.name}.done")
        stamp = json.dumps([_SEED, settings.scale.chunk_bytes, settings.scale.large_bytes])
        if done.exists() and done.read_text() == stamp:
            return path
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.write(path, settings.scale)
        _flush(path)
        done.write_text(stamp)
        return path


def block(start: int, stop: int, n_columns: int) -> np.ndarray:
    """Make rows of the matrix: the same in every store, however they are cut.

    Normal numbers rounded to 12 bits, as measurements are, so that codecs have something to find.
    """
    out = np.empty((stop - start, n_columns), np.float32)
    for piece in range(start // _PATTERN_ROWS, -(-stop // _PATTERN_ROWS)):
        first = piece * _PATTERN_ROWS
        rng = np.random.default_rng([_SEED, piece])
        x = rng.standard_normal((_PATTERN_ROWS, n_columns), dtype=np.float32)
        a, b = max(start, first), min(stop, first + _PATTERN_ROWS)
        out[a - start : b - start] = x[a - first : b - first]
    bits = out.view(np.uint32)
    bits += np.uint32(1 << 10)
    bits &= np.uint32(0xFFFFF800)
    return out


def _blocks(scale: Scale, rows: int) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, scale.n_rows, rows):
        yield start, block(start, min(start + rows, scale.n_rows), scale.n_columns)


def chunk_rows(scale: Scale, n_bytes: int) -> int:
    """Count the rows of a full-width chunk."""
    return max(1, min(scale.n_rows, n_bytes // (4 * scale.n_columns)))


def _zarr(codec: str, *, large: bool = False, shards: bool = False, split: int = 1) -> Callable[..., None]:
    def write(path: Path, scale: Scale) -> None:
        import zarr
        from zarr.codecs import BloscCodec, ZstdCodec

        compressors: Any = {
            "": None,
            "blosc-lz4": BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=4),
            "zstd": ZstdCodec(level=0),
        }[codec]
        rows = chunk_rows(scale, scale.large_bytes if large else scale.chunk_bytes * split)
        tall = chunk_rows(scale, scale.large_bytes)
        array = zarr.create_array(
            store=str(path),
            shape=(scale.n_rows, scale.n_columns),
            dtype="float32",
            chunks=(rows, scale.n_columns // split),
            shards=(tall, scale.n_columns) if shards else None,
            compressors=compressors,
            fill_value=0,
        )
        for start, x in _blocks(scale, tall if shards else max(rows, tall // rows * rows)):
            array[start : start + len(x)] = x

    return write


def _hdf5(**options: Any) -> Callable[..., None]:
    def write(path: Path, scale: Scale) -> None:
        import h5py

        rows = chunk_rows(scale, scale.chunk_bytes)
        chunks = None if "contiguous" in options else (rows, scale.n_columns)
        keep = {key: value for key, value in options.items() if key != "contiguous"}
        with h5py.File(path, "w", libver="latest") as file:
            shape = (scale.n_rows, scale.n_columns)
            dataset = file.create_dataset("x", shape, "f4", chunks=chunks, **keep)
            for start, x in _blocks(scale, 4 * rows):
                dataset[start : start + len(x)] = x

    return write


def _npy(path: Path, scale: Scale) -> None:
    shape = (scale.n_rows, scale.n_columns)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for _, x in _blocks(scale, chunk_rows(scale, scale.chunk_bytes)):
            file.write(x.data)


def _flush(path: Path) -> None:
    """Bring the files to the disk: pages not yet written cannot be dropped from the cache."""
    for file in [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]:
        fd = os.open(file, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)


STORES = {
    store.name: store
    for store in (
        Store("zarr-lz4", "blosc-lz4", _zarr("blosc-lz4"), ".zarr"),
        Store("zarr-raw", "", _zarr(""), ".zarr"),
        Store("zarr-zstd", "zstd", _zarr("zstd"), ".zarr"),
        Store("zarr-lz4-sharded", "blosc-lz4", _zarr("blosc-lz4", shards=True), ".zarr"),
        Store("zarr-lz4-64MB", "blosc-lz4", _zarr("blosc-lz4", large=True), ".zarr", large=True),
        Store("zarr-raw-64MB", "", _zarr("", large=True), ".zarr", large=True),
        Store("zarr-lz4-split", "blosc-lz4", _zarr("blosc-lz4", split=4), ".zarr"),
        Store("hdf5-contiguous", "", _hdf5(contiguous=True), ".h5", dataset="x"),
        Store("hdf5-chunked", "", _hdf5(), ".h5", dataset="x"),
        Store("hdf5-gzip", "hdf5-gzip", _hdf5(compression="gzip", shuffle=True), ".h5", dataset="x"),
        Store("hdf5-lzf", "hdf5-lzf", _hdf5(compression="lzf", shuffle=True), ".h5", dataset="x"),
        Store("npy", "", _npy, ".npy"),
    )
}


def chosen(settings: Settings) -> list[Store]:
    """List the stores of a run."""
    return [store for name, store in STORES.items() if not settings.cases or name in settings.cases]


def read_share(share: tuple[str, int, int, int]) -> int:
    """Read every ``cores``-th chunk of an HDF5 file through HDF5; runs in a process of its own."""
    import h5py

    path, core, cores, n_bytes = share
    with h5py.File(path, "r") as file:
        dataset = file["x"]
        rows = dataset.chunks[0]
        last = min(len(dataset), n_bytes // (4 * dataset.shape[1]))
        buffer, done = np.empty((rows, dataset.shape[1]), "f4"), 0
        for start in range(core * rows, last, cores * rows):
            count = min(rows, len(dataset) - start)
            dataset.read_direct(buffer[:count], source_sel=np.s_[start : start + count])
            done += buffer[:count].nbytes
    return done
