"""The benchmarks against others and on YearPredictionMSD's shape, at a size of seconds."""

import importlib.util
import json
import math
import sys

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.linear_model import Ridge as DenseRidge

from benchmarks import choices, contenders, isolation, peers, yearmsd
from benchmarks.checks import blocks_of, check_ridge
from benchmarks.spectra import controlled


def installed(module):
    return importlib.util.find_spec(module) is not None


@pytest.fixture
def folder(tmp_path, rng):
    """Write a small problem as contenders read it."""
    made = controlled(300, 20, 1.0)
    np.save(tmp_path / "X.npy", made.X.astype(np.float32))
    np.save(tmp_path / "y.npy", made.y.astype(np.float32))
    return tmp_path


@pytest.mark.parametrize("fit_intercept", [False, True])
def test_check_accepts_the_solution_and_nothing_else(rng, fit_intercept):
    X = rng.standard_normal((5000, 7)) + 3
    y = X @ rng.standard_normal(7) + rng.standard_normal(5000) + 40
    model = DenseRidge(2.5, fit_intercept=fit_intercept).fit(X, y)
    intercept = model.intercept_ if fit_intercept else None
    found = check_ridge(blocks_of(X, y), model.coef_, 2.5, intercept=intercept)
    assert found.relative_residual < 1e-12
    errors = y - model.predict(X)
    assert_allclose(found.objective, errors @ errors + 2.5 * model.coef_ @ model.coef_, rtol=1e-12)
    off = check_ridge(blocks_of(X, y), model.coef_ * (1 + 1e-4), 2.5, intercept=intercept)
    assert off.relative_residual > 1e-6
    assert off.objective > found.objective


def test_controlled_spectrum_is_what_it_says():
    alpha, made = 1e-3, controlled(200, 30, 2.0)
    assert_allclose(np.linalg.eigvalsh(made.X.T @ made.X)[::-1], np.arange(1, 31) ** -2.0, rtol=1e-10)
    assert check_ridge(blocks_of(made.X, made.y), made.solution(alpha), alpha).relative_residual < 1e-12
    hat = made.X @ np.linalg.solve(made.X.T @ made.X + alpha * np.eye(30), made.X.T)
    assert_allclose(made.effective_dimension(alpha), np.trace(hat), rtol=1e-10)


def test_peak_of_a_process_is_its_own_and_its_end_is_told():
    ballast = np.ones(40 << 20)  # 320 MiB here must not count there
    touch = "import time; x = bytearray(64 << 20); time.sleep(0.3)"
    done = isolation.run([sys.executable, "-c", touch])
    assert done.code == 0
    assert 64 << 20 < done.peak_bytes < ballast.nbytes // 2
    slow = isolation.run([sys.executable, "-c", "import time; time.sleep(60)"], timeout=0.3)
    assert slow.timed_out
    assert slow.seconds < 30
    broken = isolation.run([sys.executable, "-c", "raise SystemExit('no luck')"])
    assert broken.last_words() == "no luck"


@pytest.mark.parametrize("name", [name for name in contenders.CONTENDERS if name != "nysstream-rows"])
def test_contender_gives_an_answer_that_passes(folder, name):
    contender = contenders.CONTENDERS[name]
    if not installed(contender.module):
        assert "pip install" in contender.install  # what the table says in its place
        return
    if name.startswith(("dask-ml-lbfgs", "dask-ml-admm")):
        pytest.skip("stops by itself before the test passes")
    told = []
    loose = 1e-3 if contender.dtype == "float32" else 1e-6
    contenders.attempt_all({"contender": name, "folder": folder, "alpha": 1e-2, "tol": loose}, told.append)
    assert told[-1]["relative_residual"] <= loose
    assert all(record["relative_residual"] > loose for record in told[:-1])
    settings = [record["setting"] for record in told]
    assert settings == list(contender.settings[: len(told)]) or math.isnan(settings[0])


def test_contender_that_stalls_is_not_asked_again(folder, monkeypatch):
    asked = []

    def stall(X, y, alpha, setting):
        asked.append(setting)
        return np.zeros(X.shape[1]), {}

    stalled = contenders.Contender("stalled", stall, contenders.tolerances(-1, -9), "numpy", "", "stalled")
    monkeypatch.setitem(contenders.CONTENDERS, "stalled", stalled)
    told = []
    contenders.attempt_all({"contender": "stalled", "folder": folder, "alpha": 1.0, "tol": 1e-6}, told.append)
    assert len(told) == 4
    assert told[0]["relative_residual"] == pytest.approx(1.0)


