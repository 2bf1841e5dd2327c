"""CSV and Parquet, against what was written into them."""

from __future__ import annotations

import gzip
import tempfile
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nysstream.errors import InputError, SourceError
from nysstream.sources import tables
from nysstream.sources.tables import CSV, Parquet
from tests.strategies import layouts, matrices

KINDS = {"csv": CSV, "parquet": Parquet}


def read(stream, block_rows=50):
    blocks = list(stream.blocks(block_rows))
    assert all(len(block["x"]) <= block_rows for block in blocks)
    return {name: np.concatenate([block[name] for block in blocks]) for name in stream.layouts}


def write(kind, table, path, **options):
    if kind == "csv":
        pyarrow.csv.write_csv(table, path)
    else:
        pyarrow.parquet.write_table(table, path, **options)


@given(data=st.data(), kind=st.sampled_from(sorted(KINDS)))
def test_round_trip(data, kind):
    shape = data.draw(layouts(max_rows=80, max_columns=5))
    x = data.draw(matrices(shape, data.draw(st.sampled_from(["f4", "f8"] if kind == "parquet" else ["f8"]))))
    names = [f"column {j}" for j in range(shape.n_columns)]
    order = data.draw(st.permutations(range(shape.n_columns)))
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "CSV_BLOCK_BYTES", data.draw(st.sampled_from([400, 1 << 20])))
        table = pa.table({**dict(zip(names, x.T, strict=True)), "y": np.arange(shape.n_rows)})
        write(kind, table, f"{folder}/t.{kind}", row_group_size=data.draw(st.integers(1, 100)))
        stream = KINDS[kind](f"{folder}/t.{kind}", columns=[names[j] for j in order], target="y")
        found = read(stream, data.draw(st.integers(1, 100)))
    assert stream.n_rows == (shape.n_rows if kind == "parquet" else None)
    np.testing.assert_array_equal(found["x"], x[:, order], strict=True)
    np.testing.assert_array_equal(found["y"], np.arange(shape.n_rows))


@pytest.mark.parametrize("kind", KINDS)
def test_columns_target_and_weight(tmp_path, kind):
    table = pa.table({"a": [1, 2], "b": [3, 4], "c": [5, 6], "w": [0.5, 1.5], "name": ["x", "y"]})
    write(kind, table, tmp_path / f"t.{kind}")
    open_table = lambda **options: KINDS[kind](tmp_path / f"t.{kind}", **options)  # noqa: E731
    stream = open_table(columns=["b"], target=["c", "a"], weight="w")
    found = read(stream)
    assert found["x"].tolist() == [[3], [4]]
    assert found["y"].tolist() == [[5, 1], [6, 2]]
    assert found["weight"].tolist() == [0.5, 1.5]
    assert stream.layouts["y"].columns == ("c", "a")
    with pytest.raises(
        InputError, match=r"hold none: 'name' \(string\).*Numeric columns: 'a', 'b', 'c', 'w'"
    ):
        open_table(target="a")
    with pytest.raises(InputError, match="no column 'nme'; did you mean 'name'"):
        open_table(target="nme")
    with pytest.raises(InputError, match=r"no column 'zzz'. Columns: 'a', 'b'"):
        open_table(columns=["zzz"])
    with pytest.raises(InputError, match="'a' is asked for twice"):
        open_table(columns=["a"], target="a")
    with pytest.raises(InputError, match="no columns are left"):
        open_table(columns=[], target="a")


@pytest.mark.parametrize("kind", KINDS)
def test_missing_values_name_file_column_and_row(tmp_path, kind):
    write(kind, pa.table({"a": [1.0, 2.0], "b": [1, 2]}), tmp_path / f"1.{kind}")
    write(kind, pa.table({"a": [1.0, 2.0, 3.0, None], "b": [1, 2, 3, 4]}), tmp_path / f"2.{kind}")
    with pytest.raises(InputError, match=rf"2.{kind}, row 3 .*: column 'a' has no value. Fill or drop"):
        read(KINDS[kind](tmp_path), block_rows=3)


