"""Fetch from stores elsewhere: a few requests on their way at any time, in the order of use.

A request to an object store waits tens of milliseconds before its first byte, and one connection
gives a fraction of the line. So what is wanted next is asked for before it is wanted.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import _get_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from concurrent.futures import Future

    from numpy.typing import NDArray
    from zarr.abc.store import ByteRequest

    #: A key of a store, and which of its bytes; None for all.
    Request: TypeAlias = tuple[str, ByteRequest | None]

#: Bytes per second that one task can hope for. Times the latency it is what must be on its way.
_LINE = 1e9
_FEWEST, _MOST = 2, 32


def requests_at_once(nbytes: int, latency: float) -> int:
    """Count the requests of about ``nbytes`` each to have on their way.

    Fewer than the latency hides leave the line idle. More gain nothing, crowd a small server, and
    push each other's bytes out of the processor's cache.
    """
    return max(_FEWEST, min(_MOST, round(_LINE * latency / max(1, nbytes))))


def latency_of(ask: Callable[[], Any]) -> float:
    """Time a small request, in seconds: the better of two, since the first one connects."""
    times = []
    for _ in range(2):
        began = time.perf_counter()
        with contextlib.suppress(Exception):  # what is refused was answered too
            ask()
        times.append(time.perf_counter() - began)
    return min(times)


class Window:
    """Requests that will be made, of which the next few are on their way.

    Parameters
    ----------
    store : zarr.abc.store.Store
        Where they go.
    requests : iterable of Request
        In the order in which they will be taken. What is taken beside is fetched on its own.
    at_once : int
        How many are on their way.
    """

    def __init__(self, store: Any, requests: Iterable[Request], at_once: int) -> None:
        self._store, self._at_once = store, at_once
        self._waiting = iter(requests)
        self._flying: OrderedDict[Request, Future[Any]] = OrderedDict()
        #: What was taken last: the next run of rows may begin in the same chunk.
        self._last: tuple[Request, Future[Any]] | None = None

    def take(self, request: Request) -> NDArray[np.uint8] | None:
        """Give the bytes of a request, waiting for them; None where the key is absent."""
        self._fill()
        if self._last is None or self._last[0] != request:
            self._last = request, self._flying.pop(request, None) or self._send(request)
        self._fill()
        buffer = self._last[1].result()
        return None if buffer is None else np.asarray(buffer.as_numpy_array()).view(np.uint8)

    def close(self) -> None:
        """Give up what is on its way."""
        self._waiting, self._last = iter(()), None
        while self._flying:
            self._flying.popitem()[1].cancel()

    def _fill(self) -> None:
        while len(self._flying) < self._at_once:
            request = next(self._waiting, None)
            if request is None:
                return
            taken = self._last is not None and self._last[0] == request
            if request not in self._flying and not taken:
                self._flying[request] = self._send(request)

    def _send(self, request: Request) -> Future[Any]:
        key, span = request
        got = self._store.get(key, default_buffer_prototype(), span)
        return asyncio.run_coroutine_threadsafe(got, _get_loop())


def fetch(store: Any, requests: Iterable[Request]) -> list[NDArray[np.uint8] | None]:
    """Fetch a few things at once."""
    ahead, wanted = itertools.tee(requests)
    window = Window(store, ahead, _MOST)
    try:
        return [window.take(request) for request in wanted]
    finally:
        window.close()
