# /// script
# requires-python = ">=3.11"
# dependencies = ["nysstream[cluster]", "dask-jobqueue>=0.9"]
# ///
"""A fit on workers that SLURM starts, by way of dask-jobqueue.

Submit it as a small job of its own, which lives as long as the fit:

    sbatch --time=08:00:00 --cpus-per-task=2 --mem=8G --wrap "python slurm_cluster.py rows.zarr"

Workers are jobs of less than an hour, which start at any time and end before SLURM ends them; what they were
working on is done by others. If this job is ended too, submit it again: the fit goes on from its
checkpoint. Without SLURM here, it prints the job script of a worker, and fits on threads instead.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
from distributed import Client, LocalCluster

import nysstream


def workers(count: int):
    """Ask SLURM for workers; or, where there is no SLURM, show how, and use threads."""
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError:
        print("dask-jobqueue is not installed: threads of this process do the work")
        return LocalCluster(processes=False, dashboard_address=":0")
    cluster = SLURMCluster(
        cores=16,
        processes=1,  # one process with sixteen threads: vectors and partial sums exist once
        memory="60GiB",
        walltime="01:00:00",
        worker_extra_args=["--lifetime", "55m", "--lifetime-stagger", "4m"],
        job_extra_directives=["--requeue"],
        scheduler_options={"dashboard_address": ":0"},
    )
    if shutil.which("sbatch") is None:
        print(cluster.job_script())
        cluster.close()
        return LocalCluster(processes=False, dashboard_address=":0")
    cluster.adapt(minimum=1, maximum=count)
    return cluster


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        if len(sys.argv) > 1:
            rows = sys.argv[1]
        else:
            rng = np.random.default_rng(0)
            X = rng.standard_normal((50_000, 20), dtype=np.float32)
            rows = str(Path(folder, "rows.zarr"))
            nysstream.convert(X, rows, target=X @ rng.standard_normal(20))
        with workers(64) as cluster, Client(cluster):
            X, y = nysstream.open(rows, "x"), nysstream.open(rows, "y")
            model = nysstream.Ridge(1.0).fit(X, y)
            print(f"{model.result_.stats['passes']} passes, R2 = {model.score(X, y):.3f}")
        model.save(Path(folder if len(sys.argv) < 2 else ".", "model.zarr"))


if __name__ == "__main__":  # worker processes import this file
    main()
