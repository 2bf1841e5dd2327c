"""Sums that are updated as rows arrive, against those of all rows at once in NumPy's float64."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from nysstream.errors import InputError, MemoryBudgetError, OutputExistsError, SourceError
from nysstream.features import Fourier
from nysstream.sketching import NystromSketch
from nysstream.sketching.random_matrices import orthonormal
from nysstream.sketching.reservoir import Reservoir
from tests.helpers import CountingSource, tolerance
from tests.strategies import cuts, float_dtypes

P, Q, RANK = 7, 2, 4


def data(seed, n=60, dtype=np.float64, *, mean=3.0):
    rng = np.random.default_rng(seed)
    X = (rng.standard_normal((n, P)) * np.arange(1, P + 1) + mean).astype(dtype)
    return X, rng.standard_normal((n, Q)), rng.integers(0, 3, n).astype(float)


def made(**settings):
    return NystromSketch(RANK, **{"gram": True, **settings})


def check(sketch, X, y, weight, *, dtype=np.float64, center=True):
    """Compare everything with dense algebra."""
    found, X = sketch.statistics, X.astype(np.float64)
    total = weight.sum()
    mean, target_mean = weight @ X / total, weight @ y / total
    Z, T = (X - mean, y - target_mean) if center else (X, y)
    gram = Z.T @ (Z * weight[:, None])
    bound = tolerance(dtype, terms=len(X)) * max(np.trace(gram), 1e-12) + 1e-9 * np.abs(X).max() ** 2
    assert found.n_rows == len(X)
    assert found.weight == pytest.approx(total)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-5 if dtype == np.float32 else 1e-12)
    np.testing.assert_allclose(found.target_mean, target_mean, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.gram, gram, rtol=0, atol=bound)
    np.testing.assert_allclose(found.squares, np.diag(gram), rtol=0, atol=bound)
    np.testing.assert_allclose(found.cross, Z.T @ (T * weight[:, None]), rtol=0, atol=bound)
    np.testing.assert_allclose(found.sketch[:, :RANK], gram @ orthonormal(P, RANK, 0), rtol=0, atol=bound)


@settings(max_examples=15)
@given(
    parts=cuts(60, max_parts=5),
    seed=st.integers(0, 99),
    dtype=float_dtypes(),
    center=st.booleans(),
    backwards=st.booleans(),
    sparse=st.booleans(),
)
def test_any_order_of_arrival_gives_the_sums_of_all_rows(parts, seed, dtype, center, backwards, sparse):
    X, y, weight = data(seed, dtype=dtype)
    weight[:: len(weight)] = 1.0
    sketch = made(center=center)
    for part in reversed(parts) if backwards else parts:
        if part.start < part.stop:
            rows = scipy.sparse.csr_array(X[part]) if sparse else X[part]
            sketch.update(rows, y[part], weight[part])
    check(sketch, X, y, weight, dtype=dtype, center=center)


@settings(max_examples=10)
@given(cut=st.integers(1, 59), forgotten=st.integers(1, 30), seed=st.integers(0, 99))
def test_merging_and_forgetting_are_inverse(cut, forgotten, seed):
    X, y, weight = data(seed)
    weight += 1
    one, other = made(), made()
    one.update(X[:cut], y[:cut], weight[:cut])
    other.update(X[cut:], y[cut:], weight[cut:])
    one.merge(other)
    check(one, X, y, weight)
    extra = data(seed + 1, n=forgotten, mean=-50.0)
    one.update(*extra[:2], extra[2] + 1)
    one.forget(*extra[:2], extra[2] + 1)
    check(one, X, y, weight)
    one.forget(X[:10], y[:10], weight[:10])
    check(one, X[10:], y[10:], weight[10:])
    one.forget(X[10:], y[10:], weight[10:])
    assert one.n_rows == 0
    one.update(X, y, weight)
    check(one, X, y, weight)


def test_decay_multiplies_weights():
    X, y, weight = data(0)
    weight += 1
    sketch = made()
    sketch.update(X[:40], y[:40], weight[:40])
    sketch.decay(0.25)
    sketch.update(X[40:], y[40:], weight[40:])
    check(sketch, X, y, np.concatenate([0.25 * weight[:40], weight[40:]]))
    for factor in (0, 1.5, -1, np.nan):
        with pytest.raises(InputError, match="factor="):
            sketch.decay(factor)


def test_targets_come_later():
    X, y, weight = data(1)
    weight[:2] = 1
    sketch = made()
    sketch.update(X[:30], y[:30, :1], weight[:30])
    sketch.update(X[30:], y[30:, :1], weight[30:])
    sketch.add_targets(X, y[:, 1:], weight)
    check(sketch, X, y, weight)
    for rows, w in ((X[::-1] * 2, weight), (X[:-1], weight[:-1]), (X, weight + 1)):
        with pytest.raises(InputError, match="new targets must be of the 60 rows"):
            sketch.add_targets(rows, y[: len(rows), 1:], w)
    sketch.decay(0.5)
    with pytest.raises(InputError, match="multiplied since"):
        sketch.add_targets(X, y[:, 1:], weight)


def test_only_new_rows_are_read():
    X, y, _ = data(2)
    sketch = made(reservoir=5)
    assert sketch.update_from(X[:40], y[:40]) == 40
    source = CountingSource(as_source(X))
    assert sketch.update_from(source, y) == 20
    assert (source.reads[40:] > 0).all()
    assert sketch.watermark == 60
    assert sketch.update_from(X, y) == 0
    check(sketch, X, y, np.ones(60))
    assert sketch.sample[0].shape == (5, P)
    changed = X.copy()
    changed[3, 2] += 1
    for rows, targets, message in (
        (X[:50], y[:50], "fewer than the 60"),
        (changed, y, "are not those that were read before"),
        (X, y + 1, "the targets of .* are not those"),
    ):
        with pytest.raises(InputError, match=message):
            sketch.update_from(rows, targets)
    check(sketch, X, y, np.ones(60))
    loose = made()
    loose.update(X, y)
    with pytest.raises(InputError, match="came otherwise"):
        loose.update_from(X, y)


def as_source(X):
    from nysstream.sources import as_source

    return as_source(X)


@given(counts=st.lists(st.integers(1, 30), min_size=2, max_size=4), size=st.integers(1, 12))
def test_a_reservoir_holds_rows_without_repetition(counts, size):
    def drawn(first, count, seed):
        rng = np.random.default_rng(seed)
        rows = first + np.sort(rng.choice(count, min(size, count), replace=False))
        return Reservoir(rows[:, None].astype(float), np.ones(rows.size), count)

    merged, first = None, 0
    for seed, count in enumerate(counts):
        new = drawn(first, count, seed)
        merged = new if merged is None else merged.merge(new, size, seed)
        first += count
    assert merged.n_rows == first
    assert len(merged.weight) == min(size, first)
    assert len(np.unique(merged.X)) == len(merged.weight)
    assert merged.X.min() >= 0
    assert merged.X.max() < first


def test_a_reservoir_is_fair():
    taken = np.zeros(30)
    for seed in range(600):
        a = Reservoir(np.arange(10.0)[:, None], np.ones(10), 10)
        rng = np.random.default_rng(seed)
        rows = 10 + rng.choice(20, 10, replace=False)
        b = Reservoir(rows[:, None].astype(float), np.ones(10), 20)
        taken[a.merge(b, 10, seed).X[:, 0].astype(int)] += 1
    # Each row is in a third of the samples; four standard deviations.
    assert abs(taken / 600 - 1 / 3).max() < 4 * np.sqrt(2 / 9 / 600)


def test_forgotten_rows_leave_the_sample():
    X, y, _ = data(3)
    sketch = made(reservoir=60)
    sketch.update(X, y)
    sketch.forget(X[:45], y[:45])
    rows = sketch.sample[0]
    np.testing.assert_array_equal(np.sort(rows[:, 0]), np.sort(X[45:, 0]))


@pytest.mark.parametrize("sparse", [False, True])
def test_saved_and_loaded_it_goes_on(tmp_path, sparse):
    X, y, weight = data(4)
    weight[:2] = 1
    rows = scipy.sparse.csr_array(X * (X > 0)) if sparse else X
    sketch = made(reservoir=9)
    sketch.update_from(rows[:40], y[:40], weight[:40])
    sketch.save(tmp_path / "s")
    found = NystromSketch.load(tmp_path / "s")
    for one in (sketch, found):
        assert one.update_from(rows, y, weight) == 20
    for name in ("gram", "sketch", "cross", "mean"):
        np.testing.assert_array_equal(
            getattr(found.statistics, name), getattr(sketch.statistics, name), strict=True
        )
    samples = [s.sample[0].toarray() if sparse else s.sample[0] for s in (found, sketch)]
    np.testing.assert_array_equal(*samples)
    with pytest.raises(OutputExistsError):
        sketch.save(tmp_path / "s")
    sketch.save(tmp_path / "s", overwrite=True)
    assert NystromSketch.load(tmp_path / "s").n_rows == 60


def test_features_are_settled_by_the_first_rows_and_kept(tmp_path):
    X, y, _ = data(5)
    sketch = NystromSketch(5, features="fourier:20,length_scale=median")
    sketch.update(X[:30], y[:30])
    settled = sketch.features
    assert not settled.needs_sample
    sketch.update(X[30:] * 100, y[30:])
    assert sketch.features == settled
    sketch.save(tmp_path / "s")
    assert NystromSketch.load(tmp_path / "s").features == settled
    other = NystromSketch(5, features=Fourier(20, length_scale=1.0))
    other.update(X, y)
    with pytest.raises(InputError, match="features"):
        sketch.merge(other)


def test_nystrom_is_that_of_the_matrix():
    X, y, _ = data(6)
    sketch = NystromSketch(P, precision="double")
    sketch.update(X[:20], y[:20])
    sketch.update(X[20:], y[20:])
    Z = X - X.mean(axis=0)
    values = np.linalg.eigvalsh(Z.T @ Z)[::-1]
    approximation = sketch.nystrom()
    np.testing.assert_allclose(approximation.values, values, rtol=1e-8)
    assert approximation.certificate.trace == pytest.approx(values.sum())
    scale = Z.std(axis=0)
    scaled = np.linalg.eigvalsh((Z / scale).T @ (Z / scale))[::-1]
    np.testing.assert_allclose(sketch.nystrom(scale=scale).values, scaled, rtol=1e-8)
    with pytest.raises(InputError, match="scale of shape"):
        sketch.nystrom(scale=np.ones(3))


def test_what_cannot_be_used_is_refused_and_changes_nothing():
    X, y, weight = data(7)
    for settings_, message in (
        ({"rank": -1}, "rank=-1"),
        ({"rank": 2.5}, "rank=2.5"),
        ({"rank": 2, "reservoir": True}, "reservoir=True"),
        ({"rank": 2, "precision": "half"}, "precision"),
        ({"rank": 2, "features": 3}, "features=3"),
    ):
        with pytest.raises(InputError, match=message):
            NystromSketch(settings_.pop("rank"), **settings_)
    with pytest.raises(InputError, match="at most 7"):
        NystromSketch(8).update(X)
    empty = made()
    for call in (
        empty.nystrom,
        lambda: empty.forget(X),
        lambda: empty.save("nowhere"),
        lambda: empty.statistics,
    ):
        with pytest.raises(InputError, match="no rows"):
            call()
    empty.update(X, y, 0 * weight)
    with pytest.raises(InputError, match="all weights are zero"):
        empty.nystrom()
    with pytest.raises(InputError, match="rank=0"):
        _updated(NystromSketch(0), X).nystrom()
    sketch = made()
    sketch.update(X, y)
    bad = X.copy()
    bad[5, 1] = np.nan
    for arguments, message in (
        ((X[:, :3], y), "has 3 columns"),
        ((X,), "comes with 0 targets"),
        ((bad, y), "NaN"),
        ((X, y, weight - 5), "negative"),
        ((X, y[:-1]), "59 targets for the 60 rows"),
    ):
        with pytest.raises(InputError, match=message):
            sketch.update(*arguments)
    with pytest.raises(InputError, match="not among those"):
        sketch.forget(X * 50, y)
    with pytest.raises(InputError, match="not among those"):
        sketch.forget(np.vstack([X, X]), np.vstack([y, y]))
    with pytest.raises(InputError, match="differ in gram"):
        sketch.merge(_updated(made(gram=False), X, y))
    with pytest.raises(MemoryBudgetError):
        made(memory="1MiB").update(X)
    check(sketch, X, y, np.ones(60))


def _updated(sketch, *arguments):
    sketch.update(*arguments)
    return sketch


def test_files_that_are_no_sketches(tmp_path):
    X, y, _ = data(8)
    sketch = _updated(made(), X, y)
    with pytest.raises(SourceError, match="nowhere"):
        NystromSketch.load(tmp_path / "nowhere")
    zarr.create_group(tmp_path / "other")
    with pytest.raises(InputError, match="no sketch"):
        NystromSketch.load(tmp_path / "other")
    sketch.save(tmp_path / "s")
    chunk = next(path for path in (tmp_path / "s" / "statistics" / "c").rglob("*") if path.is_file())
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(SourceError, match="checksum"):
        NystromSketch.load(tmp_path / "s")
    chunk.unlink()
    with pytest.raises(SourceError, match="cannot be read"):
        NystromSketch.load(tmp_path / "s")
    sketch.save(tmp_path / "s", overwrite=True)
    zarr.open_group(tmp_path / "s", mode="r+").attrs["version"] = 99
    with pytest.raises(InputError, match="version 99"):
        NystromSketch.load(tmp_path / "s")
