"""The set-up pass against NumPy in float64."""

from __future__ import annotations

from dataclasses import dataclass

import dask
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from threadpoolctl import threadpool_limits

from nysstream.errors import InputError
from nysstream.features import Fourier
from nysstream.streaming import DesignMatrix, SetUp, partition, pass_needs, reduce
from tests import strategies
from tests.helpers import assert_close, tolerance
from tests.streaming.support import Stored, Truth, small_blocks


@dataclass(frozen=True)
class Normal:
    """A recipe for a test matrix."""

    p: int
    s: int

    def __call__(self):
        """Draw it."""
        return np.random.default_rng(7).standard_normal((self.p, self.s))


def set_up(design, s=3, **options):
    return reduce(design, SetUp(Normal(design.shape[1], s), s, **options))[0]


def assert_statistics(statistics, truth, *, s=3, dtype=np.float64):
    """Compare all that was gathered with dense algebra."""
    n, p = truth.Z.shape
    assert statistics.n_rows == n
    assert statistics.n_weighted == np.count_nonzero(truth.w)
    assert statistics.weight == pytest.approx(truth.w.sum())
    # Errors are relative to the spread, however far away the mean is; below its own rounding
    # unit the mean cannot be known.
    scale = (
        truth.deviation.max() * tolerance(dtype, terms=n) + 4 * np.finfo(float).eps * abs(truth.mean).max()
    )
    np.testing.assert_allclose(statistics.mean, truth.mean, rtol=0, atol=max(scale, 1e-300))
    assert_close(statistics.squares, np.diag(truth.gram), dtype=dtype, terms=n)
    assert_close(statistics.sketch, truth.gram @ Normal(p, s)(), dtype=dtype, terms=n)
    if statistics.gram is not None:
        assert_close(statistics.gram, truth.gram, dtype=dtype, terms=n)
        assert np.array_equal(statistics.gram, statistics.gram.T)
    if truth.y is not None:
        Y = truth.targets
        # Bounded by Cauchy and Schwarz rather than by itself: it may be zero.
        cross = truth.rows.T @ (truth.w[:, None] * Y)
        most = np.sqrt(np.diag(truth.gram).max(initial=0) * (truth.w @ Y**2).max(initial=0))
        np.testing.assert_allclose(
            statistics.cross, cross, rtol=0, atol=tolerance(dtype, terms=n) * most + 1e-300
        )
        assert_close(statistics.target_squares, truth.w @ Y**2, terms=n)


@st.composite
def stored_problems(draw):
    """Draw rows in a chunked store of any dtype, targets, weights with zeros among them."""
    layout = draw(strategies.layouts(min_rows=2, max_rows=120, max_columns=6))
    X = draw(strategies.matrices(layout, draw(strategies.stored_dtypes())))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    y = rng.standard_normal((layout.n_rows, draw(st.integers(1, 3))))
    weight = draw(st.sampled_from(["none", "some", "zeros"]))
    w = None if weight == "none" else rng.random(layout.n_rows) + 0.1
    if weight == "zeros":
        w[rng.random(layout.n_rows) < 0.5] = 0
        w[draw(st.integers(0, layout.n_rows - 1))] = 1
    start = draw(st.integers(0, layout.chunk_rows - 1))
    return Stored(X, chunk_rows=layout.chunk_rows, chunk_start=start), y, w


@given(problem=stored_problems(), center=st.booleans(), gram=st.booleans(), partitions=st.integers(1, 9))
def test_statistics_of_any_store(problem, center, gram, partitions):
    source, y, w = problem
    with pytest.MonkeyPatch.context() as patch:
        small_blocks(patch, partitions=partitions)
        design = DesignMatrix(source, y, w)
        statistics = set_up(design, center=center, gram=gram)
    assert (source.reads == 1).all()
    X = np.asarray(source.array.read(slice(0, source.shape[0])), np.float64)
    assert_statistics(statistics, Truth(X, y, w, center), dtype=design.dtype)


def naive(X, w):
    """Variances by the textbook's one-pass formula, in the dtype of the rows."""
    w = w.astype(X.dtype)
    total = w.sum()
    mean = w @ X / total
    return w @ (X * X) / total - mean * mean


