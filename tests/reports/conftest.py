"""The fixture of the reports' tests: a run that has been written and read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedtangent.reports import records
from tests.reports.folders import Run, folder


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A function that writes a run's folder and reads it back."""

    def write(*args: Any, **options: Any) -> records.Record:
        return records.read(folder(tmp_path, *args, **options))

    return write
