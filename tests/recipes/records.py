"""The records of the recipes at full size that are kept under docs/results."""

from pathlib import Path
from typing import Any

from fedtangent.experiments import rows

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results" / "recipes"


def kept(name: str) -> list[dict[str, Any]]:
    """The rows of a recipe's record."""
    return rows.read(RESULTS / name)
