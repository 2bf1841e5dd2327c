"""LIBSVM text, against scikit-learn reading it whole."""

from __future__ import annotations

import gzip
import tempfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import dump_svmlight_file, load_svmlight_file

from nysstream.errors import InputError, SourceError
from nysstream.sources import libsvm
from nysstream.sources.libsvm import LIBSVM


def read(stream, block_rows=7):
    blocks = [{name: a.copy() for name, a in block.items()} for block in stream.blocks(block_rows)]
    assert all(len(block["x"]) <= block_rows for block in blocks)
    return tuple(np.concatenate([block[name] for block in blocks]) for name in ("x", "y"))


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 60),
    p=st.integers(1, 9),
    zero_based=st.booleans(),
    text_bytes=st.integers(1, 400),
    block_rows=st.integers(1, 20),
)
def test_agrees_with_scikit_learn(seed, n, p, zero_based, text_bytes, block_rows):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, p)) * (rng.random((n, p)) < 0.4)
    x[rng.integers(n), 0] = x[rng.integers(n), p - 1] = 1.5
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(libsvm, "TEXT_BYTES", text_bytes)
        path = f"{folder}/data.svm"
        dump_svmlight_file(x, rng.standard_normal(n), path, zero_based=zero_based, comment="made for a test")
        expected, labels = load_svmlight_file(path)
        stream = LIBSVM(path)
        found = read(stream, block_rows)
        np.testing.assert_array_equal(found[0], expected.toarray())
        np.testing.assert_array_equal(found[1], labels)
        assert stream.n_rows == n
        assert stream.zero_based == zero_based
        assert stream.density == expected.nnz / (n * expected.shape[1])


def test_indices_are_read_alike_in_all_parts(tmp_path, monkeypatch):
    """Only the last line shows that indices begin with 0."""
    monkeypatch.setattr(libsvm, "TEXT_BYTES", 1)
    (tmp_path / "a.svm").write_text("1 1:5 3:7\n" * 5 + "-1 0:2\n")
    x, y = read(LIBSVM(tmp_path / "a.svm"))
    np.testing.assert_array_equal(x, [[0, 5, 0, 7]] * 5 + [[2, 0, 0, 0]])
    np.testing.assert_array_equal(y, [1] * 5 + [-1])


def test_several_files_and_compressed_ones(tmp_path):
    (tmp_path / "a.svm").write_text("1 1:5\n2 2:6")
    with gzip.open(tmp_path / "b.svm.gz", "wb") as file:
        file.write(b"# a comment\n3 qid:1 3:7 # another\n")
    stream = LIBSVM(tmp_path, dtype=np.float32)
    x, y = read(stream)
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, np.diag([5, 6, 7]))
    np.testing.assert_array_equal(y, [1, 2, 3])
    assert stream.where(1) == f"{tmp_path}/a.svm, row 1 (counted from 0)"
    assert stream.where(2) == f"{tmp_path}/b.svm.gz, row 0 (counted from 0)"


def test_no_scan_when_everything_is_given(tmp_path):
    (tmp_path / "a.svm").write_text("1 1:5\n")
    stream = LIBSVM(tmp_path / "a.svm", n_features=3, zero_based=False)
    assert stream.n_rows is None
    assert stream.density is None
    np.testing.assert_array_equal(read(stream)[0], [[5, 0, 0]])


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("1 1:5\n2 2:x\n", {}, "a.svm, line 2: not LIBSVM text"),
        ("1 1:5\n\n2 4:1 3:2\n", {}, "a.svm, line 3: not LIBSVM text"),
        ("1,2 1:5\n", {}, "one label a line"),
        ("1 1:5\n1 4:1\n", {"n_features": 3}, r"a.svm, row 1 .*: index 4 is outside 1..3"),
        ("1 1:5\n1 0:1\n", {"n_features": 3, "zero_based": False}, r"row 1 .*: index 0 is outside 1..3"),
        ("1\n2\n", {}, "no features were found in 2 rows"),
    ],
)
def test_errors_name_the_line(tmp_path, text, options, message):
    (tmp_path / "a.svm").write_text(text)

    def use():
        read(LIBSVM(tmp_path / "a.svm", **options))

    with pytest.raises(InputError, match=message):
        use()


def test_a_damaged_archive_is_named(tmp_path):
    (tmp_path / "a.svm.gz").write_bytes(gzip.compress(b"1 1:5\n" * 1000)[:-20])
    with pytest.raises(SourceError, match=r"cannot read .*a.svm.gz"):
        LIBSVM(tmp_path / "a.svm.gz")
