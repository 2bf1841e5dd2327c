"""Kill fits, appends and updates at random moments, and compare what they end with, bit by bit.

``python -m benchmarks.soak --hours 2`` takes turns between all cases until the time is up;
``python -m benchmarks.soak --kills 4 --cases ridge-nystrom,lasso-admm`` kills each so many times.

This process only forks and kills: a child that fits, with a checkpoint, is sent SIGKILL after a random
part of the time that a fit takes. Another child goes on from the checkpoint, until one has had the luck
to finish. The models that they write are compared with that of a child that nobody touched.

In the case ``arriving`` the child appends rows to a store and updates a model after each append, while
another one reads the store all the time and fails if it ever sees rows that are not whole appends.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import nysstream as ns
from nysstream.sources.growing import count_rows

Case = tuple[Callable[[], Any], str]

#: Estimators, and the targets they are fitted to.
CASES: dict[str, Case] = {
    "ridge-gram": (partial(ns.Ridge, 1e-2, solver="gram"), "y"),
    "ridge-nystrom": (partial(ns.Ridge, 1e-2, solver="nystrom", rank=20, tol=1e-10), "y"),
    "ridge-subsampled": (partial(ns.Ridge, 1e-2, solver="subsampled", tol=1e-10), "y"),
    "ridge-cg": (partial(ns.Ridge, 1.0, solver="cg"), "y"),
    "ridge-fourier": (partial(ns.Ridge, 1e-1, features="fourier:100,length_scale=median"), "y"),
    "ridge-cv": (partial(ns.RidgeCV, [1e-2, 1.0, 10.0], solver="nystrom", rank=20), "y"),
    "lasso-gram": (partial(ns.Lasso, 1e-2), "y"),
    "lasso-admm": (partial(ns.Lasso, 1e-2, solver="admm", tol=1e-3), "y"),
    "lasso-cv": (ns.LassoCV, "y"),
    "bounded": (partial(ns.BoundedRegression, 0.0, 1.0, alpha=1e-2), "y"),
    "logistic-newton": (partial(ns.LogisticRegression, solver="newton"), "labels"),
    "logistic-subsampled": (partial(ns.LogisticRegression, solver="subsampled"), "labels"),
    "logistic-admm": (
        partial(ns.LogisticRegression, solver="admm", l1_ratio=1.0, C=0.01, tol=1e-3),
        "labels",
    ),
    "multinomial": (ns.LogisticRegression, "classes"),
    "linear-svc": (ns.LinearSVC, "labels"),
    "huber": (ns.HuberRegressor, "y"),
    "poisson": (ns.PoissonRegressor, "counts"),
    "ridge-sketchysaga": (partial(ns.Ridge, 1e-1, solver="sketchysaga"), "y"),
    "logistic-sketchysvrg": (partial(ns.LogisticRegression, solver="sketchysvrg"), "labels"),
    "logistic-katyusha": (partial(ns.LogisticRegression, solver="sketchykatyusha", tol=1e-3), "labels"),
    "lasso-sapphire": (partial(ns.Lasso, 1e-2, solver="sapphire"), "y"),
    "logistic-hybrid": (partial(ns.LogisticRegression, solver="hybrid"), "labels"),
    "sketchy-sgd": (ns.SketchySGDRegressor, "y"),
    "sketchy-sgd-held-out": (partial(ns.SketchySGDClassifier, early_stopping=True), "classes"),
    "kernel-ridge-nystrom": (partial(ns.KernelRidge, 1e-1, gamma=0.02, solver="nystrom", rank=50), "few"),
    "kernel-ridge-askotch": (partial(ns.KernelRidge, 1.0, gamma=0.02, solver="askotch", tol=1e-2), "few"),
    "svc": (partial(ns.SVC, gamma=0.02), "few-labels"),
}
#: The case in which rows arrive.
ARRIVING = "arriving"
#: Rows that kernel machines are given.
_FEW = 800
#: Rows of the store in which rows arrive, and of every append. Chunks are cut by some and not by others.
_FIRST, _STEP = 4_500, 500


@dataclass
class Survival:
    """How a case went.

    Attributes
    ----------
    case : str
    rounds : int
        Fits that were brought to an end.
    kills : int
    recalled : int
        Passes that were not made again.
    identical : bool
        Whether every model had the bits of the undisturbed one.
    seconds : float
        That the undisturbed fit took.
    """

    case: str
    rounds: int = 0
    kills: int = 0
    recalled: int = 0
    identical: bool = True
    seconds: float = 0.0


def write_data(folder: Path, n_rows: int = 8_000, n_columns: int = 40) -> None:
    """Write a store with badly conditioned rows, and targets of every kind."""
    from nysstream.sources.layout import Layout
    from nysstream.sources.writing import RowWriter

    rng = np.random.default_rng(5)
    X = (rng.standard_normal((n_rows, n_columns)) / np.arange(1, n_columns + 1)).astype(np.float32)
    signal_ = X @ rng.standard_normal(n_columns) * 2
    y = signal_ + rng.standard_normal(n_rows)
    targets = {
        "y": y,
        "labels": (y > 0).astype(float),
        "classes": np.digitize(y, [-1.0, 1.0]).astype(float),
        "counts": rng.poisson(np.exp(signal_ / 4)).astype(float),
    }
    number = np.dtype(np.float32)
    layouts = {"x": Layout(n_columns, number)} | {name: Layout(1, number, vector=True) for name in targets}
    with RowWriter(folder / "data.zarr", layouts, chunk_rows=1000) as writer:
        writer.append(x=X, **{name: values.astype(np.float32) for name, values in targets.items()})


def work(case: str, folder: Path, out: Path, checkpoint: Path | None) -> None:
    """Do what a case is about in this process, and leave ``model.zarr``; goes on where a killed one ended."""
    if case == ARRIVING:
        arrive(folder / "data.zarr", out, checkpoint)
    else:
        fit(case, folder, out, checkpoint)


def fit(case: str, folder: Path, out: Path, checkpoint: Path | None) -> None:
    """Fit one model and save it."""
    make, target = CASES[case]
    store, few = str(folder / "data.zarr"), target.startswith("few")
    rows = slice(0, _FEW) if few else None
    name = {"few": "y", "few-labels": "labels"}.get(target, target)
    X, y = ns.open(store, "x", rows=rows), ns.open(store, name, rows=rows)
    model = make()
    if checkpoint is None:
        model.fit(X, y)
    else:
        with ns.checkpointing(checkpoint, resume=True):
            model.fit(X, y)
    model.save(out / "model.zarr", overwrite=True)


def arrive(data: Path, out: Path, checkpoint: Path | None) -> None:
    """Append rows until all of the data are there, and update a model after every append."""
    store, place = str(out / "rows.zarr"), out / "model.zarr"
    all_rows = ns.open(str(data), "x").shape[0]
    if not Path(store).exists():
        ns.convert(str(data), store, name="x", target="y", rows=slice(0, _FIRST), chunk_rows=1000)
    if not place.exists():
        model = ns.Ridge(1e-2, solver="nystrom", rank=20, tol=1e-10, keep_statistics=True)
        model.fit(ns.open(store, "x"), ns.open(store, "y")).save(place)
    while True:
        n_rows = count_rows(store, "x")
        model = ns.load(place, statistics=True)
        if model.statistics_.watermark < n_rows:
            step = None if checkpoint is None else checkpoint.with_name(f"{checkpoint.name}.{n_rows}")
            with nullcontext() if step is None else ns.checkpointing(step, resume=True):
                ns.update(model, ns.open(store, "x"), ns.open(store, "y"))
            model.save(place, overwrite=True)
        elif n_rows < all_rows:
            new = slice(n_rows, n_rows + _STEP)
            ns.append(store, ns.open(str(data), "x", rows=new), ns.open(str(data), "y", rows=new))
        else:
            return


def read_all_the_time(data: Path, store: Path) -> None:
    """Read a store in which rows arrive, until killed; raise if it ever holds half an append."""
    expected = {name: everything(data, name) for name in ("x", "y")}
    while True:
        for name, rows in expected.items():
            if not store.exists():
                time.sleep(0.01)
                continue
            found = everything(store, name)
            n_rows = len(found)
            if (n_rows - _FIRST) % _STEP or not np.array_equal(found, rows[:n_rows]):
                message = f"{store} showed {n_rows} rows of {name} that are not those that were appended"
                raise AssertionError(message)


def everything(store: Path, name: str) -> NDArray[Any]:
    """Read all rows of an array."""
    source = ns.open(str(store), name)
    rows: NDArray[Any] = source.read(slice(0, source.shape[0]))
    return rows


def in_child(function: Callable[[], None], log: Path) -> int:
    """Run a function in a fork of this process, which has no threads; give its number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        warnings.simplefilter("ignore")
        sys.stderr = log.open("a")
        function()
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def ended(child: int, log: Path) -> bool:
    """Wait for a child; say whether it came to its end, and raise if it failed on the way."""
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return False
    if os.WEXITSTATUS(status):
        message = f"a fit failed:\n{log.read_text()}"
        raise RuntimeError(message)
    return True


