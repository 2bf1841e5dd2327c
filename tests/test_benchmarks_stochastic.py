"""The benchmark of stochastic methods against others, at a size of seconds."""

import importlib.util
import json
import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.optimize
from numpy.testing import assert_allclose

from benchmarks import stochastic, stochastic_contenders, stochastic_problems
from benchmarks.plots import draw_curves
from benchmarks.stochastic_problems import Problem, evaluate


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    """Write three problems as the benchmark has them, of random rows."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("rows")
    X = (rng.standard_normal((400, 6)) * np.geomspace(1, 0.2, 6)).astype(np.float32)
    z = X @ rng.standard_normal(6)
    np.save(folder / "X.npy", X)
    np.save(folder / "y-squared.npy", (z + rng.standard_normal(400)).astype(np.float32))
    np.save(folder / "y-logistic.npy", np.where(z + rng.logistic(size=400) > 0, 1, -1).astype(np.float32))
    np.save(folder / "y-multinomial.npy", np.digitize(z, [-1, 1]).astype(np.float32))
    found = {loss: Problem(loss, loss, str(folder), 1 / 400) for loss in sorted(stochastic_contenders.ALL)}
    return {loss: (problem, stochastic_problems.reference(problem)) for loss, problem in found.items()}


def dense_objective(problem, X, y, w):
    """Evaluate an objective in one formula."""
    W = w.reshape(-1, X.shape[1])
    z = X @ W.T
    if problem.loss == "squared":
        loss = 0.5 * np.mean((z[:, 0] - y) ** 2)
    elif problem.loss == "logistic":
        loss = np.mean(np.logaddexp(0, -y * z[:, 0]))
    else:
        loss = np.mean(np.logaddexp.reduce(z, axis=1) - z[np.arange(len(y)), y.astype(int)])
    return loss + 0.5 * problem.l2 * np.sum(W**2)


@pytest.mark.parametrize("loss", sorted(stochastic_contenders.ALL))
def test_the_test_is_the_objective_and_bounds_the_minimum(problems, loss):
    problem, known = problems[loss]
    X, y = (part[:].astype(np.float64) for part in stochastic_problems.stored(problem))
    k = 3 if loss == "multinomial" else 1
    options = {"ftol": 1e-15, "gtol": 1e-12}
    least = scipy.optimize.minimize(
        lambda w: dense_objective(problem, X, y, w), np.zeros(6 * k), method="L-BFGS-B", options=options
    )
    assert_allclose(known["objective"], least.fun, rtol=1e-8)
    assert known["gap"] < 1e-8
    w = least.x.reshape(k, 6) + 0.01
    found = evaluate(problem, X, y, w)
    assert_allclose(found.objective, dense_objective(problem, X, y, w), rtol=1e-12)
    assert found.objective - found.gap <= known["objective"] * (1 + 1e-12) < found.objective


@pytest.mark.parametrize("loss", sorted(stochastic_contenders.ALL))
def test_contenders_that_are_here_tell_a_curve_that_falls(problems, loss):
    problem, known = problems[loss]
    best: dict[str, float] = {}
    for name, contender in stochastic_contenders.CONTENDERS.items():
        if loss not in contender.losses:
            continue
        if importlib.util.find_spec(contender.module) is None:
            assert "pip install" in contender.install  # what the table says in its place
            continue
        if name.startswith("nysstream") and name.removeprefix("nysstream-") not in ("sketchysvrg", "auto"):
            continue  # they differ in a setting
        told = []
        spec = {"contender": name, "problem": vars(problem), "minimum": known["objective"], "timeout": 30}
        stochastic_contenders.run(spec | {"marks": (1, 2, 5, 10)}, told.append)
        away = [point["suboptimality"] for point in told]
        assert min(away) >= -1e-9, name
        best[contender.group] = min(best.get(contender.group, math.inf), *away)
        assert all(a["passes"] < b["passes"] for a, b in pairwise(told)), name
    # A learning rate may be too long for a problem, but not every one.
    assert all(away < (0.2 if "SGD" in group else 0.05) for group, away in best.items()), best
    assert len(best) >= 4


def test_rows_tables_and_figures_say_who_is_near_after_how_much(problems, tmp_path):
    problem, known = problems["logistic"]
    names = ("nysstream-sketchysvrg", "rlaopt-defaults")
    rows = [stochastic.measure(problem, known["objective"], name, 30.0, []) for name in names]
    assert stochastic.best_until(rows[0], 20) < 1e-3
    assert stochastic.best_until(rows[0], 0) is None
    assert 2 <= stochastic.first_within(rows[0], 1e-3, "passes") <= 20
    if importlib.util.find_spec("rlaopt") is None:
        assert rows[1]["note"].startswith("not installed: pip install")
    stochastic.write(rows, {}, tmp_path)
    assert json.loads((tmp_path / "stochastic.json").read_text())["rows"] == rows
    table = (tmp_path / "stochastic.md").read_text().splitlines()
    assert len(table) == 4
    assert "nysstream sketchysvrg" in table[2]
    if importlib.util.find_spec("matplotlib") is not None:
        assert (tmp_path / "stochastic.png").stat().st_size > 1000


def test_curves_keep_the_best_of_each_group_and_leave_out_what_is_infinite(tmp_path):
    def row(label, group, *points):
        points = [{"passes": p, "seconds": p / 2, "suboptimality": s, "peak_bytes": 1} for p, s in points]
        return {"label": label, "group": group, "points": points, "problem": "x", "note": ""}

    slow = row("a, slow", "a", (1, 1.0), (2, 0.1))
    fast = row("a, fast", "a", (1, 1e-4), (2, 1e-7))
    diverged = row("b", "b", (1, math.inf))
    assert stochastic.chosen([slow, fast, diverged]) == [fast, diverged]
    assert stochastic._curve(diverged, "passes") == []
    assert stochastic._curve(row("c", "c", (3, 0.1), (1, 0.2), (2, 0.3)), "seconds") == [
        (0.5, 0.2),
        (1.5, 0.1),
    ]
    assert stochastic.first_within(fast, 1e-6, "seconds") == 1.0
    assert stochastic.lines_of([slow, fast])[0][1] == "a, fast"
    draw_curves({("x", "passes"): {"a": [(1.0, 0.1)], "b": []}}, tmp_path / "one.png", levels=(1e-3,))


def test_unknown_names_are_refused(capsys):
    for arguments in (["--only", "nobody"], ["--problems", "nothing"]):
        with pytest.raises(SystemExit):
            stochastic.parse(arguments)
        assert arguments[1] in capsys.readouterr().err
    assert stochastic.parse(["--only", "rlaopt"]).contenders == [
        name for name in stochastic_contenders.CONTENDERS if name.startswith("rlaopt")
    ]
