import io
import os
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nysstream.sources as sources
from nysstream.errors import InputError, SourceError
from nysstream.sources import ArraySource, NpySource, as_source


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("npy")


@given(st.data())
def test_rows_equal_numpys_in_any_order_dtype_and_version(folder, data):
    shape = data.draw(st.sampled_from([(0,), (7,), (0, 3), (5, 0), (13, 1), (13, 4), (1, 9)]))
    dtype = data.draw(st.sampled_from(["?", "i2", ">i4", "f2", "f4", ">f8", "g"]))
    values = np.arange(np.prod(shape)).reshape(shape).astype(dtype, order=data.draw(st.sampled_from("CF")))
    path = folder / "values.npy"
    with path.open("wb") as file:
        np.lib.format.write_array(file, values, version=data.draw(st.sampled_from([(1, 0), (2, 0)])))
    start = data.draw(st.integers(0, shape[0]))
    stop = data.draw(st.integers(start, shape[0]))
    source = sources.open(path)
    matrix = values if len(shape) == 2 else values[:, None]
    assert source.vector == (len(shape) == 1)
    np.testing.assert_array_equal(source.read(slice(start, stop)), matrix[start:stop])
    for out in (
        np.empty((stop - start, matrix.shape[1]), "f4"),
        np.empty(matrix.shape[::-1])[:, start:stop].T,
    ):
        pickle.loads(pickle.dumps(source)).read(slice(start, stop), out)
        np.testing.assert_array_equal(out, matrix[start:stop].astype(out.dtype))


def test_reads_larger_than_a_piece_are_put_together(folder, monkeypatch):
    monkeypatch.setattr("nysstream.sources.npy._PIECE_BYTES", 100)
    values = np.arange(60.0 * 7).reshape(60, 7)
    for name, array in (("c", values), ("f", np.asfortranarray(values))):
        np.save(folder / f"{name}.npy", array)
        out = np.empty((50, 7), np.float32)
        sources.open(folder / f"{name}.npy").read(slice(3, 53), out)
        np.testing.assert_array_equal(out, values[3:53])


@pytest.mark.parametrize("cut", [np.s_[:], np.s_[3:9], np.s_[4:, :], np.s_[2]])
@pytest.mark.parametrize("order", ["C", "F"])
def test_memory_maps_are_read_through_their_file(folder, order, cut):
    np.save(folder / "mapped.npy", np.arange(40.0).reshape(10, 4).copy(order))
    mapped = np.load(folder / "mapped.npy", mmap_mode="r")[cut]
    source = as_source(mapped)
    through_file = mapped.flags.c_contiguous or mapped.flags.f_contiguous
    assert isinstance(source, NpySource if through_file else ArraySource)
    assert not source.resident
    np.testing.assert_array_equal(source.read(slice(0, len(mapped))).reshape(mapped.shape), mapped)


def test_a_copy_on_write_map_is_read_from_memory(folder):
    np.save(folder / "private.npy", np.zeros((4, 2)))
    mapped = np.load(folder / "private.npy", mmap_mode="c")
    mapped[1] = 5
    np.testing.assert_array_equal(as_source(mapped).read(slice(0, 4)), mapped)


def test_a_raw_map_with_an_offset(folder):
    (folder / "raw.bin").write_bytes(b"head" + np.arange(12, dtype=">i2").tobytes())
    mapped = np.memmap(folder / "raw.bin", ">i2", "r", offset=4, shape=(4, 3))
    np.testing.assert_array_equal(as_source(mapped).read(slice(1, 4)), np.arange(12).reshape(4, 3)[1:])


def test_reading_does_not_map_the_file(folder):
    np.save(folder / "big.npy", np.zeros((1000, 8)))
    source = sources.open(folder / "big.npy")
    source.read(slice(0, 1000))
    with open("/proc/self/maps") as maps:
        assert "big.npy" not in maps.read()


def test_a_truncated_file_is_refused_at_once(folder):
    buffer = io.BytesIO()
    np.save(buffer, np.ones((100, 4)))
    (folder / "short.npy").write_bytes(buffer.getvalue()[:-10])
    with pytest.raises(SourceError, match=r"short\.npy is truncated"):
        sources.open(folder / "short.npy")


def test_a_file_that_shrinks_later_is_named_with_the_rows(folder):
    np.save(folder / "shrinks.npy", np.ones((100, 4)))
    source = sources.open(folder / "shrinks.npy")
    os.truncate(folder / "shrinks.npy", 1000)
    source.read(slice(0, 20))
    with pytest.raises(SourceError, match=r"shrinks\.npy: rows 20:40 are missing"):
        source.read(slice(20, 40))


def test_a_file_that_vanishes_is_reported_by_the_worker(folder):
    np.save(folder / "gone.npy", np.ones((10, 4)))
    shipped = pickle.dumps(sources.open(folder / "gone.npy"))
    (folder / "gone.npy").unlink()
    with pytest.raises(SourceError, match=r"gone\.npy cannot be opened: No such file"):
        pickle.loads(shipped).read(slice(0, 1))


@pytest.mark.parametrize(
    "content",
    [b"", b"text", b"\x93NUMPY\x09\x00abc", b"\x93NUMPY\x01\x00\x10\x00bad", b"\x93NUMPY\x03\x00bad"],
)
def test_damaged_headers_are_refused(folder, content):
    (folder / "bad.npy").write_bytes(content)
    with pytest.raises(SourceError, match=r"bad\.npy is not a readable \.npy file"):
        sources.open(folder / "bad.npy")


def test_pickled_objects_are_never_loaded(folder):
    np.save(folder / "objects.npy", np.array([[None]]), allow_pickle=True)
    with pytest.raises(InputError, match="dtype object"):
        sources.open(folder / "objects.npy")


def test_a_name_within_the_file_is_refused(folder):
    np.save(folder / "one.npy", np.ones((2, 2)))
    with pytest.raises(InputError, match="name='x'"):
        sources.open(folder / "one.npy", "x")
