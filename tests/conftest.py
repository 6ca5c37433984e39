"""Fixtures that every test may use."""

from __future__ import annotations

from pathlib import Path

import pytest

_SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of real photographs and footage beside the checkout; skips where it is absent."""
    if not _SHARED.is_dir():
        pytest.skip("the real photographs (../shared) are not on this machine")
    return _SHARED
