"""Regularizers: penalties and constraints on coefficients, with proximal operators and conjugates."""

from nysstream.regularizers.balls import L1Ball, L2Ball
from nysstream.regularizers.base import Face, Regularizer
from nysstream.regularizers.bounds import Box, LinfBall, NonNegative
from nysstream.regularizers.composed import Composed
from nysstream.regularizers.group_lasso import GroupLasso
from nysstream.regularizers.halfspace import Halfspace
from nysstream.regularizers.penalties import L1, L2, ElasticNet, Zero
from nysstream.regularizers.separable import Separable
from nysstream.regularizers.simplex import Simplex

#: Every regularizer; a new one is a file and a line here, and inherits the conformance tests.
REGULARIZERS: dict[str, type[Regularizer]] = {
    "zero": Zero,
    "l1": L1,
    "l2": L2,
    "elastic_net": ElasticNet,
    "box": Box,
    "non_negative": NonNegative,
    "separable": Separable,
    "group_lasso": GroupLasso,
    "l1_ball": L1Ball,
    "l2_ball": L2Ball,
    "linf_ball": LinfBall,
    "simplex": Simplex,
    "halfspace": Halfspace,
}

__all__ = [
    "L1",
    "L2",
    "REGULARIZERS",
    "Box",
    "Composed",
    "ElasticNet",
    "Face",
    "GroupLasso",
    "Halfspace",
    "L1Ball",
    "L2Ball",
    "LinfBall",
    "NonNegative",
    "Regularizer",
    "Separable",
    "Simplex",
    "Zero",
]
