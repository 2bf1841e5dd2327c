"""The pass: rows streamed block by block through additive reductions."""

from nysstream.streaming.design import Centering, DesignMatrix
from nysstream.streaming.kernels import GramProduct, Predict, PredictionError, SquaredResidual
from nysstream.streaming.moments import SetUp, Statistics
from nysstream.streaming.reduce import pass_needs, reduce, scheduler
from nysstream.streaming.reduction import Reduction, Tile

__all__ = [
    "Centering",
    "DesignMatrix",
    "GramProduct",
    "Predict",
    "PredictionError",
    "Reduction",
    "SetUp",
    "SquaredResidual",
    "Statistics",
    "Tile",
    "pass_needs",
    "reduce",
    "scheduler",
]
