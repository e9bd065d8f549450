"""What tests of events have in common."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from event_tables import SALT


@pytest.fixture(scope="module", autouse=True)
def salt() -> Iterator[None]:
    """The secret that mappings of salted rules name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SALT, "sea")
        yield
