"""``fit ridge --cv``: the alpha is chosen by held-out scores, in the passes of one solve."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge as ScikitRidge
from sklearn.model_selection import KFold, cross_val_score

import nysstream


def test_alphas_are_chosen_as_by_scikit_learn(cli, store, data, tmp_path):
    X, y = data
    alphas = [0.01, 1.0, 1000.0]
    options = [part for alpha in alphas for part in ("--alpha", alpha)]
    done = cli("fit", "ridge", store, "--cv", 4, *options, "--out", "m.zarr", "--json")
    assert done.code == 0, done.err
    means = [
        cross_val_score(ScikitRidge(alpha=alpha), X.astype(np.float64), y, cv=KFold(4)).mean()
        for alpha in alphas
    ]
    record = done.json
    np.testing.assert_allclose(record["cv_results"]["mean"], means, atol=1e-6)
    assert record["alpha"] == alphas[int(np.argmax(means))]
    assert record["best_score"] == pytest.approx(max(means), abs=1e-6)
    model = nysstream.load(tmp_path / "m.zarr")
    expected = ScikitRidge(alpha=record["alpha"]).fit(X.astype(np.float64), y)
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=1e-5)


def test_hashed_folds_are_another_deal_and_the_table_says_what_was_chosen(cli, store):
    runs = cli("fit", "ridge", store, "--cv", 3, "--json").json
    dealt = cli("fit", "ridge", store, "--cv", 3, "--hashed-folds", "--json").json
    assert np.shape(dealt["cv_results"]["scores"]) == (3, 3)
    assert dealt["cv_results"]["scores"] != runs["cv_results"]["scores"]
    shown = cli("fit", "ridge", store, "--cv", 3)
    assert "mean held-out score" in shown.out


@pytest.mark.parametrize(
    ("options", "said"), [(["--hashed-folds"], "--cv"), (["--cv", 1], "1"), (["--cv", 1000], "1000")]
)
def test_impossible_folds_are_refused(cli, store, options, said):
    done = cli("fit", "ridge", store, *options)
    assert done.code == 2
    assert said in done.err
