"""Fixtures of the tests of sharing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from shared_rows import CONTAINERS


@pytest.fixture(params=CONTAINERS)
def container(request: pytest.FixtureRequest) -> Any:
    """The container of the caches that share, each in turn."""
    return request.param


@pytest.fixture
def team(tmp_path: Path) -> str:
    """The address of a store in a directory."""
    return f"file://{tmp_path}/team"
