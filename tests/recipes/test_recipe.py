"""A recipe of a user's own, from its file to its folder: recorded row by row, gone on from, shown again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fedtangent
from fedtangent import catalog
from fedtangent.experiments import folder
from fedtangent.recipes import recipe
from tests.recipes.own import saved

ROWS = [{"n": n, "square": float(n * n), "loud": False} for n in (1, 2, 3, 4)]
DEAF = ("def mine(done=(), *, ", "done = ()\n\n\ndef mine(*, ")  # begins anew every time


def stopping_at(n: int) -> Callable[[dict[str, Any]], None]:
    """Ctrl-C when row n has been recorded."""

    def stop(row: dict[str, Any]) -> None:
        if row["n"] == n:
            raise KeyboardInterrupt

    return stop


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def test_every_recipe_of_the_package_is_one() -> None:
    for name in catalog.names("recipes"):
        found = recipe.load(name)
        assert (found.name, found.resumes) == (name, True)
        assert all(option.help for option in found.options.values()), name


def test_a_file_of_ones_own(tmp_path: Path, out: Path) -> None:
    mine = recipe.load(saved(tmp_path))
    assert (mine.name, mine.summary, mine.resumes) == ("mine", "squares grow.", True)
    assert [option.default for option in mine.options.values()] == [4, 2.0, False]
    seen: list[dict[str, Any]] = []
    found = recipe.run(mine, {}, out, seen.append)
    assert found.rows == seen == ROWS
    assert found.measured
    assert [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()] == ROWS
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["recipe"], manifest["complete"]) == ("mine", True)
    assert manifest["options"] == {"count": 4, "power": 2.0, "loud": False}
    assert "Squares grow faster than what is squared." in (out / "figure.html").read_text()
    assert {path.name for path in out.iterdir()} == {"manifest.json", "rows.jsonl", "figure.html", "figure.png"}


def test_complete_rows_are_shown_and_not_measured(tmp_path: Path, out: Path) -> None:
    mine = recipe.load(saved(tmp_path))
    recipe.run(mine, {"power": 3.0}, out)
    (out / "figure.html").unlink()
    broken = mine._replace(measure=lambda done=(), *, count=4, power=3.0, loud=False: 1 / 0)
    found = recipe.run(broken, {"power": 3.0}, out)
    assert ([row["square"] for row in found.rows], found.measured) == ([1.0, 8.0, 27.0, 64.0], False)
    assert (out / "figure.html").is_file()


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("at", [1, 3])
def test_an_interrupted_recipe_goes_on_and_has_the_same_rows(at: int, torn: bool, tmp_path: Path, out: Path) -> None:
    mine = recipe.load(saved(tmp_path))
    with pytest.raises(KeyboardInterrupt) as caught:
        recipe.run(mine, {}, out, stopping_at(at))
    assert str(caught.value) == f"{at} rows are kept in {out}, and the same command goes on from there"
    assert json.loads((out / "manifest.json").read_text())["complete"] is False
    assert not (out / "figure.html").exists()
    if torn:
        whole = (out / "rows.jsonl").read_bytes()
        (out / "rows.jsonl").write_bytes(whole[:-5])
    seen: list[dict[str, Any]] = []
    assert recipe.run(mine, {}, out, seen.append).rows == ROWS
    assert seen == ROWS[at - torn :]
    recipe.run(mine, {}, tmp_path / "whole")
    for name in ("manifest.json", "rows.jsonl", "figure.html"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_one_that_stopped_after_its_last_row_is_made_complete(tmp_path: Path, out: Path) -> None:
    mine = recipe.load(saved(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        recipe.run(mine, {}, out, stopping_at(4))
    found = recipe.run(mine, {}, out)
    assert (found.rows, found.measured) == (ROWS, True)
    assert json.loads((out / "manifest.json").read_text())["complete"] is True


def test_a_recipe_without_done_begins_anew(tmp_path: Path, out: Path) -> None:
    mine = recipe.load(saved(tmp_path, DEAF))
    assert not mine.resumes
    with pytest.raises(KeyboardInterrupt, match=r"^2 rows are kept in .*out, and the same command begins anew$"):
        recipe.run(mine, {}, out, stopping_at(2))
    seen: list[dict[str, Any]] = []
    assert recipe.run(mine, {}, out, seen.append).rows == seen == ROWS
    assert len((out / "rows.jsonl").read_text().splitlines()) == 4


def test_an_interrupt_before_the_first_row(tmp_path: Path, out: Path) -> None:
    def measure(*, count: int = 4) -> Any:
        raise KeyboardInterrupt

    mine = recipe.load(saved(tmp_path))._replace(measure=measure)
    with pytest.raises(KeyboardInterrupt, match=r"^no row was measured yet$"):
        recipe.run(mine, {}, out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"coutn": 3}, "^`coutn` must be an option of mine; got an unknown name. Did you mean 'count'\\?$"),
        ({"count": -1}, "^`count` must not be negative; got -1. Give a whole number.$"),
        ({"count": 0}, "^`mine` must yield at least one row; got none. Choose options that measure.$"),
    ],
)
def test_bad_options_leave_no_folder_behind(given: dict[str, Any], sentence: str, tmp_path: Path, out: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        recipe.run(recipe.load(saved(tmp_path)), given, out)
    assert not out.exists()


def test_a_folder_with_other_rows_stays_as_it_is(tmp_path: Path, out: Path) -> None:
    mine = recipe.load(saved(tmp_path))
    recipe.run(mine, {"count": 2}, out)
    before = sorted((path.name, path.read_bytes()) for path in out.iterdir())
    with pytest.raises(ValueError, match=r"^`out` must not hold other rows; got .*out, whose count is 2 and not 3\. C"):
        recipe.run(mine, {"count": 3}, out)
    assert sorted((path.name, path.read_bytes()) for path in out.iterdir()) == before


def test_rows_that_are_not_flat(tmp_path: Path, out: Path) -> None:
    mine = recipe.load(saved(tmp_path, ('"loud": loud', '"loud": [loud]')))
    message = "^`mine` must yield rows of texts, numbers and booleans; got list for 'loud'. Convert it, as with"
    with pytest.raises(TypeError, match=message):
        recipe.run(mine, {}, out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("def table", "def tabel"), r"must define table\(rows\) and figure\(rows\); got no 'table'. Add it.$"),
        (("def figure", "def figures"), r"must define table\(rows\) and figure\(rows\); got no 'figure'. Add it.$"),
        (("count", "out"), r"must not have the option 'out', which is where to record. Name it otherwise.$"),
        (("def mine", "def yours"), r"must define a function named 'mine'; got none. Name the function like its file"),
    ],
)
def test_a_file_that_is_no_recipe(change: tuple[str, str], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"^`.*mine.py` {sentence}"):
        recipe.load(saved(tmp_path, change))


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match=r"^`recipe` must be one of .*; got 'poison_pinn'. Did you mean 'poisson_pin"):
        recipe.load("poison_pinn")
    with pytest.raises(ValueError, match=r"^`recipe` must be one of .*; got 'demo'."):
        recipe.load("demo")


def test_rows_of_a_file_that_was_edited_since_are_not_gone_on_with(tmp_path: Path, out: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        recipe.run(recipe.load(saved(tmp_path)), {}, out, stopping_at(2))
    edited = recipe.load(saved(tmp_path, ("n**power", "n**power + 1")))
    with pytest.raises(
        ValueError, match=r"^`mine` must be as it was when the run in .*out began; got mine with the digest "
    ):
        recipe.run(edited, {}, out)
    assert recipe.run(recipe.load(saved(tmp_path, ("The last one.", "Of all."))), {}, out).rows == ROWS
    assert recipe.run(edited, {}, out).rows == ROWS  # all of them are there, and only shown


def test_rows_of_another_version_are_not_gone_on_with(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = recipe.load(saved(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        recipe.run(mine, {}, out, stopping_at(2))
    with monkeypatch.context() as patched:
        patched.setattr(folder, "__version__", "0.0.1")
        with pytest.raises(
            ValueError, match=r"^a run must be resumed under the versions it began with, fedtangent '.*; got"
        ):
            recipe.run(mine, {}, out)
    recipe.run(mine, {}, out)
    monkeypatch.setattr(folder, "__version__", "0.0.1")
    recipe.run(mine, {}, out)
    page = (out / "figure.html").read_text()
    assert fedtangent.__version__ in page and "0.0.1" not in page  # under which the rows were measured


def test_a_folder_belongs_to_one_recipe_at_a_time(tmp_path: Path, out: Path) -> None:
    mine = recipe.load(saved(tmp_path))

    def meanwhile(row: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"^`out` must not be in use; got .*out, in which process"):
            recipe.run(mine, {}, out)

    assert recipe.run(mine, {}, out, meanwhile).rows == ROWS
    assert not (out / ".lock").exists()
