import pickle
import subprocess
import sys

import dask
import dask.array as da
import distributed
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from nysstream.errors import InputError, SourceError
from nysstream.sources import as_source


@given(st.data())
def test_rows_equal_the_computed_array(data):
    shape = data.draw(st.sampled_from([(0, 3), (7,), (13, 4), (1, 1), (20, 5)]))
    values = np.arange(np.prod(shape), dtype=data.draw(st.sampled_from(["f4", ">f8", "i2"]))).reshape(shape)
    chunks = tuple(data.draw(st.integers(1, max(1, side))) for side in shape)
    start = data.draw(st.integers(0, shape[0]))
    stop = data.draw(st.integers(start, shape[0]))
    source = as_source(da.from_array(values, chunks=chunks) * 2)
    expected = (values if len(shape) == 2 else values[:, None])[start:stop] * 2
    np.testing.assert_array_equal(source.read(slice(start, stop)), expected)
    out = np.empty(expected.shape, np.float32)
    np.testing.assert_array_equal(source.read(slice(start, stop), out), expected)


def test_irregular_chunks_and_their_commonest_size():
    values = np.arange(30.0).reshape(15, 2)
    source = as_source(da.from_array(values, chunks=((4, 1, 4, 4, 2), (2,))))
    assert source.chunk_rows == 4
    np.testing.assert_array_equal(source.read(slice(2, 14)), values[2:14])


def test_blocks_are_computed_once_and_in_the_reading_thread():
    seen = []

    def note(block):
        seen.append(block.shape)
        return block

    array = da.ones((40, 3), chunks=(10, 3)).map_blocks(note, meta=np.ones((0, 0)))
    source = as_source(array)
    with dask.config.set(scheduler="processes"):  # the reader's own scheduler wins
        source.read(slice(0, 20))
    assert seen == [(10, 3), (10, 3)]


def test_reading_within_threads_and_from_a_pickle():
    source = as_source(da.arange(60, chunks=7).reshape(20, 3))
    copy = pickle.loads(pickle.dumps(source))
    tasks = [dask.delayed(copy.read)(slice(a, a + 5)) for a in range(0, 20, 5)]
    parts = dask.compute(*tasks, scheduler="threads", num_workers=2)
    np.testing.assert_array_equal(np.concatenate(parts), np.arange(60).reshape(20, 3))
    assert copy.fingerprint == source.fingerprint


def test_unknown_chunk_sizes_are_refused_with_the_remedy():
    array = da.ones((10, 2), chunks=5)
    with pytest.raises(InputError, match="compute_chunk_sizes"):
        as_source(array[array[:, 0] > 0])


def test_blocks_that_are_not_numpy_are_refused():
    array = da.ones((10, 2), chunks=5).map_blocks(sparse.csr_matrix)
    with pytest.raises(InputError, match=r"csr_matrix.*map_blocks"):
        as_source(array)


def test_complex_values_are_refused():
    with pytest.raises(InputError, match="complex128"):
        as_source(da.ones((10, 2), dtype=complex))


def test_a_failing_block_names_its_rows():
    def fail(block, block_info=None):
        if block_info and block_info[0]["chunk-location"][0] == 2:
            message = "disk on fire"
            raise RuntimeError(message)
        return block

    source = as_source(da.ones((40, 3), chunks=(10, 3)).map_blocks(fail, meta=np.ones((0, 0))))
    source.read(slice(0, 20))
    with pytest.raises(SourceError, match="rows 20:30 cannot be computed: RuntimeError: disk on fire"):
        source.read(slice(0, 40))


def test_a_block_of_another_shape_names_its_rows():
    source = as_source(
        da.ones((20, 3), chunks=(10, 3)).map_blocks(lambda block: block[:, :2], chunks=(10, 3))
    )
    with pytest.raises(SourceError, match="rows 0:10 came out with shape"):
        source.read(slice(0, 20))


def test_an_array_persisted_on_a_cluster_is_refused():
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        distributed.Client(cluster),
        pytest.raises(InputError, match="persisted on a cluster"),
    ):
        as_source(da.ones((20, 3), chunks=(10, 3)).persist() + 1)


def test_dask_is_not_imported_for_other_objects():
    program = """
import sys, numpy, nysstream.sources
nysstream.sources.as_source(numpy.ones((2, 2)))
print("dask.array" in sys.modules)
"""
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