def test_peers_shows_who_is_missing_and_goes_on_where_it_ended(tmp_path, capsys):
    arguments = [
        "--only",
        "numpy-cg,dask-ml-newton,rlaopt-gram",
        "--problems",
        "spectrum",
        "--spectra",
        "1:1e-2",
    ]
    arguments += ["--spectrum-shape", "300x20", "--out", str(tmp_path), "--folder", str(tmp_path / "data")]
    rows = {row["contender"]: row for row in peers.main(arguments)}
    assert rows["numpy-cg"]["status"] == "passed"
    assert rows["numpy-cg"]["error"] < 1e-5
    for name in ("dask-ml-newton", "rlaopt-gram"):
        there = installed(contenders.CONTENDERS[name].module)
        assert rows[name]["status"] == ("passed" if there else "not installed")
        if not there:
            assert "pip install" in rows[name]["note"]
            assert "not installed" in (tmp_path / "peers.md").read_text()
    before = json.loads((tmp_path / "peers.json").read_text())["rows"]
    again = peers.main([*arguments, "--only", "numpy-cg"])
    assert [row for row in again if row["contender"] == "numpy-cg"] == [
        row for row in before if row["contender"] == "numpy-cg"
    ]
    capsys.readouterr()


def test_yearmsd_runs_every_method_once(tmp_path, monkeypatch, capsys):
    begun = []

    def here(command, *, timeout=None):
        begun.append(command[3])
        if command[3] == "--limits":
            found = {"cores": 1, "sgemm": 1e12, "dgemm": 5e11, "cosine": 1e10, "reading": 1e11}
        else:
            about, method = json.loads(command[4])
            found = choices.fit(choices.Problem(**about), method)
        return isolation.Finished(0, json.dumps(found, default=float), "", 1.0, 1, timed_out=False)

    monkeypatch.setattr(isolation, "run", here)
    arguments = ["--rows", "2000", "--features", "60", "--rank", "20", "--memory", "2GiB"]
    arguments += ["--out", str(tmp_path / "out"), "--folder", str(tmp_path)]
    rows = yearmsd.main([*arguments, "--methods", "nystrom,gram"])
    assert all(row["status"] == "converged" for row in rows.values())
    assert all(row["checked_residual"] <= 1.1e-6 for row in rows.values())
    assert rows["nystrom"]["rank"] <= 20
    assert rows["nystrom"]["curve"][-1]["passes"] == rows["nystrom"]["passes"]
    assert 0 < rows["gram"]["share"] < 1
    rows = yearmsd.main([*arguments, "--methods", "nystrom,gram,auto"])
    assert begun == ["--limits", "--fit"] * 3  # the first two were kept
    assert (tmp_path / "out" / "curve.png").stat().st_size > 0
    assert "auto (gram)" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="tol differ"):
        yearmsd.main([*arguments, "--tol", "1e-3"])
    resident = yearmsd.main([*arguments, "--methods", "subsampled", "--resident"])
    assert resident["subsampled"]["checked_residual"] <= 1.1e-6


def test_method_that_does_not_fit_is_given_what_it_asks_for(tmp_path):
    store = tmp_path / "rows.zarr"
    choices.write_store(store, yearmsd.N_COLUMNS, yearmsd.StandIn(500).blocks(), "rows")
    problem = choices.Problem("small", str(store), 500, 40, 12.0, 1.0, "auto", "1MiB", 1e-6, 50, check=False)
    row = choices.fit(problem, "gram")
    assert row["status"] == "converged"
    assert row["lifted_memory"].endswith("MiB")
    rows = {"gram": row, "cg": {**row, "method": "cg", "lifted_memory": None, "seconds": 1e3}}
    rows["auto"] = rows["cg"]
    assert "best of those that fit the memory: cg, 1000.0 s" in choices.verdict(rows)


def test_stand_in_is_standardised_correlated_and_reproducible():
    blocks = list(yearmsd.StandIn(20000).blocks())
    X = np.concatenate([rows for rows, _ in blocks])
    y = np.concatenate([target for _, target in blocks])
    assert X.shape == (20000, 90)
    assert_allclose(X.std(axis=0), 1, atol=0.05)
    values = np.linalg.eigvalsh(np.corrcoef(X.T))[::-1]
    assert 10 < values[0] < 27  # 18 / j
    assert 0.1 < values[-1] < 0.4
    assert 1990 < y.mean() < 2006
    assert_allclose(next(yearmsd.StandIn(20000).blocks())[0], blocks[0][0])


def test_songs_are_read_and_standardised(tmp_path, rng):
    values = rng.standard_normal((50, 90)) * 7 + 2
    lines = [",".join(["2001", *(f"{v:.6f}" for v in row)]) for row in values]
    (tmp_path / "songs.txt").write_text("\n".join(lines) + "\n")
    ((rows, target),) = yearmsd.songs(tmp_path / "songs.txt")
    assert_allclose(rows, (values - values.mean(axis=0)) / values.std(axis=0), atol=1e-5)
    assert set(target) == {2001}
    (tmp_path / "other.txt").write_text("1,2\n")
    with pytest.raises(SystemExit, match="2 columns"):
        next(yearmsd.songs(tmp_path / "other.txt"))
