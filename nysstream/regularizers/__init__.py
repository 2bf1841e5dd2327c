"""Regularizers: penalties and constraints on coefficients, with proximal operators and conjugates."""

from nysstream.regularizers.base import Face, Regularizer
from nysstream.regularizers.bounds import Box, NonNegative
from nysstream.regularizers.penalties import L1, L2, ElasticNet, Zero
from nysstream.regularizers.separable import Separable

#: Every regularizer; a new one is a file and a line here, and inherits the conformance tests.
REGULARIZERS: dict[str, type[Regularizer]] = {
    "zero": Zero,
    "l1": L1,
    "l2": L2,
    "elastic_net": ElasticNet,
    "box": Box,
    "non_negative": NonNegative,
    "separable": Separable,
}

__all__ = [
    "L1",
    "L2",
    "REGULARIZERS",
    "Box",
    "ElasticNet",
    "Face",
    "NonNegative",
    "Regularizer",
    "Separable",
    "Zero",
]
