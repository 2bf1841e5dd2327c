"""What every benchmark shares: its settings, a row of the table, and timing side by side."""

from __future__ import annotations

import gc
import statistics
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

MB = 1 << 20


@dataclass(frozen=True)
class Scale:
    """Sizes of one run.

    Attributes
    ----------
    n_rows, n_columns : int
        Of the streamed stores, in float32.
    chunk_bytes, large_bytes : int
        Decoded bytes of an ordinary chunk, and of a large one or a shard.
    many : int
        Columns of the wide product.
    rank : int
        Of the sketch.
    n_features, n_inputs : int
        Of the random Fourier features.
    repeats : int
    limit_bytes : int
        Memory that bandwidth is measured on; also the rows of a resident pass.
    gemm : int
        Order of the matrices of the arithmetic limit.
    decode_seconds : float
        For which decoding is timed.
    """

    n_rows: int
    n_columns: int
    chunk_bytes: int
    large_bytes: int
    many: int
    rank: int
    n_features: int
    n_inputs: int
    repeats: int
    limit_bytes: int
    gemm: int
    decode_seconds: float = 0.5

    @property
    def nbytes(self) -> int:
        """Decoded bytes of a store."""
        return 4 * self.n_rows * self.n_columns


SCALES = {
    "toy": Scale(4096, 64, 64 << 10, 256 << 10, 16, 16, 64, 8, 1, 4 * MB, 64, 0.02),
    "quick": Scale(1 << 19, 1024, 4 * MB, 64 * MB, 64, 500, 4096, 90, 3, 512 * MB, 2048),
    "full": Scale(1 << 21, 1024, 4 * MB, 64 * MB, 64, 500, 15000, 90, 5, 1024 * MB, 4096),
}


@dataclass(frozen=True)
class Settings:
    """How one run of the benchmarks is made.

    Attributes
    ----------
    scale : Scale
    device : str
        Where nysstream computes; rivals compute on the CPU.
    cores : int
    folder : Path
        Where stores are kept between runs.
    cases : tuple of str
        Stores to use; all where empty.
    """

    scale: Scale
    device: str
    cores: int
    folder: Path
    cases: tuple[str, ...] = ()


@dataclass
class Row:
    """One line of the table.

    Attributes
    ----------
    group, case : str
        What was measured, and on what.
    seconds : float
        Ours, median over the repeats.
    limit : float
        The figure it is held against, in the unit of ``seconds``.
    ratio : float
        What ``goal`` is about: median of the ratios within each repeat.
    goal : float, optional
        Least ratio aimed at (most, where ``at_most``).
    note : str
        Why the goal was not reached, or what the row means.
    details : dict
        Everything else, for the JSON file.
    """

    group: str
    case: str
    seconds: float
    limit: float
    ratio: float
    goal: float | None = None
    at_most: bool = False
    unit: str = "s"
    note: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the goal was reached."""
        if self.goal is None:
            return None
        return self.ratio <= self.goal if self.at_most else self.ratio >= self.goal

    def as_dict(self) -> dict[str, Any]:
        """Give plain values for JSON."""
        return asdict(self) | {"met": self.met}


def side_by_side(
    timed: Mapping[str, Callable[[], Any]],
    repeats: int,
    before: Callable[[], None] | None = None,
    warm_up: bool = False,
) -> dict[str, list[float]]:
    """Time each callable in turn, ``repeats`` times over, so that the machine's moods hit all alike.

    A callable that returns a float has measured itself: that number is taken instead. ``before``
    runs ahead of each, untimed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for number in range(repeats + warm_up):
        for name, call in timed.items():
            if before is not None:
                before()
            gc.collect()
            began = time.perf_counter()
            answer = call()
            took = time.perf_counter() - began
            if number >= warm_up:
                seconds[name].append(answer if isinstance(answer, float) else took)
    return seconds


def median(values: list[float]) -> float:
    """Give the median."""
    return statistics.median(values)


def median_ratio(above: list[float], below: list[float]) -> float:
    """Give the median of the ratios within each repeat."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def say(text: str) -> None:
    """Tell the user what is going on, on standard error."""
    print(text, file=sys.stderr, flush=True)
