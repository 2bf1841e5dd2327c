"""Composite problems against others: lasso, an elastic net in a box, logistic regression, in memory.

``python -m benchmarks.composite --problems flights-lasso,mnist-l1 --peer-python ENV/bin/python``

Every contender runs in its own process and with native tolerances from loose to tight; its first
answers within 1e-3 and 1e-6 of the minimum, in the test outside, count. See README.md.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
from pathlib import Path
from typing import Any

from benchmarks import contest, isolation
from benchmarks.composite_contenders import CONTENDERS, Contender
from benchmarks.composite_problems import PROBLEMS, SCALES, Problem, prepare, reference
from benchmarks.contest import MISSING, let_run
from benchmarks.listing import as_markdown, as_text, gibibytes, number

#: Relative suboptimality: everybody's answers are held against these.
LEVELS = (1e-3, 1e-6)
#: What loading and the test outside may add to the attempts of a contender, in seconds.
_SLACK = 300.0


def measure(
    problem: Problem, minimum: float, name: str, timeout: float, peer_python: list[str]
) -> dict[str, Any]:
    """Let one contender solve one problem, in this environment or in the first other one that has it."""
    contender = CONTENDERS[name]
    spec = {
        "contender": name,
        "folder": str(problem.folder),
        "objective": vars(problem.objective),
        "minimum": minimum,
        "tol": LEVELS[-1],
        "timeout": timeout,
    }
    row: dict[str, Any] = {"problem": problem.name, "contender": name, "label": contender.label}
    row |= {"group": contender.group, "timeout": timeout}
    limit = len(contender.settings) * timeout + _SLACK
    done, row["attempts"] = let_run("benchmarks.composite_contenders", spec, contender, peer_python, limit)
    row["passed"] = [
        next((one for one in row["attempts"] if one["suboptimality"] <= level), None) for level in LEVELS
    ]
    row["note"] = _note(row, done, contender)
    return row


def _note(row: dict[str, Any], done: isolation.Finished, contender: Contender) -> str:
    """Say why a contender did not come further."""
    if done.code == MISSING:
        return f"not installed: {contender.install}"
    if row["passed"][-1]:
        return ""
    best = min((one["suboptimality"] for one in row["attempts"]), default=math.inf)
    reached = f"best {best:.1e}" if best < math.inf else "nothing feasible"
    if done.timed_out or done.code == -signal.SIGALRM:
        return f"timed out after {row['timeout']:g} s, {reached}"
    return f"{done.last_words()}; {reached}" if done.code else reached


HEADER = ("problem", "solver", "dtype", *(f"s to {level:g}" for level in LEVELS), "to the best",
          "CPU s", "passes", "tolerances", "KKT", "nonzero", "peak", "")  # fmt: skip


def lines_of(rows: list[dict[str, Any]], *, best_only: bool) -> list[tuple[str, ...]]:
    """Lay results out, those of one problem together and the fastest first."""
    lines = []
    for problem in dict.fromkeys(row["problem"] for row in rows):
        mine = sorted((row for row in rows if row["problem"] == problem), key=_key)
        first, seen = _key(mine[0])[0], set()
        for row in mine:
            if best_only and row["group"] in seen:
                continue
            seen.add(row["group"])
            passed = row["passed"]
            last = passed[1] or passed[0] or {}
            label = row["label"] + (
                f" ({last['method']})" if last.get("method") and "auto" in row["label"] else ""
            )
            lines.append(
                (
                    problem,
                    label,
                    last.get("dtype", ""),
                    *(number(one["seconds"]) if one else "-" for one in passed),
                    f"{passed[1]['seconds'] / first:.1f}" if passed[1] else "",
                    number(passed[1].get("cpu_seconds")) if passed[1] else "",
                    ", ".join(str(one["passes"]) for one in passed if one and one.get("passes")),
                    ", ".join(f"{one['setting']:g}" for one in passed if one),
                    f"{last['violation']:.0e}" if last else "",
                    str(last.get("n_nonzero", "")),
                    gibibytes(last.get("peak_bytes")),
                    row["note"],
                )
            )
    return lines


def _key(row: dict[str, Any]) -> tuple[float, float]:
    loose, tight = (one["seconds"] if one else math.inf for one in row["passed"])
    return tight, loose


def write(rows: list[dict[str, Any]], about: dict[str, Any], folder: Path) -> None:
    """Write ``composite.json``, from which a later run goes on, and two tables."""
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / ".composite.json"
    aside.write_text(json.dumps({"about": about, "rows": rows}, indent=1))
    aside.replace(folder / "composite.json")
    (folder / "composite.md").write_text(as_markdown(HEADER, lines_of(rows, best_only=True)) + "\n")
    (folder / "composite-all.md").write_text(as_markdown(HEADER, lines_of(rows, best_only=False)) + "\n")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = contest.parser_of("composite", __doc__, SCALES, 120.0, "attempt")
    return contest.read(parser, arguments, CONTENDERS, PROBLEMS)


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    """Run every contender on every problem, and write the tables as results come in."""
    given = parse(arguments)

    def prepared(name: str) -> tuple[Problem, dict[str, Any]]:
        problem = prepare(name, given.dir / given.scale, SCALES[given.scale])
        return problem, reference(problem) | {"penalty": vars(problem.objective)}

    def takes_part(problem: Problem, who: str) -> bool:
        contender = CONTENDERS[who]
        return problem.kind in contender.kinds and (contender.sparse or not problem.sparse)

    rows = contest.hold(
        given,
        given.out / "composite.json",
        prepared,
        takes_part,
        measure,
        lambda rows, about: write(rows, about, given.out),
        lambda row: lines_of([row], best_only=False)[0],
    )
    print(as_text(HEADER, lines_of(rows, best_only=True)))
    return rows


if __name__ == "__main__":
    main()