@pytest.mark.parametrize("kind", KINDS)
def test_several_files_read_in_order(tmp_path, kind):
    for i in range(3):
        folder = tmp_path / "parts" / f"{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        write(kind, pa.table({"a": [10.0 * i, 10.0 * i + 1]}), folder / f"{i}.{kind}")
    (tmp_path / "parts" / "_SUCCESS").write_text("")
    assert read(KINDS[kind](tmp_path / "parts"))["x"][:, 0].tolist() == [0, 1, 20, 21, 10, 11]
    stream = KINDS[kind](f"{tmp_path}/parts/*/[12].{kind}")
    assert read(stream)["x"][:, 0].tolist() == [20, 21, 10, 11]
    assert stream.where(2).endswith(f"1/1.{kind}, row 0 (counted from 0)")
    write(kind, pa.table({"b": [1.0]}), tmp_path / "parts" / f"z.{kind}")
    with pytest.raises(InputError, match=rf"z.{kind} lacks .*a"):
        read(KINDS[kind](tmp_path / "parts"))


def test_a_csv_column_may_turn_from_integers_to_fractions(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "CSV_BLOCK_BYTES", 64)
    values = [*range(100), 0.5]
    (tmp_path / "t.csv").write_text("a\n" + "".join(f"{v}\n" for v in values))
    assert read(CSV(tmp_path / "t.csv"))["x"][:, 0].tolist() == values


def test_a_bad_csv_value_names_its_line(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "CSV_BLOCK_BYTES", 64)
    (tmp_path / "t.csv").write_text("a,b\n" + "1,2\n" * 100 + "1,oops\n" + "1,2\n" * 100)
    with pytest.raises(InputError, match=r"line 102: column 'b' holds no number: invalid value 'oops'"):
        read(CSV(tmp_path / "t.csv", columns=["b"], target="a"))
    (tmp_path / "t.csv").write_text("a,b\n" + "1,2\n" * 100 + "1\n")
    with pytest.raises(InputError, match=r"t.csv: .*Row #102: Expected 2 columns, got 1"):
        read(CSV(tmp_path / "t.csv"))


def test_csv_dialects(tmp_path):
    (tmp_path / "t.tsv").write_text("a\tb\n1\ttrue\n2\tfalse\n")
    assert read(CSV(tmp_path / "t.tsv"))["x"].tolist() == [[1, 1], [2, 0]]
    with gzip.open(tmp_path / "t.csv.gz", "wt") as file:
        file.write("1;2\n3;4\n")
    stream = CSV(tmp_path / "t.csv.gz", header=False, delimiter=";", target="f1")
    found = read(stream)
    assert found["x"].tolist() == [[1], [3]]
    assert found["y"].tolist() == [2, 4]


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "t.csv").write_text("")
    with pytest.raises(SourceError, match=r"t.csv: Empty CSV file"):
        CSV(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("a,b,a\n1,2,3\n")
    with pytest.raises(InputError, match="columns a appear more than once"):
        CSV(tmp_path / "t.csv")
    (tmp_path / "t.parquet").write_text("not Parquet")
    with pytest.raises(SourceError, match=r"cannot read .*t.parquet"):
        Parquet(tmp_path / "t.parquet")


def test_parquet_types(tmp_path):
    table = pa.table(
        {
            "i": pa.array([1, 2], pa.int16()),
            "b": pa.array([True, False]),
            "d": pa.array([Decimal("1.5"), Decimal("2.25")]),
            "l": pa.array([[1.0], [2.0]]),
        }
    )
    write("parquet", table, tmp_path / "1.parquet")
    stream = Parquet(tmp_path, columns=["i", "b"])
    assert stream.layouts["x"].dtype == np.int16
    assert read(stream)["x"].tolist() == [[1, 1], [2, 0]]
    assert read(Parquet(tmp_path, columns=["d"]))["x"].tolist() == [[1.5], [2.25]]
    with pytest.raises(InputError, match="'l'"):
        Parquet(tmp_path)
    # Files may differ in their types: the common one holds all values.
    write("parquet", pa.table({"i": [0.5]}), tmp_path / "2.parquet")
    assert read(Parquet(tmp_path, columns=["i"]))["x"].tolist() == [[1], [2], [0.5]]
    write("parquet", pa.table({"i": ["x"]}), tmp_path / "3.parquet")
    with pytest.raises(InputError, match=r"3.parquet: column 'i' holds string, but numbers in"):
        Parquet(tmp_path, columns=["i"])


def test_how_text_is_read_belongs_to_its_identity(tmp_path):
    (tmp_path / "a.csv").write_text("1,2\n3,4\n")
    found = [CSV(tmp_path / "a.csv", **how).fingerprint for how in ({}, {}, {"header": False})]
    assert found[0] == found[1] != found[2]
