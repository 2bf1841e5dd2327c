"""What every registered loss must do."""

from __future__ import annotations

import pickle

import array_api_strict
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize, minimize_scalar
from scipy.special import softmax

from nysstream.losses import LOSSES, Huber, Kinked, Pinball, SmoothedPinball, Tweedie
from nysstream.losses.epsilon_insensitive import EpsilonInsensitive

#: Settings other than the defaults; every registered loss is tested with its defaults too.
VARIANTS = [
    Huber(0.3),
    Pinball(0.9),
    SmoothedPinball(0.2, 0.5),
    EpsilonInsensitive(0.0),
    EpsilonInsensitive(0.8),
    *(Tweedie(power) for power in (0, 1, 1.05, 1.9, 2)),
    *(Tweedie(power) for power in (-2.5, -0.5, 2.5, 3)),  # not convex
]
CASES = [kind() for kind in LOSSES.values()] + VARIANTS
SEPARATE = [loss for loss in CASES if not loss.coupled]

every_loss = pytest.mark.parametrize("loss", CASES, ids=repr)
every_separate_loss = pytest.mark.parametrize("loss", SEPARATE, ids=repr)


def targets(loss, rng, shape):
    """Draw targets that the loss is defined for."""
    if loss.coupled:
        return rng.integers(0, 3, shape).astype(np.float64)
    if loss.classification:
        return rng.integers(0, 2, shape).astype(np.float64)
    y = rng.gamma(2.0, 1.0, shape)
    for draw in (rng.standard_normal(shape), np.where(rng.random(shape) < 0.3, 0.0, y)):
        if not loss.invalid(draw).any():
            return draw
    return y


def draw(loss, rng, n=40, spread=2.0):
    """Draw predictors (n, 3), in the domain, and targets, one column for all or one each."""
    z = spread * rng.standard_normal((n, 3))
    if getattr(loss, "power", 1) < 0:
        z = np.abs(z) + 0.05
    return z, targets(loss, rng, (n, 1 if loss.coupled or rng.random() < 0.5 else 3))


def away_from_kinks(loss, z, y, distance=1e-3):
    """Move predictors off the places where derivatives jump."""
    steps = np.linspace(-distance, distance, 5)
    pieces = [loss.slope(z + h, y) for h in steps] if isinstance(loss, Kinked) else []
    curved = [loss.curvature(z + h, y) for h in steps] if not pieces else []
    jump = sum(np.ptp(np.stack(values), axis=0) for values in (pieces, curved) if len(values))
    return jump < 0.05 * (1 + np.abs(loss.curvature(z, y)))


@every_loss
@given(seed=st.integers(0, 2**32 - 1))
def test_slope_is_the_derivative(loss, seed):
    rng = np.random.default_rng(seed)
    z, y = draw(loss, rng)
    direction = rng.standard_normal(z.shape)
    h = 1e-6
    difference = (loss.value(z + h * direction, y) - loss.value(z - h * direction, y)) / (2 * h)
    expected = loss.slope(z, y) * direction
    if loss.coupled:
        expected = expected.sum(axis=1, keepdims=True)
    smooth = np.ones_like(expected, bool) if loss.coupled else away_from_kinks(loss, z, y)
    assert smooth.mean() > 0.5
    scale = 1 + np.abs(loss.value(z, y)) + np.abs(expected)
    np.testing.assert_array_less(np.abs(difference - expected)[smooth], (1e-7 * scale)[smooth])


@every_loss
@given(seed=st.integers(0, 2**32 - 1))
def test_curvature_is_the_second_derivative(loss, seed):
    rng = np.random.default_rng(seed)
    z, y = draw(loss, rng)
    curvature = loss.curvature(z, y)
    assert curvature.min() >= 0
    if loss.curvature_bound is not None:
        assert curvature.max() <= loss.curvature_bound * (1 + 1e-12)
    if not loss.convex:
        return
    direction = rng.standard_normal(z.shape)
    h = 1e-6
    difference = (loss.slope(z + h * direction, y) - loss.slope(z - h * direction, y)) / (2 * h)
    if loss.coupled:
        expected, smooth = loss.curvature_product(z, y, direction), np.ones_like(z, bool)
    else:
        expected, smooth = curvature * direction, away_from_kinks(loss, z, y)
    scale = 1 + np.abs(loss.slope(z, y)) + np.abs(expected)
    np.testing.assert_array_less(np.abs(difference - expected)[smooth], (1e-7 * scale)[smooth])


