"""Sketches as Zarr groups: one bundle of sums and plain JSON, nothing that is executed on reading."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import scipy.sparse
import zarr

from nysstream.errors import InputError, SourceError
from nysstream.features import from_json, to_json
from nysstream.sketching.origin import Origin
from nysstream.sketching.reservoir import Reservoir
from nysstream.sketching.sums import Sums
from nysstream.sketching.test_matrix import TestMatrix
from nysstream.sources.bundle import read_bundle, write_bundle
from nysstream.sources.checking import reason
from nysstream.sources.groups import GroupFormat
from nysstream.streaming.kept_sums import KeptSetUp
from nysstream.streaming.panels import panel_edges

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nysstream.sketching.nystrom_sketch import NystromSketch

    S = TypeVar("S", bound=NystromSketch)

SKETCH = GroupFormat("sketch", "nysstream-sketch", 2, "NystromSketch.save(path) and `nysstream sketch --out`")
#: The array that holds all sums, in a sketch and in a model that keeps them.
BUNDLE = "statistics"


def save(
    sketch: NystromSketch,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    arrays: Mapping[str, Any] | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Write a sketch to a Zarr group.

    Parameters
    ----------
    sketch : NystromSketch
    path : str or path
        A local group appears when it is complete. One at a URL holds its arrays in a group inside, which
        the attribute ``arrays`` names, and becomes readable, or is replaced, by its last write.
    overwrite : bool
        Replace what is there.
    arrays : mapping of str to ndarray, optional
        Further arrays for those who read the group by other means.
    attributes : mapping, optional
        Further JSON attributes.
    """
    with SKETCH.writing(path, attributes or {}, overwrite=overwrite) as group:
        for key, values in (arrays or {}).items():
            data = np.ascontiguousarray(values, np.float64)
            chunks = tuple(max(1, extent) for extent in data.shape)
            group.create_array(key, data=data, chunks=chunks, config={"write_empty_chunks": True})
        write_sums(group, sketch)


def load(path: str | os.PathLike[str], kind: type[S]) -> S:
    """Read a sketch that was saved."""
    name = os.fspath(path)
    group, attributes = SKETCH.open(name)
    SKETCH.check(attributes, name)
    return read_sums(SKETCH.contents(group, attributes, name), f"the sketch {name}", kind)


def write_sums(group: zarr.Group, sketch: NystromSketch) -> None:
    """Write the sums of a sketch as an array of a group.

    Parameters
    ----------
    group : zarr.Group
    sketch : NystromSketch
    """
    sums = sketch.sums
    if sums is None:
        message = "the sketch has seen no rows yet, so there is nothing to write: update it first"
        raise InputError(message)
    test, sample, origin = sums.gather.test, sums.sample, sketch.origin
    arrays = {f"part/{key}": value for key, value in sums.part.items()}
    facts: dict[str, Any] = {
        "center": sums.gather.center,
        "gram": sums.gather.gram,
        "eps": sums.eps,
        "growth": sums.growth,
        "features": to_json(sketch.features),
        "precision": sketch.precision,
        "random_state": sketch.seed,
        "reservoir": sketch.reservoir_size,
        "test": None,
        "origin": None,
    }
    if isinstance(test, TestMatrix):
        facts["test"] = {"n_columns": test.n_columns, "n_probes": test.n_probes, "seed": test.seed}
        if test.scale is not None:
            arrays["scale"] = test.scale
    if sums.gather.given is not None:
        arrays["given"] = sums.gather.given
    if origin is not None:
        facts["origin"] = {"n_rows": origin.n_rows, "identities": list(origin.identities)}
    if sample is not None:
        arrays |= {"sample": sample.X, "sample weight": sample.weight}
        facts["sample_rows"] = sample.n_rows
    path = f"{group.path}/{BUNDLE}" if group.path else BUNDLE
    write_bundle(group.store, path, arrays, facts, name="sums of a set-up pass")


