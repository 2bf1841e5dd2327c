"""Every benchmark runs, at a scale where its figures mean nothing, and says what it is meant to say."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import machine, stores
from benchmarks.__main__ import SUITE, main
from benchmarks.measuring import SCALES, Row, Settings, median_ratio, side_by_side
from benchmarks.passes import roofline
from benchmarks.scaling import Repeated
from benchmarks.table import as_markdown, as_text
from nysstream.sources import open as open_source

TOY = SCALES["toy"]
#: One that is decoded here, and one that only HDF5 can decode.
SOME = ("zarr-lz4", "hdf5-lzf")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("stores")


@pytest.fixture(scope="module")
def results(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    scale = ["--scale", "toy", "--device", "cpu", "--stores", ",".join(SOME)]
    rows = main([*scale, "--out", str(out), "--folder", str(folder)])
    return rows, json.loads((out / "results.json").read_text()), out


def test_every_benchmark_gives_rows_that_json_can_hold(results):
    rows, document, _ = results
    assert {row["group"] for row in document["rows"]} == {*SUITE, "overhead"}
    assert len(document["rows"]) == len(rows)
    assert set(document["about"]["seconds"]) == {*SUITE, "all"}
    for row in document["rows"]:
        assert row["seconds"] > 0
        assert row["limit"] > 0
        assert row["ratio"] >= 0
        assert (row["met"] is None) == (row["goal"] is None)


@pytest.mark.parametrize("group", ["streamed", "rivals"])
def test_every_store_asked_for_is_timed_with_one_column_and_with_many(results, group):
    rows, _, _ = results
    cases = [row.case for row in rows if row.group == group]
    for name in SOME:
        for columns in ("1 column", f"{TOY.many} columns"):
            assert any(name in case and case.endswith(columns) for case in cases), (name, columns)


def test_a_goal_that_is_not_reached_stays_in_the_table_with_a_reason(results):
    rows, _, _ = results
    missed = [row for row in rows if row.group == "streamed" and row.met is False]
    assert all(row.note for row in missed)
    table = as_text(rows)
    assert all(row.case in table for row in rows)


def test_tables_and_plots_are_written(results):
    rows, _, out = results
    assert (out / "table.txt").read_text().count("\n") == len(rows) + 1
    assert (out / "table.md").read_text().count("\n") == len(rows) + 2
    for group in {row.group for row in rows}:
        assert (out / f"{group}.png").read_bytes().startswith(b"\x89PNG")


def test_what_fits_the_cache_is_not_read_again(results):
    rows, _, _ = results
    nothing, _, everything = [row for row in rows if row.group == "caching"]
    assert nothing.ratio > 0.9
    assert everything.ratio < 0.01
    assert everything.details["counted_bytes"][1:] == [0, 0]


def test_stores_hold_the_same_matrix_in_every_layout(folder):
    settings = Settings(TOY, "cpu", 1, folder)
    expected = stores.block(0, TOY.n_rows, TOY.n_columns)
    for store in stores.STORES.values():
        source = open_source(str(store.made(settings)), store.dataset)
        np.testing.assert_array_equal(source.read(slice(0, TOY.n_rows)), expected, err_msg=store.name)


def test_a_repeated_source_gives_its_rows_again_and_again(folder):
    settings = Settings(TOY, "cpu", 1, folder)
    source = open_source(str(stores.STORES["npy"].made(settings)))
    once = source.read(slice(0, TOY.n_rows))
    longer = Repeated(source, 3 * TOY.n_rows)
    rows = slice(TOY.n_rows - 5, 2 * TOY.n_rows + 7)
    np.testing.assert_array_equal(longer.read(rows), np.concatenate([once[-5:], once, once[:7]]))


def test_a_store_is_written_once(folder):
    store, settings = stores.STORES["npy"], Settings(TOY, "cpu", 1, folder)
    path = store.made(settings)
    before = path.stat().st_mtime_ns
    assert store.made(settings).stat().st_mtime_ns == before


def test_reading_a_store_reads_all_of_its_files(folder):
    settings = Settings(TOY, "cpu", 2, folder)
    for name in ("zarr-lz4", "npy"):
        path = stores.STORES[name].made(settings)
        assert machine.stored_bytes(path) == sum(f.stat().st_size for f in machine.files_of(path))
        for apart in (False, True):
            assert machine.read_seconds(path, 2, apart=apart) > 0
        assert machine.cached_fraction(path) in (1.0, pytest.approx(float("nan"), nan_ok=True))


@pytest.mark.parametrize("codec", ["blosc-lz4", "zstd", "gzip"])
def test_limits_decode_what_was_encoded(codec):
    values = stores.block(0, 64, 16)
    encoded, decode = machine._encoded(codec, values)
    out = np.empty(values.nbytes, np.uint8)
    decode(encoded, out)
    assert out.tobytes() == values.tobytes()


def test_the_roofline_is_the_slowest_of_what_overlaps():
    seconds = {"read": [1.0, 4.0], "decode": [2.0, 1.0], "upload": [0.0, 0.0], "gemm": [6.0, 6.0]}
    seconds["memory"] = [0.5, 0.5]
    assert roofline(seconds)[1] == [6.0, 6.0]
    limits, roof = roofline(seconds, share=0.25)
    assert roof == [2.0, 4.0]
    assert limits["arithmetic"] == [1.5, 1.5]


def test_ratios_are_taken_within_a_repeat():
    assert median_ratio([1.0, 10.0, 3.0], [2.0, 10.0, 6.0]) == 0.5


def test_calls_take_turns():
    order: list[str] = []

    def measured() -> float:
        order.append("b")
        return 2.0

    seconds = side_by_side({"a": lambda: order.append("a"), "b": measured}, 2)
    assert order == ["a", "b", "a", "b"]
    assert seconds["b"] == [2.0, 2.0]


def test_a_limit_from_above_is_met_from_below():
    assert Row("g", "c", 1.0, 1.0, 0.5, 0.6, at_most=True).met
    assert not Row("g", "c", 1.0, 1.0, 0.5, 0.6).met
    assert "≤ 0.6" in as_markdown([Row("g", "c", 1.0, 1.0, 0.5, 0.6, at_most=True)])


def test_an_unknown_benchmark_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--only", "nonsense"])
    assert "no benchmark is called nonsense" in capsys.readouterr().err
