"""A pass over object storage against the rate at which its server gives byte ranges.

``python -m benchmarks.object_storage`` starts moto's S3 server in a process of its own, writes rows to
it, and then asks for the same objects in two ways, in turn: bare ranged GETs over a few connections
that are kept open, with nothing done to what comes; and a pass of nysstream (``X'Xv``), set-up
and planning left out. It prints both rates and their ratio. Everything runs on one machine, so the
server, the client and the products share its cores; with ``--apart`` the server has one core for
itself, and the client the others, as if it were elsewhere.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import dask
import numpy as np

import nysstream
from nysstream.sources.layout import Layout
from nysstream.sources.writing import RowWriter
from nysstream.streaming import DesignMatrix, GramProduct, reduce

_SERVER = """
import logging, sys, time
logging.getLogger("werkzeug").setLevel(logging.ERROR)
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
time.sleep(1e6)
"""
#: The server asks for a signature, and does not look at it.
_SIGNED = {
    "Authorization": "AWS4-HMAC-SHA256 Credential=benchmark/20260101/us-east-1/s3/aws4_request, "
    "SignedHeaders=host, Signature=0"
}
CONNECTIONS = (1, 2, 4, 8, 16)


@contextlib.contextmanager
def server(*, apart: bool = False):
    """Run an S3 server in another process, and set the environment so that it is found."""
    process = subprocess.Popen([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, text=True)
    try:
        if apart:
            first, *others = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(process.pid, {first})
            os.sched_setaffinity(0, others)
        port = int(process.stdout.readline())
        os.environ.update(
            AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}",
            AWS_ACCESS_KEY_ID="benchmark",
            AWS_SECRET_ACCESS_KEY="benchmark",
            AWS_DEFAULT_REGION="us-east-1",
        )
        request = urllib.request.Request(f"http://127.0.0.1:{port}/bucket", method="PUT")
        urllib.request.urlopen(request).close()
        yield port
    finally:
        process.kill()
        process.wait()


def get_ranges(port: int, requests: list[tuple[str, int, int]], connections: int) -> float:
    """Get byte ranges over so many connections into buffers that are reused; gives the seconds."""

    def work(first: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        buffer = bytearray(max(stop - start for _, start, stop in requests))
        with contextlib.closing(connection):
            for path, start, stop in requests[first::connections]:
                headers = {"Range": f"bytes={start}-{stop - 1}", **_SIGNED}
                connection.request("GET", path, headers=headers)
                answer = connection.getresponse()
                view, done = memoryview(buffer), 0
                while count := answer.readinto(view[done : stop - start]):
                    done += count
                answer.read()
                assert done == stop - start, (answer.status, done)

    began = time.perf_counter()
    with ThreadPoolExecutor(connections) as pool:
        list(pool.map(work, range(connections)))
    return time.perf_counter() - began


def main(arguments: list[str] | None = None) -> float:
    """Measure, print, and give the ratio."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.object_storage", description=__doc__)
    parser.add_argument("--mib", type=int, default=512, help="size of the rows")
    parser.add_argument("--chunk-mib", type=float, default=4.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--apart", action="store_true", help="give the server a core of its own")
    given = parser.parse_args(arguments)
    n_columns = 256
    chunk_rows = int(given.chunk_mib * (1 << 20)) // (4 * n_columns)
    n_rows = given.mib * (1 << 20) // (4 * n_columns) // chunk_rows * chunk_rows
    nbytes = 4 * n_rows * n_columns
    with server(apart=given.apart) as port:
        rng = np.random.default_rng(0)
        layout = Layout(n_columns, np.dtype(np.float32))
        with RowWriter("s3://bucket/rows.zarr", {"x": layout}, chunk_rows=chunk_rows, codec="none") as writer:
            for _ in range(0, n_rows, chunk_rows):
                writer.append(x=rng.standard_normal((chunk_rows, n_columns), dtype=np.float32))
        chunk = 4 * n_columns * chunk_rows
        requests = [(f"/bucket/rows.zarr/x/c/{i}/0", 0, chunk) for i in range(n_rows // chunk_rows)]
        best = min(CONNECTIONS, key=lambda count: get_ranges(port, requests, count))
        design = DesignMatrix(nysstream.open("s3://bucket/rows.zarr", "x"))
        reduction = GramProduct(rng.standard_normal((n_columns, 1)))
        raw, passes = [], []
        with dask.config.set(scheduler="threads", num_workers=given.threads):
            reduce(design, reduction)
            for _ in range(given.repeats):
                raw.append(get_ranges(port, requests, best))
                began = time.perf_counter()
                reduce(design, reduction)
                passes.append(time.perf_counter() - began)
    ratio = statistics.median(a / b for a, b in zip(raw, passes, strict=True))
    print(f"rows {nbytes / 1e6:.0f} MB in chunks of {chunk / 1e6:.1f} MB, {given.threads} threads")
    print(f"bare ranged GETs  {nbytes / statistics.median(raw) / 1e6:7.0f} MB/s over {best} connections")
    print(f"a pass            {nbytes / statistics.median(passes) / 1e6:7.0f} MB/s")
    print(f"ratio             {ratio:7.2f}")
    return ratio


if __name__ == "__main__":
    main()
