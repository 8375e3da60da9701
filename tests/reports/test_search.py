"""Which runs some folders hold, each once, and what is said of the folders that hold none."""

from pathlib import Path

import pytest

from fedtangent.reports import search
from tests.reports.folders import folder


def placed(tmp_path: Path, *where: str) -> list[Path]:
    """Runs at these places below a folder."""
    made = []
    for place in where:
        target = tmp_path / "runs" / place
        target.parent.mkdir(parents=True, exist_ok=True)
        made.append(folder(tmp_path, seed=len(made), rounds=2).rename(target))
    return made


def test_runs_are_found_three_levels_down_in_order(tmp_path: Path) -> None:
    paths = placed(tmp_path, "b/seed-0", "b/seed-1", "a", "c/d/e", ".hidden", "x/y/z/too-deep")
    found = search.runs([tmp_path / "runs"])
    assert [record.folder for record in found.records] == [paths[2], paths[0], paths[1], paths[3]]
    assert found.left_out == []


def test_a_run_that_is_asked_for_twice_is_read_once(tmp_path: Path) -> None:
    (path,) = placed(tmp_path, "a")
    assert [record.folder for record in search.runs([path, tmp_path / "runs", str(path)]).records] == [path]


def test_a_file_of_a_run_stands_for_its_folder(tmp_path: Path) -> None:
    (path,) = placed(tmp_path, "a")
    files = sorted(path.iterdir())
    assert {"manifest.json", "rounds.jsonl"} <= {file.name for file in files}
    assert [record.folder for record in search.runs(files).records] == [path]
    (tmp_path / "alone.json").write_text("{}")
    with pytest.raises(ValueError, match=r"^`folder` must be a run's folder; got .*alone\.json, which has no man"):
        search.runs([tmp_path / "alone.json"])


def test_what_lies_below_a_run_is_its_own(tmp_path: Path) -> None:
    path, _ = placed(tmp_path, "a", "a/b")
    assert [record.folder for record in search.runs([tmp_path / "runs"]).records] == [path]
    assert [record.folder for record in search.runs([path]).records] == [path]


def test_links_are_not_followed(tmp_path: Path) -> None:
    (path,) = placed(tmp_path, "a")
    (tmp_path / "runs" / "round").symlink_to(tmp_path / "runs")
    assert [record.folder for record in search.runs([tmp_path / "runs"]).records] == [path]


def test_what_is_left_out_is_told_why(tmp_path: Path) -> None:
    _, damaged, recipe = placed(tmp_path, "a", "damaged", "recipe")
    (damaged / "manifest.json").write_text("{")
    (recipe / "rounds.jsonl").unlink()
    found = search.runs([tmp_path / "runs"])
    assert len(found.records) == 1
    assert found.left_out == [
        f"{damaged} is left out: {damaged}/manifest.json must be JSON with an experiment and its method; it is not. "
        "Run the experiment again.",
        f"{recipe} is left out: it has no rounds.jsonl, so it is a recipe's or of no run.",
    ]


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    (recipe,) = placed(tmp_path, "recipe")
    (recipe / "rounds.jsonl").unlink()
    for asked, named in ((tmp_path / "runs", recipe), (recipe, recipe), (tmp_path / "absent", tmp_path / "absent")):
        with pytest.raises(ValueError, match=rf"^`folder` must be a run's folder; got {named}, which has no "):
            search.runs([asked])
