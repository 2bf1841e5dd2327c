"""From the registry of estimators to options, and from options back to estimators."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nysstream.cli.options import OPTIONS, Option
from nysstream.errors import InputError
from nysstream.estimators import ESTIMATORS, KERNEL_MACHINES
from nysstream.estimators.model_file import load
from nysstream.estimators.ridge import SOLVERS
from nysstream.features import Identity
from nysstream.streaming import ContiguousFolds, Folds, HashedFolds

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Every estimator, by its name here.
REGISTRY: dict[str, Any] = {**ESTIMATORS, **KERNEL_MACHINES}
_CHOOSING = "-cv"
_SOLVERS = {"ridge": SOLVERS, "kernel-ridge": ("auto", "nystrom", "askotch", "cholesky")}
#: Settings that no text spells, and those that other options stand for.
_LEFT_OUT = {"callback", "alphas", "cv", "scoring"}
#: Settings that a plan does not depend on.
_NOT_PLANNED = {"random_state", "time_limit", "cv", "hashed_folds", "warm_start", "eps", "penalty"}
_NOT_PLANNED |= {"early_stopping", "validation_fraction", "n_iter_no_change", "average"}
_GUESSED = (bool, int, float, str)


def fitted_names() -> Iterator[str]:
    """Name the estimators that have a command; those that choose a penalty are behind ``--cv``."""
    return (name for name in REGISTRY if name.removesuffix(_CHOOSING) not in set(REGISTRY) - {name})


def planned_names() -> Iterator[str]:
    """Name those whose fit can be planned."""
    return (name for name in fitted_names() if hasattr(REGISTRY[name], "plan"))


def settings_of(name: str, *, planning: bool = False) -> dict[str, Option]:
    """Give the options that stand for the settings of an estimator.

    Parameters
    ----------
    name : str
        Of :data:`REGISTRY`.
    planning : bool
        Leave out what makes no difference to how a fit runs.

    Returns
    -------
    dict of str to Option
        By the name of the setting. Settings that :data:`nysstream.cli.options.OPTIONS` does not describe
        are guessed from their defaults, or left out where those tell no type.
    """
    kind: Any = REGISTRY[name]
    found = _described(kind)
    if name + _CHOOSING in REGISTRY:
        chooser: Any = REGISTRY[name + _CHOOSING]
        several = OPTIONS["alphas"]
        several = replace(
            several, help=several.help.format(default=inspect.signature(kind).parameters["alpha"].default)
        )
        choosing = {key: OPTIONS[key] for key in ("cv", "hashed_folds")}
        choosing |= {key: replace(item, default=None) for key, item in _described(chooser).items()}
        found = {"alpha": several} | choosing | {k: option for k, option in found.items() if k != "alpha"}
    if "solver" in found:
        methods = ("auto", *kind.methods) if hasattr(kind, "methods") else _SOLVERS[name]
        found["solver"] = replace(found["solver"], metavar="|".join(methods))
    return {key: option for key, option in found.items() if not (planning and key in _NOT_PLANNED)}


def summary_of(name: str) -> str:
    """Give the first sentence of an estimator's documentation, for people at a terminal."""
    first = (inspect.getdoc(REGISTRY[name]) or "").split("\n\n")[0]
    return re.sub(r":\w+:`([^`]*)`", r"\1", " ".join(first.split()))


def make(name: str, settings: dict[str, Any]) -> Any:
    """Make the estimator that the options ask for; it checks its settings itself.

    Parameters
    ----------
    name : str
    settings : dict
        As typer read them, by the names that :func:`settings_of` gives.

    Raises
    ------
    InputError
        If options contradict one another, or the model to start from cannot be used.
    """
    given = {key: value for key, value in settings.items() if value is not None}
    folds = _folds(given)
    start = given.pop("warm_start", None)
    if folds is not None:
        if start is not None:
            message = "--start is for one fit, not for cross-validation: leave out --cv"
            raise InputError(message)
        if given.pop("keep_statistics", False):
            message = "--keep-statistics is for one fit, not for cross-validation: leave out --cv"
            raise InputError(message)
        return _chooser(name, folds, given)
    unused = given.keys() - inspect.signature(REGISTRY[name]).parameters
    if unused:
        flags = ", ".join(OPTIONS[key].spelled for key in sorted(unused))
        message = f"{flags}: it says what alphas to choose among, so give --cv K too"
        raise InputError(message)
    if isinstance(given.get("alpha"), list) and len(given["alpha"]) == 1:
        given["alpha"] = given["alpha"][0]
    model = REGISTRY[name](**given)
    if start is not None:
        _start_from(start, model, name)
    return model


def own_settings(model: Any) -> dict[str, Any]:
    """Give the settings that set an estimator apart: its penalty, its loss, its classes."""
    chosen = {key.removesuffix("_"): getattr(model, key) for key in getattr(type(model), "chosen", ())}
    shared = {key for key, option in OPTIONS.items() if option.panel != OPTIONS["alpha"].panel}
    shared |= {"features", "standardize", "fit_intercept", "callback", "alphas", "cv", "eps", "scoring"}
    own = {
        key: value for key, value in model.get_params(deep=False).items() if key not in shared | set(chosen)
    }
    classes = {"classes": model.classes_} if hasattr(model, "classes_") else {}
    return own | chosen | classes


def _described(kind: Any) -> dict[str, Option]:
    """Describe the settings of an estimator, each with its own default."""
    found = {}
    for key, parameter in inspect.signature(kind).parameters.items():
        default = parameter.default
        if key in _LEFT_OUT:
            continue
        if key in OPTIONS:
            option = OPTIONS[key]
            found[key] = option if key == "warm_start" else replace(option, default=default)
        elif isinstance(default, _GUESSED):
            words = key.replace("_", " ").capitalize()
            found[key] = Option("--" + key.replace("_", "-"), type(default), f"{words}.", default)
    return found


def _folds(given: dict[str, Any]) -> Folds | None:
    cv, hashed = given.pop("cv", None), given.pop("hashed_folds", False)
    if cv is None and hashed:
        message = "--hashed-folds says how to cross-validate: give --cv K too"
        raise InputError(message)
    if cv is None:
        return None
    return HashedFolds(cv, given["random_state"]) if hashed else ContiguousFolds(cv)


def _chooser(name: str, folds: Folds, given: dict[str, Any]) -> Any:
    """Make the estimator that chooses among the alphas."""
    kind: Any = REGISTRY[name + _CHOOSING]
    if "alpha" in given:
        given["alphas"] = given.pop("alpha")
    accepted = inspect.signature(kind).parameters
    return kind(cv=folds, **{key: value for key, value in given.items() if key in accepted})


def _start_from(path: str, model: Any, name: str) -> None:
    """Give a model the coefficients of a saved one to start from."""
    found: Any = load(path)
    alike: tuple[Any, ...] = tuple(REGISTRY[key] for key in (name, name + _CHOOSING) if key in REGISTRY)
    if not isinstance(found, alike):
        message = f"--start {path}: it holds a {type(found).__name__}, where a {alike[0].__name__} is needed"
        raise InputError(message)
    if model.features is None and not isinstance(found.features_, Identity):
        model.features = found.features_
    model.coef_, model.intercept_ = found.coef_, found.intercept_
    if hasattr(found, "classes_"):
        model.classes_ = found.classes_
    model.warm_start = True
