"""The page on tangent kernels is true: its Python runs, in order, and its last comments hold."""

import re
from pathlib import Path
from typing import Any

from fedtangent import tangents

TEXT = (Path(__file__).parents[2] / "docs" / "tangent_kernels.md").read_text(encoding="utf-8")


def test_the_python_does_what_its_last_comments_say() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    found: dict[str, Any] = {}
    for code in blocks:
        exec(code, found)
        last = code.splitlines()[-1]
        assert last.startswith("# ") and eval(last.split(": ", 1)[1], found), last


def test_the_table_names_functions() -> None:
    rows = re.findall(r"^\|[^|]*\| `(\w+)", TEXT, re.MULTILINE)
    assert len(rows) == 7 and set(rows) <= set(tangents.__all__)
