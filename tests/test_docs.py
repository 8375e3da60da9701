"""The documents are true: the Python of every page runs, its commands parse, and its tables say what methods say."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fedtangent import catalog, cli
from fedtangent.experiments import launch
from tests.test_readme import stub

DOCS = Path(__file__).parents[1] / "docs"
if not DOCS.is_dir():
    pytest.skip("a source distribution has no docs", allow_module_level=True)
PAGES = sorted([*DOCS.glob("*.md"), *DOCS.glob("start/*.md")])


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


MINE = next(code for code in blocks(DOCS / "start" / "own_method.md", "python") if code.startswith("# mine.py\n"))


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda page: page.stem)
def test_the_python_of_a_page_does_what_it_says(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first block to the last in one namespace; a block that names a file is that file's text."""
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {"__name__": page.stem}
    claims = 0
    for code in blocks(page, "python"):
        if name := re.match(r"# (\w+\.py)\n", code):
            (tmp_path / name[1]).write_text(code.partition("\n")[2], encoding="utf-8")
            continue
        exec(compile(code, str(page), "exec"), found)
        claim = re.fullmatch(r"# .+?: (.+)", code.splitlines()[-1])
        assert claim, code
        assert eval(claim[1], found), claim[1]
        claims += 1
    assert claims


COMMANDS = [
    pytest.param(page, shlex.split(line, comments=True)[1:], id=f"{page.stem}-{line}")
    for page in PAGES
    for block in blocks(page, "sh")
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("fedtangent ") and page.stem != "commands"
]


@pytest.mark.parametrize(("page", "words"), COMMANDS)
def test_the_commands_of_a_page_are_understood(
    page: Path, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    for name in ("run", "check", "demo", "report", "recipe"):
        monkeypatch.setattr(cli, name, stub(getattr(cli, name), asked))
    monkeypatch.setattr(launch, "launch", stub(launch.launch, asked))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    for name, code in [(re.match(r"# (\w+\.\w+)\n", code), code) for code in blocks(page, "(?:python|toml)")]:
        if name:
            (tmp_path / name[1]).write_text(code.partition("\n")[2], encoding="utf-8")
    try:
        assert cli.main(words) == 0
    except SystemExit as help_:
        assert help_.code == 0
        return
    assert len(asked) == (words[0] in ("run", "check", "demo", "report", "recipe"))


def test_the_check_that_a_page_asks_for_is_passed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.py").write_text(MINE, encoding="utf-8")
    words = ["--nodes", "6", "--degree", "2", "--hidden", "5"]
    assert cli.main(["check", str(tmp_path / "mine.py"), *words]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 3


@pytest.fixture(scope="module")
def pages() -> ModuleType:
    """What writes the pages of the methods."""
    spec = importlib.util.spec_from_file_location("docs_pages", DOCS / "pages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", catalog.names("methods"))
def test_a_methods_page_tells_all_its_options_and_its_pseudo_code(name: str, pages: ModuleType) -> None:
    text = pages.method_page(name, pages.Cost(2_000_000, 1_000_000))
    assert text.startswith(f"# {name}\n")
    for option in cli.options(catalog.load("methods", name)).values():
        (row,) = re.findall(rf"^\| `--{option.name.replace('_', '-')}` \|.*\|$", text, re.MULTILINE)
        assert option.help.split()[0] in row
    code = text.split("```text\n")[1].split("```")[0]
    assert " <- " in code and "\n\n" not in code
    assert f"| Exposure | {pages.built(name).exposure}: " in text
    assert "send 2.00 MB in the first round and 1.00 MB in a later one." in text


def test_the_cost_is_that_of_a_run(pages: ModuleType) -> None:
    import fedtangent

    found = fedtangent.run("fedkfac", nodes=20, alpha=0.1, rounds=2, evaluate_nodes_every=0)
    sent = [entry["sent_bytes"] for entry in found.rounds]
    assert pages.cost("fedkfac") == (sent[0], sent[1] - sent[0])


def test_the_tour_has_every_module(pages: ModuleType) -> None:
    found = re.findall(r"^\| `(\w+)(?:/|\.py)` \| \S.*\|$", pages.tour_page(), re.MULTILINE)
    package = DOCS.parent / "src" / "fedtangent"
    modules = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert sorted(found) == sorted(modules - {"__init__", "__main__"})


def test_the_commands_page_has_every_option(pages: ModuleType) -> None:
    text = pages.commands_page()
    for name in ("run", "check", "demo", "report", "recipe"):
        assert f"## fedtangent {name}\n" in text
        for option in cli.options(getattr(cli, name)):
            assert f"| `--{option.replace('_', '-')}` |" in text
    assert "| `--evaluate-nodes-every` | `1` |" in text


def test_from_python_shows_all_that_the_package_names() -> None:
    import fedtangent

    text = (DOCS / "api.md").read_text(encoding="utf-8")
    assert all(f":: fedtangent.{name}\n" in text for name in fedtangent.__all__)
    assert ".. automodule:: fedtangent.tangents\n   :members:\n" in text  # all that it names


def test_the_table_of_choices_says_what_the_methods_say(pages: ModuleType) -> None:
    text = (DOCS / "choose.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| ([\w-]+) \| ([\w ]+) \|", text, re.MULTILINE)
    assert sorted(name for name, _, _ in rows) == catalog.names("methods")
    for name, exposure, who in rows:
        method = pages.built(name)
        assert (exposure, who) == (method.exposure, pages.who(method))


def test_the_numbers_of_the_choices_are_those_on_record() -> None:
    """Rounds to 85 % and the megabytes of a client, as in the frontier."""
    frontier = {
        cells[0]: tuple(cells[2:4])
        for line in (DOCS / "results" / "frontier.md").read_text(encoding="utf-8").splitlines()
        if len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 5
    }
    text = (DOCS / "choose.md").read_text(encoding="utf-8")
    measured = re.findall(r"^\| ([\w -]+) \| ([\w -]*) \| ([\d.,]*) \| `", text, re.MULTILINE)
    assert len(measured) >= 8
    for label, rounds, megabytes in measured:
        assert frontier[label] == (rounds, megabytes)


def test_links_between_pages_lead_to_files() -> None:
    for page in [*DOCS.rglob("*.md")]:
        for link in re.findall(r"\]\(([^)#:\s]+\.md)(?:#[\w-]+)?\)", page.read_text(encoding="utf-8")):
            generated = "methods/" in link or page.parent.name == "methods" or link in ("commands.md", "tour.md")
            assert generated or (page.parent / link).exists(), (page, link)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ('<a id="here"></a><a href="#here">', 0),
        ('<a href="#there">', 1),
        ('<a href="other.html#x">', 0),
        ('<a href="other.html#y">', 1),
        ('<a href="none.html">', 1),
        ('<img src="none.png"><a href="mailto:a@b.c"><a href="//elsewhere.org/none">', 1),
    ],
)
def test_links_of_a_site_are_checked(text: str, wrong: int, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("check_links", DOCS / "check_links.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    (tmp_path / "other.html").write_text('<p id="x">', encoding="utf-8")
    assert len(list(module.broken(tmp_path))) == wrong
