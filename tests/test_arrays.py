"""Array namespaces, devices, aligned buffers, and one BLAS thread per task."""

from __future__ import annotations

import pickle
import threading

import array_api_strict as strict
import numpy as np
import pytest
from scipy import sparse
from threadpoolctl import ThreadpoolController, threadpool_info

from nysstream import arrays
from nysstream.arrays import aligned_bytes, get_device, like, namespace, single_threaded_blas, to_host
from nysstream.errors import InputError


def blas_threads():
    return {lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"}


# --- namespaces -----------------------------------------------------------------------------------


def test_numpy_arrays_pass_through():
    x = np.arange(3.0)
    assert to_host(x) is x
    assert like(x, x) is x
    assert namespace(x).asarray(x) is x


def test_sparse_rows_pass_through():
    x = sparse.csr_array(np.eye(3))
    assert to_host(x) is x


def test_scalars_become_arrays():
    assert to_host(3.0).shape == ()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_arrays_elsewhere_come_and_go(dtype):
    there = strict.asarray(np.arange(6, dtype=dtype).reshape(2, 3), device=strict.Device("device1"))
    here = to_host(there)
    assert isinstance(here, np.ndarray)
    assert here.dtype == dtype
    assert here.tolist() == [[0, 1, 2], [3, 4, 5]]
    back = like(there, here)
    assert back.device == there.device
    assert back.dtype == there.dtype


# --- devices --------------------------------------------------------------------------------------


def test_the_default_is_the_cpu_where_there_is_no_gpu(monkeypatch):
    monkeypatch.setattr(arrays, "cuda_available", lambda: False)
    assert get_device() is get_device("cpu")
    assert get_device(get_device("cpu")) is get_device("cpu")


@pytest.mark.parametrize("name", ["graphics", "cuda:x", "cuda:-1", "tpu:0", ""])
def test_unknown_devices_are_refused(name):
    with pytest.raises(InputError, match="is not known: use 'cpu', 'cuda' or 'cuda:N'"):
        get_device(name)


@pytest.mark.parametrize("name", ["cuda", "cuda:1"])
def test_cuda_without_a_device_says_what_to_install(monkeypatch, name):
    monkeypatch.setattr(arrays, "cuda_available", lambda: False)
    monkeypatch.setattr(arrays, "_devices", {})
    with pytest.raises(InputError, match=r"install nysstream\[cuda12\]"):
        get_device(name)


def test_devices_are_pickled_by_name():
    assert pickle.loads(pickle.dumps(get_device("cpu"))) is get_device("cpu")


def test_the_cpu_computes_where_blocks_are_read():
    slot = get_device("cpu").slot(64)
    view = slot.host[:32].view(np.float64)
    slot.wait()
    view[:] = [1, 2, 3, 4]
    slot.send(view)
    assert slot.receive() is view
    slot.release()
    assert get_device("cpu").put(view) is view
    assert get_device("cpu").zeros((2, 3), np.float32).dtype == np.float32


@pytest.mark.parametrize("nbytes", [1, 63, 64, 1000])
def test_buffers_begin_at_cache_lines(nbytes):
    for _ in range(10):
        buffer = aligned_bytes(nbytes)
        assert buffer.nbytes == nbytes
        assert buffer.ctypes.data % 64 == 0


# --- BLAS -----------------------------------------------------------------------------------------


@pytest.fixture
def _two_threads():
    """Let BLAS use two threads, on any machine, and set back what it had."""
    with ThreadpoolController().limit(limits=2, user_api="blas"):
        yield


@pytest.mark.usefixtures("_two_threads")
def test_blas_has_one_thread_inside_and_its_own_afterwards():
    assert blas_threads() == {2}
    with single_threaded_blas():
        assert blas_threads() == {1}
        with single_threaded_blas():
            assert blas_threads() == {1}
        assert blas_threads() == {1}
    assert blas_threads() == {2}


@pytest.mark.usefixtures("_two_threads")
def test_the_limit_is_lifted_on_failure():
    def fail():
        with single_threaded_blas():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert blas_threads() == {2}


@pytest.mark.usefixtures("_two_threads")
def test_tasks_that_overlap_keep_the_limit_until_the_last_ends():
    entered, leave = threading.Barrier(3), [threading.Event() for _ in range(2)]

    def task(number):
        with single_threaded_blas():
            entered.wait(10)
            leave[number].wait(10)

    threads = [threading.Thread(target=task, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    entered.wait(10)
    seen = [blas_threads()]
    for number, thread in enumerate(threads):
        leave[number].set()
        thread.join(10)
        seen.append(blas_threads())
    assert seen == [{1}, {1}, {2}]
