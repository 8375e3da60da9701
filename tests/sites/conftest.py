"""What every test of a federation leaves behind: nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.sites import processes


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    yield
    processes.kill_all()