@pytest.mark.parametrize("partitions", [1, 5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_far_means_cost_no_digits(rng, monkeypatch, partitions, dtype):
    small_blocks(monkeypatch, partitions=partitions)
    far = 1e6 if dtype == np.float32 else 1e12
    X = (far * np.array([1, -1, 0.5, 0]) + rng.standard_normal((500, 4))).astype(dtype)
    y, w = 1e6 + rng.standard_normal(500), rng.random(500)
    truth = Truth(X, y, w)
    statistics = set_up(DesignMatrix(Stored(X, chunk_rows=64), y, w), gram=True)
    assert_statistics(statistics, truth, dtype=dtype)
    # The control: in the same precision the short formula has not one digit.
    wrong = naive(X, w)[:3] / truth.deviation[:3] ** 2
    assert (np.abs(wrong - 1) > 0.5).all()


def test_the_shift_is_accurate_however_tall_the_first_tile(rng):
    # A mean summed in float32 over many rows would be off by several deviations.
    X = (3e5 + rng.standard_normal((120_000, 3))).astype(np.float32)
    statistics = set_up(DesignMatrix(X), s=1)
    np.testing.assert_allclose(statistics.squares, np.diag(Truth(X).gram), rtol=2e-6)


@pytest.mark.parametrize("n_columns", [1, 2])
def test_thin_tiles_are_summed_in_parts(rng, n_columns):
    # A single float32 sum over half a million squares would lose the sixth digit.
    X = (1 + rng.random((600_000, n_columns))).astype(np.float32)
    statistics = set_up(DesignMatrix(X), s=1, center=False)
    np.testing.assert_allclose(statistics.squares, (X.astype(float) ** 2).sum(axis=0), rtol=2e-6)


@pytest.mark.parametrize("marked", ["first rows", "scattered", "whole partitions"])
def test_rows_without_weight_leave_no_trace(rng, monkeypatch, marked):
    small_blocks(monkeypatch, partitions=8)
    X, y, w = rng.standard_normal((160, 3)), rng.standard_normal(160), 0.5 + rng.random(160)
    rows = {"first rows": slice(0, 5), "scattered": slice(0, None, 3), "whole partitions": slice(0, 60)}[
        marked
    ]
    w[rows] = 0
    clean = Truth(X[w > 0], y[w > 0], w[w > 0])
    X[rows], y[rows] = 1e20, -1e20  # marks of what is missing, as some stores have them
    statistics = set_up(DesignMatrix(Stored(X, chunk_rows=10), y, w), gram=True)
    assert statistics.n_weighted == len(clean.Z)
    assert_close(statistics.mean, clean.mean, terms=160)
    assert_close(statistics.squares, np.diag(clean.gram), terms=160)
    assert_close(statistics.gram, clean.gram, terms=160)
    assert_close(statistics.target_squares, clean.w @ clean.targets**2, terms=160)


@given(problem=stored_problems(), center=st.booleans())
def test_integer_weights_are_repeated_rows(problem, center):
    source, y, _ = problem
    X = source.array.read(slice(0, source.shape[0]))
    counts = np.random.default_rng(1).integers(0, 4, len(X))
    counts[0] = 2
    weighted = set_up(DesignMatrix(source, y, counts), center=center)
    repeated = set_up(DesignMatrix(np.repeat(X, counts, axis=0), np.repeat(y, counts, axis=0)), center=center)
    dtype = DesignMatrix(source).dtype
    assert weighted.weight == repeated.weight == counts.sum()
    for name in ("squares", "target_squares", "sketch"):
        assert_close(getattr(weighted, name), getattr(repeated, name), dtype=dtype, terms=500)


@given(problem=stored_problems())
def test_row_order_does_not_matter(problem):
    source, y, w = problem
    X = source.array.read(slice(0, source.shape[0]))
    order = np.random.default_rng(2).permutation(len(X))
    one = set_up(DesignMatrix(source, y, w))
    other = set_up(DesignMatrix(X[order], y[order], None if w is None else w[order]))
    for name in ("squares", "target_squares", "sketch"):
        assert_close(getattr(one, name), getattr(other, name), dtype=DesignMatrix(X).dtype, terms=500)


@given(problem=stored_problems(), data=st.data())
def test_runs_of_rows_add_up(problem, data):
    source, y, w = problem
    design = DesignMatrix(source, y, w)
    whole = set_up(design, center=False, gram=True)
    total = np.zeros_like(whole.gram)
    weight = 0.0
    for rows in data.draw(strategies.cuts(source.shape[0])):
        if rows.start == rows.stop:
            continue
        part = design.restrict(rows)
        if part.weight is not None and not part.weight.read(slice(0, part.shape[0])).any():
            continue
        statistics = set_up(part, center=False, gram=True)
        total += statistics.gram
        weight += statistics.weight
    assert_close(total, whole.gram, dtype=design.dtype, terms=200)
    assert weight == pytest.approx(whole.weight)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sparse_rows(rng, monkeypatch, weighted, center, dtype):
    small_blocks(monkeypatch, block_bytes=2000, partitions=4)
    X = sparse.random_array((150, 12), density=0.2, format="csr", rng=rng, dtype=dtype)
    y, w = rng.standard_normal((150, 2)), rng.random(150) if weighted else None
    design = DesignMatrix(X, y, w)
    assert len(design.partitions) > 1
    statistics = set_up(design, center=center, gram=True)
    # Centred by algebra: errors are relative to the squares about zero.
    assert_statistics(statistics, Truth(X.toarray(), y, w, center), dtype=dtype)


def test_features_of_any_rows(rng, monkeypatch):
    small_blocks(monkeypatch, partitions=3)
    X, y, features = rng.standard_normal((90, 4)), rng.standard_normal(90), Fourier(20)
    statistics = set_up(DesignMatrix(Stored(X), y, features=features), gram=True)
    assert_statistics(statistics, Truth(features(X), y), dtype=np.float32)
    double = set_up(DesignMatrix(Stored(X), y, features=features, precision="double"))
    assert_statistics(double, Truth(features(X), y))


def test_additions_give_the_same_bits_however_many_threads_multiply(rng, monkeypatch):
    small_blocks(monkeypatch, block_bytes=8 * 6000 * 4)
    X = rng.standard_normal((32, 6000)) + 1
    design = DesignMatrix(Stored(X, chunk_rows=4))
    with dask.config.set(scheduler="synchronous"):
        results = []
        for threads in (1, 2):
            with threadpool_limits(threads, user_api="blas"):
                results.append(set_up(design, s=8))
    assert results[0].sketch.tobytes() == results[1].sketch.tobytes()


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize("partitions", [1, 16])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", ["rows", "targets", "weights"])
def test_a_value_that_is_not_finite_is_named(rng, monkeypatch, partitions, value, where):
    small_blocks(monkeypatch, partitions=partitions)
    arrays = {"rows": rng.random((64, 3)), "targets": rng.random((64, 2)), "weights": rng.random(64)}
    kind = {"rows": "the data", "targets": "the targets", "weights": "the weights"}[where]
    arrays[where][(41,) if where == "weights" else (41, 1)] = value
    word = "NaN" if np.isnan(value) else "infinity"
    column = "" if where == "weights" else ", column 1"
    with pytest.raises(InputError, match=rf"{kind} contain {word} \(row 41{column}\)"):
        set_up(DesignMatrix(Stored(arrays["rows"]), arrays["targets"], arrays["weights"]))


def test_a_missing_value_is_found_behind_features_and_in_sparse_rows(rng):
    X = rng.random((30, 3))
    X[12, 2] = np.nan
    with pytest.raises(InputError, match=r"row 12, column 2"):
        set_up(DesignMatrix(Stored(X), features=Fourier(8)))
    with pytest.raises(InputError, match=r"row 12, column 2"):
        set_up(DesignMatrix(sparse.csr_array(X)))


def test_negative_weights_are_named(rng):
    w = rng.random(30)
    w[17] = -1e-3
    with pytest.raises(InputError, match="weight of row 17 is negative"):
        set_up(DesignMatrix(Stored(rng.random((30, 3))), None, w))


def test_weights_that_are_all_zero_are_refused(rng):
    with pytest.raises(InputError, match="all weights in array are zero"):
        set_up(DesignMatrix(rng.random((30, 3)), None, np.zeros(30)))


@pytest.mark.parametrize("size", [1e25, 3e18])
def test_overflow_is_told_from_bad_data(rng, size):
    X = (size * rng.standard_normal((400, 3))).astype(np.float32)
    with pytest.raises(InputError, match=r"overflow float32: scale the columns, or use precision='double'"):
        set_up(DesignMatrix(X))
    assert np.isfinite(set_up(DesignMatrix(X, precision="double")).sketch).all()


# --- what it needs --------------------------------------------------------------------------------


def test_needs_of_sparse_rows_are_those_of_their_entries(rng):
    X = sparse.random_array((5000, 20_000), density=1e-4, format="csr", rng=rng, dtype=np.float32)
    needs = pass_needs(DesignMatrix(X, np.zeros(5000)), SetUp())
    assert needs["tiles"] < 64 << 20


def test_needs_count_the_sketch_while_parts_are_added():
    p, s = 4000, 200
    design = DesignMatrix(np.broadcast_to(np.float32(0), (10**6, p)))
    assert len(design.partitions) == partition.MIN_PARTITIONS * 3 or len(design.partitions) > 16
    with dask.config.set(scheduler="synchronous"):
        plain, sketched = (pass_needs(design, SetUp(None, width)) for width in (0, s))
    assert sketched["partial sums"] - plain["partial sums"] >= 8 * p * s * 4
