"""Runs that are cut short: by an exception, or by SIGKILL at a chosen moment."""

from __future__ import annotations

import multiprocessing
import os
import pkgutil
import signal

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["nysstream", "nysstream.cli.main"])


class Crash(Exception):
    """Raised in place of a power failure."""


def crash_at(row):
    """Make a callback that crashes when so many rows are done."""

    def progress(done, _):
        if done >= row:
            raise Crash

    return progress


def is_killed(moment, function, *arguments):
    """Run a function in a process of its own, and say whether it came to the moment at which it is killed.

    Parameters
    ----------
    moment : tuple of (str, int, str)
        A function or method, ``"module:name"``; the number of its call; ``"before"`` or ``"after"`` it.
    function, arguments
        What the process runs, by name.
    """
    process = _CONTEXT.Process(target=_run, args=(moment, function, arguments))
    process.start()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def _run(moment, function, arguments):
    name, number, when = moment
    where, _, last = name.rpartition(".")
    owner = pkgutil.resolve_name(where)
    real, calls = getattr(owner, last), 0

    def deadly(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == number and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = real(*args, **kwargs)
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, last, deadly)
    function(*arguments)
