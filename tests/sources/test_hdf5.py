import multiprocessing
import os
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import h5py
import hdf5plugin
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nysstream.sources as sources
from nysstream.errors import DataWarning, InputError, MissingChunksError, SourceError
from nysstream.sources import HDF5Source, as_source
from tests.sources.conftest import DTYPES, shapes_and_chunks

VALUES = np.arange(200.0).reshape(50, 4)

FILTERS = {
    "none": {},
    "gzip": {"compression": "gzip"},
    "all": {"compression": "gzip", "shuffle": True, "fletcher32": True},
    "shuffle": {"shuffle": True},
    "fletcher32": {"fletcher32": True},
    "zstd": dict(hdf5plugin.Zstd()),
    "blosc": dict(hdf5plugin.Blosc("lz4")),
    "lzf": {"compression": "lzf"},
    "lzf, shuffle": {"compression": "lzf", "shuffle": True},
}
LEFT_TO_HDF5 = {
    "bitshuffle": dict(hdf5plugin.Bitshuffle()),
    "blosc2": dict(hdf5plugin.Blosc2()),
}
BOTH = {**FILTERS, **LEFT_TO_HDF5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hdf5")


@settings(max_examples=100)
@given(st.data())
def test_rows_equal_h5pys_in_every_layout(folder, data):
    shape, chunks = data.draw(shapes_and_chunks())
    dtype = np.dtype(data.draw(st.sampled_from([*DTYPES, "g", ">f4", ">i2"])))
    layout = data.draw(st.sampled_from(["contiguous", *FILTERS, *LEFT_TO_HDF5]))
    if dtype == "g" and layout in LEFT_TO_HDF5:
        layout = "gzip"
    options = {} if layout == "contiguous" else {"chunks": chunks, **BOTH[layout]}
    if options:
        options["maxshape"] = tuple(max(16, side) for side in shape)
    values = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    path = folder / "layouts.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("g/x", data=values, **options)
    source = sources.open(path, "g/x", missing_chunks="fill")
    ours = layout not in LEFT_TO_HDF5 and values.size > 0
    assert source._reader().shareable or not ours
    start = data.draw(st.integers(0, shape[0]))
    stop = data.draw(st.integers(start, shape[0]))
    expected = values.reshape((*shape, 1)[:2])[start:stop]
    block = source.read(slice(start, stop))
    assert block.dtype.isnative
    np.testing.assert_array_equal(block, expected)
    for wanted, order in (("f4", "C"), ("f8", "F")):
        out = np.empty(expected.shape, wanted, order)
        pickle.loads(pickle.dumps(source)).read(slice(start, stop), out)
        np.testing.assert_array_equal(out, expected.astype(wanted))


def test_chunks_stored_without_their_filters(folder):
    with h5py.File(folder / "mask.h5", "w") as file:
        dataset = file.create_dataset("x", (20, 4), "f4", chunks=(10, 4), compression="gzip", shuffle=True)
        dataset[:10] = VALUES[:10]
        dataset.id.write_direct_chunk((10, 0), VALUES[10:20].astype("f4").tobytes(), filter_mask=0b11)
    source = sources.open(folder / "mask.h5")
    assert source._reader().shareable
    np.testing.assert_array_equal(source.read(slice(0, 20)), VALUES[:20])


@pytest.mark.parametrize("layout", ["gzip", "bitshuffle"])
def test_threads_read_side_by_side(folder, layout):
    values = np.random.default_rng(0).normal(size=(400, 30))
    with h5py.File(folder / "threads.h5", "w") as file:
        file.create_dataset("x", data=values, chunks=(16, 7), **BOTH[layout])
    source = sources.open(folder / "threads.h5")
    starts = np.random.default_rng(1).integers(0, 350, 100).tolist()
    with ThreadPoolExecutor(4) as pool:
        blocks = list(pool.map(lambda start: source.read(slice(start, start + 50)), starts))
    for start, block in zip(starts, blocks, strict=True):
        np.testing.assert_array_equal(block, values[start : start + 50])


def read_in_child(source, connection):
    connection.send(source.read(slice(5, 25)))


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.parametrize("layout", ["gzip", "bitshuffle"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_other_processes_open_the_file_themselves(folder, method, layout):
    with h5py.File(folder / "child.h5", "w") as file:
        file.create_dataset("x", data=VALUES, chunks=(10, 4), **BOTH[layout])
    source = sources.open(folder / "child.h5")
    source.read(slice(0, 5))
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    child = context.Process(target=read_in_child, args=(source, theirs))
    child.start()
    assert ours.poll(60)
    np.testing.assert_array_equal(ours.recv(), VALUES[5:25])
    child.join()


def test_a_wrapped_dataset_outlives_its_file_object(folder):
    with h5py.File(folder / "outlives.h5", "w") as file:
        file.create_dataset("x", data=VALUES, chunks=(10, 4), **BOTH["bitshuffle"])
    with h5py.File(folder / "outlives.h5") as file:
        source = as_source(file["x"])
        dataset = file["x"]
    np.testing.assert_array_equal(source.read(slice(3, 33)), VALUES[3:33])
    with pytest.raises(InputError, match="closed"):
        as_source(dataset)


def test_a_file_open_for_writing_is_read_through_its_own_handle(folder):
    with h5py.File(folder / "writing.h5", "w") as file:
        dataset = file.create_dataset("x", data=VALUES, chunks=(10, 4))
        source = as_source(dataset)
        dataset[0, 0] = 77
        np.testing.assert_array_equal(source.read(slice(0, 20)), dataset[:20])
        with pytest.raises(InputError, match="open for writing"):
            pickle.dumps(source)


def test_a_file_in_memory(folder):
    with h5py.File("nowhere.h5", "w", driver="core", backing_store=False) as file:
        file["x"] = VALUES
        np.testing.assert_array_equal(as_source(file["x"]).read(slice(2, 9)), VALUES[2:9])


def test_a_user_block_shifts_nothing(folder):
    for options in ({}, {"chunks": (10, 4), "compression": "gzip"}):
        with h5py.File(folder / "block.h5", "w", userblock_size=1024) as file:
            file.create_dataset("x", data=VALUES, **options)
        np.testing.assert_array_equal(sources.open(folder / "block.h5").read(slice(3, 33)), VALUES[3:33])


def write_integers(path, *, size, precision):
    kind = h5py.h5t.STD_I32LE.copy()
    kind.set_precision(precision)
    kind.set_size(size)
    kind.set_offset(8 * size - precision)
    with h5py.File(path, "w") as file:
        dataset = h5py.h5d.create(file.id, b"x", kind, h5py.h5s.create_simple((50, 4)))
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, VALUES.astype("i4"))


def test_numbers_that_hdf5_has_to_convert(folder):
    write_integers(folder / "odd.h5", size=4, precision=24)
    np.testing.assert_array_equal(sources.open(folder / "odd.h5").read(slice(3, 33)), VALUES[3:33])


def test_numbers_that_numpy_does_not_have(folder):
    write_integers(folder / "odd.h5", size=3, precision=24)
    with pytest.raises(InputError, match=r"odd\.h5\[x\] has an HDF5 type that NumPy lacks"):
        sources.open(folder / "odd.h5")


@pytest.mark.parametrize("chunks", [(10, 4), None])
def test_values_never_written_are_announced_or_refused(folder, chunks):
    with h5py.File(folder / "absent.h5", "w") as file:
        dataset = file.create_dataset("x", (50, 4), "f8", chunks=chunks, fillvalue=-1)
        if chunks:
            dataset[:20] = VALUES[:20]
        expected = dataset[:]
    counts = "3 of 5" if chunks else "1 of 1"
    with pytest.warns(DataWarning, match=f"{counts} chunks are absent, read as fill value -1"):
        source = sources.open(folder / "absent.h5")
    np.testing.assert_array_equal(source.read(slice(0, 50)), expected)
    with pytest.raises(MissingChunksError, match=f"{counts} chunks are absent"):
        sources.open(folder / "absent.h5", missing_chunks="error")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sources.open(folder / "absent.h5", missing_chunks="fill")
    with pytest.raises(InputError, match="missing_chunks='no'"):
        sources.open(folder / "absent.h5", missing_chunks="no")


@pytest.fixture
def outside(tmp_path):
    """Write a file whose datasets all have their values in other files."""
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["g/x"] = VALUES
    with h5py.File(tmp_path / "main.h5", "w") as file:
        file["inside"] = VALUES
        file["soft"] = h5py.SoftLink("/inside")
        file["link"] = h5py.ExternalLink("other.h5", "/g/x")
        file["group"] = h5py.ExternalLink("other.h5", "/g")
        file["detour"] = h5py.SoftLink("/group/x")
        file["dangling"] = h5py.ExternalLink("nothing.h5", "/x")
        layout = h5py.VirtualLayout((50, 4), "f8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "g/x", (50, 4))
        file.create_virtual_dataset("virtual", layout)
        external = [(str(tmp_path / "raw.bin"), 0, VALUES.nbytes)]
        file.create_dataset("external", data=VALUES, external=external)
    return tmp_path / "main.h5"


@pytest.mark.parametrize("name", ["link", "group/x", "detour", "virtual", "external"])
def test_other_files_are_followed_only_with_consent(outside, name):
    with pytest.raises(SourceError, match=rf"main\.h5\[{name}\].*followed; pass allow_external=True"):
        sources.open(outside, name)
    source = sources.open(outside, name, allow_external=True)
    for each in (source, pickle.loads(pickle.dumps(source))):
        np.testing.assert_array_equal(each.read(slice(4, 44)), VALUES[4:44])


def test_links_within_the_file_are_followed(outside):
    np.testing.assert_array_equal(sources.open(outside, "soft").read(slice(4, 44)), VALUES[4:44])


def test_wrapped_virtual_datasets_are_refused(outside):
    with h5py.File(outside) as file, pytest.raises(SourceError, match="virtual dataset"):
        as_source(file["virtual"])


def test_links_to_nothing(outside):
    with pytest.raises(SourceError, match=r"\[dangling\]"):
        sources.open(outside, "dangling", allow_external=True)


def test_a_truncated_file_is_refused(folder):
    with h5py.File(folder / "cut.h5", "w") as file:
        file["x"] = np.ones((1000, 4))
    os.truncate(folder / "cut.h5", 20_000)
    with pytest.raises(SourceError, match=r"cut\.h5 cannot be opened as HDF5.*truncated"):
        sources.open(folder / "cut.h5")


@pytest.mark.parametrize("layout", ["contiguous", "none", "gzip", "all", "zstd", "lzf"])
def test_a_file_cut_short_while_it_is_read_names_the_rows(folder, layout):
    values = np.random.default_rng(0).normal(size=(1000, 4))
    options = {} if layout == "contiguous" else {"chunks": (100, 4), **BOTH[layout]}
    with h5py.File(folder / "shrinks.h5", "w") as file:
        file.create_dataset("x", data=values, **options)
    source = sources.open(folder / "shrinks.h5")
    os.truncate(folder / "shrinks.h5", 15_000)
    with pytest.raises(SourceError, match=r"shrinks\.h5\[x\].*rows \d+:\d+"):
        source.read(slice(0, 1000))


@pytest.mark.parametrize("layout", ["gzip", "all", "fletcher32", "zstd", "blosc", "lzf"])
def test_a_damaged_chunk_names_its_rows(folder, layout):
    values = np.random.default_rng(0).normal(size=(40, 50)).round(1)
    with h5py.File(folder / "damaged.h5", "w") as file:
        dataset = file.create_dataset("x", data=values, chunks=(10, 50), **BOTH[layout])
        place = dataset.id.get_chunk_info(2)
    with (folder / "damaged.h5").open("r+b") as file:
        file.seek(place.byte_offset + 4)
        file.write(b"\xa5" * (place.size - 4))
    source = sources.open(folder / "damaged.h5")
    np.testing.assert_array_equal(source.read(slice(0, 20)), values[:20])
    with pytest.raises(SourceError, match=r"damaged\.h5\[x\]: the chunk of rows 20:30"):
        source.read(slice(20, 30))


def test_a_filter_that_is_not_installed_is_named(folder):
    with h5py.File(folder / "filter.h5", "w") as file:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((10, 4))
        properties.set_filter(299, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((50, 4))
        h5py.h5d.create(file.id, b"x", h5py.h5t.IEEE_F64LE, space, properties)
    with pytest.raises(SourceError, match=r"\(299\).*hdf5plugin"):
        sources.open(folder / "filter.h5")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((3, 2), complex), "complex"),
        (np.array([[b"a", b"b"]]), r"\|S1"),
        (np.zeros(3, [("a", "f4"), ("b", "f4")]), "each field"),
        (np.zeros((2, 2, 2)), "3 dimensions"),
        (np.float64(3), "0 dimensions"),
        (h5py.Empty("f4"), "no shape"),
        (["text", "more"], "object"),
    ],
)
def test_what_is_no_matrix_of_real_numbers_is_refused(folder, values, message):
    with h5py.File(folder / "refused.h5", "w") as file:
        file["x"] = values
    with pytest.raises(InputError, match=rf"refused\.h5\[x\].*{message}"):
        sources.open(folder / "refused.h5", "x")


def test_scratch_is_stated(folder):
    with h5py.File(folder / "scratch.h5", "w") as file:
        file.create_dataset("x", (4000, 500), "f8", chunks=(2000, 500), compression="gzip", shuffle=True)
    source = HDF5Source.open(str(folder / "scratch.h5"), "x", missing_chunks="fill")
    assert source.chunk_rows == 2000
    assert 2 * 2000 * 500 * 8 <= source.decode_bytes <= 4 * 2000 * 500 * 8
