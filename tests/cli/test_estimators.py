"""Every estimator from the command line: the same answers as in Python, from fit to score."""

from __future__ import annotations

import re

import numpy as np
import pytest
import zarr
from sklearn.base import is_classifier
from sklearn.metrics import accuracy_score
from sklearn.model_selection import KFold

import nysstream
from nysstream.cli.estimating import REGISTRY, fitted_names, planned_names
from nysstream.cli.progress import ProgressLine
from nysstream.sources.converting import convert

COMMON = {
    "status", "method", "passes", "passes_recalled", "iterations", "seconds", "bytes_read",
    "bytes_from_cache", "peak_bytes", "memory_limit_bytes", "objective", "rank", "n_rows",
    "n_features", "model",
}  # fmt: skip
CERTIFICATES = {"duality_gap", "optimality", "n_nonzero"}
#: What sets each apart among the JSON keys.
OWN = {
    "ridge": {"relative_residual", "effective_dimension", "alpha"},
    "lasso": CERTIFICATES | {"alpha", "positive"},
    "elastic-net": CERTIFICATES | {"alpha", "l1_ratio", "positive"},
    "bounded": CERTIFICATES | {"lower", "upper", "alpha", "l1_ratio"},
    "logistic": CERTIFICATES | {"C", "l1_ratio", "class_weight", "classes"},
    "linear-svc": CERTIFICATES | {"C", "class_weight", "classes", "loss"},
    "poisson": CERTIFICATES | {"alpha"},
    "gamma": CERTIFICATES | {"alpha"},
    "tweedie": CERTIFICATES | {"alpha", "power"},
    "huber": CERTIFICATES | {"alpha", "epsilon", "scale", "n_outliers"},
}
MEASURES = {"poisson": "d2", "gamma": "d2", "tweedie": "d2"}


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    """Write rows and targets of every kind; give them, and the path."""
    rng = np.random.default_rng(5)
    X = rng.standard_normal((600, 8))
    z = X @ rng.standard_normal(8) / 3
    noisy = z + 0.4 * rng.standard_normal(600)
    targets = {
        "y": noisy,
        "two": 3.0 + (noisy > 0),
        "three": 1.0 + np.digitize(noisy, [-0.4, 0.5]),
        "counts": rng.poisson(np.exp(z)).astype(float),
        "positive": np.exp(noisy),
    }
    path = tmp_path_factory.mktemp("data") / "data.zarr"
    convert(X, path, target=targets["y"], chunk_rows=100)
    group = zarr.open_group(path, mode="r+")
    for name in targets.keys() - {"y"}:
        group.create_array(name, data=targets[name], chunks=(100,), config={"write_empty_chunks": True})
    return X, targets, path


def target_of(name):
    """Name a target that an estimator can be fitted to."""
    kinds = {"poisson": "counts", "gamma": "positive", "tweedie": "positive"}
    return kinds.get(name, "two" if is_classifier(REGISTRY[name]()) else "y")


@pytest.mark.parametrize("name", list(fitted_names()))
def test_fit_predict_and_score_are_those_of_python(name, cli, problem):
    X, targets, store = problem
    target = target_of(name)
    direct = REGISTRY[name]().fit(X, targets[target])
    done = cli("fit", name, store, "--data", "x", "--target", target, "--out", "m.zarr", "--json")
    assert done.code == 0, done.err
    if name in OWN:
        assert done.json.keys() == COMMON | OWN[name]
    assert done.json["status"] == "converged"
    loaded = nysstream.load("m.zarr")
    for key in ("coef_", "dual_coef_", "intercept_"):
        if hasattr(direct, key):
            np.testing.assert_allclose(getattr(loaded, key), getattr(direct, key), rtol=1e-5, atol=1e-7)

    assert cli("predict", "m.zarr", store, "--data", "x", "--out", "p.zarr").code == 0
    np.testing.assert_allclose(zarr.open_array("p.zarr", mode="r")[:], loaded.predict(X), rtol=1e-6)

    scored = cli("score", "m.zarr", store, "--data", "x", "--target", target, "--json").json
    assert scored["measure"] == MEASURES.get(name, "accuracy" if is_classifier(loaded) else "r2")
    assert scored[scored["measure"]] == pytest.approx(direct.score(X, targets[target]), abs=1e-5)


