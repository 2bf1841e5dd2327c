"""Zarr arrays of every layout that sources decode themselves, and of some that they leave to Zarr."""

from __future__ import annotations

import warnings
from typing import Any

import numcodecs
import numpy as np
import zarr
from hypothesis import strategies as st
from zarr.codecs import (
    BloscCodec,
    BytesCodec,
    Crc32cCodec,
    GzipCodec,
    ShardingCodec,
    TransposeCodec,
    ZstdCodec,
)

DTYPES = ["?", "i1", "u2", "i4", "u8", "f2", "f4", "f8"]

COMPRESSORS = {
    "none": (),
    "zstd": (ZstdCodec(level=1),),
    "zstd checksum": (ZstdCodec(level=3, checksum=True),),
    "gzip": (GzipCodec(level=1),),
    "lz4": (BloscCodec(cname="lz4", shuffle="bitshuffle"),),
    "blosc zstd": (BloscCodec(cname="zstd", shuffle="shuffle"),),
    "blosclz": (BloscCodec(cname="blosclz", shuffle="noshuffle"),),
    "crc": (Crc32cCodec(),),
    "zstd crc": (ZstdCodec(), Crc32cCodec()),
    "crc gzip": (Crc32cCodec(), GzipCodec(level=1)),
    "crc blosc crc": (Crc32cCodec(), BloscCodec(), Crc32cCodec()),
}
LEFT_TO_ZARR = {"gzip zstd": (GzipCodec(level=1), ZstdCodec())}

COMPRESSORS_2 = {
    "none": None,
    "zstd": numcodecs.Zstd(1),
    "gzip": numcodecs.GZip(1),
    "zlib": numcodecs.Zlib(1),
    "blosc": numcodecs.Blosc("lz4", 5, numcodecs.Blosc.SHUFFLE),
    "lz4": numcodecs.LZ4(),
}
LEFT_TO_ZARR_2 = {"bz2": numcodecs.BZ2(1), "lzma": numcodecs.LZMA()}


@st.composite
def shapes_and_chunks(draw: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Draw a shape of one or two dimensions and a chunk shape."""
    n_dims = draw(st.sampled_from([1, 2, 2, 2]))
    shape = tuple(draw(st.integers(0 if axis == 0 else 1, 14)) for axis in range(n_dims))
    chunks = tuple(draw(st.sampled_from([1, 2, 3, 5, side or 1, 16])) for side in shape)
    return shape, chunks


@st.composite
def zarr_arrays(draw: Any, store: Any) -> tuple[zarr.Array[Any], bool]:
    """Draw an array with random values in some layout, and whether sources decode it themselves."""
    shape, chunks = draw(shapes_and_chunks())
    dtype = draw(st.sampled_from("<>")) + draw(st.sampled_from(DTYPES)).lstrip("<>")
    dtype = dtype.replace("<?", "?").replace(">?", "?")
    fill = draw(st.sampled_from([0, 1]))
    n_dims = len(shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some codecs are not in the specification yet
        if draw(st.booleans()):
            name = draw(st.sampled_from([*COMPRESSORS_2, *LEFT_TO_ZARR_2]))
            shuffle = draw(st.booleans())
            array = zarr.create_array(
                store,
                shape=shape,
                chunks=chunks,
                dtype=dtype,
                zarr_format=2,
                order=draw(st.sampled_from("CF")),
                compressors={**COMPRESSORS_2, **LEFT_TO_ZARR_2}[name],
                filters=[numcodecs.Shuffle(np.dtype(dtype).itemsize)] if shuffle else None,
                chunk_key_encoding={"name": "v2", "separator": draw(st.sampled_from("./"))},
                fill_value=fill,
                overwrite=True,
            )
            ours = name not in LEFT_TO_ZARR_2
        else:
            name = draw(st.sampled_from([*COMPRESSORS, *LEFT_TO_ZARR]))
            transposed = [TransposeCodec(order=tuple(reversed(range(n_dims))))] if draw(st.booleans()) else []
            endian = draw(st.sampled_from(["little", "big"]))
            inner = [*transposed, BytesCodec(endian=endian), *{**COMPRESSORS, **LEFT_TO_ZARR}[name]]
            serializer: Any = inner[len(transposed)]
            compressors: Any = inner[len(transposed) + 1 :]
            filters: Any = transposed
            if draw(st.booleans()):
                repeats = [draw(st.integers(1, 3)) for _ in shape]
                index_codecs = [BytesCodec(), *([Crc32cCodec()] if draw(st.booleans()) else [])]
                serializer = ShardingCodec(
                    chunk_shape=chunks,
                    codecs=inner,
                    index_codecs=index_codecs,
                    index_location=draw(st.sampled_from(["start", "end"])),
                )
                chunks = tuple(size * repeat for size, repeat in zip(chunks, repeats, strict=True))
                filters, compressors = [], []
            array = zarr.create_array(
                store,
                shape=shape,
                chunks=chunks,
                dtype=np.dtype(dtype).newbyteorder("="),
                zarr_format=3,
                filters=filters,
                serializer=serializer,
                compressors=compressors,
                fill_value=fill,
                chunk_key_encoding={"name": "default", "separator": draw(st.sampled_from("./"))},
                overwrite=True,
            )
            ours = name not in LEFT_TO_ZARR
    if array.size:
        rng = np.random.default_rng(draw(st.integers(0, 99)))
        kept = slice(0, draw(st.integers(0, shape[0])))  # chunks beyond stay absent
        array[kept] = rng.integers(0, 2 if dtype == "?" else 100, (kept.stop, *shape[1:])).astype(dtype)
    return array, ours
