"""Losses: functions of predictor and target, with derivatives and conjugates, for any array namespace."""

from nysstream.losses.base import Kinked, Loss
from nysstream.losses.epsilon_insensitive import EpsilonInsensitive
from nysstream.losses.gamma import Gamma
from nysstream.losses.hinge import Hinge
from nysstream.losses.huber import Huber
from nysstream.losses.logistic import Logistic
from nysstream.losses.multinomial import Multinomial
from nysstream.losses.pinball import Pinball
from nysstream.losses.poisson import Poisson
from nysstream.losses.smoothed_pinball import SmoothedPinball
from nysstream.losses.squared import Squared
from nysstream.losses.squared_hinge import SquaredHinge
from nysstream.losses.tweedie import Tweedie

#: Every loss; a new one is a file and a line here, and inherits the conformance tests.
LOSSES: dict[str, type[Loss]] = {
    "squared": Squared,
    "huber": Huber,
    "pinball": Pinball,
    "smoothed_pinball": SmoothedPinball,
    "epsilon_insensitive": EpsilonInsensitive,
    "logistic": Logistic,
    "multinomial": Multinomial,
    "hinge": Hinge,
    "squared_hinge": SquaredHinge,
    "poisson": Poisson,
    "gamma": Gamma,
    "tweedie": Tweedie,
}

__all__ = [
    "LOSSES",
    "EpsilonInsensitive",
    "Gamma",
    "Hinge",
    "Huber",
    "Kinked",
    "Logistic",
    "Loss",
    "Multinomial",
    "Pinball",
    "Poisson",
    "SmoothedPinball",
    "Squared",
    "SquaredHinge",
    "Tweedie",
]
