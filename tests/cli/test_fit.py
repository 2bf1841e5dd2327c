"""``fit`` and ``plan``: answers, JSON, exit codes, and every way to get the options or the data wrong."""

from __future__ import annotations

import re

import h5py
import numpy as np
import pytest
import zarr
from distributed import LocalCluster
from sklearn.linear_model import Ridge as ScikitRidge

import nysstream

KEYS = {
    "status", "passes", "iterations", "seconds", "bytes_read", "bytes_from_cache", "peak_bytes",
    "memory_limit_bytes", "relative_residual", "objective", "rank", "effective_dimension", "n_rows",
    "n_features", "model",
}  # fmt: skip


def group_of(path, **arrays):
    """Write arrays into a Zarr group with chunks of 100 rows."""
    group, config = zarr.open_group(path, mode="w"), {"write_empty_chunks": True}
    for name, values in arrays.items():
        group.create_array(name, data=values, chunks=(100, *values.shape[1:]), config=config)
    return path


def test_fit_agrees_with_scikit_learn(cli, store, data, tmp_path):
    X, y = data
    weight = np.linspace(0.5, 2, len(y))
    done = cli(
        "fit", "ridge", store, "--weight", "weight", "--alpha", 3, "--tol", 1e-10, "--precision", "double",
        "--out", "m.zarr", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    expected = ScikitRidge(alpha=3).fit(X.astype(np.float64), y, weight)
    model = nysstream.load(tmp_path / "m.zarr")
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=1e-6)
    np.testing.assert_allclose(model.intercept_, expected.intercept_, rtol=1e-6)
    error = expected.predict(X) - y
    objective = weight @ error**2 + 3 * np.sum(expected.coef_**2)
    assert done.json["objective"] == pytest.approx(objective, rel=1e-5)


def test_json_is_one_object_with_the_promised_keys(process, store):
    done = process("fit", "ridge", store, "--json", "--out", "m.zarr", "--threads", 1)
    assert done.code == 0
    record = done.json
    assert record.keys() >= KEYS
    assert record["status"] == "converged"
    assert record["model"] == "m.zarr"
    assert (record["n_rows"], record["n_features"]) == (600, 12)
    assert 0 < record["peak_bytes"] <= record["memory_limit_bytes"]
    lower, upper = record["effective_dimension"]
    assert 0 < lower <= upper <= 12
    assert done.err == "", "nothing on stderr where it is no terminal"


def test_text_names_the_model(cli, store):
    done = cli("fit", "ridge", store, "--out", "m.zarr")
    assert done.code == 0
    assert re.search(r"^Status +Converged$", done.out, re.M)
    assert re.search(r"^Model +m.zarr$", done.out, re.M)
    assert "not saved" in cli("fit", "ridge", store).out


@pytest.mark.parametrize(
    "scheduler", [["--scheduler", "threads"], ["--scheduler", "synchronous"], ["--threads", "2"]]
)
def test_schedulers_give_the_same_bits(scheduler, cli, model, store):
    assert cli("fit", "ridge", store, "--alpha", 2, "--out", "other.zarr", *scheduler).code == 0
    coefficients = [nysstream.load(path).coef_ for path in (model, "other.zarr")]
    np.testing.assert_array_equal(*coefficients)


def test_a_cluster_gives_the_same_bits(cli, model, store):
    cluster = LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, protocol="tcp://", dashboard_address=":0"
    )
    with cluster:
        address = cluster.scheduler_address
        done = cli("fit", "ridge", store, "--alpha", 2, "--out", "other.zarr", "--scheduler", address)
    assert done.code == 0, done.err
    np.testing.assert_array_equal(nysstream.load("other.zarr").coef_, nysstream.load(model).coef_)


def test_a_cluster_that_does_not_answer_is_named(cli, store, monkeypatch):
    def refuse(address, **_):
        message = f"Timed out trying to connect to {address}"
        raise OSError(message)

    monkeypatch.setattr("distributed.Client", refuse)
    done = cli("fit", "ridge", store, "--scheduler", "tcp://127.0.0.1:9")
    assert done.code == 2
    assert "--scheduler tcp://127.0.0.1:9 does not answer" in done.err


@pytest.mark.parametrize("kind", ["hdf5", "npy", "zarr", "names"])
def test_data_are_found_where_they_are(kind, cli, data, tmp_path, model):
    X, y = data
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", y)
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["train/X"], file["train/t"], file["y"] = X, y, -y
    arguments = {
        "hdf5": ["d.h5", "--target", "train/t"],
        "npy": ["x.npy", "--target", "y.npy"],
        "zarr": ["x.npy", "--target", "d.h5#train/t"],
        "names": ["d.h5", "--data", "train/X", "--target", "#train/t"],
    }[kind]
    done = cli("fit", "ridge", *arguments, "--alpha", 2, "--out", "m.zarr")
    assert done.code == 0, done.err
    np.testing.assert_allclose(nysstream.load("m.zarr").coef_, nysstream.load(model).coef_, rtol=1e-5)