def arrays_of(out: Path) -> dict[str, bytes]:
    """Read the arrays of stores as bytes, without Zarr, which would start threads.

    What killed saves had begun is left beside them, under names that start with a dot.
    """
    return {
        str(chunk.relative_to(out)): chunk.read_bytes()
        for store in sorted(out.glob("[!.]*.zarr"))
        for chunk in sorted(store.rglob("c/**/*"))
        if chunk.is_file()
    }


def passes_recalled(out: Path) -> int:
    """Read how many passes a model's last run did not make."""
    attributes = json.loads((out / "model.zarr" / "zarr.json").read_text())["attributes"]
    return sum(bool(record.get("recalled")) for record in attributes["result"]["passes"])


@contextmanager
def watched(case: str, folder: Path, out: Path) -> Generator[None]:
    """Let another child read the rows that arrive meanwhile; raises if it ever sees wrong ones."""
    if case != ARRIVING:
        yield
        return
    log = folder / "reader.log"
    child = in_child(lambda: read_all_the_time(folder / "data.zarr", out / "rows.zarr"), log)
    try:
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        ended(child, log)


def disturb(survival: Survival, folder: Path, kills: int, rng: random.Random) -> None:
    """Fit once, with so many kills at most on the way."""
    case, log = survival.case, folder / f"{survival.case}.log"
    whole, pieces, checkpoint = (folder / f"{case}.{kind}" for kind in ("whole", "pieces", "checkpoint"))
    if not whole.exists():
        whole.mkdir()
        began = time.perf_counter()
        ended(in_child(lambda: work(case, folder, whole, None), log), log)
        survival.seconds = time.perf_counter() - began
    for leftover in (pieces, *folder.glob(f"{checkpoint.name}*")):
        shutil.rmtree(leftover, ignore_errors=True)
    pieces.mkdir()
    done, left = False, kills
    with watched(case, folder, pieces):
        while not done:
            child = in_child(lambda: work(case, folder, pieces, checkpoint), log)
            if left:
                time.sleep(rng.uniform(0, survival.seconds))
                os.kill(child, signal.SIGKILL)
            done = ended(child, log)
            if not done:
                survival.kills, left = survival.kills + 1, left - 1
    survival.rounds += 1
    survival.recalled += passes_recalled(pieces)
    survival.identical &= arrays_of(whole) == arrays_of(pieces)


