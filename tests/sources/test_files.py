"""Files read at given offsets: every sequence of reads has a descriptor of its own."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest

from nysstream.sources import files
from nysstream.sources.files import OpenFile


@pytest.fixture
def content(rng, tmp_path):
    """Write a file of 100 kB."""
    values = rng.integers(0, 256, 100_000, dtype=np.uint8)
    (tmp_path / "bytes").write_bytes(values.tobytes())
    return tmp_path / "bytes", values


def together(file, values, n_threads=4, step=500):
    """Read shares of the file in turns, so that all threads are inside at once."""
    barrier, wrong = threading.Barrier(n_threads), []

    def read(share):
        buffer = np.empty(step, np.uint8)
        barrier.wait(10)
        for start in range(share[0], share[1], step):
            file.read_into(start, buffer)
            if not np.array_equal(buffer, values[start : start + step]):
                wrong.append(start)

    edges = np.linspace(0, len(values), n_threads + 1).astype(int)
    threads = [threading.Thread(target=read, args=(edges[i : i + 2].tolist(),)) for i in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_threads_read_at_once(content):
    path, values = content
    file = OpenFile(str(path))
    together(file, values)
    assert 1 <= len(file._all) <= 4
    descriptors = list(file._all)
    file.close()
    for fd in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_a_sequence_keeps_its_descriptor(content):
    path, _ = content
    file, buffer = OpenFile(str(path)), np.empty(10, np.uint8)
    with file._descriptor(0, 10) as first, file._descriptor(50, 60) as second:
        assert first != second
    for start in range(10, 40, 10):
        with file._descriptor(start, start + 10) as fd:
            assert fd == first
        with file._descriptor(50 + start, 60 + start) as fd:
            assert fd == second
    file.read_into(0, buffer)
    assert len(file._all) == 2


@pytest.mark.parametrize("proc", [True, False])
def test_a_file_that_lost_its_name_is_read_to_the_end(content, monkeypatch, proc):
    path, values = content
    file = OpenFile(str(path))
    path.unlink()
    path.write_bytes(bytes(100_000))
    if not proc:
        opened = os.open
        monkeypatch.setattr(files.os, "open", lambda name, flags: opened(f"/gone{name}", flags))
    together(file, values)


def test_a_read_past_the_end_gives_its_descriptor_back(content):
    path, _ = content
    file = OpenFile(str(path))
    for _ in range(3):
        with pytest.raises(ValueError, match="ends at byte 100000, 10 bytes early"):
            file.read_into(99_990, np.empty(20, np.uint8))
    assert len(file._all) == len(file._idle) == 1
