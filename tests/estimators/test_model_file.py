"""Models on disk: bit-identical after a round trip, and refused when anything about them is wrong."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass

import fsspec
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

import nysstream
from nysstream import Ridge, features
from nysstream.errors import InputError, NysstreamError, OutputExistsError, SourceError
from nysstream.estimators import model_file

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.just("words"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def data(rng):
    X = rng.standard_normal((300, 6))
    return X, X @ rng.standard_normal(6) + 5 + 0.1 * rng.standard_normal(300)


@pytest.fixture
def saved(data, tmp_path):
    """Save a model and give its path."""
    Ridge(alpha=0.5, rank=4, tol=1e-3).fit(*data).save(tmp_path / "model.zarr")
    return tmp_path / "model.zarr"


def edit(path, **changes):
    """Change attributes of a saved model, or remove those that become ``...``."""
    file = path / "zarr.json"
    metadata = json.loads(file.read_text())
    for key, value in changes.items():
        if value is ...:
            del metadata["attributes"][key]
        else:
            metadata["attributes"][key] = value
    file.write_text(json.dumps(metadata))


@pytest.mark.parametrize(
    ("settings", "n_targets"),
    [
        ({}, None),
        ({}, 3),
        ({"alpha": [0.1, 1.0, 10.0]}, None),
        ({"alpha": np.array([0.1, 2.0])}, 2),
        ({"fit_intercept": False, "standardize": True}, 2),
        ({"solver": "cg"}, None),
        ({"random_state": np.random.default_rng(3)}, None),
        ({"features": "fourier:32,length_scale=median"}, None),
        ({"features": features.ReLU(16)}, 1),
        ({"features": features.TensorSketch(16), "precision": "double"}, None),
    ],
)
def test_round_trip_predicts_the_same_bits(settings, n_targets, data, tmp_path, rng):
    X, y = data
    y = y if n_targets is None else rng.standard_normal((len(X), n_targets))
    model = Ridge(**settings).fit(X, y)
    model.save(tmp_path / "m.zarr")
    loaded = nysstream.load(tmp_path / "m.zarr")
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X), strict=True)
    assert type(loaded.intercept_) is type(model.intercept_)
    assert loaded.features_ == model.features_
    assert (loaded.n_iter_, loaded.n_features_in_) == (model.n_iter_, model.n_features_in_)
    if len(settings) == 0:
        assert loaded.score(X, y) == model.score(X, y)


def test_the_result_comes_back_whole(data, tmp_path):
    model = Ridge(alpha=0.5, rank=4, tol=1e-9, max_passes=4, callback=print, memory="4GiB")
    with pytest.warns(match="pass limit"):
        model.fit(*data)
    model.save(tmp_path / "m.zarr")
    loaded = nysstream.load(tmp_path / "m.zarr")
    before, after = model.result_, loaded.result_
    assert after.stats == before.stats
    assert (after.status, after.advice, after.needs) == (before.status, before.advice, before.needs)
    assert after.passes == before.passes
    assert asdict(after.certificate) == asdict(before.certificate)
    np.testing.assert_array_equal(after.spectrum, before.spectrum)
    assert [r["relative_residual"] for r in after.history] == [r["relative_residual"] for r in before.history]
    assert loaded.get_params()["alpha"] == 0.5
    # What belongs to the machine or to the session stays behind.
    assert loaded.callback is None
    assert loaded.memory is None


def test_feature_names_are_kept(tmp_path, data):
    model = Ridge().fit(*data)
    model.feature_names_in_ = np.array(list("abcdef"), dtype=object)
    model.save(tmp_path / "m.zarr")
    assert nysstream.load(tmp_path / "m.zarr").feature_names_in_.tolist() == list("abcdef")


def test_it_is_plain_zarr_and_plain_json(saved):
    group = zarr.open_group(saved, mode="r")
    assert sorted(name for name, _ in group.arrays()) == ["coef", "intercept", "spectrum"]
    assert group["coef"].shape == (6,)

    def refuse(word):
        pytest.fail(f"{word} is no JSON")

    json.loads((saved / "zarr.json").read_text(), parse_constant=refuse)


@given(values)
def test_attributes_survive_json(value):
    text = json.dumps(model_file._plain(value), allow_nan=False)
    assert model_file._restore(json.loads(text)) == value


def test_nan_survives_json():
    assert math.isnan(model_file._restore(json.loads(json.dumps(model_file._plain(math.nan)))))


def test_an_existing_model_is_kept_unless_asked(saved, data):
    model = Ridge(alpha=7.0).fit(*data)
    with pytest.raises(OutputExistsError, match="exists"):
        model.save(saved)
    assert nysstream.load(saved).alpha == 0.5
    model.save(saved, overwrite=True)
    assert nysstream.load(saved).alpha == 7.0
    assert [p.name for p in saved.parent.iterdir()] == ["model.zarr"]


def test_nothing_is_left_when_saving_fails(data, tmp_path):
    @dataclass(frozen=True)
    class Mine(features.Identity):
        pass

    model = Ridge(features=Mine()).fit(*data)
    with pytest.raises(InputError, match="Mine cannot be saved"):
        model.save(tmp_path / "m.zarr")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": ...}, "no model"),
        ({"format": "nysstream-sketch"}, "no model"),
        ({"version": 99}, "version 99.*upgrade"),
        ({"kind": "os.system"}, "kind 'os.system'"),
        ({"kind": []}, "damaged"),
        ({"settings": {"callback": "print"}}, "setting callback"),
        ({"settings": {"nonsense": 1}}, "setting nonsense"),
        ({"settings": {"alpha": {"a": 1}}}, "setting alpha"),
        ({"settings": {"precision": "half"}}, "precision"),
        ({"settings": []}, "damaged"),
        ({"features": {"name": "eval"}}, "'eval' is not known"),
        ({"features": {"name": "fourier", "n_features": 10**12}}, "coef has shape"),
        ({"n_features_in": 7}, "coef has shape"),
        ({"n_features_in": -1}, "n_features_in is -1"),
        ({"n_features_in": True}, "n_features_in is True"),
        ({"target_mean": [1.0, 2.0]}, "target_mean"),
        ({"target_mean": ["x"]}, "damaged"),
        ({"result": ...}, "lacks 'result'"),
        ({"result": {}}, "damaged"),
    ],
)
def test_wrong_attributes_are_refused(changes, message, saved):
    edit(saved, **changes)
    with pytest.raises(InputError, match=message):
        nysstream.load(saved)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("coef", np.zeros((2, 2, 2)), "not an array of float64"),
        ("coef", np.zeros(6, np.float32), "not an array of float64"),
        ("coef", np.array(list("abcdef")), "not an array of float64"),
        ("coef", np.ones(5), "coef has shape"),
        ("coef", np.full(6, np.nan), "not finite"),
        ("intercept", np.ones(2), "intercept has shape"),
        ("intercept", np.array(np.inf), "not finite"),
    ],
)
@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
def test_wrong_arrays_are_refused(name, array, message, saved):
    group = zarr.open_group(saved, mode="r+")
    del group[name]
    group.create_array(name, data=array, compressors=None)
    with pytest.raises(InputError, match=message):
        nysstream.load(saved)


def test_compressed_arrays_are_refused(saved):
    group = zarr.open_group(saved, mode="r+")
    del group["coef"]
    group.create_array("coef", data=np.zeros(6))
    with pytest.raises(InputError, match="compressed"):
        nysstream.load(saved)


def test_a_shape_is_not_believed_before_its_bytes_are_there(saved):
    file = saved / "coef" / "zarr.json"
    metadata = json.loads(file.read_text())
    metadata["shape"] = [10**9, 6]
    metadata["chunk_grid"]["configuration"]["chunk_shape"] = [10**9, 6]
    metadata["chunk_key_encoding"] = {"name": "default"}
    file.write_text(json.dumps(metadata))
    with pytest.raises(SourceError, match="takes 48000000000 bytes"):
        nysstream.load(saved)


@pytest.mark.parametrize("lost", ["coef/zarr.json", "coef/c/0", "zarr.json", "intercept/zarr.json"])
def test_missing_parts_are_named(lost, saved):
    (saved / lost).unlink()
    with pytest.raises(NysstreamError, match=r"incomplete|holds no Zarr group"):
        nysstream.load(saved)


@pytest.mark.parametrize("cut", ["coef/c/0", "zarr.json", "coef/zarr.json", "spectrum/c/0"])
def test_truncated_parts_are_refused(cut, saved):
    content = (saved / cut).read_bytes()
    (saved / cut).write_bytes(content[: len(content) // 2])
    with pytest.raises(SourceError, match=str(saved)):
        nysstream.load(saved)


def test_what_is_no_model_is_named(tmp_path, zarr_store, rng):
    with pytest.raises(SourceError, match="nothing"):
        nysstream.load(tmp_path / "nothing")
    store = zarr_store(rng.standard_normal((5, 2)))
    with pytest.raises(InputError, match="no model"):
        nysstream.load(store)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(NysstreamError, match="text"):
        nysstream.load(tmp_path / "text")


def test_a_name_that_occurs_in_the_names_of_its_arrays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    X = np.random.default_rng(0).standard_normal((30, 5))
    nysstream.Ridge(solver="nystrom", rank=3).fit(X, X[:, 0]).save("m")  # "spectrum" ends in m
    assert nysstream.load("m").result_.spectrum.size == 3


# Models at URLs.


@pytest.fixture
def url():
    """Give a place of the test's own in fsspec's memory."""
    place = "memory://models/m.zarr"
    yield place
    system = fsspec.filesystem("memory")
    if system.exists("/models"):
        system.rm("/models", recursive=True)


def names_at(url):
    return sorted(path.partition("m.zarr/")[2] for path in fsspec.filesystem("memory").find(url))


@pytest.fixture
def two(data):
    """Fit two models that keep what they were made of."""
    X, y = data[0], data[1]
    return [Ridge(alpha=alpha, keep_statistics=True).fit(X, y) for alpha in (1.0, 9.0)]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("kind", ["memory", "s3"])
def test_who_is_killed_while_replacing_a_model_leaves_the_old_one(kind, request, two, url, monkeypatch):
    old, new = two
    if kind == "s3":
        url = f"{request.getfixturevalue('s3')}/m.zarr"
    old.save(url)

    def killed(*_):
        found = nysstream.load(url)
        np.testing.assert_array_equal(found.coef_, old.coef_)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(model_file, "write_sums", killed)
        with pytest.raises(Killed):
            new.save(url, overwrite=True)
    found = nysstream.load(url, statistics=True)
    np.testing.assert_array_equal(found.coef_, old.coef_)
    new.save(url, overwrite=True)
    np.testing.assert_array_equal(nysstream.load(url, statistics=True).coef_, new.coef_)
    with pytest.raises(OutputExistsError):
        old.save(url)
    if kind == "memory":
        assert len({name.partition("/")[0] for name in names_at(url)}) == 2  # attributes and arrays


def test_a_model_that_was_copied_to_a_url_is_replaced(two, url, tmp_path):
    old, new = two
    old.save(tmp_path / "m.zarr")
    fsspec.filesystem("memory").put(str(tmp_path / "m.zarr"), "/models/m.zarr", recursive=True)
    np.testing.assert_array_equal(nysstream.load(url).coef_, old.coef_)
    new.save(url, overwrite=True)
    np.testing.assert_array_equal(nysstream.load(url, statistics=True).coef_, new.coef_)
    assert not any(name.startswith("coef") for name in names_at(url))


def test_a_model_takes_the_place_of_something_else(two, url):
    for make in (
        lambda: zarr.create_array(url, data=np.arange(5.0)),
        lambda: zarr.open_group(url, mode="w", zarr_format=2).create_array("x", data=np.arange(5.0)),
    ):
        make()
        two[0].save(url, overwrite=True)
        np.testing.assert_array_equal(nysstream.load(url).coef_, two[0].coef_)
        fsspec.filesystem("memory").rm("/models", recursive=True)


def test_a_model_that_is_replaced_while_it_is_read(two, url, monkeypatch):
    old, new = two
    old.save(url)
    build = model_file._build
    replaced = []

    def slow(*arguments):
        if not replaced:
            replaced.append(True)
            new.save(url, overwrite=True)
        return build(*arguments)

    monkeypatch.setattr(model_file, "_build", slow)
    np.testing.assert_array_equal(nysstream.load(url).coef_, new.coef_)


@pytest.mark.parametrize("named", ["arrays-gone", 3, "../m.zarr"])
def test_arrays_that_are_not_where_they_should_be(two, url, named):
    two[0].save(url)
    zarr.open_group(url, mode="r+").update_attributes({"arrays": named})
    with pytest.raises(NysstreamError, match=r"arrays of the model .* cannot be opened"):
        nysstream.load(url)


@pytest.mark.parametrize("named", ["", "/", ".", "notes", "../other"])
def test_replacing_a_model_removes_nothing_but_its_arrays(two, url, named):
    system = fsspec.filesystem("memory")
    for path in ("/models/m.zarr/notes/a.txt", "/models/other/b.txt"):
        system.pipe(path, b"mine")
    zarr.open_group(url, mode="a", zarr_format=3).attrs.update({"format": "nysstream-model", "arrays": named})
    two[1].save(url, overwrite=True)
    np.testing.assert_array_equal(nysstream.load(url).coef_, two[1].coef_)
    assert system.exists("/models/m.zarr/notes/a.txt")
    assert system.exists("/models/other/b.txt")
