"""Colours of the figures: each has a value for light and one for dark surroundings."""

from __future__ import annotations

#: What is neither data nor background.
INK = {
    "ink": ("#1f2328", "#e6e8eb"),
    "muted": ("#656d76", "#9aa4af"),
    "grid": ("#e3e6ea", "#2f353d"),
    "surface": ("#fefefe", "#14181d"),
    "process": ("#b9c0c8", "#59636e"),
    "allowance": ("#d9dde2", "#3d444d"),
}

#: Distinct without regard to colour vision: Okabe and Ito's, without the yellow that white swallows.
SERIES = {
    "series-1": ("#0072b2", "#4fa8e0"),
    "series-2": ("#d55e00", "#f08a45"),
    "series-3": ("#009e73", "#35c79c"),
    "series-4": ("#cc79a7", "#e6a3c8"),
    "series-5": ("#e69f00", "#f3bd4e"),
    "series-6": ("#56b4e9", "#9ad7f7"),
}

N_STEPS = 10


def _blend(first: str, last: str, share: float) -> str:
    ends = [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in (first, last)]
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(*ends, strict=True))


#: Ordered, from weak to strong: lightness alone tells the order.
STEPS = {
    f"step-{i + 1}": (
        _blend("#9ecae1", "#08306b", i / (N_STEPS - 1)),
        _blend("#2b5b8a", "#d6ebfa", i / (N_STEPS - 1)),
    )
    for i in range(N_STEPS)
}

COLOURS = INK | SERIES | STEPS

LIGHT = {name: light for name, (light, _) in COLOURS.items()}


def series(count: int) -> list[str]:
    """Choose ``count`` colours, distinct while there are few and graded where there are many."""
    if count <= len(SERIES):
        return [LIGHT[name] for name in list(SERIES)[:count]]
    positions = [round(i * (N_STEPS - 1) / (count - 1)) for i in range(count)]
    return [LIGHT[f"step-{position + 1}"] for position in positions]
