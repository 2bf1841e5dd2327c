"""Run the benchmarks: ``python -m benchmarks --only streamed,rivals --scale quick``."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nysstream
from benchmarks import table
from benchmarks.measuring import SCALES, Row, Settings, say

#: What ``--only`` may name, in the order of a whole run: module and function.
SUITE = {
    "machine": ("machine", "run"),
    "streamed": ("passes", "streamed"),
    "resident": ("passes", "resident"),
    "sketch": ("passes", "sketch"),
    "fourier": ("passes", "fourier"),
    "rivals": ("rivals", "run"),
    "caching": ("caching", "run"),
    "minibatch": ("minibatch", "run"),
    "scaling": ("scaling", "run"),
}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default="", help=f"comma-separated: {', '.join(SUITE)}")
    parser.add_argument("--stores", default="", help="comma-separated names of stores; all by default")
    parser.add_argument("--scale", default="quick", choices=SCALES)
    parser.add_argument("--device", default="cpu", help="where nysstream computes: cpu, cuda or cuda:N")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path(tempfile.gettempdir()) / "nysstream-benchmarks",
        help="where stores are kept between runs",
    )
    given = parser.parse_args(arguments)
    given.only = [name for name in given.only.split(",") if name] or list(SUITE)
    unknown = sorted(set(given.only) - set(SUITE))
    if unknown:
        parser.error(f"--only: no benchmark is called {', '.join(unknown)}")
    return given


def main(arguments: list[str] | None = None) -> list[Row]:
    """Run what was asked for, and write table, JSON and plots."""
    given = parse(arguments)
    cores = len(os.sched_getaffinity(0))
    cases = tuple(name for name in given.stores.split(",") if name)
    settings = Settings(SCALES[given.scale], given.device, cores, given.folder, cases)
    rows: list[Row] = []
    about: dict[str, Any] = _about(given, cores)
    began = time.perf_counter()
    for name in given.only:
        module, function = SUITE[name]
        started = time.perf_counter()
        rows += getattr(importlib.import_module(f"benchmarks.{module}"), function)(settings)
        about["seconds"][name] = time.perf_counter() - started
        table.write(rows, about, given.out)
    about["seconds"]["all"] = time.perf_counter() - began
    table.write(rows, about, given.out)
    importlib.import_module("benchmarks.plots").draw(rows, given.out)
    print(table.as_text(rows))
    say(f"{about['seconds']['all']:.0f} s; results in {given.out}")
    return rows


def _about(given: argparse.Namespace, cores: int) -> dict[str, Any]:
    from importlib.metadata import version

    from threadpoolctl import threadpool_info

    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":")[1] for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0].strip() if names else model
    packages = ("numpy", "dask", "zarr", "h5py", "numcodecs", "scikit-learn")
    return {
        "scale": given.scale,
        "device": given.device,
        "cores": cores,
        "processor": model,
        "python": platform.python_version(),
        "versions": {"nysstream": nysstream.__version__} | {name: version(name) for name in packages},
        "blas": [
            {k: i.get(k) for k in ("internal_api", "version", "architecture")} for i in threadpool_info()
        ],
        "load": os.getloadavg(),
        "seconds": {},
    }


if __name__ == "__main__":
    main()
    sys.exit(0)
