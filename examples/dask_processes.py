# /// script
# requires-python = ">=3.11"
# dependencies = ["nysstream[cluster]"]
# ///
r"""A batch job of `dask scheduler` and `dask worker` processes, as containers or a job script start them.

On many machines, start the scheduler on one and workers on all others, with the scheduler file on a
shared disk, or `tcp://HOST:8786` in its place:

    dask scheduler --scheduler-file scheduler.json
    dask worker --scheduler-file scheduler.json --nthreads 16 --memory-limit 60GiB
    nysstream fit ridge s3://bucket/rows.zarr --scheduler-file scheduler.json --out s3://bucket/model.zarr \
        --time-limit 55min --checkpoint s3://bucket/checkpoint --resume

In Kubernetes these are a Deployment with a Service of the scheduler, a Deployment of workers, and a Job.
Here all run on this machine, and one worker is killed on the way.
"""

import contextlib
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import dask
import numpy as np
from distributed import Client

import nysstream


@contextlib.contextmanager
def processes(file: Path, n_workers: int):
    """Run a scheduler and workers; gives the processes of the workers."""
    command = [sys.executable, "-m", "dask"]
    local = ["--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", str(file)]
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    scheduler = subprocess.Popen([*command, "scheduler", "--port", "0", "--no-show", *local], **options)
    workers = []
    try:
        while not file.exists():
            time.sleep(0.1)
        limits = ["--nthreads", "1", "--memory-limit", "1GiB", "--no-nanny"]
        workers += [
            subprocess.Popen([*command, "worker", *limits, *local], **options) for _ in range(n_workers)
        ]
        yield workers
    finally:
        for process in [scheduler, *workers]:
            process.kill()
            process.wait()


def main() -> None:
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        X = rng.standard_normal((100_000, 30), dtype=np.float32)
        y = X @ rng.standard_normal(30) + rng.standard_normal(100_000)
        nysstream.convert(X, Path(folder, "rows.zarr"), target=y, chunk_rows=5_000)
        rows = Path(folder, "rows.zarr")

        def fit() -> nysstream.Ridge:
            model = nysstream.Ridge(
                1.0, features="fourier:300,length_scale=5", solver="nystrom", rank=50, tol=1e-8
            )
            return model.fit(nysstream.open(rows, "x"), nysstream.open(rows, "y"))

        file = Path(folder, "scheduler.json")
        with processes(file, 3) as workers, Client(scheduler_file=str(file)) as client:
            client.wait_for_workers(3)
            killer = threading.Timer(1.0, workers[0].kill)
            killer.start()
            on_cluster = fit()
            killer.join()
        with dask.config.set(scheduler="threads"):
            here = fit()
        print(f"{on_cluster.result_.stats['passes']} passes on three processes, of which one was killed")
        assert np.array_equal(on_cluster.coef_, here.coef_)


if __name__ == "__main__":
    main()
