"""The Flower app of the wheel: written for this version, understood as it stands, and all that touches Flower."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

import pytest

import fedtangent
from fedtangent import cli
from fedtangent.flower import words

PACKAGE = Path(fedtangent.__file__).parent


def test_the_app_is_written_for_this_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["flower", str(tmp_path / "app")]) == 0
    assert "start it with flwr run." in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "app").iterdir()] == ["pyproject.toml"]
    held = tomllib.loads((tmp_path / "app" / "pyproject.toml").read_text())
    assert held["project"]["dependencies"] == [f"fedtangent[flower]=={fedtangent.__version__}"]
    app = held["tool"]["flwr"]["app"]
    for name in ("serverapp", "clientapp"):
        module, _, attribute = app["components"][name].partition(":")
        tree = ast.parse(PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py").read_text())
        named = [node for node in tree.body if isinstance(node, ast.Assign)]
        assert attribute in [target.id for node in named for target in node.targets if isinstance(target, ast.Name)]
    assert words.of_run(app["config"]).settings == {"method": "fedavg", "rounds": 20}


def test_no_folder_is_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "app").mkdir()
    assert cli.main(["flower", str(tmp_path / "app")]) == 2
    told = f"fedtangent: `FOLDER` must be a new folder; got {tmp_path / 'app'} (File exists). Name another.\n"
    assert capsys.readouterr().err == told


def test_three_modules_of_flower_are_touched_by_two_files() -> None:
    found = {
        (path.relative_to(PACKAGE).as_posix(), node.module)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "flwr"
    }
    assert found == {
        ("flower/client_app.py", "flwr.app"),
        ("flower/client_app.py", "flwr.clientapp"),
        ("flower/server_app.py", "flwr.app"),
        ("flower/server_app.py", "flwr.serverapp"),
    }
