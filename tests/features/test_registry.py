"""Feature maps by name and as JSON."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nysstream.errors import InputError
from nysstream.features import (
    FEATURES,
    FeatureMap,
    Fourier,
    Identity,
    ReLU,
    TensorSketch,
    from_json,
    parse,
    to_json,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("identity", Identity()),
        ("none", Identity()),
        ("fourier:4000", Fourier(4000)),
        ("fourier: 4000 , random_state = 3", Fourier(4000, random_state=3)),
        (
            "fourier:4000,kernel=matern,nu=1.5,length_scale=median,random_state=3",
            Fourier(4000, kernel="matern", nu=1.5, length_scale="median", random_state=3),
        ),
        ("fourier:n_features=8,length_scale=1/2.5", Fourier(8, length_scale=(1, 2.5))),
        ("fourier:8,orthogonal=true,nu=none", Fourier(8, orthogonal=True)),
        ("orthogonal_fourier:2000", Fourier(2000, orthogonal=True)),
        ("relu:1000", ReLU(1000)),
        ("tensor_sketch:1000,degree=3,gamma=1e-3", TensorSketch(1000, degree=3, gamma=1e-3)),
    ],
)
def test_text_is_read(text, expected):
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fouriers:10", "'fouriers' is not known; use one of identity, fourier, relu, tensor_sketch, none"),
        ("", "'' is not known"),
        ("fourier", "fourier needs n_features, for example 'fourier:1000'"),
        ("fourier:10,gamma=2", "no setting 'gamma'; it has n_features, kernel, nu, length_scale"),
        ("identity:10", "identity has no setting 'n_features'; it has none"),
        ("fourier:10,matern", "'matern' is not of the form setting=value"),
        ("fourier:10,nu=1,nu=2", "nu is given twice"),
        ("orthogonal_fourier:10,orthogonal=false", "orthogonal is implied by 'orthogonal_fourier'"),
        ("fourier:many", "n_features must be an integer, not 'many'"),
        ("fourier:10,__class__=3", "no setting '__class__'"),
    ],
)
def test_bad_text_is_explained(text, message):
    with pytest.raises(InputError) as caught:
        parse(text)
    assert message in str(caught.value)


lengths = st.floats(1e-3, 1e3)
seeds = st.integers(0, 2**64)
sizes = st.integers(1, 10**6)
maps = st.one_of(
    st.just(Identity()),
    st.builds(ReLU, sizes, random_state=seeds),
    st.builds(
        TensorSketch, sizes, degree=st.integers(1, 9), gamma=lengths, coef0=lengths, random_state=seeds
    ),
    st.builds(
        Fourier,
        sizes,
        length_scale=st.one_of(lengths, st.just("median"), st.lists(lengths, min_size=1, max_size=5)),
        orthogonal=st.booleans(),
        random_state=seeds,
    ),
    st.builds(Fourier, sizes, kernel=st.just("matern"), nu=lengths),
)


@given(features=maps)
def test_json_round_trip(features):
    assert from_json(json.loads(json.dumps(to_json(features), allow_nan=False))) == features


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ({"name": "pickle"}, "'pickle' is not known"),
        ({"name": "orthogonal_fourier", "n_features": 3}, "'orthogonal_fourier' is not known"),
        ({"name": "relu", "n_features": 3, "__reduce__": 1}, "no setting '__reduce__'"),
        ({"name": "relu"}, "needs n_features"),
        ({"name": "relu", "n_features": "3"}, "n_features must be an integer, not '3'"),
        ({"name": "fourier", "n_features": 3, "length_scale": ["1"]}, "length_scale"),
        ({"n_features": 3}, "with a 'name'"),
        ("relu", "with a 'name'"),
    ],
)
def test_bad_json_is_explained(description, message):
    with pytest.raises(InputError) as caught:
        from_json(description)
    assert message in str(caught.value)


def test_a_class_that_is_not_registered_cannot_be_saved():
    class Mine(Identity):
        pass

    with pytest.raises(InputError, match="Mine cannot be saved"):
        to_json(Mine())


def test_every_feature_map_is_registered_by_class():
    assert all(issubclass(kind, FeatureMap) for kind in FEATURES.values())
