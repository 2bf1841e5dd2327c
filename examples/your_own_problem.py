# /// script
# requires-python = ">=3.11"
# dependencies = ["nysstream"]
# ///
"""The pieces on their own: a streamed Gram matrix with your right-hand side, and with SciPy's solvers."""

import tempfile
from pathlib import Path

import numpy as np
from scipy.sparse.linalg import cg, eigsh

import nysstream

rng = np.random.default_rng(0)
with tempfile.TemporaryDirectory() as directory:
    rows = rng.standard_normal((10_000, 100)) * np.logspace(0, -4, 100)
    path = Path(directory, "x.npy")
    np.save(path, rows)
    b, shift = rng.standard_normal(100), 1.0

    A = nysstream.gram(nysstream.open(path))  # X'X; nothing is read yet
    sketch = nysstream.nystrom(A, rank=50, random_state=0)  # one pass
    low, high = sketch.effective_dimension(shift)
    print(f"effective dimension between {low:.0f} and {high:.0f}")

    ours = nysstream.pcg(A, b, shift=shift, preconditioner=sketch, rtol=1e-8)
    plain = nysstream.pcg(A, b, shift=shift, rtol=1e-8)
    print(f"{ours.stats['passes']} passes with the sketch, {plain.stats['passes']} without")

    exact = np.linalg.solve(rows.T @ rows + shift * np.eye(100), b)
    assert np.linalg.norm(ours.value - exact) < 1e-6 * np.linalg.norm(exact)
    assert ours.stats["passes"] < plain.stats["passes"] / 2

    # SciPy sees the same operator.
    top = eigsh(A.as_scipy(), k=3, return_eigenvectors=False)
    print("leading eigenvalues:", np.sort(top)[::-1].round())
    x, info = cg(A.as_scipy(), A @ exact, rtol=1e-10, M=sketch.preconditioner().as_scipy(100, shift))
    assert info == 0
    assert np.linalg.norm(A @ (x - exact)) < 1e-8 * np.linalg.norm(A @ exact)
