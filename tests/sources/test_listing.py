"""Which files a path means, and what format they have."""

from __future__ import annotations

import pytest

from nysstream.errors import InputError, SourceError
from nysstream.sources.listing import find_files, sequential_format


def make(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")


def test_files_of_a_path_in_sorted_order(tmp_path):
    make(tmp_path, "b/2.csv", "b/10.CSV", "a/x.csv", "a/.hidden.csv", "a/_meta.csv", "a/x.txt")
    listed = [str(file.relative_to(tmp_path)) for file in find_files(tmp_path, (".csv",))]
    assert listed == ["a/x.csv", "b/10.CSV", "b/2.csv"]
    assert find_files(tmp_path / "a/x.txt", (".csv",)) == [tmp_path / "a/x.txt"]
    assert find_files(f"{tmp_path}/**/[!0-9]*", (".csv",)) == [tmp_path / "a/x.csv", tmp_path / "a/x.txt"]


def test_a_name_with_glob_characters_is_that_file(tmp_path):
    make(tmp_path, "a[1].csv", "a1.csv")
    assert find_files(tmp_path / "a[1].csv", (".csv",)) == [tmp_path / "a[1].csv"]


def test_nothing_there(tmp_path):
    make(tmp_path, "x.txt")
    for path in (tmp_path, tmp_path / "nowhere.csv", f"{tmp_path}/*.csv"):
        with pytest.raises(SourceError, match="no data files at"):
            find_files(path, (".csv",))


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("a.csv", "csv"),
        ("A.TSV.GZ", "csv"),
        ("part-*.parquet", "parquet"),
        ("a.svm", "libsvm"),
        ("a.npy", None),
        ("s3://bucket/a.zarr", None),
    ],
)
def test_format_by_suffix(path, kind):
    assert sequential_format(path) == kind
    assert sequential_format(path, "libsvm") == "libsvm"


def test_format_of_a_directory(tmp_path):
    make(tmp_path, "table/sub/1.parquet", "table/_SUCCESS", "store/zarr.json", "store/c/0.csv")
    assert sequential_format(tmp_path / "table") == "parquet"
    assert sequential_format(tmp_path / "store") is None
    with pytest.raises(InputError, match="format 'xlsx' is unknown"):
        sequential_format(tmp_path, "xlsx")
