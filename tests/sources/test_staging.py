"""Directories written aside and moved into place."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest

from nysstream.errors import OutputExistsError, SourceError
from nysstream.sources import staging
from nysstream.sources.staging import written_aside


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_nothing_shows_before_the_end(tmp_path):
    with written_aside(tmp_path / "out") as folder:
        (folder / "a").write_text("1")
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "out" / "a").read_text() == "1"
    assert names(tmp_path) == {"out"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_nothing(tmp_path, error):
    def fail():
        with written_aside(tmp_path / "out") as folder:
            (folder / "a").write_text("1")
            raise error

    with pytest.raises(error):
        fail()
    assert names(tmp_path) == set()


def test_refuses_a_taken_target_before_work(tmp_path):
    (tmp_path / "out").write_text("old")
    with pytest.raises(OutputExistsError, match="overwrite=True"), written_aside(tmp_path / "out"):
        pytest.fail("the body must not run")
    assert names(tmp_path) == {"out"}


@pytest.mark.parametrize("old", ["file", "directory", "link"])
def test_overwrite_replaces_at_the_end_only(tmp_path, old):
    target = tmp_path / "out"
    if old == "file":
        target.write_text("old")
    else:
        place = target if old == "directory" else tmp_path / "elsewhere"
        place.mkdir()
        (place / "old").write_text("old")
        (place / "zarr.json").write_text("{}")
        if old == "link":
            target.symlink_to(place)
    before = names(tmp_path)
    with pytest.raises(ZeroDivisionError), written_aside(target, overwrite=True):
        raise ZeroDivisionError
    assert names(tmp_path) == before
    assert (target if old == "file" else target / "old").read_text() == "old"
    with written_aside(target, overwrite=True) as folder:
        (folder / "new").write_text("new")
    assert names(tmp_path) == before
    assert names(target) == {"new"}


def test_a_target_that_appears_meanwhile_wins(tmp_path):
    theirs = tmp_path / "out" / "theirs"
    with pytest.raises(OutputExistsError), written_aside(tmp_path / "out"):
        theirs.mkdir(parents=True)
    assert names(tmp_path) == {"out"}
    assert names(tmp_path / "out") == {"theirs"}


def test_the_old_target_returns_if_the_new_one_cannot_be_moved(tmp_path, monkeypatch):
    target = tmp_path / "out"
    target.mkdir()
    (target / "zarr.json").write_text("old")
    monkeypatch.setattr(staging, "_exchange", lambda *_: False)  # as where the system cannot
    rename = Path.rename

    def fail_for_partial(self, other):
        if ".partial-" in self.name:
            raise PermissionError(13, "Permission denied")
        return rename(self, other)

    monkeypatch.setattr(Path, "rename", fail_for_partial)
    with pytest.raises(SourceError, match="Permission denied"), written_aside(target, overwrite=True):
        pass
    assert names(tmp_path) == {"out"}
    assert names(target) == {"zarr.json"}


@pytest.mark.skipif(sys.platform != "linux", reason="directories change places at once on Linux only")
def test_a_reader_finds_the_old_or_the_new_directory(tmp_path):
    target = tmp_path / "out"
    stopped = threading.Event()
    missing = []

    def look():
        while not stopped.is_set():
            if not (target / "zarr.json").exists():
                missing.append(1)

    with written_aside(target) as folder:
        (folder / "zarr.json").write_text("0")
    reader = threading.Thread(target=look)
    reader.start()
    for i in range(100):
        with written_aside(target, overwrite=True) as folder:
            (folder / "zarr.json").write_text(str(i))
    stopped.set()
    reader.join()
    assert not missing
    assert (target / "zarr.json").read_text() == "99"
    assert names(tmp_path) == {"out"}


def test_a_directory_of_other_things_is_never_replaced(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("")
    for target in (tmp_path / "home", tmp_path):
        with pytest.raises(OutputExistsError, match="no Zarr store"), written_aside(target, overwrite=True):
            pytest.fail("the body must not run")
    (tmp_path / "empty").mkdir()
    with written_aside(tmp_path / "empty", overwrite=True):
        pass
    assert names(tmp_path) == {"home", "empty"}


def test_a_directory_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(SourceError, match="file is not a directory"),
        written_aside(tmp_path / "file" / "out"),
    ):
        pytest.fail("the body must not run")

    def read_only(self, *args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", read_only)
    with pytest.raises(SourceError, match="out: Read-only file system"), written_aside(tmp_path / "out"):
        pytest.fail("the body must not run")
