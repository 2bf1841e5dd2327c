"""Good models after few passes: stochastic and other methods, and others', on three finite sums in memory.

``python -m benchmarks.stochastic --scale small --peer-python ENV/bin/python``

Every contender runs in its own process. What it has after some passes is tested outside, in float64; there
are a table and a figure of how far that is from the minimum, after passes and after seconds. See README.md.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from pathlib import Path
from typing import Any

from benchmarks import contest, isolation
from benchmarks.contest import MISSING, let_run
from benchmarks.listing import as_markdown, as_text, gibibytes, number
from benchmarks.plots import draw_curves
from benchmarks.stochastic_contenders import CONTENDERS, Contender
from benchmarks.stochastic_problems import PROBLEMS, SCALES, Problem, prepare, reference

#: Passes after which everybody is asked, and relative suboptimality that is aimed at.
MARKS = (1, 2, 5, 10, 20)
LEVELS = (1e-3, 1e-6)
#: What loading and testing may take beside a contender's own seconds.
_SLACK = 120.0
HEADER = ("problem", "solver", *(f"after {mark}" for mark in MARKS), *(f"passes to {x:g}" for x in LEVELS),
          *(f"s to {x:g}" for x in LEVELS), "peak", "")  # fmt: skip


def measure(
    problem: Problem, minimum: float, name: str, timeout: float, peer_python: list[str]
) -> dict[str, Any]:
    """Let one contender run on one problem, in this environment or in the first other one that has it."""
    contender = CONTENDERS[name]
    spec = {"contender": name, "problem": vars(problem), "minimum": minimum, "marks": MARKS}
    spec["timeout"] = timeout
    row: dict[str, Any] = {"problem": problem.name, "contender": name, "label": contender.label}
    row |= {"group": contender.group, "timeout": timeout, "dtype": contender.dtype}
    limit = 2 * timeout + _SLACK
    done, row["points"] = let_run("benchmarks.stochastic_contenders", spec, contender, peer_python, limit)
    row["note"] = _note(row, done, contender)
    return row


def _note(row: dict[str, Any], done: isolation.Finished, contender: Contender) -> str:
    if done.code == MISSING:
        return f"not installed: {contender.install}"
    spent = sum(point["seconds"] for point in row["points"])
    if done.timed_out or (row["points"] and spent > row["timeout"]):
        return f"stopped after {row['timeout']:g} s"
    return done.last_words() if done.code else ""


def best_until(row: dict[str, Any], passes: float) -> float | None:
    """Give the least suboptimality after so many passes; None if nothing is known of them."""
    known = [point["suboptimality"] for point in row["points"] if point["passes"] <= passes]
    return min(known, default=None)


def first_within(row: dict[str, Any], level: float, axis: str) -> float | None:
    """Give the passes or seconds of the first point within a level."""
    return min((point[axis] for point in row["points"] if point["suboptimality"] <= level), default=None)


def lines_of(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Lay results out, those of one problem together and the fastest first."""
    lines = []
    for problem in dict.fromkeys(row["problem"] for row in rows):
        for row in sorted((row for row in rows if row["problem"] == problem), key=_key):
            after = [best_until(row, mark) for mark in MARKS]
            reached = [number(first_within(row, x, axis)) for axis in ("passes", "seconds") for x in LEVELS]
            peak = max((point["peak_bytes"] for point in row["points"]), default=None)
            shown = ["" if x is None else f"{max(x, 0.0):.0e}" for x in after]
            lines.append((problem, row["label"], *shown, *reached, gibibytes(peak), row["note"]))
    return lines


def _key(row: dict[str, Any]) -> tuple[float, ...]:
    seconds = [first_within(row, x, "seconds") for x in reversed(LEVELS)]
    least = min((point["suboptimality"] for point in row["points"]), default=math.inf)
    return (*(math.inf if x is None else x for x in seconds), least)


def chosen(rows: list[dict[str, Any]], most_of_ours: int = 5) -> list[dict[str, Any]]:
    """Choose whom to draw: the best of every group of others, and the best of our methods."""
    ordered = sorted(rows, key=_key)
    groups = dict.fromkeys(row["group"] for row in ordered if row["points"])
    best = [next(row for row in ordered if row["group"] == group and row["points"]) for group in groups]
    ours = [row for row in best if row["label"].startswith("nysstream")]
    return ours[:most_of_ours] + [row for row in best if row not in ours]


def write(rows: list[dict[str, Any]], about: dict[str, Any], folder: Path) -> None:
    """Write ``stochastic.json``, from which a later run goes on, the table and the figure."""
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / ".stochastic.json"
    aside.write_text(json.dumps({"about": about, "rows": rows}, indent=1))
    aside.replace(folder / "stochastic.json")
    (folder / "stochastic.md").write_text(as_markdown(HEADER, lines_of(rows)) + "\n")
    panels = {}
    for problem in dict.fromkeys(row["problem"] for row in rows):
        mine = chosen([row for row in rows if row["problem"] == problem])
        for axis in ("passes", "seconds"):
            panels[problem, axis] = {row["label"]: _curve(row, axis) for row in mine}
    draw_curves(panels, folder / "stochastic.png", levels=LEVELS)


def _curve(row: dict[str, Any], axis: str) -> list[tuple[float, float]]:
    """Give what was reached by then; what rounding has put below the minimum is drawn at the lower edge."""
    reached: list[tuple[float, float]] = []
    for x, y in sorted((point[axis], max(point["suboptimality"], 1e-10)) for point in row["points"]):
        if y < (reached[-1][1] if reached else math.inf):
            reached.append((x, y))
    return reached


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = contest.parser_of("stochastic", __doc__, SCALES, 300.0, "contender")
    return contest.read(parser, arguments, CONTENDERS, PROBLEMS)


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Run every contender on every problem, and write table and figure as results come in."""
    given = parse(arguments)

    def prepared(name: str) -> tuple[Problem, dict[str, Any]]:
        problem = prepare(name, given.dir / given.scale, SCALES[given.scale])
        return problem, reference(problem) | {"load": os.getloadavg()}

    def takes_part(problem: Problem, who: str) -> bool:
        return problem.loss in CONTENDERS[who].losses

    rows = contest.hold(
        given,
        given.out / "stochastic.json",
        prepared,
        takes_part,
        measure,
        lambda rows, about: write(rows, about, given.out),
        lambda row: lines_of([row])[0],
    )
    print(as_text(HEADER, lines_of(rows)))
    return rows


if __name__ == "__main__":
    main()
