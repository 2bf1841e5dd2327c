"""Estimators with scikit-learn's interface, objectives and names."""

from nysstream.estimators.glm import GammaRegressor, PoissonRegressor, TweedieRegressor
from nysstream.estimators.huber import HuberRegressor
from nysstream.estimators.kernel_ridge import KernelRidge
from nysstream.estimators.lasso import BoundedRegression, ElasticNet, Lasso
from nysstream.estimators.lasso_cv import ElasticNetCV, LassoCV
from nysstream.estimators.linear_svc import LinearSVC
from nysstream.estimators.logistic import LogisticRegression
from nysstream.estimators.ridge import Ridge
from nysstream.estimators.ridge_cv import RidgeCV
from nysstream.estimators.sketchy_sgd import SketchySGDClassifier, SketchySGDRegressor
from nysstream.estimators.svc import SVC
from nysstream.estimators.svr import SVR

#: Every estimator, by the name that the command line knows it by.
ESTIMATORS = {
    "ridge": Ridge,
    "ridge-cv": RidgeCV,
    "lasso": Lasso,
    "elastic-net": ElasticNet,
    "lasso-cv": LassoCV,
    "elastic-net-cv": ElasticNetCV,
    "bounded": BoundedRegression,
    "huber": HuberRegressor,
    "logistic": LogisticRegression,
    "linear-svc": LinearSVC,
    "poisson": PoissonRegressor,
    "gamma": GammaRegressor,
    "tweedie": TweedieRegressor,
    "sketchy-sgd-classifier": SketchySGDClassifier,
    "sketchy-sgd-regressor": SketchySGDRegressor,
}

#: Estimators with exact kernels, which keep rows and not coefficients of features.
KERNEL_MACHINES = {"kernel-ridge": KernelRidge, "svc": SVC, "svr": SVR}

__all__ = [
    "ESTIMATORS",
    "KERNEL_MACHINES",
    "SVC",
    "SVR",
    "BoundedRegression",
    "ElasticNet",
    "ElasticNetCV",
    "GammaRegressor",
    "HuberRegressor",
    "KernelRidge",
    "Lasso",
    "LassoCV",
    "LinearSVC",
    "LogisticRegression",
    "PoissonRegressor",
    "Ridge",
    "RidgeCV",
    "SketchySGDClassifier",
    "SketchySGDRegressor",
    "TweedieRegressor",
]
