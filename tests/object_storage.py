"""Servers for tests, on this machine alone: object storage, a web server, and a proxy that fails."""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import socket
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

KEY, SECRET = "AKIAMARKERMARKER", "marker-secret-of-the-test"


class Server(ThreadingHTTPServer):
    """A server on a free port of this machine, in a thread."""

    daemon_threads = True
    request_queue_size = 64

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_):
        """Say nothing of clients that went away."""


class Quiet(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", headers=(), length=None):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def reset(self):
        """Break the connection off, as a dying machine does."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.close_connection = True
        self.connection.close()


def faulty_proxy(target):
    """Pass requests on to ``target``, but for faults: ``(matches(handler), what)``, each used once.

    What goes wrong is a status, ``"reset"``, ``"cut"`` (half of the body), or ``"silence"``.
    """

    class Handler(Quiet):
        def pass_on(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            server = self.server
            with server.lock:
                server.seen.append((self.command, self.path))
                found = next((i for i, (matches, _) in enumerate(server.faults) if matches(self)), None)
                fault = None if found is None else server.faults.pop(found)[1]
            if isinstance(fault, int):
                self.answer(fault)
                return
            if fault == "reset":
                self.reset()
                return
            if fault == "silence":
                time.sleep(server.silence)
            connection = http.client.HTTPConnection(*target, timeout=60)
            with contextlib.closing(connection):
                connection.request(self.command, self.path, body, dict(self.headers))
                answer = connection.getresponse()
                data = answer.read()
            headers = [
                (name, value)
                for name, value in answer.getheaders()
                if name.lower() not in ("transfer-encoding", "connection", "content-length")
            ]
            if fault == "cut":
                self.answer(answer.status, data[: len(data) // 2], headers, length=len(data))
                self.wfile.flush()
                self.reset()
                return
            length = answer.getheader("Content-Length") if self.command == "HEAD" else None
            self.answer(answer.status, data, headers, length=length)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = pass_on  # noqa: N815

    server = Server(("127.0.0.1", 0), Handler)
    server.faults, server.seen, server.lock, server.silence = [], [], threading.Lock(), 5.0
    return server


def web_server(root):
    """Serve files under a directory, with byte ranges, as any static web server does."""

    class Handler(Quiet):
        def give(self):
            path = Path(root, self.path.lstrip("/"))
            if not path.is_file():
                self.answer(404)
                return
            data = path.read_bytes()
            wanted = self.headers.get("Range")
            if wanted is None:
                self.answer(200, data, [("Accept-Ranges", "bytes")])
                return
            first, last = wanted.removeprefix("bytes=").split("-")
            start = int(first) if first else max(0, len(data) - int(last))
            stop = min(len(data), int(last) + 1) if first and last else len(data)
            headers = [("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")]
            self.answer(206, data[start:stop], headers)

        do_GET = do_HEAD = give  # noqa: N815

    return Server(("127.0.0.1", 0), Handler)


@contextlib.contextmanager
def object_storage():
    """Run moto's S3 and give its host and port."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield server.get_host_and_port()
    finally:
        server.stop()


def make_bucket(place, name):
    """Make a bucket on the server at ``place``."""
    request = urllib.request.Request(f"http://{place[0]}:{place[1]}/{name}", method="PUT")
    with urllib.request.urlopen(request):
        pass


def credentials(monkeypatch, endpoint):
    """Have this process ask ``endpoint``, with credentials that can be searched for."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
