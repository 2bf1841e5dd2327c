"""Feature maps by name: from a command line, to and from plain JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from nysstream.errors import InputError
from nysstream.features.base import FeatureMap
from nysstream.features.fourier import Fourier
from nysstream.features.identity import Identity
from nysstream.features.relu import ReLU
from nysstream.features.tensor_sketch import TensorSketch

#: Every feature map; a new one is a file and a line here, and inherits the conformance tests.
FEATURES: dict[str, type[FeatureMap]] = {
    "identity": Identity,
    "fourier": Fourier,
    "relu": ReLU,
    "tensor_sketch": TensorSketch,
}

#: Other names that :func:`parse` understands, with the settings they imply.
SHORTHANDS: dict[str, tuple[str, dict[str, Any]]] = {
    "none": ("identity", {}),
    "orthogonal_fourier": ("fourier", {"orthogonal": True}),
}


def parse(text: str) -> FeatureMap:
    """Read a feature map from ``name:n_features,setting=value,...``.

    Parameters
    ----------
    text : str
        For example ``"fourier:4000,length_scale=median"``, ``"orthogonal_fourier:2000"``,
        ``"tensor_sketch:1000,degree=3"`` or ``"none"``. A length scale per column is written with
        slashes, ``length_scale=1/2.5/1``.

    Returns
    -------
    FeatureMap

    Raises
    ------
    InputError
        If the name or a setting is not known, with the ones that are.
    """
    name, _, rest = text.strip().partition(":")
    name, found = SHORTHANDS.get(name, (name, {}))
    found = dict(found)
    implied = set(found)
    for position, part in enumerate(filter(None, (part.strip() for part in rest.split(",")))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            if position > 0:
                message = f"features {text!r}: {part!r} is not of the form setting=value"
                raise InputError(message)
            key, value = "n_features", part
        if key in found:
            why = f"is implied by {text.partition(':')[0]!r}" if key in implied else "is given twice"
            message = f"features {text!r}: {key} {why}; leave it out"
            raise InputError(message)
        found[key] = _value(value)
    return _build(name, found, f"features {text!r}")


def to_json(features: FeatureMap) -> dict[str, Any]:
    """Describe a feature map by its name and settings, in plain JSON types.

    Returns
    -------
    dict
        Accepted by :func:`from_json`.

    Raises
    ------
    InputError
        If the class is not in :data:`FEATURES`.
    """
    for name, kind in FEATURES.items():
        if type(features) is kind:
            values = {setting: getattr(features, setting) for setting in _settings(kind)}
            return {"name": name} | {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
    message = f"{type(features).__name__} cannot be saved: it is not one of {', '.join(FEATURES)}"
    raise InputError(message)


def from_json(description: dict[str, Any]) -> FeatureMap:
    """Build the feature map that :func:`to_json` described.

    Only registered classes are built, from checked settings; nothing in the description is executed.

    Raises
    ------
    InputError
        If the name or a setting is not known, or a value cannot be used.
    """
    if not isinstance(description, dict) or not isinstance(description.get("name"), str):
        message = f"a feature map is described by a JSON object with a 'name', not by {description!r}"
        raise InputError(message)
    found = {key: value for key, value in description.items() if key != "name"}
    return _build(description["name"], found, f"features {description['name']!r}")


def _build(name: str, found: dict[str, Any], where: str) -> FeatureMap:
    if name not in FEATURES:
        message = f"{where}: {name!r} is not known; use one of {', '.join([*FEATURES, *SHORTHANDS])}"
        raise InputError(message)
    kind = FEATURES[name]
    known = _settings(kind)
    for key in found:
        if key not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            message = f"{where}: {name} has no setting {key!r}; {has}"
            raise InputError(message)
    missing = [key for key, required in known.items() if required and key not in found]
    if missing:
        message = f"{where}: {name} needs {missing[0]}, for example '{name}:1000'"
        raise InputError(message)
    return kind(**found)


def _settings(kind: type[FeatureMap]) -> dict[str, bool]:
    """List the settings of a map, and whether each must be given."""
    fields: tuple[dataclasses.Field[Any], ...] = dataclasses.fields(kind)  # type: ignore[arg-type]
    return {field.name: field.default is dataclasses.MISSING for field in fields}


def _value(text: str) -> Any:
    if "/" in text:
        return tuple(_value(part) for part in text.split("/"))
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
