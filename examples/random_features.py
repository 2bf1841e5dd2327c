# /// script
# requires-python = ">=3.11"
# dependencies = ["nysstream"]
# ///
"""Kernel ridge regression through random features: how many are needed to match the exact method."""

import numpy as np
from sklearn.kernel_ridge import KernelRidge

import nysstream
from nysstream.features import Fourier

rng = np.random.default_rng(0)
X = rng.uniform(-2, 2, (3_000, 4)).astype(np.float32)
signal = np.sin(X[:, 0]) + X[:, 1] * np.cos(X[:, 2])
y = signal + 0.3 * rng.standard_normal(len(X))
train, held_out = slice(0, 2_000), slice(2_000, None)
alpha, length_scale = 0.1, 2.0


def error(predicted: np.ndarray) -> float:
    return float(np.sqrt(np.mean((predicted - signal[held_out]) ** 2)))


# The exact method solves with a 2000 x 2000 kernel matrix, which no large data set allows.
exact = KernelRidge(alpha=alpha, kernel="rbf", gamma=0.5 / length_scale**2).fit(X[train], y[train])
target = error(exact.predict(X[held_out]))
print(f"exact kernel: error {target:.3f}")

# Features are made from the rows as they stream by; only the rows themselves are stored.
errors = []
for n_features in (50, 250, 1000):
    mapping = Fourier(n_features, length_scale=length_scale, random_state=0)
    model = nysstream.Ridge(alpha=alpha, features=mapping).fit(X[train], y[train])
    errors.append(error(model.predict(X[held_out])))
    print(f"{n_features:4} features: error {errors[-1]:.3f}, {model.result_.stats['passes']} passes")

assert errors[0] > errors[1] > errors[2]
assert errors[2] < 1.25 * target

# Without an idea of the length scale, take the median distance between sampled rows.
median = nysstream.Ridge(alpha=alpha, features="fourier:1000,length_scale=median").fit(X[train], y[train])
print(
    f"median length scale {median.features_.length_scale:.2f}: error {error(median.predict(X[held_out])):.3f}"
)
