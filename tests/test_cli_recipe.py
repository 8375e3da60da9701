"""The command `recipe`, in-process: what it prints and leaves, and one sentence for whatever is wrong."""

import json
import re
from pathlib import Path

import pytest

from fedtangent import catalog, cli
from tests.recipes import own
from tests.test_cli import refused


def test_a_recipe_is_recorded_told_and_shown_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = own.saved(tmp_path), tmp_path / "out"
    words = ["recipe", path, "--count", "3", "--loud", "--out", str(out)]
    assert cli.main(words) == 0
    told = capsys.readouterr()
    assert told.err == "mine  n 1  square 1  loud True\n"
    assert told.out.split()[:3] == ["n", "square", "loud"]
    assert told.out.split()[-6:] == ["3", "9", "yes", "Written", "to", f"{out / 'figure.html'}."]
    assert [json.loads(line)["square"] for line in (out / "rows.jsonl").read_text().splitlines()] == [1, 4, 9]
    assert cli.main(words) == 0
    told = capsys.readouterr()
    assert (told.err, told.out.splitlines()[0]) == (
        "", f"Measured before, in {out}; give another --out to measure anew.",
    )  # fmt: skip
    assert cli.main([*words[:-1], str(tmp_path / "quiet"), "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    assert f"got {out}, whose count is 3 and not 4. Choose another --out or set it so." in refused(
        ["recipe", path, "--count=4", "--loud", "--out", str(out)], capsys
    )


def test_a_recipe_has_a_folder_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = own.saved(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["recipe", path]) == 0
    assert capsys.readouterr().out.endswith("Written to runs/mine/figure.html.\n")
    assert (tmp_path / "runs" / "mine" / "figure.html").is_file()


def test_ctrl_c_in_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Between two rows, and before the first."""
    path, out = (
        own.saved(
            tmp_path,
            ("        yield", "        if n == 3 and not done:\n            raise KeyboardInterrupt\n        yield"),
        ),
        tmp_path / "out",
    )
    assert cli.main(["recipe", path, "--out", str(out)]) == 130
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"fedtangent: stopped; 2 rows are kept in {out}, and the same command goes on from there."
    assert cli.main(["recipe", path, "--out", str(out)]) == 0
    assert [json.loads(line)["n"] for line in (out / "rows.jsonl").read_text().splitlines()] == [1, 2, 3, 4]
    own.saved(tmp_path, ("    for n", "    raise KeyboardInterrupt\n    for n"))
    assert cli.main(["recipe", path, "--out", f"{out}-new"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "fedtangent: stopped; no row was measured yet."


@pytest.mark.parametrize("name", catalog.names("recipes"))
def test_help_shows_every_option_of_the_recipe_once(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["recipe", name, "--help"])
    assert caught.value.code == 0
    told = capsys.readouterr().out
    assert told.startswith(f"usage: fedtangent recipe {name} [options]\n\n{name}: ")
    for option in [*cli.options(catalog.load("recipes", name)).values(), cli.options(cli.recipe)["out"]]:
        (shown,) = re.findall(rf"^  --{option.name.replace('_', '-')}\b.*(?:\n   .*)*", told, re.MULTILINE)
        assert " ".join(option.help.split()) in " ".join(shown.split())


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["recipe"], "usage: fedtangent recipe NAME [options]"),
        (
            ["recipe", "--help"],
            "  poisson_pinn      the tangent kernel of a physics-informed network stays as it is when",
        ),
        (["list"], "  kernel_constancy  the tangent kernel of a network is random"),
    ],
)
def test_what_there_is(words: list[str], shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 0
    assert shown in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["recipe", "--seed", "1"], "`NAME` must come first after recipe; got '--seed'. Name one of adaptive_pinn"),
        (["recipe", "poison_pinn"], "`recipe` must be one of adaptive_pinn"),
        (["recipe", "absent.py"], "`recipe` must name a file that exists; got 'absent.py'. Check the path."),
        (
            ["recipe", "poisson_pinn", "--width", "3"],
            "`width` must be an option of poisson_pinn; got an unknown name. D",
        ),
        (
            ["recipe", "poisson_pinn", "--widths", "x"],
            "`widths` must be values with commas between them, each an integ",
        ),
        (["recipe", "poisson_pinn", "--widths", ""], "`widths`, `seeds` and `steps` must be positive; got (), 5 and"),
        (["recipe", "poisson_pinn", "3"], "options must have the form --name value; got '3' alone. Drop it."),
    ],
)
def test_one_sentence(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(words, capsys).startswith(sentence)
