"""Fits over a store of four times the limit: what a process really holds stays within it."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import zarr

CHUNK_ROWS, N_COLUMNS, N_CHUNKS = 4096, 256, 720  # 4 MiB each

CHILD = """
import json, re, sys, warnings
from functools import partial
import dask
import numpy as np
import nysstream
from nysstream.errors import MemoryBudgetError
from nysstream.memory import parse_memory, peak_resident_bytes

warnings.simplefilter("ignore")  # of the limit on passes
dask.config.set(scheduler="threads", num_workers=2)
X = nysstream.open(sys.argv[1], "x")
y = np.random.default_rng(0).standard_normal(X.shape[0])
make, y = {
    "epochs": (partial(nysstream.Ridge, solver="sketchysaga", max_passes=3), y),
    "hinge": (partial(nysstream.LinearSVC, loss="hinge", max_passes=3), y > 0),
}[sys.argv[2]]
try:
    make(memory="1MiB").fit(X, y)
except MemoryBudgetError as error:
    (smallest,) = re.findall(r"memory='(.*?)'", str(error))
model = make(memory=smallest).fit(X, y)
assert np.isfinite(model.coef_).all()
print(json.dumps({
    "limit": parse_memory(smallest),
    "peak": peak_resident_bytes(),
    "passes": [record.name for record in model.result_.passes],
}))
"""


FITS = {
    "epochs": ["set-up", "epoch", "evaluate"],
    "hinge": ["set-up", "iterate", "certify"],
}


@pytest.mark.slow
@pytest.mark.parametrize("fit", FITS)
def test_a_store_of_four_times_the_limit_stays_within_it(fit, tmp_path):
    chunk = np.random.default_rng(0).standard_normal((CHUNK_ROWS, N_COLUMNS), dtype=np.float32)
    group = zarr.open_group(tmp_path / "x.zarr", mode="w")
    shape = (N_CHUNKS * CHUNK_ROWS, N_COLUMNS)
    group.create_array("x", shape=shape, dtype=np.float32, chunks=chunk.shape, compressors=None)
    group["x"][:CHUNK_ROWS] = chunk
    folder = tmp_path / "x.zarr" / "x" / "c"
    for i in range(1, N_CHUNKS):  # one chunk on the disk
        (folder / str(i)).mkdir()
        (folder / str(i) / "0").hardlink_to(folder / "0" / "0")
    command = [sys.executable, "-c", CHILD, str(tmp_path / "x.zarr"), fit]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    measured = json.loads(run.stdout)
    assert measured["passes"] == FITS[fit]
    assert N_CHUNKS * chunk.nbytes >= 4 * measured["limit"]
    assert measured["peak"] <= measured["limit"]
