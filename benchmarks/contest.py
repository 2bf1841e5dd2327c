"""What contests between solvers share: a process for each contender, the command line, the turns."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import isolation
from benchmarks.measuring import say

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    Row = dict[str, Any]

#: Exit code of a process that lacks the contender's package.
MISSING = 5
#: Packages that this environment has, so that no other is asked.
_OURS = ("nysstream", "numpy", "sklearn", "scipy")
#: What ``--only`` takes.
ONLY = "comma-separated contenders, or what the names of several begin with"


def serve(contenders: Mapping[str, Any], run: Callable[[Row, Callable[[Row], None]], None]) -> int:
    """Run the contender that the argument describes, in this process; one line of JSON for each record."""
    spec = json.loads(sys.argv[1])
    contender = contenders[spec["contender"]]
    if importlib.util.find_spec(contender.module) is None:
        print(f"{contender.module} is not installed: {contender.install}", file=sys.stderr)
        return MISSING
    run(spec, lambda record: print(json.dumps(record), flush=True))
    return 0


def let_run(
    module: str, spec: Row, contender: Any, peer_python: list[str], limit: float
) -> tuple[isolation.Finished, list[Row]]:
    """Let a contender run in this environment, or in the first other one that has it; give its records."""
    for python in [sys.executable] if contender.module in _OURS else [sys.executable, *peer_python]:
        done = isolation.run([python, "-m", module, json.dumps(spec)], timeout=limit)
        if done.code != MISSING:
            break
    return done, [json.loads(line) for line in done.output.splitlines() if line.startswith("{")]


def parser_of(name: str, about: str | None, scales: Iterable[str], timeout: float, per: str) -> Any:
    """Make the parser of a contest's command line; ``per`` says what the timeout is of."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
    parser.add_argument("--only", default="", help=ONLY)
    parser.add_argument("--problems", help="comma-separated")
    parser.add_argument("--scale", choices=list(scales), default="full")
    parser.add_argument("--timeout", type=float, default=timeout, help=f"seconds for one {per}")
    parser.add_argument(
        "--peer-python", action="append", default=[], help="another environment's; repeatable"
    )
    parser.add_argument("--fresh", action="store_true", help=f"measure again what {name}.json has")
    parser.add_argument("--prepare", action="store_true", help="write the data and their minima, and stop")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument(
        "--dir", type=Path, default=Path(tempfile.gettempdir()) / f"nysstream-{name}", help="for data"
    )
    return parser


def chosen(parser: Any, only: str, contenders: Collection[str]) -> list[str]:
    """Give those who were asked for: all, by their names, or by what several names begin with."""
    asked = {
        part: [
            name
            for name in contenders
            if name == part or (part not in contenders and name.startswith(f"{part}-"))
        ]
        for part in only.split(",")
        if part
    }
    unknown = [part for part, names in asked.items() if not names]
    if unknown:
        parser.error(f"--only: nobody is called {', '.join(unknown)}; there are {', '.join(contenders)}")
    return [name for name in contenders if not asked or any(name in names for names in asked.values())]


def read(
    parser: Any, arguments: list[str] | None, contenders: Collection[str], problems: Collection[str]
) -> Any:
    """Read the command line; refuse contenders and problems that there are not."""
    given = parser.parse_args(arguments)
    given.contenders = chosen(parser, given.only, contenders)
    given.problems = list(problems) if given.problems is None else [n for n in given.problems.split(",") if n]
    unknown = [name for name in given.problems if name not in problems]
    if unknown:
        parser.error(f"--problems: no {', '.join(unknown)}; there are {', '.join(problems)}")
    return given


def hold(
    given: Any,
    kept: Path,
    prepared: Callable[[str], tuple[Any, Row]],
    takes_part: Callable[[Any, str], bool],
    measure: Callable[..., Row],
    write: Callable[[list[Row], Row], None],
    shown: Callable[[Row], tuple[str, ...]],
) -> list[Row]:
    """Let every contender run on every problem, going on where a run before this one ended.

    Parameters
    ----------
    given : Namespace
    kept : pathlib.Path
        The JSON file of earlier results.
    prepared : callable
        Gives a problem by its name, and what is known about it, its minimum among others.
    takes_part : callable
        Whether a contender is for a problem.
    measure, write, shown : callable
        Run a contender on a problem; write all rows so far; lay one out.
    """
    before = json.loads(kept.read_text()) if kept.exists() else {"rows": [], "about": {}}
    rows, about = before["rows"], before["about"]
    for name in given.problems:
        problem, about[name] = prepared(name)
        if given.prepare:
            say(f"{name}: {about[name]}")
            continue
        for who in given.contenders:
            if not takes_part(problem, who):
                continue
            old = [row for row in rows if (row["problem"], row["contender"]) == (name, who)]
            if old and not given.fresh and not old[0]["note"].startswith("not installed"):
                continue
            row = measure(problem, about[name]["objective"], who, given.timeout, given.peer_python)
            rows = [one for one in rows if one not in old] + [row]
            say("  ".join(part for part in shown(row) if part))
            write(rows, about)
    return rows