@pytest.mark.parametrize("name", list(planned_names()))
def test_plans_say_what_a_fit_would_hold(name, cli, problem):
    arguments = ["plan", name, problem[2], "--data", "x", "--target", target_of(name), "--memory", "2GiB"]
    record = cli(*arguments, "--json").json
    assert (record["n_rows"], record["n_features"]) == (600, 8)
    assert record["projected_peak_bytes"] == sum(record["needs"].values()) <= record["memory_limit_bytes"]
    assert re.search(rf"^Method +{record['method']}: ", cli(*arguments).out, re.M)


def test_plans_of_kernels_tell_what_is_kept_of_the_matrix(cli, problem):
    arguments = ["plan", "svc", problem[2], "--data", "x", "--target", "three", "--memory", "2GiB"]
    record = cli(*arguments, "--json").json
    assert (record["method"], record["n_systems"], record["dtype"]) == ("working sets", 3, "float64")
    assert record["cached_bytes"] == record["pass_bytes"]
    assert record["kernel_kept_bytes"] == record["kernel_matrix_bytes"] == 600 * 600 * 8
    text = cli(*arguments).out
    assert re.search(r"^Kernel matrix +2\.75 MiB, up to 100 % of it kept in memory$", text, re.M), text
    assert re.search(r"^Left for the kernel matrix +1\.", text, re.M)
    record = cli(*arguments, "--features", "fourier:50,length_scale=2", "--json").json
    assert (record["method"], record["n_features"], record["kernel_matrix_bytes"]) == ("newton", 50, 0)
    refused = cli(*arguments[:-1], "1MiB")
    assert refused.code == 2
    assert re.search(r"Give --memory '?\d+MiB'? or more", refused.err), refused.err


@pytest.mark.parametrize("features", [[], ["--features", "none"]])
def test_progress_of_kernel_machines_is_that_of_steps(features, cli, problem, monkeypatch):
    told = []
    seen = property(lambda self: True, lambda self, value: None)
    monkeypatch.setattr(ProgressLine, "shown", seen, raising=False)
    monkeypatch.setattr(ProgressLine, "steps", lambda self, *record: told.append(record[-1]["duality_gap"]))
    assert cli("fit", "svc", problem[2], "--data", "x", "--target", "two", *features).code == 0
    assert told[-1] <= 1e-3


def test_kernel_ridge_is_fitted_at_a_terminal(cli, problem, monkeypatch):
    monkeypatch.setattr(
        ProgressLine, "shown", property(lambda self: True, lambda self, value: None), raising=False
    )
    for solver in ("nystrom", "askotch"):
        assert cli("fit", "kernel-ridge", problem[2], "--data", "x", "--solver", solver).code == 0


def test_classes_are_labels_probabilities_and_decisions(cli, problem):
    X, targets, store = problem
    given = [store, "--data", "x"]
    done = cli(
        "fit",
        "logistic",
        *given,
        "--target",
        "three",
        "--class-weight",
        "1=1,2=3,3=1",
        "--out",
        "m",
        "--json",
    )
    assert done.json["classes"] == [1, 2, 3]
    model = nysstream.load("m")
    direct = nysstream.LogisticRegression(class_weight={1: 1, 2: 3, 3: 1}).fit(X, targets["three"])
    np.testing.assert_allclose(model.coef_, direct.coef_, atol=1e-5)
    for option, expected in (
        ("--proba", direct.predict_proba(X)),
        ("--decision", direct.decision_function(X)),
    ):
        assert (
            cli("predict", "m", *given, option, "--out", "p", "--overwrite", "--json").json["n_outputs"] == 3
        )
        np.testing.assert_allclose(zarr.open_array("p", mode="r")[:], expected, atol=1e-4)
    cli("predict", "m", *given, "--out", "p", "--overwrite")
    labels = zarr.open_array("p", mode="r")[:]
    assert set(labels) == {1, 2, 3}
    shown = cli("score", "m", *given, "--target", "three").out
    assert re.search(rf"^Accuracy +{accuracy_score(targets['three'], labels):.6f}$", shown, re.M)
    assert re.search(r"^Classes +1, 2, 3$", cli("fit", "logistic", *given, "--target", "three").out, re.M)


