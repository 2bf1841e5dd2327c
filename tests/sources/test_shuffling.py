"""The out-of-core shuffle, against sorting in memory and against chance."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from nysstream.errors import InputError, SourceError
from nysstream.sources import shuffling
from nysstream.sources.layout import Layout
from nysstream.sources.shuffling import shuffled
from tests.strategies import cuts

LAYOUTS = {
    "x": Layout(3, np.dtype("f4")),
    "y": Layout(1, np.dtype("i8"), vector=True),
    "weight": Layout(1, np.dtype("f8")),
}
RECORD_BYTES = 8 + 12 + 8 + 8


def rows_of(n):
    i = np.arange(n)
    return {"x": np.outer(i, [1, 2, 3]).astype("f4"), "y": i, "weight": i[:, None] / 7}


def order_of(n, seed, *, parts=None, memory_bytes=1 << 20, n_rows=None, scratch=None):
    """Shuffle ``n`` rows and return their order, having checked that the arrays moved together."""
    rows = rows_of(n)
    blocks = ({name: a[part] for name, a in rows.items()} for part in parts or [slice(0, n)])
    with closing(
        shuffled(blocks, LAYOUTS, seed, memory_bytes=memory_bytes, scratch=scratch, n_rows=n_rows)
    ) as result:
        pieces = list(result)
    found = {name: np.concatenate([piece[name] for piece in pieces]) for name in LAYOUTS}
    for name, values in found.items():
        np.testing.assert_array_equal(values, rows[name][found["y"]], strict=True)
    return found["y"]


def expected_order(n, seed):
    return np.argsort(np.random.Philox(key=seed).random_raw(n), kind="stable")


@given(st.data())
def test_order_depends_on_seed_and_length_only(data):
    n = data.draw(st.integers(1, 200))
    seed = data.draw(st.integers(0, 2**64 - 1))
    with tempfile.TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        patch.setattr(shuffling, "MAX_BUCKETS", 3)
        order = order_of(
            n,
            seed,
            parts=data.draw(cuts(n)),
            # From everything in memory down to a few rows, where buckets are split again.
            memory_bytes=data.draw(st.integers(n * RECORD_BYTES // 20, 8 * n * RECORD_BYTES)),
            n_rows=data.draw(st.sampled_from([None, n])),
            scratch=scratch,
        )
        assert not list(Path(scratch).iterdir())
    np.testing.assert_array_equal(order, expected_order(n, seed))


def test_every_permutation_is_as_likely():
    """All 24 orders of four rows over many seeds; the seeds are fixed, so the test cannot flicker."""
    n_seeds = 2400
    orders, counts = np.unique([order_of(4, seed) for seed in range(n_seeds)], axis=0, return_counts=True)
    assert len(orders) == 24
    statistic = ((counts - n_seeds / 24) ** 2 / (n_seeds / 24)).sum()
    assert chi2.ppf(0.001, 23) < statistic < chi2.ppf(0.999, 23)


def test_neighbours_are_torn_apart(tmp_path):
    n = 4000
    order = order_of(n, 5, memory_bytes=20_000, scratch=tmp_path)
    assert abs(np.corrcoef(order, np.arange(n))[0, 1]) < 4 / np.sqrt(n)
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 4 / np.sqrt(n)
    assert not np.array_equal(order, order_of(n, 6))


@pytest.mark.parametrize("when", ["reading", "taking", "closing"])
def test_temporary_files_are_removed_in_every_exit(tmp_path, when):
    rows = rows_of(1000)
    seen = []

    def blocks():
        for start in range(0, 1000, 100):
            if when == "reading" and start == 800:
                seen.extend(tmp_path.iterdir())
                raise KeyboardInterrupt
            yield {name: a[start : start + 100] for name, a in rows.items()}

    def use():
        with closing(shuffled(blocks(), LAYOUTS, 1, memory_bytes=8000, scratch=tmp_path)) as result:
            for _ in result:
                seen.extend(tmp_path.iterdir())
                if when == "taking":
                    raise KeyboardInterrupt
                break

    if when == "closing":
        use()
    else:
        with pytest.raises(KeyboardInterrupt):
            use()
    assert seen, "the disk was not used: the test shows nothing"
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_source_passes_unchanged(tmp_path):
    def blocks():
        yield rows_of(1000)
        message = "chunk 7 cannot be decoded"
        raise SourceError(message)

    with pytest.raises(SourceError, match="chunk 7"):
        list(shuffled(blocks(), LAYOUTS, 1, memory_bytes=8000, scratch=tmp_path))
    assert not list(tmp_path.iterdir())


def test_scratch_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"temporary files for shuffling in .*nowhere"):
        list(shuffled([rows_of(1000)], LAYOUTS, 1, memory_bytes=8000, scratch=tmp_path / "nowhere"))


def test_a_negative_seed_is_refused():
    with pytest.raises(InputError, match="shuffle=-1"):
        list(shuffled([rows_of(10)], LAYOUTS, -1, memory_bytes=8000))


def test_no_rows_give_no_rows():
    assert list(shuffled([], LAYOUTS, 1, memory_bytes=8000)) == []