@pytest.mark.parametrize("loss", [Tweedie(power) for power in (-2.5, -0.5, 2.5, 3)], ids=repr)
def test_curvature_of_a_loss_that_is_not_convex_is_the_expected_one(loss, rng):
    z = np.abs(rng.standard_normal((30, 1))) + 0.1
    mean = loss.predict(z)
    # The second derivative is affine in the target, so that its expectation is its value at the mean.
    h = 1e-5
    difference = (loss.slope(z + h, mean) - loss.slope(z - h, mean)) / (2 * h)
    np.testing.assert_allclose(loss.curvature(z, rng.gamma(2.0, 1.0, z.shape)), difference, rtol=1e-6)


@every_loss
def test_three_at_once_are_the_three(loss, rng):
    z, y = draw(loss, rng, spread=5.0)
    three = loss.value_slope_curvature(z, y)
    for one, alone in zip(three, (loss.value, loss.slope, loss.curvature), strict=True):
        np.testing.assert_allclose(one, alone(z, y), rtol=1e-13, atol=1e-300)
    assert three[0].shape == (len(z), 1 if loss.coupled else 3)
    assert three[1].shape == three[2].shape == z.shape


@every_loss
@given(seed=st.integers(0, 2**32 - 1))
def test_convex_between_any_two_points(loss, seed):
    rng = np.random.default_rng(seed)
    z, y = draw(loss, rng, spread=5.0)
    other = draw(loss, rng, spread=5.0)[0]
    t = rng.random((len(z), 1))
    chord = t * loss.value(z, y) + (1 - t) * loss.value(other, y)
    between = loss.value(t * z + (1 - t) * other, y)
    below = between <= chord + 1e-12 * (1 + np.abs(chord))
    assert below.all() or not loss.convex


@pytest.mark.parametrize("loss", [loss for loss in CASES if not loss.convex], ids=repr)
def test_losses_that_are_called_not_convex_are_not(loss):
    y = np.ones((1, 1))
    z = np.linspace(0.01, 8, 2000)[None, :]
    slopes = loss.slope(z, y)
    assert (np.diff(slopes) < 0).any()


def largest(function, bracket):
    """Maximise a concave function of one variable, or one with a single peak above its ends."""
    grid = np.linspace(*bracket, 4001)
    values = function(grid)
    best = int(np.argmax(values))
    around = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found = minimize_scalar(
        lambda z: -function(np.array([z]))[0], bounds=around, method="bounded", options={"xatol": 1e-10}
    )
    return max(values[best], -found.fun)


@every_separate_loss
@given(seed=st.integers(0, 2**32 - 1))
def test_conjugate_is_the_supremum(loss, seed):
    rng = np.random.default_rng(seed)
    z, y = draw(loss, rng, n=1, spread=1.5)
    y = y[:, :1]
    # Slopes at other targets' predictors lie in the domain, and elsewhere than at this target's minimum.
    u = loss.slope(z, y) * rng.uniform(0, 1.2, z.shape)
    conjugate = loss.conjugate(u, y)
    bracket = (0.0, 60.0) if getattr(loss, "power", 1) < 0 else (-60.0, 60.0)
    for slope, found in zip(u[0], conjugate[0], strict=True):
        expected = largest(lambda t, slope=slope: slope * t - loss.value(t[None, :], y)[0], bracket)
        if np.isfinite(found):
            assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)
        else:  # it grows without bound
            far = np.array([[1e3, -1e3, 1e4, -1e4]])
            beyond = slope * far - loss.value(far, y)
            assert beyond[0, 2:].max() > beyond[0, :2].max()


def test_conjugate_of_a_coupled_loss_is_the_supremum(rng):
    loss = LOSSES["multinomial"]()
    y = rng.integers(0, 3, (6, 1)).astype(np.float64)
    q = rng.dirichlet(np.ones(3), 6)
    u = q - (y == np.arange(3))
    for row in range(6):
        found = minimize(lambda z, r=row: loss.value(z[None], y[r : r + 1])[0, 0] - u[r] @ z, np.zeros(3))
        assert loss.conjugate(u, y)[row, 0] == pytest.approx(-found.fun, abs=1e-8)
    assert np.isinf(loss.conjugate(u + 1e-6, y)).all()
    outside = u.copy()
    outside[:, 0] -= q[:, 0] + 0.01
    outside[:, 1] += q[:, 0] + 0.01
    assert np.isinf(loss.conjugate(outside, y)).all()


