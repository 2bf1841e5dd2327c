"""Estimators with scikit-learn's interface, objectives and names."""

from nysstream.estimators.ridge import Ridge
from nysstream.estimators.ridge_cv import RidgeCV

ESTIMATORS = {"ridge": Ridge, "ridge-cv": RidgeCV}

__all__ = ["ESTIMATORS", "Ridge", "RidgeCV"]
