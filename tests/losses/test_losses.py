"""Losses against scikit-learn and SciPy; what all of them do is in the conformance tests."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import rel_entr
from sklearn.metrics import (
    hinge_loss,
    log_loss,
    mean_gamma_deviance,
    mean_pinball_loss,
    mean_poisson_deviance,
    mean_squared_error,
    mean_tweedie_deviance,
)

from nysstream.errors import InputError
from nysstream.losses import (
    EpsilonInsensitive,
    Gamma,
    Hinge,
    Huber,
    Logistic,
    Multinomial,
    Pinball,
    Poisson,
    SmoothedPinball,
    Squared,
    SquaredHinge,
    Tweedie,
)


def half_deviance(loss, z, y):
    """Give the mean of what a loss is above its least value."""
    return float(np.mean(loss.value(z, y) + loss.conjugate_at_zero(y)))


@pytest.fixture
def sample(rng):
    z = rng.standard_normal((200, 1))
    return z, rng.gamma(2.0, 1.0, z.shape), np.exp(z)


def test_squared_is_half_the_squared_error(sample):
    z, y, _ = sample
    assert np.mean(Squared().value(z, y)) == pytest.approx(mean_squared_error(y, z) / 2)


def test_deviances_are_twice_the_excess(sample):
    z, y, mean = sample
    assert 2 * half_deviance(Poisson(), z, np.floor(y)) == pytest.approx(
        mean_poisson_deviance(np.floor(y), mean)
    )
    assert 2 * half_deviance(Gamma(), z, y) == pytest.approx(mean_gamma_deviance(y, mean))


@pytest.mark.parametrize("power", [1, 1.2, 1.7, 2, 2.5, 3])
def test_tweedie_deviance(sample, power):
    z, y, mean = sample
    expected = mean_tweedie_deviance(y, mean, power=power)
    assert 2 * half_deviance(Tweedie(power), z, y) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("power", [0, -0.5, -2])
def test_tweedie_deviance_with_identity_link(sample, power):
    z, y, _ = sample
    expected = mean_tweedie_deviance(y, np.abs(z), power=power)
    assert 2 * half_deviance(Tweedie(power), np.abs(z), y) == pytest.approx(expected, rel=1e-10)


def test_a_negative_mean_costs_infinity_where_the_power_forbids_it():
    value, slope, curvature = Tweedie(-1.0).value_slope_curvature(np.array([[-0.1]]), np.ones((1, 1)))
    assert np.isposinf(value)
    assert np.isneginf(slope)
    assert curvature == 0


def test_logistic_is_the_log_loss(rng):
    z, y = 4 * rng.standard_normal((100, 1)), rng.integers(0, 2, (100, 1)).astype(float)
    assert np.mean(Logistic().value(z, y)) == pytest.approx(log_loss(y, Logistic().predict(z)))


def test_multinomial_is_the_log_loss(rng):
    z, y = 4 * rng.standard_normal((100, 4)), rng.integers(0, 4, (100, 1)).astype(float)
    expected = log_loss(y[:, 0], Multinomial().predict(z), labels=range(4))
    assert np.mean(Multinomial().value(z, y)) == pytest.approx(expected)


def test_multinomial_with_two_classes_is_logistic(rng):
    z, y = 4 * rng.standard_normal((30, 2)), rng.integers(0, 2, (30, 1)).astype(float)
    one = z[:, 1:] - z[:, :1]
    np.testing.assert_allclose(Multinomial().value(z, y), Logistic().value(one, y), rtol=1e-12)
    np.testing.assert_allclose(Multinomial().slope(z, y)[:, 1:], Logistic().slope(one, y), rtol=1e-12)


def test_multinomial_hessian_is_bounded_by_a_half():
    z, y = np.array([[30.0, 30.0, -30.0]]), np.zeros((1, 1))
    rows = [Multinomial().curvature_product(z, y, e[None])[0] for e in np.eye(3)]
    assert np.linalg.eigvalsh(rows).max() == pytest.approx(0.5)


def test_hinge_is_that_of_scikit_learn(rng):
    z, y = 2 * rng.standard_normal((100, 1)), rng.integers(0, 2, (100, 1)).astype(float)
    assert np.mean(Hinge().value(z, y)) == pytest.approx(hinge_loss(y[:, 0], z[:, 0]))
    np.testing.assert_allclose(SquaredHinge().value(z, y), Hinge().value(z, y) ** 2)


def test_pinball_is_that_of_scikit_learn(sample):
    z, y, _ = sample
    assert np.mean(Pinball(0.8).value(z, y)) == pytest.approx(mean_pinball_loss(y, z, alpha=0.8))


def test_the_smoothed_pinball_is_close_below():
    sharp, round_ = Pinball(0.8), SmoothedPinball(0.8, 0.5)
    z, y = np.linspace(-3, 3, 1001)[:, None], np.zeros((1, 1))
    gap = sharp.value(z, y) - round_.value(z, y)
    assert gap.min() >= -1e-15
    assert gap.max() == pytest.approx(0.5 * 0.5 * 0.8**2)


def test_huber_is_squared_inside_and_linear_outside():
    z, y = np.array([[0.5, 3.0, -3.0]]), np.zeros((1, 1))
    np.testing.assert_allclose(Huber(2.0).value(z, y), [[0.125, 4.0, 4.0]])


def test_epsilon_zero_is_the_absolute_residual(sample):
    z, y, _ = sample
    np.testing.assert_allclose(EpsilonInsensitive(0.0).value(z, y), np.abs(z - y))


def test_confident_predictions_keep_their_digits():
    z, one = np.array([[40.0, 300.0, 700.0]]), np.ones((1, 1))
    np.testing.assert_allclose(Logistic().value(z, one), np.exp(-z), rtol=1e-14)
    np.testing.assert_allclose(Logistic().slope(z, one), -np.exp(-z), rtol=1e-14)
    slope = Multinomial().slope(np.array([[0.0, 50.0]]), one)
    np.testing.assert_allclose(slope, [[np.exp(-50.0), -np.exp(-50.0)]], rtol=1e-14)


def test_poisson_conjugate_is_a_relative_entropy(rng):
    u, y = rng.gamma(1.0, 1.0, (20, 1)), rng.gamma(1.0, 1.0, (20, 1))
    np.testing.assert_allclose(Poisson().conjugate(u, y), rel_entr(u + y, 1.0) - (u + y), rtol=1e-13)


@pytest.mark.parametrize("power", [1.001, 1.5, 1.999, 2.001, 5.0, -0.01, -1.0, -6.0])
@pytest.mark.parametrize("size", [1e-200, 1e-8, 1.0, 1e8, 1e200])
def test_tweedie_conjugates_of_any_size(power, size):
    """The conjugate is at least what any predictor gives, and what the best of many gives."""
    loss = Tweedie(power)
    signs = (-1.0,) if power > 2 else (1.0,) if power < 0 else (-1.0, 1.0)
    for sign in signs:
        for y in (0.2, 1.0, 7.0):
            u, target = np.array([[sign * size]]), np.array([[y]])
            conjugate = loss.conjugate(u, target)[0, 0]
            assert not np.isnan(conjugate)
            z = np.geomspace(1e-6, 1e6, 20001)[None] if power < 0 else np.linspace(-650, 650, 20001)[None]
            with np.errstate(invalid="ignore", over="ignore"):
                attained = np.nanmax(u * z - loss.value(z, target))
            assert conjugate >= attained - 1e-9 * (1 + abs(attained))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Huber(0.0), "delta=0.0"),
        (lambda: Huber(np.nan), "delta=nan"),
        (lambda: Pinball(1.0), "quantile=1.0"),
        (lambda: SmoothedPinball(0.5, -1.0), "width=-1.0"),
        (lambda: EpsilonInsensitive(-0.1), "epsilon=-0.1"),
        (lambda: Tweedie(0.5), "power=0.5"),
        (lambda: Tweedie(np.inf), "power=inf"),
    ],
)
def test_settings_that_make_no_sense_are_refused(make, words):
    with pytest.raises(InputError, match=words):
        make()


@pytest.mark.parametrize(
    ("loss", "bad", "good"),
    [
        (Poisson(), -1.0, 0.0),
        (Gamma(), 0.0, 1e-3),
        (Tweedie(1.5), -1e-9, 0.0),
        (Tweedie(3), 0.0, 2.0),
        (Logistic(), 0.5, 1.0),
        (Hinge(), -1.0, 0.0),
        (SquaredHinge(), 2.0, 1.0),
        (Multinomial(), 1.5, 7.0),
        (Multinomial(), -1.0, 0.0),
    ],
    ids=repr,
)
def test_targets_are_judged_one_by_one(loss, bad, good):
    np.testing.assert_array_equal(loss.invalid(np.array([[bad], [good]])), [[True], [False]])


def test_tweedie_knows_the_powers_with_names(rng):
    z, y = rng.standard_normal((10, 2)), rng.gamma(1.0, 1.0, (10, 2))
    for power, named in ((0, Squared()), (1, Poisson()), (2, Gamma())):
        np.testing.assert_array_equal(Tweedie(power).value(z, y), named.value(z, y))
    assert Tweedie(0).quadratic
    assert not Tweedie(1).quadratic
