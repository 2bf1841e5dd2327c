"""A Matplotlib figure as SVG that can stand inside a page and follows its colours."""

from __future__ import annotations

import io
import re
from typing import Any

from nysstream.report.drawing import styled
from nysstream.report.palette import LIGHT

_NAMES = {colour: name for name, colour in LIGHT.items()}
_STYLE = re.compile(r'style="[^"<>]*"')
_COLOUR = re.compile(r"#[0-9a-f]{6}")


@styled
def inline_svg(figure: Any, name: str) -> str:
    """Render a figure as an ``<svg>`` element.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    name : str
        Unique on the page: prefix of the element's ids.

    Returns
    -------
    str
        Colours of the palette are CSS variables of the same names, so that the page decides
        whether it is light or dark. Text is text, in the page's fonts.
    """
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg") :].rstrip()
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"<style[^>]*>.*?</style>", "", text, flags=re.DOTALL)
    # Ids are unique within a figure only, and Matplotlib's own groups need none.
    referred = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in referred else "", text)
    text = re.sub(r'xlink:href="#', f'href="#{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    view = re.search(r'viewBox="[^"]*"', text)
    assert view is not None
    opening = f'<svg class="figure" role="img" aria-labelledby="{name}-caption" {view[0]}>'
    text = re.sub(r"<svg[^>]*>", opening, text, count=1)
    return _STYLE.sub(lambda style: _COLOUR.sub(_variable, style[0]), text)


def _variable(colour: re.Match[str]) -> str:
    name = _NAMES.get(colour[0])
    return colour[0] if name is None else f"var(--{name})"