def soak(folder: Path, cases: list[str], *, kills: int | None, seconds: float, seed: int) -> list[Survival]:
    """Disturb cases in turn: until each was killed so many times, or for so many seconds."""
    rng = random.Random(seed)
    log = folder / "data.log"
    ended(in_child(lambda: write_data(folder), log), log)
    results = [Survival(case) for case in cases]
    until = time.monotonic() + seconds
    for turn in range(1 << 30):
        waiting = [r for r in results if kills is None or r.kills < kills]
        if not waiting or (kills is None and time.monotonic() > until):
            break
        for result in waiting:
            disturb(result, folder, rng.randint(1, 4) if kills is None else kills - result.kills, rng)
            if kills is None:
                print(f"turn {turn}: {result}", file=sys.stderr, flush=True)
            if not result.identical:
                return results
    return results


def main(arguments: list[str] | None = None) -> int:
    """Read the command line, soak, and print one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--kills", type=int, help="of each case, instead of a time")
    parser.add_argument("--cases", default="", help=f"comma-separated: {', '.join([*CASES, ARRIVING])}")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    known = [*CASES, ARRIVING]
    cases = [name for name in given.cases.split(",") if name] or known
    unknown = sorted(set(cases) - set(known))
    if unknown:
        parser.error(f"--cases: there is no {', '.join(unknown)}")
    with tempfile.TemporaryDirectory() as name:
        results = soak(Path(name), cases, kills=given.kills, seconds=3600 * given.hours, seed=given.seed)
    print(
        json.dumps(
            {
                "kills": sum(r.kills for r in results),
                "fits": sum(r.rounds for r in results),
                "passes_recalled": sum(r.recalled for r in results),
                "different": [r.case for r in results if not r.identical],
                "cases": [asdict(r) for r in results],
            }
        )
    )
    return 0 if all(r.identical for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
