"""Steps with numbers of the rows do what their formulas say, on every device and wherever the numbers go."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nysstream.errors import InputError
from nysstream.losses import EpsilonInsensitive, Hinge
from nysstream.streaming import Centering, DesignMatrix, Labels, reduce
from nysstream.streaming.augmented_kernels import LENGTHS, AugmentedStep
from nysstream.streaming.row_steps import Costs
from nysstream.streaming.rowstate import RowState
from nysstream.streaming.split_kernels import SplitStep
from tests.streaming.support import Stored, small_blocks
from tests.streaming.test_namespaces import DEVICE

N, P = 137, 4


class Setting:
    """A design, costs, coefficients and numbers of the rows, also as plain arrays."""

    def __init__(self, monkeypatch, kind, *, device="cpu"):
        small_blocks(monkeypatch, block_bytes=9 * P * 8, partitions=4)
        rng = np.random.default_rng(7)
        X = rng.standard_normal((N, P)) + 2
        self.weight = rng.integers(0, 3, N).astype(float)
        if kind == "pairs":  # a column does not see the rows of one class
            self.k, loss = 2, Hinge()
            target = rng.integers(0, 3, N).astype(float)
            factors = np.array([[1.0, 0.0], [2.0, 2.0], [0.0, 0.5]])
            sides = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
            self.costs = Costs(loss, factors, Labels(np.arange(3.0)), sides)
            self.factors, self.y = factors[target.astype(int)], sides[target.astype(int)]
        else:
            self.k, loss = 1, EpsilonInsensitive(0.3)
            target = 2 * rng.standard_normal(N)
            self.costs = Costs(loss, np.array([[1.5]]))
            self.factors, self.y = np.full((N, 1), 1.5), target[:, None]
        self.loss = loss
        center = Centering(X.mean(axis=0), np.array([1.0, 2.0, 0.5, 1.0]), np.zeros(1))
        self.X = (X - center.mean) / center.scale
        self.design = DesignMatrix(
            Stored(X, chunk_rows=9), target, self.weight, centering=center, device=device, precision="double"
        )
        self.W, self.D = rng.standard_normal((2, P, self.k)) / 2
        self.b, self.d = rng.standard_normal((2, self.k)) / 2
        self.rows = rng.standard_normal((N, 2 * self.k))

    def sums(self, values):
        return self.weight @ values

    def back(self, values):
        return self.X.T @ (self.weight[:, None] * values)

    def envelope(self, v, sigma):
        s = self.loss.prox(v, self.factors / sigma, self.y)
        return self.factors * self.loss.value(s, self.y) + 0.5 * sigma * (v - s) ** 2, sigma * (v - s), s


def assert_multipliers(found, setting, multiplier, copy):
    """Compare the sums by sign with those of dense arrays."""
    conjugate = multiplier * copy - setting.factors * setting.loss.value(copy, setting.y)
    for sign, product, total, conjugates in (
        (1, found.above, found.total_above, found.conjugate_above),
        (-1, found.below, found.total_below, found.conjugate_below),
    ):
        part = np.maximum(sign * multiplier, 0)
        np.testing.assert_allclose(product, setting.back(part), atol=1e-10)
        np.testing.assert_allclose(total, setting.sums(part), atol=1e-10)
        np.testing.assert_allclose(conjugates, setting.sums(conjugate * (part > 0)), atol=1e-10)


@pytest.mark.parametrize("device", ["cpu", DEVICE], ids=["cpu", "strict"])
@pytest.mark.parametrize("returned", [False, True], ids=["written", "returned"])
@pytest.mark.parametrize("kind", ["pairs", "regression"])
def test_splitting(monkeypatch, kind, returned, device):
    z = Setting(monkeypatch, kind, device=device)
    k, sigma, earlier, alpha = z.k, 0.7, 0.5, 1.6
    after = None if returned else RowState((N, k))
    step = SplitStep(
        z.costs, z.W, z.b, sigma, RowState.of(z.rows[:, :k]), earlier, relaxation=alpha, after=after
    )
    (found,) = reduce(z.design, step)
    a = z.X @ z.W + z.b
    last = z.loss.prox(z.rows[:, :k], z.factors / earlier, z.y)
    v = alpha * a + (1 - alpha) * last + (z.rows[:, :k] - last) * earlier / sigma
    _, multiplier, s = z.envelope(v, sigma)
    np.testing.assert_allclose(np.asarray(found.rows), v, atol=1e-12)
    np.testing.assert_allclose(found.loss, z.sums(z.factors * z.loss.value(a, z.y)))
    np.testing.assert_allclose(found.apart, z.back(a - s), atol=1e-10)
    np.testing.assert_allclose(found.total_apart, z.sums(a - s), atol=1e-10)
    squares = [z.sums(x**2) for x in (a - s, s - z.b, s - last, v - s)]
    np.testing.assert_allclose(found.norms, np.sqrt(squares))
    assert_multipliers(found.multipliers, z, multiplier, s)
    assert found.n_support == np.sum((multiplier != 0).any(axis=1) & (z.weight > 0))


@pytest.mark.parametrize("device", ["cpu", DEVICE], ids=["cpu", "strict"])
@pytest.mark.parametrize("returned", [False, True], ids=["written", "returned"])
@pytest.mark.parametrize("kind", ["pairs", "regression"])
def test_the_augmented_lagrangian(monkeypatch, kind, returned, device):
    z = Setting(monkeypatch, kind, device=device)
    k = z.k
    update, chosen = np.arange(k) == 0, np.arange(k) == k - 1
    sigma = np.full(k, 0.7)
    next_sigma = np.where(update, 0.9, 0.7)
    least = np.array([0.0, 1e9])[:k]
    after = None if returned else RowState((N, 2 * k))
    before = RowState.of(z.rows)
    step = AugmentedStep(
        z.costs, z.W, z.b, z.D, z.d, sigma, next_sigma, update, least, True, (0,), before, chosen, after=after
    )
    (found,) = reduce(z.design, step)
    a, ahead = z.X @ z.W + z.b, z.X @ z.D + z.d
    u = np.where(chosen, z.rows[:, k:], z.rows[:, :k])
    for length, values in zip(LENGTHS, found.envelopes, strict=True):
        np.testing.assert_allclose(values, z.sums(z.envelope(a + (length - 1) * ahead + u, sigma)[0]))
    _, multiplier, s = z.envelope(a + u, sigma)
    assert_multipliers(found.multipliers, z, multiplier, s)
    new = np.where(update, multiplier / next_sigma, u)
    np.testing.assert_allclose(np.asarray(found.rows), np.hstack([u, new]), atol=1e-12)
    value, slope, _ = z.envelope(a + new, next_sigma)
    np.testing.assert_allclose(found.envelope, z.sums(value))
    np.testing.assert_allclose(found.gradient, z.back(slope), atol=1e-10)
    np.testing.assert_allclose(found.total, z.sums(slope), atol=1e-10)
    free = (slope != 0) & (np.abs(slope) < z.factors * (1 - 1e-9))
    h = z.weight[:, None] * free * next_sigma
    assert 0 < free.mean() < 1
    np.testing.assert_allclose(found.curvature, np.maximum(h.sum(axis=0), least))
    cross = z.X.T @ h
    np.testing.assert_allclose(found.cross, cross, atol=1e-10)
    hessian = z.X.T @ (h[:, :1] * z.X) - np.outer(cross[:, 0], cross[:, 0]) / h[:, 0].sum()
    np.testing.assert_allclose(found.hessians[0], hessian, atol=1e-9)
    assert set(found.hessians) == {0}


def test_a_bound_on_the_curvature_leaves_some_of_the_means(monkeypatch):
    z = Setting(monkeypatch, "regression")
    one, least = np.ones(1), np.array([1e3])
    step = AugmentedStep(
        z.costs, z.W, z.b, z.D, z.d, one, one, one < 0, least, True, (0,), None, one > 0, after=None
    )
    (found,) = reduce(z.design, step)
    slope = z.envelope(z.X @ z.W + z.b, 1.0)[1]
    h = z.weight[:, None] * ((slope != 0) & (np.abs(slope) < z.factors * (1 - 1e-9)))
    cross = (z.X.T @ h)[:, 0]
    np.testing.assert_allclose(found.hessians[0], z.X.T @ (h * z.X) - np.outer(cross, cross) / 1e3, atol=1e-9)


def test_vectors_of_another_shape_are_refused(monkeypatch):
    z = Setting(monkeypatch, "pairs")
    step = SplitStep(z.costs, z.W, z.b, 1.0, z.b, 1.0)
    for wrong in (replace(step, vectors=z.W[:-1]), replace(step, intercept=z.b[:1])):
        with pytest.raises(InputError, match="this design and these costs need"):
            reduce(z.design, wrong)
