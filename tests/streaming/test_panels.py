"""A symmetric matrix in panels."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from nysstream.arrays import get_device
from nysstream.streaming.panels import (
    PANEL_ROWS,
    add_products,
    assemble,
    empty_panels,
    move_panels,
    panel_bytes,
    panel_edges,
)

CPU = get_device("cpu")
SIZES = [1, 5, PANEL_ROWS, PANEL_ROWS + 1, 2 * PANEL_ROWS + 17]


@pytest.mark.parametrize("p", SIZES)
def test_panels_cover_the_lower_triangle(p):
    edges = panel_edges(p)
    assert edges[0][0] == 0
    assert edges[-1][1] == p
    panels = empty_panels(p, CPU)
    assert sum(panel.nbytes for panel in panels.values()) == panel_bytes(p)
    assert panel_bytes(p) >= 4 * p * (p + 1)
    assert panel_bytes(p) <= 4 * p * p + 4 * p * PANEL_ROWS


@pytest.mark.parametrize("p", SIZES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_products_add_up_to_the_gram_matrix(rng, p, weighted, kind):
    Z = np.where(rng.random((30, p)) < 0.5, rng.standard_normal((30, p)), 0)
    w = rng.random(30) if weighted else None
    part = empty_panels(p, CPU)
    for rows in (slice(0, 12), slice(12, 30)):
        tile = sparse.csr_array(Z[rows]) if kind == "sparse" else Z[rows]
        add_products(part, tile, None if w is None else w[rows])
    D = rng.standard_normal((2, p))
    move_panels(part, -D, D)
    full = assemble(part, p)
    expected = Z.T @ (Z if w is None else w[:, None] * Z) - D.T @ D
    np.testing.assert_allclose(full, expected, atol=1e-12)
    assert (full == full.T).all()


def test_a_part_without_panels_has_no_matrix():
    assert assemble({"sum": np.zeros(3)}, 3) is None
    move_panels({}, np.ones((1, 3)), np.ones((1, 3)))
