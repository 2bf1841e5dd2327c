"""The benchmark of composite problems against others, at a size of seconds."""

import importlib.util
import json
import math

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
from numpy.testing import assert_allclose

from benchmarks import composite, composite_contenders, composite_problems, composite_streaming, isolation
from benchmarks.composite_checks import Objective, check, strongest

TINY = composite_problems.Scale(300, 10, 15, 60, 1 << 8, (250, 20))
OBJECTIVES = [
    Objective("squared", 0.05),
    Objective("squared", 0.1, 0.1, 0.0, 1.0),
    Objective("squared", 0.1, 0.0, -0.2, 0.3),
    Objective("squared", 0.0, 0.4),
    Objective("logistic", 0.02),
    Objective("logistic", 0.0, 0.01),
    Objective("logistic", 0.01, 0.02, 0.0, 0.5),
]


def rows_and_targets(rng, loss, n=200, p=8):
    X = rng.standard_normal((n, p)) @ (np.eye(p) + 0.3)
    y = X @ np.linspace(-0.4, 0.9, p) + rng.standard_normal(n)
    return X, (y if loss == "squared" else np.where(y > 0, 1.0, -1.0))


def minimise(objective, X, y):
    """Solve with SciPy, with positive and negative parts as variables."""
    n, p = X.shape

    def split(v):
        w = v[:p] - v[p:]
        z = X @ w
        if objective.loss == "squared":
            value, slope = 0.5 * np.sum((z - y) ** 2), z - y
        else:
            value, slope = np.sum(np.logaddexp(0, -y * z)), -y / (1 + np.exp(y * z))
        gradient = X.T @ slope / n + objective.l2 * w
        value = value / n + 0.5 * objective.l2 * w @ w + objective.l1 * v.sum()
        return value, np.concatenate([gradient, -gradient]) + objective.l1

    # one of the two parts is zero at the minimum, so that bounds on w are bounds on the parts
    bounds = [(max(objective.lower, 0), objective.upper)] * p + [(0, max(-objective.lower, 0))] * p
    options = {"ftol": 1e-16, "gtol": 1e-12, "maxiter": 10000, "maxfun": 100000}
    found = scipy.optimize.minimize(
        split, np.zeros(2 * p), jac=True, bounds=bounds, method="L-BFGS-B", options=options
    )
    return found.x[:p] - found.x[p:], found.fun


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_check_bounds_the_minimum_from_both_sides(rng, objective):
    X, y = rows_and_targets(rng, objective.loss)
    w, minimum = minimise(objective, X, y)
    found = check(objective, X, y, w)
    assert_allclose(found.objective, minimum, rtol=1e-12)
    assert found.violation < 1e-4
    assert found.bound <= minimum * (1 + 1e-12)
    assert found.objective - found.bound < 1e-4 * minimum
    off = check(objective, scipy.sparse.csr_matrix(X), y, np.clip(w + 0.1, objective.lower, objective.upper))
    assert off.objective > minimum * (1 + 1e-4)
    assert off.bound <= minimum * (1 + 1e-12)
    assert off.violation > 10 * found.violation


def test_check_refuses_answers_outside_the_box(rng):
    objective = Objective("squared", 0.1, 0.1, 0.0, 1.0)
    X, y = rows_and_targets(rng, "squared")
    assert check(objective, X, y, np.full(8, -0.1)).objective == math.inf
    assert check(objective, X, y, np.full(8, 1.1)).objective == math.inf


@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_strongest_penalty_is_where_coefficients_appear(rng, loss):
    X, y = rows_and_targets(rng, loss)
    most = strongest(loss, X, y)
    assert check(Objective(loss, 1.0001 * most), X, y, np.zeros(8)).violation == 0
    assert check(Objective(loss, 0.999 * most), X, y, np.zeros(8)).violation > 0


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    """Write the problems that need no data of others."""
    root = tmp_path_factory.mktemp("composite")
    found = {}
    for name in ("stand-in-lasso", "stand-in-l1", "text-l1"):
        problem = composite_problems.prepare(name, root, TINY)
        found[problem.kind if not problem.sparse else "text"] = problem
    # the remaining kinds, on the same data
    for kind, like, objective in (
        ("box", "lasso", Objective("squared", 0.1, 0.1, 0.0, 1.0)),
        ("l2", "l1", Objective("logistic", 0.0, 0.01)),
    ):
        found[kind] = composite_problems.Problem(f"stand-in-{kind}", kind, found[like].folder, objective)
    return {kind: (problem, composite_problems.reference(problem)) for kind, problem in found.items()}


