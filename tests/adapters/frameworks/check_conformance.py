"""The adapters of frameworks keep the promises of all adapters: see ``make test-adapters``."""

from __future__ import annotations

import pytest
from conformance import Conformance, Subject
from subjects import SUBJECTS


@pytest.fixture(params=SUBJECTS, ids=lambda subject: type(subject).__name__)
def subject(request: pytest.FixtureRequest) -> Subject:
    found: Subject = request.param
    return found


class TestFrameworks(Conformance):
    """One subject for each class of the adapters."""
