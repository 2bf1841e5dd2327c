"""Streaming, out-of-core randomized solvers for data matrices that do not fit in memory."""

from nysstream import features
from nysstream.checkpoint import checkpointing
from nysstream.estimators import (
    SVC,
    SVR,
    BoundedRegression,
    ElasticNet,
    ElasticNetCV,
    GammaRegressor,
    HuberRegressor,
    KernelRidge,
    Lasso,
    LassoCV,
    LinearSVC,
    LogisticRegression,
    PoissonRegressor,
    Ridge,
    RidgeCV,
    SketchySGDClassifier,
    SketchySGDRegressor,
    TweedieRegressor,
)
from nysstream.estimators.minimize import minimize
from nysstream.estimators.model_file import load
from nysstream.estimators.updating import update
from nysstream.operators import LinearOperator, as_operator
from nysstream.operators.gram import gram
from nysstream.sketching.nystrom import Nystrom, nystrom
from nysstream.sketching.nystrom_sketch import NystromSketch
from nysstream.solvers import Result, descent, pcg
from nysstream.sources import RowSource, open
from nysstream.sources.converting import convert
from nysstream.sources.growing import append
from nysstream.streaming import DesignMatrix, GivenFolds, GroupedFolds, HashedFolds, Reduction, reduce
from nysstream.version import __version__ as __version__

__all__ = [
    "SVC",
    "SVR",
    "BoundedRegression",
    "DesignMatrix",
    "ElasticNet",
    "ElasticNetCV",
    "GammaRegressor",
    "GivenFolds",
    "GroupedFolds",
    "HashedFolds",
    "HuberRegressor",
    "KernelRidge",
    "Lasso",
    "LassoCV",
    "LinearOperator",
    "LinearSVC",
    "LogisticRegression",
    "Nystrom",
    "NystromSketch",
    "PoissonRegressor",
    "Reduction",
    "Result",
    "Ridge",
    "RidgeCV",
    "RowSource",
    "SketchySGDClassifier",
    "SketchySGDRegressor",
    "TweedieRegressor",
    "append",
    "as_operator",
    "checkpointing",
    "convert",
    "descent",
    "features",
    "gram",
    "load",
    "minimize",
    "nystrom",
    "open",
    "pcg",
    "reduce",
    "update",
]
