"""Certificates of a private authority: trusted where it is named, refused clearly otherwise."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
import zarr

import nysstream
from nysstream.errors import SourceError
from nysstream.sources import remote
from tests.object_storage import certificate, credentials, make_bucket, object_storage, web_server

pytest.importorskip("trustme")

X = np.arange(600.0).reshape(100, 6)
#: Libraries load what is trusted as they are imported, so that each way takes a process of its own.
READ = """
import sys
if sys.argv[1] == "fsspec":
    sys.modules["obstore"] = None
import numpy as np
import nysstream
X = np.arange(600.0).reshape(100, 6)
nysstream.convert(X, sys.argv[2], chunk_rows=30)
for url in sys.argv[2:]:
    np.testing.assert_array_equal(nysstream.open(url, "x").read(slice(0, 100)), X)
"""


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """Make a private authority; gives the file of its certificate, and what a server needs."""
    return certificate(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def site(authority, tmp_path):
    """Serve a store and a file by HTTPS."""
    zarr.open_group(tmp_path / "a.zarr", mode="w").create_array("x", data=X, chunks=(50, 6))
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=X, chunks=(50, 6))
    with web_server(tmp_path).encrypt(authority[1]) as server:
        yield server.url


@pytest.fixture
def bucket(authority, bucket_name, monkeypatch):
    """Make a bucket behind HTTPS; gives its URL."""
    pytest.importorskip("moto")
    with object_storage(authority[1]) as place:
        make_bucket(place, bucket_name, authority[0])
        credentials(monkeypatch, "https://{}:{}".format(*place))
        yield f"s3://{bucket_name}"


@pytest.mark.parametrize("way", ["obstore", "fsspec"])
def test_an_authority_that_is_named_is_trusted(way, site, bucket, authority):
    pytest.importorskip("obstore" if way == "obstore" else "s3fs")
    named = dict.fromkeys(("SSL_CERT_FILE", "AWS_CA_BUNDLE"), str(authority[0]))
    urls = [f"{bucket}/a.zarr", f"{site}/a.zarr", f"{site}/a.h5"]
    done = subprocess.run(
        [sys.executable, "-c", READ, way, *urls], env={**os.environ, **named}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def refusal(url):
    began = time.perf_counter()
    with pytest.raises(SourceError) as caught:
        nysstream.open(url, "x")
    assert time.perf_counter() - began < 60
    return str(caught.value)


def test_others_are_refused(site, bucket):
    pytest.importorskip("obstore")
    urls = [f"{site}/a.zarr", f"{site}/a.h5", f"{bucket}/a.zarr"]
    with ThreadPoolExecutor(len(urls)) as pool:  # obstore asks ten times, for a few seconds
        for url, message in zip(urls, pool.map(refusal, urls), strict=True):
            assert url in message
            assert "not trusted (UnknownIssuer)" in message
            assert "SSL_CERT_FILE" in message


def test_a_file_of_certificates_that_is_not_there(site, tmp_path, monkeypatch):
    pytest.importorskip("obstore")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    assert "no certificates to trust were found" in refusal(f"{site}/a.h5")


def test_a_certificate_of_another_host(authority, site, monkeypatch):
    pytest.importorskip("obstore")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority[0]))
    elsewhere = site.replace("127.0.0.1", "localhost")
    assert "not trusted (NotValidForName)" in refusal(f"{elsewhere}/a.h5")


def test_others_are_refused_by_fsspec(site, monkeypatch):
    pytest.importorskip("aiohttp")
    found = importlib.util.find_spec
    monkeypatch.setattr(
        remote.importlib.util, "find_spec", lambda name: None if name == "obstore" else found(name)
    )
    for url in (f"{site}/a.zarr", f"{site}/a.h5"):
        message = refusal(url)
        assert url in message
        assert "not trusted (unable to get local issuer certificate)" in message
        assert "SSL_CERT_FILE" in message
