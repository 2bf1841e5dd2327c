"""What lies at a URL is not removed by accident."""

from __future__ import annotations

import fsspec
import numpy as np
import pytest
import scipy.sparse
import zarr
from zarr.storage import MemoryStore

import nysstream as ns
from nysstream.errors import OutputExistsError

URL = "memory://targets/data"


@pytest.fixture
def files():
    """Give what lies in fsspec's memory under a place of the tests."""
    system = fsspec.filesystem("memory")

    def found():
        return {path: system.cat_file(path) for path in system.find("/targets")}

    yield found
    if system.exists("/targets"):
        system.rm("/targets", recursive=True)


def save(place, *, overwrite):
    ns.Ridge().fit(np.eye(3), np.ones(3)).save(place, overwrite=overwrite)


def sketch(place, *, overwrite):
    found = ns.NystromSketch(2)
    found.update(np.eye(3), np.ones(3))
    found.save(place, overwrite=overwrite)


def dense(place, *, overwrite):
    ns.convert(np.ones((5, 2)), place, overwrite=overwrite)


def sparse(place, *, overwrite):
    ns.convert(scipy.sparse.eye_array(5, format="csr"), place, overwrite=overwrite)


def begin(place, *, overwrite):
    with ns.checkpointing(place, overwrite=overwrite):
        pass


def resume(place, *, overwrite):
    with ns.checkpointing(place, resume=True, overwrite=overwrite):
        pass


WRITERS = [save, sketch, dense, sparse, begin, resume]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("write", WRITERS)
def test_a_folder_of_other_things_is_left_alone(write, overwrite, files):
    fsspec.filesystem("memory").pipe("/targets/data/train.csv", b"precious")
    zarr.open_group(f"{URL}/old.zarr", mode="w").create_array("x", data=np.arange(5.0))
    before = files()
    with pytest.raises(OutputExistsError, match=r"(train\.csv|old\.zarr).*choose another place"):
        write(URL, overwrite=overwrite)
    assert files() == before


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("write", WRITERS)
def test_a_store_of_either_format_is_there(write, zarr_format, files):
    zarr.open_group(URL, mode="w", zarr_format=zarr_format).create_array("x", data=np.arange(5.0))
    before = files()
    with pytest.raises(OutputExistsError, match="another place"):
        write(URL, overwrite=False)
    assert files() == before
    if write in (begin, resume):
        with pytest.raises(OutputExistsError, match="no checkpoint"):
            write(URL, overwrite=True)
        assert files() == before
    else:
        write(URL, overwrite=True)
        assert not any(path.endswith((".zgroup", "data/x/.zarray")) for path in files())


def test_a_store_in_memory_is_looked_through():
    store = MemoryStore()
    zarr.create_group(store, path="inside")
    store._store_dict.pop("zarr.json", None)  # Zarr makes the groups above too
    with pytest.raises(OutputExistsError, match=r"inside/zarr\.json"):
        ns.convert(np.ones((5, 2)), store)
    assert store._store_dict


def test_beginning_anew_removes_what_belongs_to_the_checkpoint(files):
    with ns.checkpointing(URL):
        ns.Ridge().fit(np.eye(3), np.ones(3))
    fsspec.filesystem("memory").pipe("/targets/data/notes.txt", b"mine")
    with ns.checkpointing(URL, overwrite=True) as checkpoint:
        assert not checkpoint.resumed
    assert [path.rpartition("/")[2] for path in sorted(files())] == ["notes.txt", "zarr.json"]
