"""Buffers that reads use again."""

from __future__ import annotations

import threading

from nysstream.sources.scratch import lent, scratch


def test_a_buffer_is_used_again_and_grows():
    small = scratch("test", 10)
    assert scratch("test", 5).base is small.base
    assert scratch("test", 20).nbytes == 20
    assert scratch("other", 10).base is not scratch("test", 10).base


def test_threads_do_not_share():
    mine, theirs = scratch("test", 10), []
    thread = threading.Thread(target=lambda: theirs.append(scratch("test", 10)))
    thread.start()
    thread.join()
    assert theirs[0].base is not mine.base


def test_lent_buffers_go_from_thread_to_thread():
    mine, buffers, seen = scratch("test", 10), {}, []

    def read():
        with lent(buffers):
            seen.append(scratch("test", 10))

    for _ in range(2):
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
    read()
    assert {id(view.base) for view in seen} == {id(buffers["test"])}
    assert scratch("test", 10).base is mine.base
