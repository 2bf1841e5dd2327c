"""Models as Zarr groups: arrays and plain JSON, nothing that is executed on reading."""

from __future__ import annotations

import dataclasses
import math
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from sklearn.base import ClassifierMixin

from nysstream.errors import InputError, NysstreamError, SourceError
from nysstream.estimators.results import FitResult
from nysstream.features import from_json, to_json
from nysstream.sketching.approximation import Certificate
from nysstream.sketching.nystrom_sketch import NystromSketch
from nysstream.sketching.sketch_file import read_sums, write_sums
from nysstream.sources.groups import GroupFormat
from nysstream.sources.zarr_layout import is_plain
from nysstream.trace import Cost, PassRecord

if TYPE_CHECKING:
    from numpy.typing import NDArray

MODEL = GroupFormat("model", "nysstream-model", 1, "save(path) and `nysstream fit --out`")
#: Settings of the machine a model was fitted on, and what is no data: they stay behind.
_LEFT_OUT = {"memory", "device", "callback", "features"}
#: Readings of a model that is being replaced.
_ATTEMPTS = 5
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def save(estimator: Any, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write a fitted estimator to a Zarr group.

    Parameters
    ----------
    estimator : estimator
        Fitted.
    path : str or path
        Where the group goes; a local one appears when it is complete, one at a URL becomes readable, or
        is replaced, by its last write.
    overwrite : bool
        Replace what is there.

    Raises
    ------
    OutputExistsError
        If the place is taken and ``overwrite`` is false.
    InputError
        If the feature map is not one of :data:`nysstream.features.FEATURES`.
    SourceError
        If the group cannot be written.

    Notes
    -----
    The group holds the arrays ``coef``, shape (p,) or (k, p), ``intercept``, shape () or (k,), and
    where a sketch was made ``spectrum``; all float64 and uncompressed. Settings, feature map and
    the result of the fit are JSON attributes. ``memory``, ``device`` and ``callback`` are not kept:
    they belong to the machine, not to the model. Coefficients come back bit by bit. What a model keeps
    for :func:`nysstream.update` is one more array, ``statistics``. At a URL the arrays lie in a group
    inside, which the attribute ``arrays`` names.
    """
    result: FitResult = estimator.result_
    attributes: dict[str, Any] = {
        "kind": type(estimator).__name__,
        "settings": _settings(estimator),
        "n_features_in": int(estimator.n_features_in_),
        "n_iter": int(estimator.n_iter_),
        "result": _describe(result),
        "chosen": {name: _plain(getattr(estimator, name)) for name in _chosen_names(estimator)},
    }
    if hasattr(estimator, "classes_"):
        attributes["classes"] = _plain(estimator.classes_)
    if hasattr(estimator, "feature_names_in_"):
        attributes["feature_names_in"] = [str(name) for name in estimator.feature_names_in_]
    if hasattr(estimator, "kernel_"):
        arrays = estimator._stored()
        attributes["kernel"] = dataclasses.asdict(estimator.kernel_)
        attributes["shapes"] = {key: list(np.shape(values)) for key, values in arrays.items()}
        arrays = {key: values for key, values in arrays.items() if np.size(values)}
    else:
        arrays = {"coef": estimator.coef_, "intercept": estimator.intercept_}
        attributes["features"] = to_json(estimator.features_)
        attributes["target_mean"] = _plain(estimator.target_mean_)
    if result.spectrum is not None:
        arrays["spectrum"] = result.spectrum
    with MODEL.writing(path, attributes, overwrite=overwrite) as group:
        for key, values in arrays.items():
            data = np.ascontiguousarray(values, np.float64).reshape(np.shape(values))
            group.create_array(
                key, data=data, chunks=data.shape, compressors=None, config={"write_empty_chunks": True}
            )
        if getattr(estimator, "keep_statistics", False) and hasattr(estimator, "statistics_"):
            write_sums(group, estimator.statistics_)


def load(path: str | os.PathLike[str], *, statistics: bool = False) -> Any:
    """Read a model that :meth:`LinearModel.save` wrote.

    Parameters
    ----------
    path : str or path
        Local path or URL of the Zarr group.
    statistics : bool
        Whether to read what the model keeps for :func:`nysstream.update` too.

    Returns
    -------
    estimator
        As it was fitted; predicts the same bits. ``memory`` and ``device`` are the defaults.

    Raises
    ------
    SourceError
        If there is nothing there, or it cannot be read, or it is incomplete.
    InputError
        If it is no model, of a version or kind not known here, or its parts contradict each other.

    Notes
    -----
    Nothing in the file is executed: kinds and feature maps are looked up by name, and their
    settings are checked. Arrays are allocated only as large as what is stored of them.
    """
    name = os.fspath(path)
    for _ in range(_ATTEMPTS):
        group, attributes = MODEL.open(name)
        estimator = error = None
        try:
            estimator = _checked(group, attributes, name, statistics)
        except NysstreamError as damage:
            error = damage
        if MODEL.open(name)[1] == attributes:  # else it was replaced meanwhile, and this may be half of each
            break
    if error is not None:
        raise error
    return estimator


def _checked(group: zarr.Group, attributes: dict[str, Any], name: str, statistics: bool) -> Any:
    MODEL.check(attributes, name)
    group = MODEL.contents(group, attributes, name)
    try:
        estimator = _build(group, attributes, name)
    except NysstreamError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        message = f"the model {name} is damaged: {what}; fit it again"
        raise InputError(message) from error
    if statistics:
        estimator.statistics_ = read_sums(group, f"the model {name}", NystromSketch)
    return estimator


def _build(group: zarr.Group, attributes: dict[str, Any], name: str) -> Any:
    # The registry imports the estimators, which save models.
    from nysstream.estimators import ESTIMATORS, KERNEL_MACHINES

    kinds = {kind.__name__: kind for kind in (*ESTIMATORS.values(), *KERNEL_MACHINES.values())}
    kind = kinds.get(attributes["kind"])
    if kind is None:
        message = f"the model {name} is of kind {attributes['kind']!r}; known here: {', '.join(kinds)}"
        raise InputError(message)
    estimator = kind()
    known = set(estimator.get_params(deep=False)) - _LEFT_OUT
    for key, value in attributes["settings"].items():
        if key not in known or not _is_plain(value):
            message = f"the model {name} has the setting {key}={value!r}, which {kind.__name__} does not take"
            raise InputError(message)
    settings = {
        key: dict(value["pairs"]) if isinstance(value, dict) else _restore(value)
        for key, value in attributes["settings"].items()
    }
    machine = "kernel" in attributes
    features: Any = None
    if not machine:
        features = from_json(attributes["features"])
        settings = settings | {"features": features}
    estimator.set_params(**settings)
    try:
        estimator._check_settings()
    except InputError as error:
        message = f"the model {name} is damaged: {error}"
        raise InputError(message) from error
    estimator.n_features_in_ = _count(attributes, "n_features_in")
    estimator.n_iter_ = _count(attributes, "n_iter")
    if "feature_names_in" in attributes:
        estimator.feature_names_in_ = np.array([str(n) for n in attributes["feature_names_in"]], dtype=object)
    if machine:
        shapes = attributes["shapes"]
        arrays = {
            key: _read(group, key, name) if 0 not in shapes[key] else np.zeros(shapes[key]) for key in shapes
        }
        estimator._restore(arrays, attributes)
        estimator.result_ = _result(attributes["result"], None)
        return estimator
    estimator.features_ = features
    p = features.n_outputs(estimator.n_features_in_)
    coef = _read(group, "coef", name)
    if coef.ndim not in (1, 2) or coef.shape[-1] != p:
        message = f"the model {name} is damaged: coef has shape {coef.shape} for {p} features; fit it again"
        raise InputError(message)
    intercept = _read(group, "intercept", name)
    if intercept.shape not in ((), coef.shape[:-1]):
        message = (
            f"the model {name} is damaged: intercept has shape {intercept.shape}, coef {coef.shape}; "
            "fit it again"
        )
        raise InputError(message)
    estimator.coef_ = coef
    estimator.intercept_ = intercept if intercept.ndim else float(intercept)
    estimator.target_mean_ = np.array(_restore(attributes["target_mean"]), np.float64)
    if estimator.target_mean_.shape != (coef.size // p,):
        message = f"the model {name} is damaged: its target_mean does not fit its coef; fit it again"
        raise InputError(message)
    if isinstance(estimator, ClassifierMixin):
        estimator.classes_ = _labels(attributes["classes"], coef)
    for key in _chosen_names(estimator):
        setattr(estimator, key, _numbers(_restore(attributes["chosen"][key])))
    spectrum = _read(group, "spectrum", name) if "spectrum" in group else None
    estimator.result_ = _result(attributes["result"], spectrum)
    return estimator


def _read(group: zarr.Group, key: str, name: str) -> NDArray[np.float64]:
    """Read an array, but only after making sure that what it declares is there."""
    try:
        array = group[key]
    except KeyError as error:
        message = f"the model {name} is incomplete: it has no array {key!r}; fit it again"
        raise SourceError(message) from error
    except Exception as error:  # each kind of damage has errors of its own
        message = f"{key!r} of the model {name} cannot be opened: {error}; fit it again"
        raise SourceError(message) from error
    if not isinstance(array, zarr.Array) or array.dtype != np.float64 or array.ndim > 2:
        message = f"the model {name} is damaged: {key!r} is not an array of float64; fit it again"
        raise InputError(message)
    if not is_plain(array) or array.chunks != array.shape:
        message = f"the model {name}: {key!r} is compressed or cut up, which models are not; fit it again"
        raise InputError(message)
    stored = array.nbytes_stored()  # the metadata included, so that an absent chunk must be looked for
    if stored < array.nbytes or array.nchunks_initialized < 1:
        message = (
            f"the model {name} is incomplete: {key!r} of shape {array.shape} takes {array.nbytes} bytes, "
            "and they are not all stored; fit it again"
        )
        raise SourceError(message)
    try:
        values = np.array(array[...], dtype=np.float64)
    except Exception as error:
        message = f"{key!r} of the model {name} cannot be read: {error}; fit it again"
        raise SourceError(message) from error
    if not np.all(np.isfinite(values)):
        message = f"the model {name} is damaged: {key!r} holds values that are not finite; fit it again"
        raise InputError(message)
    return values


def _settings(estimator: Any) -> dict[str, Any]:
    """Collect the settings that are plain data."""
    given = estimator.get_params(deep=False)
    found = {key: _plain(_as_pairs(value)) for key, value in given.items() if key not in _LEFT_OUT}
    return {key: value for key, value in found.items() if _is_plain(value)}


def _as_pairs(value: Any) -> Any:
    """Turn a dict, such as weights of classes, into pairs: JSON has keys of text only."""
    return {"pairs": [[key, number] for key, number in value.items()]} if isinstance(value, dict) else value


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        pairs = value.get("pairs")
        return isinstance(pairs, list) and all(
            isinstance(key, (bool, int, float, str)) and isinstance(number, (int, float))
            for key, number in pairs
        )
    if isinstance(value, list):
        return all(isinstance(item, (int, float)) or item in _NON_FINITE for item in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _chosen_names(estimator: Any) -> tuple[str, ...]:
    """Name the fitted attributes of an estimator that chooses its settings, beside the coefficients."""
    return tuple(getattr(type(estimator), "chosen", ()))


def _labels(values: Any, coef: NDArray[np.float64]) -> NDArray[Any]:
    """Turn a list of labels of one kind into an array, which must go with the coefficients."""
    kinds = {type(value) for value in values}
    n_rows = 1 if coef.ndim == 1 else coef.shape[0]
    c = len(values)
    fits = c == max(2, n_rows) or c * (c - 1) // 2 == n_rows  # a row for each class, or for each pair
    if len(kinds) != 1 or not kinds <= {str, int, float, bool} or not fits:
        message = f"its classes {values!r} do not fit its {n_rows} rows of coefficients"
        raise ValueError(message)
    return np.array(values)


def _numbers(value: Any) -> Any:
    """Turn a number into a float, and lists of numbers, by name or not, into arrays."""
    if isinstance(value, dict):
        return {str(key): np.array(item, np.float64) for key, item in value.items()}
    if isinstance(value, list):
        return np.array(value, np.float64)
    return float(value)


def _count(attributes: dict[str, Any], key: str) -> int:
    value = attributes[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        message = f"{key} is {value!r}"
        raise ValueError(message)
    return value


def _describe(result: FitResult) -> dict[str, Any]:
    fields = dataclasses.fields(FitResult)
    values = {field.name: getattr(result, field.name) for field in fields if field.name != "spectrum"}
    return {key: _plain(value) for key, value in values.items()}


def _result(description: dict[str, Any], spectrum: NDArray[np.float64] | None) -> FitResult:
    values = {key: _restore(value) for key, value in description.items()}
    values["passes"] = [PassRecord(**item | {"cost": Cost(**item["cost"])}) for item in values["passes"]]
    if values["certificate"] is not None:
        values["certificate"] = Certificate(**values["certificate"])
    return FitResult(**values, spectrum=spectrum)


def _plain(value: Any) -> Any:
    """Turn dataclasses, arrays and NumPy scalars into JSON, which has no infinity and no NaN."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _restore(value: Any) -> Any:
    """Undo :func:`_plain`, but for the types of sequences."""
    if isinstance(value, dict):
        return {key: _restore(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_restore(item) for item in value]
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value
