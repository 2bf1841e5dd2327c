"""Fixtures and settings shared by all tests."""

from __future__ import annotations

import os

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, settings

# A shared machine makes single examples slow for reasons that have nothing to do with the code.
settings.register_profile(
    "default", deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, print_blob=True)
settings.register_profile("thorough", settings.get_profile("default"), max_examples=500)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "default"))


def pytest_collection_modifyitems(config, items):
    """Report tests that need a CUDA device as not run where there is none."""
    from nysstream.arrays import cuda_available

    if cuda_available():
        return
    not_run = pytest.mark.skip(reason="no CUDA device")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(not_run)


@pytest.fixture
def rng() -> np.random.Generator:
    """Make a generator with a fixed seed."""
    return np.random.default_rng(20261)


@pytest.fixture
def zarr_store(tmp_path):
    """Write an array into a Zarr group and return the group's path; ``chunk_rows`` rows to a chunk."""
    made = 0

    def write(values, *, chunk_rows=64, name="x", **options):
        nonlocal made
        made += 1
        path = tmp_path / f"store-{made}.zarr"
        chunks = (min(chunk_rows, max(1, len(values))), *values.shape[1:])
        zarr.open_group(path, mode="w").create_array(name, data=values, chunks=chunks, **options)
        return path

    return write


@pytest.fixture
def hdf5_file(tmp_path):
    """Write an array into an HDF5 file and return its path; ``chunk_rows=None`` stores it contiguously."""
    made = 0

    def write(values, *, chunk_rows=64, name="x", **options):
        nonlocal made
        made += 1
        path = tmp_path / f"file-{made}.h5"
        if chunk_rows is not None:
            options["chunks"] = (min(chunk_rows, max(1, len(values))), *values.shape[1:])
        with h5py.File(path, "w") as file:
            file.create_dataset(name, data=values, **options)
        return path

    return write


@pytest.fixture
def npy_file(tmp_path):
    """Write an array as ``.npy`` and return its path."""
    made = 0

    def write(values, *, fortran=False):
        nonlocal made
        made += 1
        path = tmp_path / f"array-{made}.npy"
        np.save(path, np.asfortranarray(values) if fortran else values)
        return path

    return write


@pytest.fixture(scope="session")
def object_server():
    """Run an S3 server on this machine; gives its host and port."""
    pytest.importorskip("moto")
    from tests.object_storage import object_storage

    with object_storage() as place:
        yield place


@pytest.fixture(scope="session")
def google_server():
    """Run an emulator of Google's storage on this machine; gives its host and port."""
    pytest.importorskip("gcp_storage_emulator")
    from tests.object_storage import google_storage

    with google_storage() as place:
        yield place


@pytest.fixture(scope="session")
def azure_server(tmp_path_factory):
    """Run Azurite on this machine, where it is installed; gives its host and port."""
    import shutil

    from tests.object_storage import azurite

    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("no azurite-blob on the PATH ('npm install azurite' has it)")
    with azurite(program, tmp_path_factory.mktemp("azurite")) as place:
        yield place


@pytest.fixture
def bucket_name():
    """Make up the name of a bucket or container of the test's own."""
    import uuid

    return f"test{uuid.uuid4().hex[:12]}"


@pytest.fixture
def s3(object_server, bucket_name, monkeypatch):
    """Make a bucket of the test's own, and set the environment so that it is found; gives its URL."""
    from tests.object_storage import credentials, make_bucket

    make_bucket(object_server, bucket_name)
    credentials(monkeypatch, "http://{}:{}".format(*object_server))
    return f"s3://{bucket_name}"


@pytest.fixture
def gcsfs(google_server, bucket_name, monkeypatch):
    """Make a bucket for gcsfs, which speaks Google's JSON API; gives its URL."""
    pytest.importorskip("gcsfs")
    from tests.object_storage import forget_credentials, make_google_bucket

    make_google_bucket(google_server, bucket_name)
    forget_credentials(monkeypatch)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://{}:{}".format(*google_server))
    return f"gs://{bucket_name}"


@pytest.fixture
def az(azure_server, bucket_name, monkeypatch):
    """Make a container of the test's own, and set the environment so that it is found; gives its URL."""
    from tests.object_storage import ACCOUNT, ACCOUNT_KEY, forget_credentials, make_container

    make_container(azure_server, bucket_name)
    forget_credentials(monkeypatch)
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", "http://{}:{}/{}".format(*azure_server, ACCOUNT))
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", ACCOUNT)
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", ACCOUNT_KEY)
    return f"az://{bucket_name}"