def test_several_alphas_give_a_model_each(cli, store, data):
    done = cli("fit", "ridge", store, "--alpha", 0.1, "--alpha", 10, "--out", "m.zarr", "--json")
    assert done.json["alpha"] == [0.1, 10]
    assert len(done.json["objective"]) == 2
    expected = [ScikitRidge(alpha=alpha).fit(*data).coef_ for alpha in (0.1, 10)]
    np.testing.assert_allclose(nysstream.load("m.zarr").coef_, expected, rtol=1e-4)


def test_rows_and_settings_reach_the_estimator(cli, store, data):
    X, y = data
    done = cli(
        "fit", "ridge", store, "--rows", "-400:-100", "--features", "relu:20,random_state=3", "--standardize",
        "--no-intercept", "--rank", 7, "--solver", "nystrom", "--seed", 5, "--device", "cpu", "--tol", 1e-3,
        "--max-passes", 40, "--time-limit", "5min", "--memory", "3GiB", "--out", "m.zarr", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    model = nysstream.load("m.zarr")
    assert (done.json["n_rows"], done.json["n_features"]) == (300, 20)
    assert done.json["memory_limit_bytes"] == 3 << 30
    wanted = {"standardize": True, "fit_intercept": False, "rank": 7, "random_state": 5, "tol": 1e-3}
    assert {key: model.get_params()[key] for key in wanted} == wanted
    assert (model.max_passes, model.time_limit) == (40, 300.0)
    again = nysstream.Ridge(**model.get_params()).fit(X[200:500], y[200:500])
    np.testing.assert_allclose(again.coef_, model.coef_, rtol=1e-4, atol=1e-6)


def test_a_saved_model_is_a_start(cli, store, tmp_path):
    options = ["--features", "fourier:40,length_scale=median", "--solver", "cg", "--json"]
    first = cli("fit", "ridge", store, *options, "--alpha", 1, "--out", "a.zarr")
    again = cli(
        "fit",
        "ridge",
        store,
        "--solver",
        "cg",
        "--alpha",
        1,
        "--start",
        "a.zarr",
        "--out",
        "b.zarr",
        "--json",
    )
    assert (first.code, again.code) == (0, 0), again.err
    assert again.json["passes"] == 2 < first.json["passes"]
    models = [nysstream.load(tmp_path / name) for name in ("a.zarr", "b.zarr")]
    assert models[0].features_ == models[1].features_
    np.testing.assert_array_equal(models[0].coef_, models[1].coef_)
    refused = cli("fit", "ridge", store, "--start", "a.zarr", "--cv", 3)
    assert refused.code == 2
    assert "leave out --cv" in refused.err
    refused = cli("fit", "ridge", store, "--start", "a.zarr", "--features", "relu:30")
    assert refused.code == 2
    assert "the previous fit has 40 coefficients" in refused.err


def test_a_stop_before_convergence_saves_the_best_and_exits_with_3(process, store, tmp_path):
    done = process("fit", "ridge", store, "--rank", 2, "--max-passes", 3, "--out", "m.zarr", "--json")
    assert done.code == 3
    assert done.json["status"] == "max_passes"
    assert done.json["relative_residual"] > 1e-6
    assert done.err.count("\n") == 1
    assert done.err.startswith("warning: The pass limit was reached: raise --max-passes")
    assert nysstream.load(tmp_path / "m.zarr").result_.status == "max_passes"


def test_a_time_limit_counts(cli, store):
    done = cli("fit", "ridge", store, "--rank", 2, "--time-limit", "0.000001s", "--json")
    assert (done.code, done.json["status"]) == (3, "time_limit")


@pytest.mark.parametrize("out", [["--out", "taken"], ["--report", "taken"], ["--out", "none/m.zarr"]])
def test_outputs_are_refused_before_the_data_are_looked_at(out, cli, tmp_path):
    (tmp_path / "taken").write_text("mine")
    done = cli("fit", "ridge", "no-such-store.zarr", *out)
    assert done.code == 2
    assert re.search(
        r"taken exists: choose another path or pass --overwrite|none is not a directory", done.err
    )
    assert (tmp_path / "taken").read_text() == "mine"


def test_overwrite_replaces(cli, store, model):
    assert cli("fit", "ridge", store, "--alpha", 9, "--out", model).code == 2
    assert nysstream.load(model).alpha == 2
    assert cli("fit", "ridge", store, "--alpha", 9, "--out", model, "--overwrite").code == 0
    assert nysstream.load(model).alpha == 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rank", 13], "--rank 13 is out of range: give 'auto' or a whole number from 1 to 12"),
        (["--rank", 0], "--rank 0 is out of range"),
        (["--rank", "many"], "'many' is not a rank"),
        (["--alpha", -1], "--alpha -1.0 is out of range"),
        (["--alpha", "inf"], "--alpha inf is out of range"),
        (["--alpha", "big"], "Invalid value for '--alpha'"),
        (["--tol", 2], "--tol 2.0 is out of range"),
        (["--max-passes", 1], "--max-passes 1"),
        (["--solver", "magic"], "--solver magic is not known"),
        (["--precision", "half"], "--precision half is not known"),
        (["--features", "fourrier:10"], "'fourrier' is not known"),
        (["--features", "fourier:10,lengthscale=1"], "no setting 'lengthscale'"),
        (["--memory", "lots"], "--memory lots is not a size"),
        (["--device", "tpu"], "tpu"),
        (["--time-limit", "3 weeks"], "is not a duration"),
        (["--time-limit", "1h30"], "is not a duration"),
        (["--rows", "3"], "not of the form A:B"),
        (["--rows", "0:601"], "--rows 0:601 of"),
        (["--rows", "10:10"], "--rows 10:10 of"),
        (["--data", "z"], r"data.zarr\[z\] does not exist; its arrays are: weight, x, y"),
        (["--target", "z"], r"data.zarr\[z\] does not exist; its arrays are: weight, x, y"),
        (["--weight", "x"], "weights are one number per row"),
        (["--missing-chunks", "ignore"], "'warn', 'error' or 'fill'"),
        (["--scheduler", "processes"], "--scheduler processes is not known"),
        (["--scheduler", "synchronous", "--threads", 2], "--threads 2 goes with --scheduler threads"),
        (["--no-such-option"], "No such option"),
    ],
)
def test_wrong_options_are_usage_errors(arguments, message, cli, store, tmp_path):
    done = cli("fit", "ridge", store, "--out", "m.zarr", *arguments)
    assert done.code == 2, done.err
    assert re.search(message, done.err), done.err
    assert done.out == ""
    assert "Traceback" not in done.err
    assert {path.name for path in tmp_path.iterdir()} == {"data.zarr"}


