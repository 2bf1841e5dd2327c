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
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import isolation
from benchmarks.composite_contenders import CONTENDERS, MISSING, Contender
from benchmarks.composite_problems import PROBLEMS, SCALES, Problem, prepare, reference
from benchmarks.listing import as_markdown, as_text, gibibytes, number
from benchmarks.measuring import say

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
    ours = contender.module in ("nysstream", "sklearn", "scipy")
    for python in [sys.executable] if ours else [sys.executable, *peer_python]:
        command = [python, "-m", "benchmarks.composite_contenders", json.dumps(spec)]
        done = isolation.run(command, timeout=len(contender.settings) * timeout + _SLACK)
        if done.code != MISSING:
            break
    row["attempts"] = [json.loads(line) for line in done.output.splitlines() if line.startswith("{")]
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
    parser = argparse.ArgumentParser(prog="python -m benchmarks.composite", description=__doc__)
    parser.add_argument("--only", default="", help="comma-separated contenders, or beginnings of their names")
    parser.add_argument("--problems", default=",".join(PROBLEMS), help="comma-separated")
    parser.add_argument("--scale", choices=list(SCALES), default="full")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds for one attempt")
    parser.add_argument(
        "--peer-python", action="append", default=[], help="another environment's; repeatable"
    )
    parser.add_argument("--fresh", action="store_true", help="measure again what composite.json has")
    parser.add_argument("--prepare", action="store_true", help="write the data and their minima, and stop")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument(
        "--dir", type=Path, default=Path(tempfile.gettempdir()) / "nysstream-composite", help="for data"
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
    """Run every contender on every problem, and write the tables as results come in."""
    given = parse(arguments)
    kept = given.out / "composite.json"
    kept_before = json.loads(kept.read_text()) if kept.exists() else {"rows": [], "about": {}}
    rows, about = kept_before["rows"], kept_before["about"]
    for name in given.problems:
        problem = prepare(name, given.dir / given.scale, SCALES[given.scale])
        about[name] = reference(problem) | {"penalty": vars(problem.objective)}
        if given.prepare:
            say(f"{name}: {about[name]}")
            continue
        for who in given.contenders:
            contender = CONTENDERS[who]
            if problem.kind not in contender.kinds or (problem.sparse and not contender.sparse):
                continue
            old = [row for row in rows if (row["problem"], row["contender"]) == (name, who)]
            if old and not given.fresh and not old[0]["note"].startswith("not installed"):
                continue
            row = measure(problem, about[name]["objective"], who, given.timeout, given.peer_python)
            rows = [one for one in rows if one not in old] + [row]
            say("  ".join(part for part in lines_of([row], best_only=False)[0] if part))
            write(rows, about, given.out)
    print(as_text(HEADER, lines_of(rows, best_only=True)))
    return rows


if __name__ == "__main__":
    main()
