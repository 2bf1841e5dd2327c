from . import (
    errors,
    estimators,
    features,
    losses,
    operators,
    regularizers,
    report,
    sketching,
    solvers,
    sources,
    streaming,
)
from .checkpoint import checkpointing
from .estimators import (
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
from .estimators.minimize import minimize
from .estimators.model_file import load
from .estimators.updating import update
from .operators import LinearOperator, as_operator
from .operators.gram import gram
from .sketching.nystrom import Nystrom, nystrom
from .sketching.nystrom_sketch import NystromSketch
from .solvers import Result, descent, pcg
from .sources import RowSource, open
from .sources.converting import convert
from .sources.growing import append
from .streaming import DesignMatrix, GivenFolds, GroupedFolds, HashedFolds, Reduction, reduce
from .version import __version__ as __version__

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
    "errors",
    "estimators",
    "features",
    "gram",
    "load",
    "losses",
    "minimize",
    "nystrom",
    "open",
    "operators",
    "pcg",
    "reduce",
    "regularizers",
    "report",
    "sketching",
    "solvers",
    "sources",
    "streaming",
    "update",
]
