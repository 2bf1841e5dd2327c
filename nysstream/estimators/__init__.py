"""Estimators with scikit-learn's interface, objectives and names."""

from nysstream.estimators.ridge import Ridge

ESTIMATORS = {"ridge": Ridge}

__all__ = ["ESTIMATORS", "Ridge"]