def test_problems_are_what_they_say_and_their_minima_are_certified(problems):
    assert set(problems) == {"lasso", "box", "l1", "l2", "text"}
    for problem, known in problems.values():
        assert known["gap"] < 1e-6
        X, y = composite_contenders.load(problem.folder)
        assert X.shape == (known["rows"], known["columns"])
        assert X.dtype == y.dtype == np.float32
        if problem.objective.loss == "logistic":
            assert set(np.unique(y)) == {-1.0, 1.0}
    assert 0 < problems["lasso"][1]["n_nonzero"] < TINY.stand_in[1]


@pytest.mark.parametrize("kind", ["lasso", "box", "l1", "l2", "text"])
def test_contenders_that_are_here_pass_or_stall_near(problems, kind):
    problem, known = problems[kind]
    tried = 0
    slow = {"nysstream-admm"} if problem.kind == "l1" else set()  # hundreds of passes
    for name, contender in composite_contenders.CONTENDERS.items():
        other = problem.kind not in contender.kinds or (problem.sparse and not contender.sparse)
        if name in slow or other:
            continue
        if importlib.util.find_spec(contender.module) is None:
            assert "pip install" in contender.install  # what the table says in its place
            continue
        told = []
        spec = {"contender": name, "folder": problem.folder, "minimum": known["objective"], "tol": 1e-4}
        composite_contenders.attempt_all(spec | {"objective": vars(problem.objective)}, told.append)
        assert told[-1]["suboptimality"] <= 1e-4, (name, told)
        assert all(one["suboptimality"] > 1e-4 for one in told[:-1])
        settings = [one["setting"] for one in told]
        assert settings == sorted(settings, reverse=True)
        tried += 1
    assert tried >= 3


def test_rows_say_seconds_for_both_levels_and_what_is_missing(problems, tmp_path):
    problem, known = problems["lasso"]
    rows = [
        composite.measure(problem, known["objective"], name, 30.0, []) for name in ("nysstream-gram", "celer")
    ]
    ours = rows[0]["passed"]
    assert ours[1]["suboptimality"] <= 1e-6
    assert ours[0]["passes"] >= 2
    if importlib.util.find_spec("celer") is None:
        assert rows[1]["note"] == "not installed: pip install celer"
        assert rows[1]["passed"] == [None, None]
    composite.write(rows, {}, tmp_path)
    assert json.loads((tmp_path / "composite.json").read_text())["rows"] == rows
    table = (tmp_path / "composite.md").read_text().splitlines()
    assert len(table) == 4
    assert any("nysstream gram" in line for line in table)


def test_time_outs_are_told():
    done = isolation.Finished(-14, "", "", 3.0, 1, timed_out=False)
    attempt = {"suboptimality": 2e-3, "seconds": 1.0, "setting": 0.1}
    row = {"attempts": [attempt], "passed": [None, None], "timeout": 2.0}
    contender = composite_contenders.CONTENDERS["celer"]
    assert composite._note(row, done, contender) == "timed out after 2 s, best 2.0e-03"
    assert composite._note(row | {"attempts": []}, done, contender).endswith("nothing feasible")


def test_unknown_names_are_refused(capsys):
    for arguments in (["--only", "nobody"], ["--problems", "nothing"]):
        with pytest.raises(SystemExit):
            composite.parse(arguments)
        assert arguments[1] in capsys.readouterr().err
    assert composite.parse(["--only", "adelie"]).contenders == [
        name for name in composite_contenders.CONTENDERS if name.startswith("adelie")
    ]


def test_streamed_fit_tells_passes_and_peak(tmp_path):
    arguments = ["--dir", str(tmp_path), "--rows", "2000", "--only", "lasso auto", "--memory", "600"]
    (line,) = composite_streaming.main(arguments)
    told = dict(zip(composite_streaming.HEADER, line, strict=True))
    assert float(told["gap"]) <= 1e-4
    assert 2 <= int(told["passes"]) <= 4
    assert told[""] == ""
    most = json.loads((tmp_path / "composite-2000.json").read_text())
    assert 0 < most["label"] < most["y"]
