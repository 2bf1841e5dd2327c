"""Text to values: rows, durations, ranks, and messages rewritten as options."""

from __future__ import annotations

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from nysstream.cli.options import parse_rank, parse_rows, parse_seconds
from nysstream.cli.running import in_options

ends = st.none() | st.integers(-(10**12), 10**12)


@given(ends, ends)
def test_rows_are_python_slices(start, stop):
    text = ":".join("" if end is None else str(end) for end in (start, stop))
    assert parse_rows(text) == slice(start, stop)


@pytest.mark.parametrize("text", ["", "5", "1:2:3", "a:b", "1.5:2", "::", "1-2"])
def test_other_rows_are_refused(text):
    with pytest.raises(typer.BadParameter, match="A:B"):
        parse_rows(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("1.5", 1.5),
        (".5s", 0.5),
        ("90s", 90),
        ("55min", 3300),
        ("55 min", 3300),
        ("2m", 120),
        ("1h30min", 5400),
        ("1H 30Min 10s", 5410),
        ("1.5h", 5400),
        ("1d", 86400),
    ],
)
def test_durations(text, seconds):
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "5 weeks", "1h30", "-5", "5:30", "h", "1,5h"])
def test_other_durations_are_refused(text):
    with pytest.raises(typer.BadParameter, match="duration"):
        parse_seconds(text)


def test_ranks():
    assert (parse_rank("auto"), parse_rank("12"), parse_rank("-1")) == ("auto", 12, -1)
    for text in ("", "1.5", "full"):
        with pytest.raises(typer.BadParameter, match="rank"):
            parse_rank(text)


@pytest.mark.parametrize(
    ("message", "rewritten"),
    [
        ("choose another or pass overwrite=True", "choose another or pass --overwrite"),
        ("Give memory='28MiB' or more", "Give --memory 28MiB or more"),
        ('Ask for precision="double", or', "Ask for --precision double, or"),
        ("raise max_passes, raise the rank", "raise --max-passes, raise the rank"),
        ("rank=99 is out of range", "--rank 99 is out of range"),
        ("a smaller rank, fewer features", "a smaller rank, fewer features"),
    ],
)
def test_messages_speak_of_options(message, rewritten):
    assert in_options(message) == rewritten