def read_sums(group: zarr.Group, name: str, kind: type[S]) -> S:
    """Read the sums of a group as a sketch.

    Parameters
    ----------
    group : zarr.Group
    name : str
        How messages call it.
    kind : type
        :class:`NystromSketch`, which knows this module.

    Raises
    ------
    SourceError
        If they are incomplete, or damaged on the way.
    InputError
        If they contradict each other.
    """
    try:
        array = group[BUNDLE]
        bundle = read_bundle(array) if isinstance(array, zarr.Array) else None
    except KeyError as error:
        message = f"{name} holds no statistics to update: make it again, keeping them"
        raise InputError(message) from error
    except Exception as error:  # each kind of damage has errors of its own
        message = f"{name}: its statistics cannot be read: {reason(error)}; make it again"
        raise SourceError(message) from error
    if bundle is None:
        message = f"{name}: its statistics are incomplete; make it again"
        raise SourceError(message)
    try:
        return _build(*bundle, kind)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        what = f"lack {error}" if isinstance(error, KeyError) else f"make no sense: {error}"
        message = f"{name}: its statistics {what}; make it again"
        raise InputError(message) from error


def _build(arrays: dict[str, Any], facts: dict[str, Any], kind: type[S]) -> S:
    part = {key.removeprefix("part/"): value for key, value in arrays.items() if key.startswith("part/")}
    p, test, given = part["squares"].size, None, arrays.get("given")
    if facts["test"] is not None:
        test = TestMatrix(p, **facts["test"], scale=arrays.get("scale"))
    n_test = 0 if test is None else test.n_columns + test.n_probes
    gather = KeptSetUp(test, n_test, facts["center"], facts["gram"], given)
    _check(part, gather)
    sample = None
    if facts["reservoir"]:
        sample = Reservoir(arrays["sample"], arrays["sample weight"], int(facts["sample_rows"]))
        if sample.X.shape[0] != sample.weight.size or sample.weight.ndim != 1:
            message = f"a sample of {sample.X.shape[0]} rows has {sample.weight.size} weights"
            raise ValueError(message)
        if scipy.sparse.issparse(sample.X):
            arrays["sample"].check_format()
    sketch = kind(
        0,
        random_state=facts["random_state"],
        features=from_json(facts["features"]),
        reservoir=facts["reservoir"],
        precision=facts["precision"],
    )
    sketch.sums = Sums(
        gather, part, float(facts["eps"]), float(facts["growth"]), sketch.reservoir_size, sample
    )
    if facts["origin"] is not None:
        n_rows, identities = facts["origin"]["n_rows"], facts["origin"]["identities"]
        if not isinstance(n_rows, int) or n_rows < 0 or len(identities) != 3:
            message = f"origin {facts['origin']}"
            raise ValueError(message)
        sketch.origin = Origin(n_rows, tuple(identities))
    return sketch


def _check(part: dict[str, Any], gather: KeptSetUp) -> None:
    """Refuse sums whose shapes contradict each other, and values that are not finite."""
    p, q = part["squares"].size, part["target_squares"].size
    if gather.test is not None and not 1 <= gather.test.n_columns <= p:  # type: ignore[attr-defined]
        message = f"a sketch of {gather.n_test} columns, of {p}"
        raise ValueError(message)
    shapes: dict[str, tuple[int, ...]] = {
        "rows": (2,),
        "weight": (),
        "shift": (p,),
        "offset": (p,),
        "target_shift": (q,),
        "target_offset": (q,),
        "squares": (p,),
        "summed_squares": (p,),
        "cross": (p, q),
        "target_squares": (q,),
        "sketch": (p, gather.n_vectors),
    }
    if gather.gram:
        shapes |= {f"gram-{a}": (b - a, b) for a, b in panel_edges(p)}
    for name in shapes | part:
        value = part[name]
        if np.shape(value) != shapes[name] or np.asarray(value).dtype != np.float64:
            message = f"{name} has shape {np.shape(value)}"
            raise ValueError(message)
        if not np.all(np.isfinite(value)):
            message = f"{name} holds values that are not finite"
            raise ValueError(message)
