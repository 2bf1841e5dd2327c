"""Each step undoes what the library that owns the codec did, and refuses other bytes."""

import gzip
import zlib

import google_crc32c
import numcodecs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numcodecs.fletcher32 import Fletcher32

from nysstream.sources.decoding import (
    CRC32C,
    LZ4,
    Blosc,
    Deflate,
    Fletcher,
    Unshuffle,
    Zstd,
    decode,
    supported,
)

contents = st.binary(min_size=4, max_size=400).map(lambda content: content * 40)

CODECS = {
    "blosc": (Blosc(), numcodecs.Blosc("zstd", 3).encode),
    "zstd": (Zstd(), numcodecs.Zstd(1).encode),
    "gzip": (Deflate(), gzip.compress),
    "zlib": (Deflate(), zlib.compress),
    "lz4": (LZ4(), numcodecs.LZ4().encode),
    "shuffle": (Unshuffle(4), numcodecs.Shuffle(4).encode),
    "fletcher": (Fletcher(), Fletcher32().encode),
    "crc": (CRC32C(), lambda content: content + google_crc32c.value(content).to_bytes(4, "little")),
}


def as_array(content):
    return np.frombuffer(bytes(content), np.uint8)


@pytest.mark.parametrize("codec", CODECS)
@given(content=contents)
def test_steps_undo_the_codec(codec, content):
    step, encode = CODECS[codec]
    encoded = as_array(encode(content))
    decoded = np.empty(len(content), np.uint8)
    step.decode(encoded, decoded)
    assert decoded.tobytes() == content
    if step.overhead is not None:
        assert encoded.nbytes - decoded.nbytes == step.overhead


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [3999, 4001])
def test_another_size_is_refused(codec, size):
    step, encode = CODECS[codec]
    with pytest.raises((ValueError, RuntimeError)):
        step.decode(as_array(encode(b"abcd" * 1000)), np.empty(size, np.uint8))


@pytest.mark.parametrize("codec", ["fletcher", "crc", "gzip", "zlib"])
def test_a_checksum_that_does_not_match_is_refused(codec):
    step, encode = CODECS[codec]
    encoded = as_array(encode(b"abcd" * 1000)).copy()
    encoded[-1] ^= 1
    with pytest.raises((ValueError, RuntimeError)):
        step.decode(encoded, np.empty(4000, np.uint8))


@given(contents, contents, st.sampled_from([0, 512]))
def test_gzip_members_and_padding(first, second, padding):
    encoded = as_array(gzip.compress(first) + gzip.compress(second) + bytes(padding))
    decoded = np.empty(len(first) + len(second), np.uint8)
    Deflate().decode(encoded, decoded)
    assert decoded.tobytes() == first + second


@given(contents, contents)
def test_zstd_frames_one_after_another(first, second):
    encode = numcodecs.Zstd(1).encode
    decoded = np.empty(len(first) + len(second), np.uint8)
    Zstd().decode(as_array(encode(first) + encode(second)), decoded)
    assert decoded.tobytes() == first + second


@pytest.mark.parametrize("size", [1, 255, 256, 257, 65535, 65536, 65792, 100_000])
def test_zstd_declares_its_size_in_fields_of_every_width(size):
    decoded = np.empty(size, np.uint8)
    Zstd().decode(as_array(numcodecs.Zstd(1).encode(bytes(size))), decoded)
    assert not decoded.any()


@given(
    contents,
    st.lists(st.sampled_from(["fletcher", "crc"]), max_size=3),
    st.integers(0, 3),
    st.sampled_from(["gzip", "blosc"]),
)
def test_chains_of_one_compressor_and_any_checksums(content, checksums, place, compressor):
    names = ["shuffle", *checksums[:place], compressor, *checksums[place:]]
    encoded = content
    for name in names:
        encoded = bytes(CODECS[name][1](encoded))
    steps = [CODECS[name][0] for name in reversed(names)]
    decoded = np.empty(len(content), np.uint8)
    assert supported(steps)
    decode(steps, as_array(encoded), decoded)
    assert decoded.tobytes() == content


def test_two_compressors_are_not_supported():
    assert not supported([Deflate(), Zstd()])
    assert supported([])