def test_predictions_that_a_model_does_not_make_are_refused(cli, problem):
    given = [problem[2], "--data", "x"]
    assert cli("fit", "lasso", *given, "--out", "m").code == 0
    for options, message in [
        (["--proba"], "--proba: a Lasso has no predict_proba"),
        (["--decision"], "--decision: a Lasso has no decision_function"),
        (["--proba", "--decision"], "give one of them"),
    ]:
        done = cli("predict", "m", *given, *options, "--out", "p")
        assert done.code == 2
        assert message in done.err


def test_settings_reach_the_estimators(cli, problem):
    X, targets, store = problem
    given = [store, "--data", "x", "--out", "m", "--overwrite", "--json"]
    done = cli("fit", "bounded", *given, "--lower", "-0.1", "--upper", "0.1,0.2,0.1,0.1,0.1,0.1,0.1,inf")
    assert done.code == 0, done.err
    assert (done.json["lower"], done.json["upper"][1]) == (-0.1, 0.2)
    model = nysstream.load("m")
    assert (model.lower, model.upper[7]) == (-0.1, np.inf)
    direct = nysstream.BoundedRegression(lower=-0.1, upper=model.upper).fit(X, targets["y"])
    np.testing.assert_allclose(model.coef_, direct.coef_, atol=1e-6)

    options = [
        "--alpha",
        0.02,
        "--l1-ratio",
        0.7,
        "--positive",
        "--no-intercept",
        "--solver",
        "admm",
        "--rank",
        4,
    ]
    done = cli("fit", "elastic-net", *given, *options)
    assert (done.json["method"], done.json["rank"], done.json["n_nonzero"]) == (
        "admm",
        4,
        np.count_nonzero(nysstream.load("m").coef_),
    )
    direct = nysstream.ElasticNet(0.02, 0.7, positive=True, fit_intercept=False).fit(X, targets["y"])
    np.testing.assert_allclose(nysstream.load("m").coef_, direct.coef_, atol=1e-3)
    assert 0 < done.json["n_nonzero"] < 8

    done = cli("fit", "logistic", *given, "--target", "two", "--C", "inf", "--tol", 1e-4)
    assert done.json["C"] is None, "infinity is no JSON"
    assert np.isposinf(nysstream.load("m").C)


