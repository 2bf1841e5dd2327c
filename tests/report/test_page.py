"""The page: valid, self-contained, escaped, whole, and true to the result."""

from __future__ import annotations

import functools
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from nysstream import Ridge
from nysstream.errors import InputError, OutputExistsError, SourceError
from nysstream.estimators.model_file import load
from nysstream.report import wording, write_report
from nysstream.report.page import render
from nysstream.trace import Cost, PassRecord
from tests.report.making import Model, make_result

VOID = {"meta", "link", "br", "hr", "img", "input"}
EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)>\"'&"


class Page(HTMLParser):
    """Parse a page, demanding balance; collect its tags, ids and table cells."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.attributes, self.rows = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == [], f"left open: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def check(self):
        """Demand what every page owes its reader."""
        assert len(set(self.ids)) == len(self.ids), "ids occur twice"
        assert not {"script", "link", "iframe", "object", "embed", "img", "base"} & set(self.tags)
        for tag, name, value in self.attributes:
            assert not name.startswith("on"), f"<{tag} {name}>"
            if name in ("href", "src", "xlink:href", "srcset", "action"):
                assert value.startswith("#"), f"<{tag}> loads {value}"
            if name == "aria-labelledby":
                assert value in self.ids, f"{value} labels nothing"
        return self


def page_of(model, **options):
    return parsed(render(model, **options))


def parsed(text):
    for loading in ("@import", "url(http", "url(//", "url(data", "http://", "https://"):
        assert loading not in text
    return Page(text).check()


@pytest.fixture(scope="module")
def pages(fits):
    """Give the page of a fit by name, rendered once."""
    return functools.cache(lambda name: render(getattr(fits, name)))


@pytest.fixture(scope="module")
def made_up():
    """Render a page of numbers made up."""
    return render(Model(make_result()))


@pytest.mark.parametrize("name", ["sketched", "plain", "gram", "subsampled", "stopped", "zero"])
def test_pages_of_fits_are_valid_and_self_contained(pages, name):
    page = parsed(pages(name))
    assert page.tags.count("svg") == (4 if name in ("sketched", "zero") else 3)
    assert page.tags.count("h1") == 1


DEGENERATE = {
    "one pass": Model(make_result(passes=make_result().passes[:1], history=make_result().history[:1])),
    "no pass": Model(make_result(passes=[], history=[])),
    "long": Model(make_result(n_steps=5000)),
    "many alphas": Model(make_result(n_systems=40), alpha=np.logspace(-8, 8, 40)),
    "all alphas zero": Model(make_result(stats={"effective_dimension": None}), alpha=[0.0, 0.0]),
    "rank zero": Model(make_result(spectrum=np.zeros(0))),
    "little known": Model(make_result(certificate=None, stats={"method": "later_one"}), tol=None),
}


@pytest.mark.parametrize("model", DEGENERATE.values(), ids=DEGENERATE.keys())
def test_pages_of_degenerate_fits_are_valid(model):
    assert "svg" in page_of(model).tags


@pytest.mark.parametrize("name", ["sketched", "plain", "stopped"])
def test_every_statistic_is_on_the_page_as_the_result_has_it(fits, pages, name):
    model = getattr(fits, name)
    rows = {row[2]: row for row in parsed(pages(name)).rows if len(row) == 4}
    for key, value in model.result_.stats.items():
        label, shown, _, exact = rows[key]
        assert label == wording.label(key)
        assert shown == wording.statistic(key, value)
        assert exact == ("" if value is None else json.dumps(value).strip('[]"'))


def test_the_headline_repeats_the_statistics(made_up):
    text = made_up
    for shown in (
        "12,345 rows × 67 features",
        "2 min 3 s",
        "224 MiB",
        "51 % of the limit, 436 MiB",
        "8.76e-08",
    ):
        assert shown in text
    assert "Nyström sketch of rank 8" in text
    assert "8.76e-08</b>tolerance 1e-06" in text
    assert "by at most 2.5, 2 % of its trace" in text


def test_a_fit_that_stopped_early_says_so_with_advice(pages):
    text = pages("stopped")
    assert "Stopped at the pass limit" in text
    assert "raise max_passes" in text
    assert 'class="status converged"' not in text


def test_passes_are_summed_by_purpose(made_up):
    rows = {row[0]: row[1:] for row in parsed(made_up).rows if len(row) == 9}
    assert list(rows) == ["Purpose", "set-up", "product", "residual"]
    assert rows["product"][0] == "5"
    assert rows["product"][5] == "2.5 s"  # features


def test_settings_are_listed(fits, pages):
    page = parsed(pages("sketched"))
    rows = dict(row for row in page.rows if len(row) == 2)
    assert rows["alpha"] == "[0.001, 1.0]"
    assert rows["solver"] == "'nystrom'"
    assert set(fits.sketched.get_params(deep=False)) <= set(rows)


def test_names_of_others_are_escaped():
    result = make_result(
        advice=EVIL,
        status=EVIL,
        needs={EVIL: 1 << 20},
        passes=[PassRecord(EVIL, 0.0, 1.0, Cost())],
        stats={"status": EVIL, EVIL: EVIL, "method": EVIL},
    )
    model = Model(result, settings={EVIL: EVIL})
    text = render(model, title=EVIL, extra_histories={EVIL: make_result().history})
    page = Page(text).check()
    assert "<script" not in text
    assert "<img" not in text
    assert text.count("&lt;script&gt;alert(") >= 8
    assert "script" not in page.tags


def test_the_same_fit_gives_the_same_page(fits, pages):
    assert render(fits.sketched) == pages("sketched")


def test_settings_show_no_addresses_and_are_cut_short():
    model = Model(make_result(), settings={"callback": object(), "weights": list(range(1000))})
    rows = dict(row for row in page_of(model).rows if len(row) == 2)
    assert rows["callback"] == "<object object>"
    assert rows["weights"].endswith("…")


def test_a_model_from_a_file_has_the_same_page_but_for_its_machine(fits, pages, tmp_path):
    fits.sketched.save(tmp_path / "model.zarr")
    ours, loaded = pages("sketched"), render(load(tmp_path / "model.zarr"))
    figures = [re.findall(r"<svg.*?</svg>", text, re.DOTALL) for text in (ours, loaded)]
    assert figures[0] == figures[1]


def test_writes_whole_and_refuses_what_is_there(fits, pages, tmp_path):
    path = tmp_path / "report.html"
    assert write_report(fits.plain, path) == path
    assert path.read_text(encoding="utf-8") == pages("plain")
    with pytest.raises(OutputExistsError, match="overwrite=True"):
        write_report(fits.sketched, path)
    assert path.read_text(encoding="utf-8") == pages("plain")
    write_report(fits.sketched, str(path), title="Second", overwrite=True)
    assert "<h1>Second</h1>" in path.read_text(encoding="utf-8")
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_a_failure_leaves_nothing_behind(fits, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(SourceError, match="No space left"):
        write_report(fits.plain, path, overwrite=True)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_a_place_that_cannot_be_written_is_named(fits, tmp_path):
    with pytest.raises(SourceError, match="is not a directory"):
        write_report(fits.plain, tmp_path / "absent" / "report.html")
    (tmp_path / "folder").mkdir()
    with pytest.raises(SourceError, match="folder"):
        write_report(fits.plain, tmp_path / "folder", overwrite=True)


def test_a_model_that_is_not_fitted_is_refused(tmp_path):
    with pytest.raises(InputError, match="call fit first"):
        write_report(Ridge(), tmp_path / "report.html")
    assert not list(tmp_path.iterdir())
