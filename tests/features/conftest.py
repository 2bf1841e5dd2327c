"""Fixtures for feature maps."""

from __future__ import annotations

import pytest

from nysstream.features import weights


@pytest.fixture(autouse=True)
def no_kept_weights():
    """Start every test without weights of earlier ones."""
    weights.forget()
    yield
    weights.forget()