def damaged(name, X, y, path):
    """Write a store that cannot be fitted, and say how the options name it and what the error says."""
    weight = np.ones(len(y))
    arguments = []
    match name:
        case "nan":
            X[321, 7] = np.nan
            message = "row 321.*column 7"
        case "infinite target":
            y[17] = np.inf
            message = "17"
        case "fewer targets":
            y = y[:-1]
            message = "599 targets for the 600 rows"
        case "negative weight":
            weight[250] = -1
            arguments, message = ["--weight", "weight"], "weight of row 250 is negative"
        case "no weight":
            weight[:] = 0
            arguments, message = ["--weight", "weight"], "are zero; at least one must be positive"
        case "vector":
            X = X[:, 0]
            arguments, message = ["--data", "x"], "must have two"
        case "complex":
            X = X.astype(np.complex64)
            arguments, message = ["--data", "x"], "complex64"
        case "text":
            X = X.astype("S4")
            arguments, message = ["--data", "x"], "S4"
    return group_of(path, x=X, y=y, weight=weight), arguments, message


@pytest.mark.parametrize(
    "name",
    ["nan", "infinite target", "fewer targets", "negative weight", "no weight", "vector", "complex", "text"],
)
@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
def test_wrong_data_are_usage_errors_that_name_the_place(name, cli, data, tmp_path):
    path, arguments, message = damaged(name, *data, tmp_path / "bad.zarr")
    done = cli("fit", "ridge", path, "--out", "m.zarr", *arguments)
    assert done.code == 2, done.err
    assert re.search(message, done.err), done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert not (tmp_path / "m.zarr").exists()


def test_absent_chunks_are_an_error_where_rows_were_committed(cli, store):
    (store / "x" / "c" / "2" / "0").unlink()
    done = cli("fit", "ridge", store)
    assert done.code == 2
    assert "rows 200:300" in done.err


