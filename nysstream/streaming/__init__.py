"""The pass: rows streamed block by block through additive reductions."""

from nysstream.streaming.centering import Centering, centering_of
from nysstream.streaming.design import DesignMatrix
from nysstream.streaming.fold_kernels import FoldGramProduct, FoldSquaredResidual, TrainingColumns
from nysstream.streaming.fold_moments import FoldSetUp, FoldStatistics
from nysstream.streaming.folds import ContiguousFolds, Folds, GivenFolds, GroupedFolds, HashedFolds
from nysstream.streaming.kernels import GramProduct, Predict, PredictionError, SquaredResidual
from nysstream.streaming.labels import Labels
from nysstream.streaming.loss_kernels import HessianProduct, LossSums, LossValues, Outcome
from nysstream.streaming.moments import SetUp, Statistics
from nysstream.streaming.needs import pass_needs, process_bytes, scheduler
from nysstream.streaming.reduce import reduce
from nysstream.streaming.reduction import Reduction, Tile
from nysstream.streaming.row_sample import RowSample, uniform_rows

__all__ = [
    "Centering",
    "ContiguousFolds",
    "DesignMatrix",
    "FoldGramProduct",
    "FoldSetUp",
    "FoldSquaredResidual",
    "FoldStatistics",
    "Folds",
    "GivenFolds",
    "GramProduct",
    "GroupedFolds",
    "HashedFolds",
    "HessianProduct",
    "Labels",
    "LossSums",
    "LossValues",
    "Outcome",
    "Predict",
    "PredictionError",
    "Reduction",
    "RowSample",
    "SetUp",
    "SquaredResidual",
    "Statistics",
    "Tile",
    "TrainingColumns",
    "centering_of",
    "pass_needs",
    "process_bytes",
    "reduce",
    "scheduler",
    "uniform_rows",
]
