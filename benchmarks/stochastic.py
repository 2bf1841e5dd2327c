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
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import isolation
from benchmarks.contenders import MISSING
from benchmarks.listing import as_markdown, as_text, gibibytes, number
from benchmarks.measuring import say
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
    ours = contender.module in ("nysstream", "sklearn", "scipy")
    for python in [sys.executable] if ours else [sys.executable, *peer_python]:
        command = [python, "-m", "benchmarks.stochastic_contenders", json.dumps(spec)]
        done = isolation.run(command, timeout=2 * timeout + _SLACK)
        if done.code != MISSING:
            break
    row["points"] = [json.loads(line) for line in done.output.splitlines() if line.startswith("{")]
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
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stochastic", description=__doc__)
    parser.add_argument("--only", default="", help="comma-separated contenders, or beginnings of their names")
    parser.add_argument("--problems", default=",".join(PROBLEMS), help="comma-separated")
    parser.add_argument("--scale", choices=list(SCALES), default="full")
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for one contender")
    parser.add_argument(
        "--peer-python", action="append", default=[], help="another environment's; repeatable"
    )
    parser.add_argument("--fresh", action="store_true", help="measure again what stochastic.json has")
    parser.add_argument("--prepare", action="store_true", help="write the data and their minima, and stop")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument(
        "--dir", type=Path, default=Path(tempfile.gettempdir()) / "nysstream-stochastic", help="for data"
    )
    given = parser.parse_args(arguments)
    asked = [name for name in given.only.split(",") if name]
    given.contenders = [
        name for name in CONTENDERS if not asked or any(f"{name}-".startswith(f"{part}-") for part in asked)
    ]
    unknown = [part for part in asked if not any(f"{name}-".startswith(f"{part}-") for name in CONTENDERS)]
    if unknown:
        parser.error(f"--only: nobody is called {', '.join(unknown)}; there are {', '.join(CONTENDERS)}")
    given.problems = [name for name in given.problems.split(",") if name]
    unknown = [name for name in given.problems if name not in PROBLEMS]
    if unknown:
        parser.error(f"--problems: no {', '.join(unknown)}; there are {', '.join(PROBLEMS)}")
    return given


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Run every contender on every problem, and write table and figure as results come in."""
    given = parse(arguments)
    kept = given.out / "stochastic.json"
    before = json.loads(kept.read_text()) if kept.exists() else {"rows": [], "about": {}}
    rows, about = before["rows"], before["about"]
    for name in given.problems:
        problem = prepare(name, given.dir / given.scale, SCALES[given.scale])
        about[name] = reference(problem) | {"load": os.getloadavg()}
        if given.prepare:
            say(f"{name}: {about[name]}")
            continue
        for who in given.contenders:
            if problem.loss not in CONTENDERS[who].losses:
                continue
            old = [row for row in rows if (row["problem"], row["contender"]) == (name, who)]
            if old and not given.fresh and not old[0]["note"].startswith("not installed"):
                continue
            row = measure(problem, about[name]["objective"], who, given.timeout, given.peer_python)
            rows = [one for one in rows if one not in old] + [row]
            say("  ".join(part for part in lines_of([row])[0] if part))
            write(rows, about, given.out)
    print(as_text(HEADER, lines_of(rows)))
    return rows


if __name__ == "__main__":
    main()
