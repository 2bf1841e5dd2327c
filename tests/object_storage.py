"""Servers for tests, on this machine alone: object storage, a web server, and a proxy that fails."""

from __future__ import annotations

import base64
import contextlib
import functools
import hmac
import http.client
import logging
import os
import re
import socket
import ssl
import subprocess
import threading
import time
import urllib.request
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path

KEY, SECRET = "AKIAMARKERMARKER", "marker-secret-of-the-test"
#: Of the account that Azurite has; its key is no secret, but the same for everyone.
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class Server(ThreadingHTTPServer):
    """A server on a free port of this machine, in a thread."""

    daemon_threads = True
    request_queue_size = 64
    scheme = "http"

    def encrypt(self, context):
        """Speak TLS; the handshake of a client is left to the thread that serves it."""
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        self.scheme = "https"
        return self

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    @property
    def url(self):
        return f"{self.scheme}://127.0.0.1:{self.server_port}"

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


def certificate(folder):
    """Make a private authority; gives the file of its certificate, and what a server needs."""
    import trustme

    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return folder / "authority.pem", context


@contextlib.contextmanager
def serving(server):
    """Run somebody else's server in a thread, and give its host and port."""
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.server_address[:2]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def object_storage(context=None):
    """Run moto's S3, with TLS where there is a context, and give its host and port."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = DomainDispatcherApplication(create_backend_app)
    return serving(make_server("127.0.0.1", 0, app, threaded=True, ssl_context=context))


def google_storage():
    """Run an emulator of Google's JSON API, which does one thing at a time, and give its host and port."""
    from gcp_storage_emulator.server import RequestHandler
    from gcp_storage_emulator.storage import Storage

    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    return serving(
        HTTPServer(("127.0.0.1", 0), functools.partial(RequestHandler, Storage(use_memory_fs=True)))
    )


@contextlib.contextmanager
def azurite(program, folder):
    """Run Azurite's blobs and give its host and port."""
    options = "--blobHost 127.0.0.1 --blobPort 0 --inMemoryPersistence --disableTelemetry --silent"
    command = [program, *options.split(), "--skipApiVersionCheck"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as server:
        try:
            for line in server.stdout:
                if found := re.search(r"listens on http://127\.0\.0\.1:(\d+)", line):
                    break
            yield "127.0.0.1", int(found[1])
        finally:
            server.terminate()
            server.communicate()


def make_bucket(place, name, authority=None):
    """Make a bucket on the server at ``place``, which speaks TLS where there is an authority."""
    context = ssl.create_default_context(cafile=authority) if authority else None
    scheme = "https" if authority else "http"
    request = urllib.request.Request(f"{scheme}://{place[0]}:{place[1]}/{name}", method="PUT")
    with urllib.request.urlopen(request, context=context):
        pass


def make_google_bucket(place, name):
    """Make a bucket by Google's JSON API."""
    url = f"http://{place[0]}:{place[1]}/storage/v1/b?project=test"
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, b'{"name": "%s"}' % name.encode(), headers)):
        pass


def make_container(place, name):
    """Make a container in the account at ``place``."""
    now, version = formatdate(usegmt=True), "2021-08-06"
    headers = f"x-ms-date:{now}\nx-ms-version:{version}"
    signed = f"PUT{11 * chr(10)}\n{headers}\n/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    digest = hmac.digest(base64.b64decode(ACCOUNT_KEY), signed.encode(), "sha256")
    headers = {
        "x-ms-date": now,
        "x-ms-version": version,
        "Authorization": f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}",
    }
    url = f"http://{place[0]}:{place[1]}/{ACCOUNT}/{name}?restype=container"
    with urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers)):
        pass


def forget_credentials(monkeypatch):
    """Have this process know no provider."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_", "AZURE_", "AZURITE_"))]:
        monkeypatch.delenv(name)


def credentials(monkeypatch, endpoint):
    """Have this process ask ``endpoint``, with credentials that can be searched for."""
    forget_credentials(monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
