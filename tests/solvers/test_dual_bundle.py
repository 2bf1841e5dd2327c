"""The best combination of dual points is found, and the bound never falls."""

from __future__ import annotations

import numpy as np
import scipy.optimize

from nysstream.solvers.dual_bundle import BUNDLE, DualBundle


def test_the_best_combination(rng):
    p, k = 6, 3
    bundle = DualBundle.empty(p, k)
    points, conjugates = [np.zeros((p, k))], [np.zeros(k)]
    values = [bundle.value]
    for _ in range(BUNDLE - 2):
        points.append(rng.standard_normal((p, k)) + 1)
        conjugates.append(-3 - rng.random(k))
        bundle = bundle.add(points[-1], conjugates[-1])
        values.append(bundle.value)
    assert np.all(np.diff(values, axis=0) >= -1e-12)
    for j in range(k):
        W, c = np.array(points)[:, :, j], np.array(conjugates)[:, j]
        found = scipy.optimize.minimize(
            lambda s, W=W, c=c: 0.5 * np.sum((s @ W) ** 2) + c @ s,
            np.full(len(c), 1 / len(c)),
            bounds=[(0, 1)] * len(c),
            constraints={"type": "eq", "fun": lambda s: s.sum() - 1},
            options={"ftol": 1e-13},
        )
        assert (1 - 1e-3) * -found.fun <= bundle.value[j] <= -found.fun * (1 + 1e-6)


def test_points_that_go_leave_their_share(rng):
    bundle = DualBundle.empty(2, 1)
    values = []
    for _ in range(3 * BUNDLE):
        bundle = bundle.add(rng.standard_normal((2, 1)), rng.standard_normal(1))
        values.append(float(bundle.value[0]))
    assert np.all(np.diff(values) >= -1e-12)
    assert values[0] >= 0