@every_loss
@given(seed=st.integers(0, 2**32 - 1), spread=st.sampled_from([0.1, 1.0, 10.0, 30.0]))
def test_fenchel_young_is_an_equality_at_the_slope(loss, seed, spread):
    rng = np.random.default_rng(seed)
    z, y = draw(loss, rng, spread=spread)
    value, slope, _ = loss.value_slope_curvature(z, y)
    product = slope * z
    conjugate = loss.conjugate(slope, y)
    size = 1 + np.abs(value) + np.abs(product).max(axis=1, keepdims=True)
    if loss.coupled:
        product = product.sum(axis=1, keepdims=True)
    excess = value + conjugate - product
    assert (excess >= -1e-13 * size).all()
    if loss.convex:
        np.testing.assert_array_less(excess, 1e-12 * size)


@every_loss
@given(seed=st.integers(0, 2**32 - 1))
def test_fenchel_young_is_an_inequality_everywhere(loss, seed):
    rng = np.random.default_rng(seed)
    z, y = draw(loss, rng)
    u = loss.slope(draw(loss, rng)[0], y)
    product = (u * z).sum(axis=1, keepdims=True) if loss.coupled else u * z
    conjugate = loss.conjugate(u, y)
    assert np.isfinite(conjugate).mean() > 0.4
    size = 1 + np.abs(product) + np.abs(loss.value(z, y))
    assert (conjugate + loss.value(z, y) - product >= -1e-12 * size).all()


@every_separate_loss
def test_conjugate_at_zero_is_minus_the_least_value(loss, rng):
    y = targets(loss, rng, (8, 1))
    bracket = (0.0, 40.0) if getattr(loss, "power", 1) < 0 else (-400.0, 40.0)
    least = [-largest(lambda t, r=row: -loss.value(t[None, :], y[r : r + 1])[0], bracket) for row in range(8)]
    np.testing.assert_allclose(loss.conjugate_at_zero(y)[:, 0], -np.array(least), rtol=1e-6, atol=1e-6)


@every_loss
@pytest.mark.parametrize("size", [40.0, 700.0, 709.5, 1e4])
def test_far_predictors_give_no_nan(loss, rng, size):
    z = np.array([[size, -size, 0.0], [-size, size, size], [size, size - 1, -1.0]])
    for _ in range(5):
        y = targets(loss, rng, (3, 1))
        value, slope, curvature = loss.value_slope_curvature(z, y)
        assert not any(np.isnan(x).any() for x in (value, slope, curvature, loss.predict(z)))
        conjugate = loss.conjugate(slope, y)
        assert not np.isnan(conjugate).any()
        if getattr(loss, "power", 0) == 0 and type(loss).__name__ not in {"Poisson", "Gamma"}:
            assert all(np.isfinite(x).all() for x in (value, slope, curvature))
        if loss.convex:
            with np.errstate(invalid="ignore", over="ignore"):
                product = (slope * z).sum(axis=1, keepdims=True) if loss.coupled else slope * z
                excess, scale = conjugate + value - product, 1 + np.abs(value) + np.abs(product)
            small = np.isfinite(scale) & np.isfinite(conjugate)
            assert (np.abs(excess)[small] <= 1e-12 * scale[small]).all()
            assert small.any()


@every_loss
def test_another_device_computes_the_same(loss, rng):
    xp = array_api_strict
    place = xp.Device("device1")
    z, y = draw(loss, rng, spread=10.0)
    there = [xp.asarray(x, device=place) for x in (z, y)]
    slope = loss.slope(z, y)
    pairs = [
        (loss.value(*there), loss.value(z, y)),
        (loss.slope(*there), slope),
        (loss.curvature(*there), loss.curvature(z, y)),
        (loss.conjugate(xp.asarray(slope, device=place), there[1]), loss.conjugate(slope, y)),
        (loss.invalid(there[1]), loss.invalid(y)),
        (loss.predict(there[0]), loss.predict(z)),
    ]
    pairs += zip(loss.value_slope_curvature(*there), loss.value_slope_curvature(z, y), strict=True)
    mean = np.array([0.2, 0.3, 0.5])
    pairs.append((loss.start(xp.asarray(mean, device=place)), loss.start(mean)))
    if loss.coupled:
        pairs.append((loss.curvature_product(*there, there[0]), loss.curvature_product(z, y, z)))
    if isinstance(loss, Kinked):
        pairs.append((loss.prox(there[0], 0.7, there[1]), loss.prox(z, 0.7, y)))
    for strict, expected in pairs:
        assert strict.device == place
        found = np.asarray(strict.to_device(xp.Device("CPU_DEVICE")))
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=1e-14)


