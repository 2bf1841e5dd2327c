"""A store that grows, and a model that follows it: new rows are read once, old ones not again."""

from __future__ import annotations

import numpy as np

import nysstream

rng = np.random.default_rng(0)
coef = rng.standard_normal(50)


def observed(n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Make rows as they may arrive, a day's worth at a time."""
    X = rng.standard_normal((n_rows, 50), dtype=np.float32)
    return X, (X @ coef + rng.standard_normal(n_rows)).astype(np.float32)


X, y = observed(20_000)
nysstream.convert(X, "days.zarr", target=y, chunk_rows=2_000, overwrite=True)

model = nysstream.Ridge(alpha=1.0, keep_statistics=True)
model.fit(nysstream.open("days.zarr", "x"), nysstream.open("days.zarr", "y"))
model.save("model.zarr", overwrite=True)

for day in range(1, 4):
    # One process appends. Readers see all of the new rows, or none.
    grown = nysstream.append("days.zarr", *observed(1_000))
    # Another one, maybe much later, brings the model up to date.
    model = nysstream.load("model.zarr", statistics=True)
    nysstream.update(model, nysstream.open("days.zarr", "x"), nysstream.open("days.zarr", "y"))
    model.save("model.zarr", overwrite=True)
    stats, error = model.result_.stats, np.linalg.norm(model.coef_ - coef)
    print(
        f"day {day}: {grown.n_rows:,} rows, {stats['new_rows']:,} read, "
        f"{stats['passes']:.3f} passes, error of the coefficients {error:.4f}"
    )

# The sums themselves can be merged, and rows taken out again: here those of two machines, less a bad hour.
here, there = nysstream.NystromSketch(20, random_state=0), nysstream.NystromSketch(20, random_state=0)
bad = observed(100)
here.update(*observed(5_000))
here.update(*bad)
there.update(*observed(5_000))
here.merge(there)
here.forget(*bad)
print(f"{here.n_rows:,} rows, effective dimension at alpha 100: {here.nystrom().effective_dimension(100.0)}")
