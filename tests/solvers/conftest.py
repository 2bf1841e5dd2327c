"""Operators that record what is asked of them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.helpers import DenseOperator, with_eigenvalues


class RecordingOperator(DenseOperator):
    """Remembers the width and the precision of every product; ``before`` runs ahead of each."""

    def __init__(self, matrix, *, psd=True, before=lambda count: None):
        super().__init__(matrix, psd=psd)
        self.products = []
        self.before = before

    def matmat(self, V, *, precision=None):
        self.before(len(self.products))
        self.products.append((V.shape[1], precision))
        return super().matmat(V, precision=precision)


@pytest.fixture
def recording():
    return RecordingOperator


@pytest.fixture
def matrix(rng):
    """Make a psd matrix of order 60 with a decaying spectrum."""
    return with_eigenvalues(10.0 ** -np.linspace(0, 5, 60), rng)