@every_loss
def test_arguments_are_left_alone_and_columns_are_separate(loss, rng):
    z, y = draw(loss, rng)
    before = z.copy(), y.copy()
    together = loss.slope(z, y)
    loss.conjugate(together, y)
    np.testing.assert_array_equal(z, before[0])
    np.testing.assert_array_equal(y, before[1])
    if not loss.coupled:
        for j in range(3):
            own = y[:, [min(j, y.shape[1] - 1)]]
            np.testing.assert_array_equal(loss.slope(z[:, [j]], own), together[:, [j]])


@every_loss
def test_single_precision_stays_single(loss, rng):
    z, y = (x.astype(np.float32) for x in draw(loss, rng))
    for x in (*loss.value_slope_curvature(z, y), loss.conjugate(loss.slope(z, y), y), loss.predict(z)):
        assert x.dtype == np.float32


@every_loss
def test_copies_are_equal(loss):
    copy = pickle.loads(pickle.dumps(loss))
    assert copy == loss
    assert hash(copy) == hash(loss)
    assert copy.requirement == loss.requirement


@every_loss
def test_targets_outside_the_domain_are_marked(loss):
    y = np.array([[np.nan], [np.inf], [-np.inf]])
    assert loss.invalid(y).all()
    assert "needs" in loss.requirement
    assert not loss.invalid(targets(loss, np.random.default_rng(0), (50, 2))).any()


@every_separate_loss
def test_start_fits_a_constant_target(loss):
    mean = np.array([0.25, 0.5, 0.9])
    start = loss.start(mean)
    assert start.shape == (3,)
    if loss.classification and loss.smooth:  # the average over both classes is least there
        slope = (mean * loss.slope(start[None], np.ones((1, 1))))[0]
        slope += ((1 - mean) * loss.slope(start[None], np.zeros((1, 1))))[0]
        np.testing.assert_allclose(slope, 0, atol=1e-12)
    elif not loss.classification:
        np.testing.assert_allclose(loss.slope(start[None], mean[None]), 0, atol=1e-12)
    if type(loss).__name__ not in {"Hinge", "SquaredHinge"}:
        np.testing.assert_allclose(loss.predict(start), mean, rtol=1e-14)


@every_separate_loss
def test_start_is_finite_for_extreme_means(loss):
    assert np.isfinite(loss.start(np.array([0.0, 1.0]))).all()


@pytest.mark.parametrize("loss", [loss for loss in CASES if isinstance(loss, Kinked)], ids=repr)
@given(seed=st.integers(0, 2**32 - 1), step=st.floats(1e-3, 10))
def test_prox_is_the_minimiser(loss, seed, step):
    rng = np.random.default_rng(seed)
    v, y = draw(loss, rng)
    z = loss.prox(v, step, y)

    def objective(at):
        return loss.value(at, y) + (at - v) ** 2 / (2 * step)

    # The objective is convex: what is least among its neighbours is least.
    for distance in (1e-6, 1e-4, 1e-2, 1.0, 10.0):
        for sign in (-1, 1):
            nearby = objective(z + sign * distance)
            assert (nearby - objective(z) >= -1e-14 * (1 + np.abs(nearby))).all()


@pytest.mark.parametrize("loss", [loss for loss in CASES if isinstance(loss, Kinked)], ids=repr)
def test_slopes_are_flat_or_those_that_are_named(loss, rng):
    z, y = draw(loss, rng, n=200, spread=5.0)
    assert set(np.unique(loss.slope(z, y))) - {0.0} == set(loss.slopes)


@pytest.mark.parametrize("loss", [loss for loss in CASES if isinstance(loss, Kinked)], ids=repr)
def test_prox_takes_a_step_for_each_entry(loss, rng):
    v, y = draw(loss, rng)
    steps = rng.uniform(0.1, 2.0, v.shape)
    expected = [
        [
            loss.prox(v[i : i + 1, j : j + 1], steps[i, j], y[i : i + 1, [min(j, y.shape[1] - 1)]])[0, 0]
            for j in range(3)
        ]
        for i in range(len(v))
    ]
    np.testing.assert_allclose(loss.prox(v, steps, y), expected, rtol=1e-14)


def test_multinomial_probabilities_are_softmax(rng):
    z = 5 * rng.standard_normal((20, 4))
    np.testing.assert_allclose(LOSSES["multinomial"]().predict(z), softmax(z, axis=1), rtol=1e-13)
