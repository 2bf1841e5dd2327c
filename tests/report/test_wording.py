"""Numbers and states in words."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nysstream.report import wording
from nysstream.sketching.approximation import Certificate
from nysstream.solvers.base import Status
from tests.report.making import make_result


@pytest.mark.parametrize("status", Status)
def test_every_status_has_a_headline_of_its_own(status):
    assert status.name.lower() in wording.HEADLINES


def test_every_method_has_words_of_its_own():
    from nysstream.estimators.planning import METHODS

    for name in METHODS:
        assert wording.method(make_result(stats={"method": name})) not in ("", name)


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.977 KiB"),
        (1 << 20, "1 MiB"),
        (309_796_864, "295 MiB"),
        (3 << 29, "1.5 GiB"),
        (5 << 40, "5 TiB"),
        (5000 << 40, "5,000 TiB"),
    ],
)
def test_sizes(nbytes, text):
    assert wording.size(nbytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"), (0.0123, "12 ms"), (0.9999, "1.0 s"), (59.94, "59.9 s"), (59.99, "1 min 0 s"),
        (125, "2 min 5 s"), (3600, "1 h 0 min"), (7325, "2 h 2 min"),
    ],
)  # fmt: skip
def test_durations(seconds, text):
    assert wording.duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12345, "12,345"),
        (np.int64(7), "7"),
        (1e-6, "1e-06"),
        (12345.6, "12,346"),
        (0.0, "0"),
        (math.inf, "inf"),
    ],
)
def test_numbers(value, text):
    assert wording.number(value) == text


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(1, 0, "0 %"), (0, 5, "0 %"), (1, 2, "50 %"), (0.004, 1, "0.4 %"), (1e-15, 1, "less than 0.1 %")],
)
def test_shares(part, whole, text):
    assert wording.percent(part, whole) == text


def test_a_bracket_whose_ends_agree_is_one_number():
    assert wording.bracket([29.98, 29.981]) == "30.0"
    assert wording.bracket([5.25, 1234.5]) == "5.2 to 1,234"


def test_a_long_list_is_cut_short():
    text = wording.statistic("objective", list(range(25)))
    assert text == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, … (25 in all)"


@pytest.mark.parametrize(
    ("nuclear", "spectral", "parts"),
    [
        (
            2.5,
            0.5,
            ["at most 2.5, 2 % of its trace", "spectral norm by at most 0.5", "1 − 10⁻⁶"],
        ),
        (2.5, math.inf, ["nuclear norm by at most 2.5"]),
        (math.inf, 0.5, ["spectral norm by at most 0.5"]),
        (math.inf, math.inf, ["not bounded"]),
    ],
)
def test_the_certificate_states_what_is_known(nuclear, spectral, parts):
    trace = None if math.isinf(nuclear) else 125.0
    text = wording.certificate(make_result(certificate=Certificate(trace, nuclear, spectral, 1e-9)))
    assert all(part in text for part in parts)
    assert "inf" not in text
