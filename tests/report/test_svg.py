"""Figures as SVG that can stand inside a page."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from nysstream.report import figures
from nysstream.report.palette import COLOURS, N_STEPS, SERIES, series
from nysstream.report.svg import inline_svg
from tests.report.making import make_result


def svg_of(name="a", **options):
    return inline_svg(figures.convergence(make_result(), **options), name)


def test_is_well_formed_without_declarations_or_metadata():
    text = svg_of()
    assert ElementTree.fromstring(text).tag == "svg"
    for part in ("<?xml", "<!DOCTYPE", "<metadata", "<style", "http"):
        assert part not in text


def test_ids_differ_between_figures_and_references_lead_somewhere():
    first, second = svg_of("a"), svg_of("b")
    ids = [set(re.findall(r'\bid="([^"]+)"', text)) for text in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]
    assert set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', first)) <= {
        pair for i in ids[0] for pair in ((i, ""), ("", i))
    }


def test_colours_of_the_palette_become_variables_and_no_others_are_left():
    text = svg_of(tol=1e-6)
    used = set(re.findall(r"var\(--([\w-]+)\)", text))
    assert {"ink", "muted", "grid", "series-1"} <= used <= set(COLOURS)
    assert not re.findall(r'style="[^"]*#[0-9a-f]{6}', text)


def test_text_stays_text_and_is_escaped():
    text = svg_of(extra_histories={"</svg><script>alert(1)</script> #0072b2": make_result().history})
    assert "<script" not in text
    assert "&lt;/svg&gt;&lt;script&gt;alert(1)&lt;/script&gt; #0072b2" in text
    assert "relative residual" in text


def test_the_same_figure_gives_the_same_bytes():
    assert svg_of() == svg_of()


@pytest.mark.parametrize("count", range(1, N_STEPS + 1))
def test_series_are_distinct_colours(count):
    colours = series(count)
    assert len(set(colours)) == len(colours) == count


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first, second):
    low, high = sorted([luminance(first), luminance(second)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_and_lines_stand_out_from_the_background(theme):
    background = COLOURS["surface"][theme]
    assert contrast(COLOURS["ink"][theme], background) > 7
    assert contrast(COLOURS["muted"][theme], background) > 4.5
    for name in SERIES:
        assert contrast(COLOURS[name][theme], background) > 2
