"""The notebooks run as they are, cell by cell, and hold nothing of the machine that they were written on."""

import json
import re
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from matplotlib import pyplot

DOCS = Path(__file__).parents[1] / "docs"
if not DOCS.is_dir():
    pytest.skip("a source distribution has no docs", allow_module_level=True)
NOTEBOOKS = sorted(DOCS.rglob("*.ipynb"))
assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_says_what_is_true(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = matplotlib.get_backend()
    pyplot.switch_backend("agg")
    monkeypatch.setattr(pyplot, "show", lambda: pyplot.close("all"))
    found: dict[str, Any] = {"__name__": "__main__"}
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    codes = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    try:
        for code in codes:
            exec(compile(code, path.name, "exec"), found)
            claim = re.fullmatch(r"# .+?: (.+)", code.splitlines()[-1])
            assert claim, code
            assert eval(claim[1], found), claim[1]
    finally:
        pyplot.switch_backend(before)
    assert len(codes) > 3 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_holds_its_cells_alone(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    told = json.loads(text)
    assert (told["nbformat"], told["metadata"]["kernelspec"]["name"]) == (4, "python3")
    assert all(cell.get("outputs", []) == [] and not cell.get("execution_count") for cell in told["cells"])
    assert not re.search(r"/(home|root|Users|work|tmp)\b|\\\\Users", text)
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (path.parent / link).exists()