def test_absent_chunks_of_a_foreign_store_are_counted(cli, data, tmp_path):
    path = group_of(tmp_path / "foreign.zarr", x=data[0], y=data[1])
    (path / "x" / "c" / "2" / "0").unlink()
    done = cli("fit", "ridge", path)
    assert done.code == 0
    assert done.err.startswith("warning: ")
    assert "1 of 6 chunks are absent" in done.err
    assert cli("fit", "ridge", path, "--missing-chunks", "fill").err == ""
    assert cli("fit", "ridge", path, "--missing-chunks", "error").code == 2


def test_a_truncated_chunk_and_a_truncated_file_are_named(cli, store, data, tmp_path):
    chunk = store / "x" / "c" / "3" / "0"
    chunk.write_bytes(chunk.read_bytes()[:50])
    done = cli("fit", "ridge", store)
    assert done.code == 2
    assert "300:400" in done.err
    with h5py.File(tmp_path / "d.h5", "w") as file:
        file["x"], file["y"] = data
    content = (tmp_path / "d.h5").read_bytes()
    (tmp_path / "d.h5").write_bytes(content[: len(content) // 2])
    done = cli("fit", "ridge", "d.h5")
    assert done.code == 2
    assert "d.h5" in done.err


def test_what_is_no_store_is_named(cli, tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    for name in ("notes.txt", "nowhere.zarr", "s3://user:secret@bucket/x.zarr"):
        done = cli("fit", "ridge", name)
        assert done.code == 2
        assert name.rpartition("/")[2] in done.err
        assert "secret" not in done.err


def test_the_smallest_memory_that_is_named_does(process, store):
    refused = process("fit", "ridge", store, "--memory", "20MiB", "--threads", 2)
    assert refused.code == 2
    assert "--memory 20.00 MiB is too small" in refused.err
    (smallest,) = re.findall(r"Give --memory (\d+MiB) or more", refused.err)
    done = process("fit", "ridge", store, "--memory", smallest, "--threads", 2, "--json")
    assert done.code == 0, done.err
    assert done.json["peak_bytes"] <= done.json["memory_limit_bytes"]


def test_unexpected_errors_are_one_line_unless_debugging(cli, store, monkeypatch):
    def fail(*_):
        message = "what nobody thought of"
        raise RuntimeError(message)

    monkeypatch.setattr(nysstream.Ridge, "fit", fail)
    done = cli("fit", "ridge", store)
    assert done.code == 1
    assert done.err == (
        "error: RuntimeError: what nobody thought of\nSet NYSSTREAM_DEBUG=1 to see where this comes from.\n"
    )
    monkeypatch.setenv("NYSSTREAM_DEBUG", "1")
    assert "Traceback" in cli("fit", "ridge", store).err


def test_plan_promises_without_reading(cli, store, monkeypatch):
    arguments = ["--rank", 5, "--alpha", 1, "--alpha", 2, "--memory", "2GiB"]
    for chunk in (store / "x" / "c").glob("*/0"):
        chunk.write_bytes(b"unreadable")
    done = cli("plan", "ridge", store, *arguments, "--json")
    assert done.code == 0, done.err
    record = done.json
    assert (record["n_rows"], record["n_features"], record["rank"], record["n_systems"]) == (600, 12, 5, 2)
    assert record["pass_bytes"] == 600 * 12 * 4
    assert record["projected_peak_bytes"] == sum(record["needs"].values()) <= record["memory_limit_bytes"]
    text = cli("plan", "ridge", store, *arguments).out
    assert re.search(r"^Projected peak +", text, re.M)
    assert re.search(r"^Method +nystrom: a rank was asked for", text, re.M)


def test_plan_compares_methods_where_there_is_a_choice(cli, store, monkeypatch):
    arguments = ["plan", "ridge", store, "--features", "fourier:1500,length_scale=3"]
    monkeypatch.setattr("nysstream.estimators.choosing._QUICK", 0.0)  # so few rows need no comparison
    record = cli(*arguments, "--json").json
    found = {candidate["method"]: candidate for candidate in record["candidates"]}
    assert found.keys() == {"gram", "nystrom", "subsampled", "cg"}
    assert found[record["method"]]["seconds"] == min(candidate["seconds"] for candidate in found.values())
    text = cli(*arguments).out
    assert all(re.search(rf"^ +{name} +\d+ passes", text, re.M) for name in found)


def test_plan_refuses_what_fit_refuses(cli, store):
    assert cli("plan", "ridge", store, "--rank", 99).code == 2
    assert cli("plan", "ridge", store, "--memory", "1MiB").code == 2


def test_a_report_is_written_with_the_fit(cli, store, tmp_path):
    done = cli("fit", "ridge", store, "--report", "page.html", "--out", "m.zarr")
    assert done.code == 0, done.err
    assert "<html" in (tmp_path / "page.html").read_text()
