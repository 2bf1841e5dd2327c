"""``predict``, ``score`` and ``report``: from a saved model to arrays, numbers and a page."""

from __future__ import annotations

import re

import numpy as np
import pytest
import zarr
from sklearn.metrics import r2_score

import nysstream


def test_predictions_are_those_of_the_model(cli, model, store, data):
    done = cli("predict", model, store, "--out", "p.zarr", "--json")
    assert done.code == 0, done.err
    assert (done.json["predictions"], done.json["n_rows"]) == ("p.zarr", 600)
    written = zarr.open_array("p.zarr", mode="r")
    assert written.attrs["committed_rows"] == 600
    np.testing.assert_allclose(written[:], nysstream.load(model).predict(data[0]), rtol=1e-5)


def test_predictions_of_a_run_of_rows(cli, model, store, data):
    assert cli("predict", model, store, "--rows", "550:", "--out", "p.zarr").code == 0
    written = zarr.open_array("p.zarr", mode="r")[:]
    np.testing.assert_allclose(written, nysstream.load(model).predict(data[0][550:]), rtol=1e-5)


def test_predictions_need_a_place_that_is_free(cli, model, store):
    assert cli("predict", model, store).code == 2
    done = cli("predict", model, store, "--out", store)
    assert done.code == 2
    assert "exists: choose another path or pass --overwrite" in done.err
    assert cli("predict", model, store, "--out", "p.zarr").code == 0
    assert cli("predict", model, store, "--out", "p.zarr", "--overwrite").code == 0


def test_predictions_with_a_checkpoint(cli, model, store, tmp_path):
    arguments = ["predict", model, store, "--out", "p.zarr", "--checkpoint", "c"]
    done = cli(*arguments, "--json")
    assert done.code == 0, done.err
    assert cli(*arguments).code == 2  # there is a checkpoint, and an output
    before = (tmp_path / "p.zarr").stat().st_ino
    again = cli(*arguments, "--resume", "--memory", "600MiB", "--json")
    assert (again.json["n_rows"], again.json["bytes_read"]) == (600, 0)
    assert (tmp_path / "p.zarr").stat().st_ino == before
    assert cli("fit", "ridge", store, "--alpha", 3, "--out", "model.zarr", "--overwrite").code == 0
    changed = cli(*arguments, "--resume")
    assert (changed.code, "alpha was 2" in changed.err) == (1, True)
    fewer = cli(*arguments, "--resume", "--rows", ":99")
    assert (fewer.code, "X was" in fewer.err) == (1, True)
    assert cli(*arguments, "--overwrite").code == 0


def test_score_is_scikit_learns(cli, model, store, data):
    X, y = data
    predicted = nysstream.load(model).predict(X)
    assert cli("score", model, store, "--json").json["r2"] == pytest.approx(r2_score(y, predicted), abs=1e-6)
    weight = np.linspace(0.5, 2, len(y))
    expected = r2_score(y, predicted, sample_weight=weight)
    assert cli("score", model, store, "--weight", "weight", "--json").json["r2"] == pytest.approx(
        expected, abs=1e-6
    )
    assert re.search(r"^R² +0\.99\d+$", cli("score", model, store).out, re.M)


@pytest.mark.parametrize(
    "command", [["predict", "--out", "p.zarr"], ["score"], ["report", "--out", "p.html"]]
)
def test_what_is_no_model_is_refused(command, cli, store, model, tmp_path):
    name, *options = command
    data = [] if name == "report" else [store]
    for place, message in [("nowhere.zarr", "nowhere.zarr"), (store, "no model")]:
        done = cli(name, place, *data, *options)
        assert done.code == 2
        assert message in done.err
    (model / "coef" / "c" / "0").unlink()
    done = cli(name, model, *data, *options)
    assert done.code == 2
    assert "'coef'" in done.err
    assert {path.name for path in tmp_path.iterdir()} == {"data.zarr", "model.zarr"}


def test_other_columns_are_refused(cli, model, tmp_path):
    np.save(tmp_path / "narrow.npy", np.ones((5, 3)))
    done = cli("predict", model, "narrow.npy", "--out", "p.zarr")
    assert done.code == 2
    assert "has 3 features" in done.err
    assert not (tmp_path / "p.zarr").exists()


def test_a_row_that_is_no_number_is_named_and_nothing_is_left(cli, model, data, tmp_path):
    X = data[0]
    X[44, 2] = np.nan
    np.save(tmp_path / "x.npy", X)
    done = cli("predict", model, "x.npy", "--out", "p.zarr")
    if done.code == 0:
        assert np.isnan(zarr.open_array("p.zarr", mode="r")[44])
    else:
        assert done.code == 2
        assert "44" in done.err
        assert not (tmp_path / "p.zarr").exists()


def test_report_is_drawn_from_the_file_alone(cli, model, store, tmp_path):
    for file in (store / "x" / "c").glob("*/0"):
        file.unlink()
    done = cli("report", model, "--out", "page.html", "--title", "My fit")
    assert done.code == 0, done.err
    assert "My fit" in (tmp_path / "page.html").read_text()
    assert cli("report", model, "--out", "page.html").code == 2
