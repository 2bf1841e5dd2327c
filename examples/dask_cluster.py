# /// script
# requires-python = ">=3.11"
# dependencies = ["nysstream[cluster]"]
# ///
"""The same fit on threads and on a Dask cluster: the same bits."""

import tempfile
from pathlib import Path

import numpy as np
from distributed import Client, LocalCluster

import nysstream


def main() -> None:
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as directory:
        np.save(Path(directory, "x.npy"), rng.standard_normal((200_000, 20), dtype=np.float32))
        np.save(Path(directory, "y.npy"), rng.standard_normal(200_000))
        X, y = nysstream.open(Path(directory, "x.npy")), nysstream.open(Path(directory, "y.npy"))

        def fit() -> nysstream.Ridge:
            return nysstream.Ridge(alpha=1.0, features="fourier:100,length_scale=4", solver="nystrom").fit(
                X, y
            )

        on_threads = fit()
        with (
            LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
            Client(cluster),
        ):
            on_cluster = fit()
        print(f"{on_cluster.result_.stats['passes']} passes on two worker processes")
        assert np.array_equal(on_threads.coef_, on_cluster.coef_)


if __name__ == "__main__":  # worker processes import this file
    main()
