"""Fixtures of all rooms."""

from __future__ import annotations

import os

import pytest
from toy_model import ToyModel

# Read when the libraries are imported, which is after this.
for _variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
    os.environ.setdefault(_variable, "1")


LONGEST = (
    "test_tasks.py",
    "test_cranfield.py",
    "test_model_changes.py",
    "test_search.py",
    "test_real_faults.py",
)
"""Files that take minutes: first, so that no process is left alone with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture
def model() -> ToyModel:
    return ToyModel()


@pytest.fixture
def never_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrappers of mteb's models do not ask them by default, so that tests can count their calls."""
    monkeypatch.setattr("dejavec.mteb.engine_settings.KNOWN_ITEMS", 0)


@pytest.fixture(params=["npy", "faiss-l2", "faiss-ip"])
def container(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The file that new caches have, each in turn; the first alone for a test that is marked ``npy_only``."""
    if request.param != "npy" and request.node.get_closest_marker("npy_only"):
        pytest.skip("a promise of vectors.npy alone")
    monkeypatch.setattr("dejavec.storage.handle.DEFAULT_CONTAINER", request.param)
    return str(request.param)


@pytest.fixture
def first_row(container: str) -> tuple[str, int]:
    """The file of the rows, and where in it the first begins."""
    return ("vectors.npy", 128) if container == "npy" else ("vectors.faiss", 45)
