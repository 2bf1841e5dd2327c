"""LZF chunks decoded here, against h5py; and left to it where its decompressor cannot be found."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from nysstream import sources
from nysstream.errors import SourceError
from nysstream.sources import hdf5_layout, lzf

VALUES = np.random.default_rng(0).integers(0, 9, (60, 8)).astype("f4")


@pytest.fixture
def path(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", data=VALUES, chunks=(16, 8), compression="lzf", shuffle=True)
    return tmp_path / "x.h5"


def first_chunk(path):
    with h5py.File(path) as file:
        stored = file["x"].id.get_chunk_info(0)
    return stored.byte_offset, stored.size


def test_chunks_are_decoded_without_hdf5(path):
    source = sources.open(path)
    assert source._reader().shareable
    np.testing.assert_array_equal(source.read(slice(5, 60)), VALUES[5:])


def test_chunks_that_do_not_compress_are_stored_as_they_are(tmp_path):
    noise = np.frombuffer(np.random.default_rng(1).bytes(64 * 64), "u1").reshape(64, 64)
    with h5py.File(tmp_path / "noise.h5", "w") as file:
        dataset = file.create_dataset("x", data=noise, chunks=(16, 64), compression="lzf")
        assert dataset.id.get_chunk_info(0).filter_mask != 0
    np.testing.assert_array_equal(sources.open(tmp_path / "noise.h5").read(slice(0, 64)), noise)


def test_without_the_decompressor_hdf5_decodes(path, monkeypatch):
    monkeypatch.setattr(hdf5_layout, "lzf_decompress", lambda: None)
    source = sources.open(path)
    assert not source._reader().shareable
    np.testing.assert_array_equal(source.read(slice(0, 60)), VALUES)


def test_a_hidden_symbol_is_no_error(monkeypatch):
    monkeypatch.setattr(lzf.ctypes, "CDLL", lambda path: object())
    lzf.lzf_decompress.cache_clear()
    try:
        assert lzf.lzf_decompress() is None
    finally:
        lzf.lzf_decompress.cache_clear()


@pytest.mark.parametrize("damage", [b"\xff" * 12, b"\x00" * 12])
def test_corrupt_chunks_are_refused(path, damage):
    source = sources.open(path)
    offset, size = first_chunk(path)
    with path.open("r+b") as file:
        file.seek(offset + size // 2)
        file.write(damage)
    with pytest.raises(SourceError, match="rows 0:16"):
        source.read(slice(0, 16))


def test_blocks_of_another_size_are_refused():
    encoded = np.array([2, 7, 8, 9], np.uint8)  # three literal bytes
    decoded = np.empty(3, np.uint8)
    lzf.LZF().decode(encoded, decoded)
    np.testing.assert_array_equal(decoded, [7, 8, 9])
    with pytest.raises(ValueError, match="LZF gives"):
        lzf.LZF().decode(encoded, np.empty(2, np.uint8))