def test_the_strength_is_chosen_by_cross_validation(cli, problem):
    X, targets, store = problem
    given = ["fit", "lasso", store, "--data", "x", "--cv", 3]
    done = cli(*given, "--eps", 0.01, "--out", "m", "--json")
    direct = nysstream.LassoCV(eps=0.01, cv=KFold(3)).fit(X, targets["y"])
    assert done.json["alpha"] == pytest.approx(direct.alpha_)
    np.testing.assert_allclose(nysstream.load("m").coef_, direct.coef_, atol=1e-6)
    shown = cli(*given, "--alpha", 0.01, "--alpha", 0.5).out
    assert re.search(r"^Alpha +0\.01, of least mean error", shown, re.M)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lasso", "--alpha", -1], "--alpha -1.0 is out of range"),
        (["lasso", "--alpha", 1, "--alpha", 2], r"--alpha \[1.0, 2.0\] is out of range"),
        (["lasso", "--eps", 0.1], "--eps: .* give --cv K too"),
        (["lasso", "--solver", "newton"], "--solver newton is not known: use one of auto, gram, admm"),
        (["elastic-net", "--l1-ratio", 2], "--l1-ratio 2.0 is out of range"),
        (["bounded", "--upper", "1,2"], "upper has 2 entries for 8 features"),
        (["bounded", "--upper", "much"], "give a number, or numbers with commas"),
        (["bounded", "--lower", 1, "--upper", 0], "no coefficient fits"),
        (["logistic", "--target", "two", "--C", 0], "--C 0.0 is out of range"),
        (["logistic", "--target", "two", "--class-weight", "3"], "gives no weights of classes"),
        (["logistic", "--target", "two", "--class-weight", "7=1"], "no classes of the targets"),
        (["logistic", "--target", "two", "--rank", 3, "--solver", "newton"], "--rank 3 is for --solver admm"),
        (["linear-svc", "--target", "two", "--rows", "0:1"], "only one class"),
        (["poisson"], "Poisson needs targets >= 0"),
        (["gamma", "--target", "counts"], "Gamma needs targets > 0"),
        (["tweedie", "--power", 0.5], "--power 0.5 is out of range"),
        (["ridge-cv"], "No such command 'ridge-cv'"),
    ],
)
def test_what_cannot_be_used_is_a_usage_error(arguments, message, cli, problem, tmp_path):
    done = cli("fit", arguments[0], problem[2], "--data", "x", *arguments[1:], "--out", "m.zarr")
    assert done.code == 2, done.err
    assert re.search(message, done.err), done.err
    assert (done.out, list(tmp_path.iterdir())) == ("", [])


def test_limits_keep_the_best_and_exit_with_3(process, problem, tmp_path):
    done = process(
        "fit",
        "logistic",
        problem[2],
        "--data",
        "x",
        "--target",
        "two",
        "--max-passes",
        3,
        "--out",
        "m",
        "--json",
    )
    assert done.code == 3
    assert done.json["status"] == "max_passes"
    assert done.json["duality_gap"] > 1e-6
    assert done.err.startswith("warning: The pass limit was reached: raise --max-passes")
    assert "Relative duality gap" in done.err
    assert nysstream.load(tmp_path / "m").result_.status == "max_passes"


def test_kernels_are_settings_too(cli, problem, tmp_path):
    X, targets, store = problem
    given = ["--data", "x", "--target", "three"]
    options = ["--kernel", "poly", "--degree", 2, "--gamma", 0.5, "--coef0", 1, "--C", 2]
    done = cli("fit", "svc", store, *given, *options, "--out", "m", "--report", "page.html", "--json")
    assert done.code == 0, done.err
    direct = nysstream.SVC(C=2, kernel="poly", degree=2, gamma=0.5, coef0=1).fit(X, targets["three"])
    np.testing.assert_allclose(nysstream.load("m").dual_coef_, direct.dual_coef_, atol=1e-6)
    assert done.json["duality_gap"] == pytest.approx(direct.result_.stats["duality_gap"], rel=1e-3)
    assert done.json["classes"] == [1, 2, 3]
    page = (tmp_path / "page.html").read_text()
    assert "steps of the solver" in page
    assert "3 models, by working sets" in page
    refused = cli("score", "m", store, *given, "--device", "cuda")
    assert refused.code == 2
    assert "--device cuda: kernels are evaluated on the CPU; give features=" in refused.err


def test_a_report_shows_the_gap(cli, problem, tmp_path):
    given = [problem[2], "--data", "x", "--target", "three"]
    assert cli("fit", "linear-svc", *given, "--report", "page.html", "--out", "m").code == 0
    page = (tmp_path / "page.html").read_text()
    assert "relative duality gap" in page
    assert "3 classes, 3 models from the same passes" in page
    assert "<h2>Spectrum</h2>" not in page
    assert cli("report", "m", "--out", "again.html").code == 0
