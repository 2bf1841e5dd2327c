"""Chunks decoded here equal Zarr's own answer, in every layout; damaged ones are named."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec

from nysstream.errors import SourceError
from nysstream.sources import ZarrSource, scratch
from tests.sources.conftest import COMPRESSORS, zarr_arrays


def check(data, array, *, ours):
    source = ZarrSource(array, missing_chunks="fill")
    assert (source._reader().layout.chunk is not None) == ours
    expected = array[:].reshape((*array.shape, 1)[:2])
    start = data.draw(st.integers(0, len(expected)))
    stop = data.draw(st.integers(start, len(expected)))
    block = source.read(slice(start, stop))
    assert block.dtype.isnative
    np.testing.assert_array_equal(block, expected[start:stop])
    for dtype, order in (("f4", "C"), ("f8", "F")):
        out = np.empty((stop - start, expected.shape[1]), dtype, order)
        source.read(slice(start, stop), out)
        np.testing.assert_array_equal(out, expected[start:stop].astype(dtype))


@settings(max_examples=120)
@given(st.data())
def test_files_equal_zarrs_answer(tmp_path_factory, data):
    array, ours = data.draw(zarr_arrays(str(tmp_path_factory.getbasetemp() / "layouts.zarr")))
    check(data, array, ours=ours)


@settings(max_examples=50)
@given(st.data())
def test_stores_without_files_equal_zarrs_answer(data):
    array, ours = data.draw(zarr_arrays(zarr.storage.MemoryStore()))
    check(data, array, ours=ours)


def scratch_in_use(read, *args):
    """Run in a new thread; bytes of scratch it came to own."""

    def run():
        read(*args)
        return sum(buffer.nbytes for buffer in scratch._local.slots.values())

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


@pytest.mark.parametrize("codec", ["none", "crc", "gzip", "lz4", "crc blosc crc"])
@pytest.mark.parametrize("shards", [None, (200, 50)])
@pytest.mark.parametrize("width", [50, 25])
def test_scratch_stays_within_what_is_stated(tmp_path, monkeypatch, codec, shards, width):
    for module, name in (
        ("zarr_reading", "_RUN_BYTES"),
        ("chunks", "_PIECE_BYTES"),
    ):
        monkeypatch.setattr(f"nysstream.sources.{module}.{name}", 5000)
    values = np.random.default_rng(0).normal(size=(300, 50))
    array = zarr.create_array(
        tmp_path / "x.zarr", data=values, chunks=(100, width), shards=shards, compressors=COMPRESSORS[codec]
    )
    source = ZarrSource(array)
    used = scratch_in_use(source.read, slice(50, 270), np.empty((220, 50), np.float32))
    assert used <= source.decode_bytes <= 6 * values[:100].nbytes
    assert source.decode_bytes <= 4 * used


def test_shards_larger_than_a_run_are_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("nysstream.sources.zarr_reading._RUN_BYTES", 200)
    values = np.arange(64 * 4.0).reshape(64, 4)
    for store in (str(tmp_path / "x.zarr"), zarr.storage.MemoryStore()):
        array = zarr.create_array(store, data=values, chunks=(2, 4), shards=(32, 4))
        np.testing.assert_array_equal(ZarrSource(array).read(slice(3, 61)), values[3:61])


def test_raw_chunks_that_are_cast_are_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("nysstream.sources.chunks._PIECE_BYTES", 100)
    values = np.arange(64 * 4.0).reshape(64, 4)
    array = zarr.create_array(tmp_path / "x.zarr", data=values, chunks=(30, 4), compressors=None)
    out = np.empty((50, 4), np.float32)
    ZarrSource(array).read(slice(7, 57), out)
    np.testing.assert_array_equal(out, values[7:57])


def test_threads_read_side_by_side(tmp_path):
    values = np.random.default_rng(0).normal(size=(400, 30))
    array = zarr.create_array(tmp_path / "x.zarr", data=values, chunks=(16, 7), compressors=BloscCodec())
    source = ZarrSource(array)
    starts = np.random.default_rng(1).integers(0, 350, 200).tolist()
    with ThreadPoolExecutor(4) as pool:
        blocks = list(pool.map(lambda start: source.read(slice(start, start + 50)), starts))
    for start, block in zip(starts, blocks, strict=True):
        np.testing.assert_array_equal(block, values[start : start + 50])


DAMAGE = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "noise": lambda content: content[:8] + b"\xa5" * (len(content) - 8),
    "longer": lambda content: content + content,
}
CODECS = {
    "none": None,
    "crc": Crc32cCodec(),
    "gzip": GzipCodec(),
    "zstd": ZstdCodec(checksum=True),
    "blosc": BloscCodec(cname="lz4"),
    "sharded": ZstdCodec(),
    "left to Zarr": [GzipCodec(), ZstdCodec()],
}


VALID = {("none", "zeros"), ("none", "noise"), ("blosc", "longer"), ("sharded", "longer")}


@pytest.mark.parametrize(("codec", "damage"), sorted(set(itertools.product(CODECS, DAMAGE)) - VALID))
def test_damaged_chunks_are_named(tmp_path, codec, damage):
    path = tmp_path / "damaged.zarr"
    values = np.random.default_rng(0).normal(size=(40, 5)).round(1)
    shards = (20, 5) if codec == "sharded" else None
    array = zarr.create_array(
        path, name="g/x", data=values, chunks=(10, 5), shards=shards, compressors=CODECS[codec]
    )
    source = ZarrSource(array)
    chunk = path / "g" / "x" / "c" / "1" / "0"
    chunk.write_bytes(DAMAGE[damage](chunk.read_bytes()))
    height = 20 if shards else 10
    np.testing.assert_array_equal(source.read(slice(0, height)), values[:height])
    pattern = rf"damaged.zarr\[g/x\]: chunk c/1/0 \(rows {height}:{2 * height}\) cannot be read"
    with pytest.raises(SourceError, match=pattern):
        source.read(slice(0, 40))


def test_a_chunk_that_the_system_refuses_to_read_is_named(tmp_path):
    path = tmp_path / "refused.zarr"
    array = zarr.create_array(path, data=np.ones((40, 5)), chunks=(10, 5))
    source = ZarrSource(array)
    chunk = path / "c" / "2" / "0"
    chunk.unlink()
    chunk.symlink_to(chunk)
    with pytest.raises(SourceError, match=r"chunk c/2/0 .*symbolic links"):
        source.read(slice(0, 40))
    with pytest.raises(SourceError, match=r"chunk c/2/0 .*symbolic links"):
        ZarrSource(array)
    chunk.unlink()
    chunk.mkdir()
    with pytest.raises(SourceError, match=r"chunk c/2/0 .*Is a directory"):
        source.read(slice(0, 40))
