"""Settings that the estimators share: checked before anything is read, and turned into a design."""

from __future__ import annotations

import numbers
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nysstream.errors import InputError
from nysstream.features import FeatureMap, Identity, parse
from nysstream.streaming import DesignMatrix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nysstream.sources import RowSource


def check_alphas(name: str, value: Any) -> None:
    """Refuse regularisation strengths that are not numbers, or negative."""
    alphas = np.asarray(value)
    if alphas.dtype.kind not in "fiu" or alphas.ndim > 1 or alphas.size == 0:
        message = f"{name}={value!r}: give a number, or a one-dimensional array of numbers"
        raise InputError(message)
    if not np.all(np.isfinite(alphas) & (alphas >= 0)):
        message = f"{name}={value!r} is out of range: it must be finite and not negative"
        raise InputError(message)


def check_settings(estimator: Any, solvers: Sequence[str]) -> None:
    """Refuse settings of solver, accuracy, limits and features that cannot be used.

    Raises
    ------
    InputError
        Names the setting and what would do.
    """
    if estimator.solver not in solvers:
        message = f"solver={estimator.solver!r} is not known: use one of {', '.join(solvers)}"
        raise InputError(message)
    if estimator.precision not in ("single", "double"):
        message = f"precision={estimator.precision!r} is not known: use 'single' or 'double'"
        raise InputError(message)
    tol: Any = estimator.tol
    if not isinstance(tol, numbers.Real) or not 0 <= float(tol) < 1:
        message = f"tol={tol!r} is out of range: it is a relative residual, from 0 to 1"
        raise InputError(message)
    check_max_passes(estimator.max_passes)
    seconds: Any = estimator.time_limit
    if seconds is not None and (not isinstance(seconds, numbers.Real) or not float(seconds) > 0):
        message = f"time_limit={seconds!r}: give a positive number of seconds"
        raise InputError(message)
    check_features(estimator.features)


def check_max_passes(limit: Any) -> None:
    """Refuse limits below two passes."""
    if limit is not None and (not isinstance(limit, numbers.Integral) or int(limit) < 2):
        message = (
            f"max_passes={limit!r}: give a whole number; a fit needs at least two passes, one to set up "
            "and one to verify"
        )
        raise InputError(message)


def check_features(features: Any) -> None:
    """Refuse what is neither a feature map nor the text for one."""
    if features is not None and not isinstance(features, (str, FeatureMap)):
        message = f"features={features!r} is no feature map: see nysstream.features"
        raise InputError(message)


def training_design(
    estimator: Any,
    source: RowSource,
    target: RowSource,
    weight: RowSource | None,
    *,
    smallest_alpha: float,
    features: FeatureMap | None = None,
) -> DesignMatrix:
    """Make the design of an estimator's training data; settles data-dependent features, unless given.

    Notes
    -----
    Cost: no read, or a sample of rows.
    """
    if features is None:
        features = estimator.features
        features = parse(features) if isinstance(features, str) else features or Identity()
    # Without a shift nothing damps what rounding puts into the null space.
    precision: Any = estimator.precision if smallest_alpha > 0 else "double"
    design = DesignMatrix(
        source, target, weight, features=features, precision=precision, device=estimator.device
    )
    if features.needs_sample:
        design = replace(design, features=features.fit(design.sample_rows()))
    return design
