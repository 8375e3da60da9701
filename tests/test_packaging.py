"""The wheel holds every file of the package, and the locks name hashes and versions only."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

import fedtangent

ROOT = Path(__file__).parents[1]
LOCKS = [f"requirements{of}.txt" for of in ("", "-uv", "-docs", "-lowest", "-flower")]


def test_the_wheel_holds_the_whole_package(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("fedtangent-*-py3-none-any.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("fedtangent/")}
    source = ROOT / "src"
    written = {
        path.relative_to(source).as_posix()
        for path in (source / "fedtangent").rglob("*")
        if path.is_file() and path.suffix in {".py", ".typed", ".css", ".html", ".js", ".toml"}
    }
    assert {"fedtangent/py.typed", "fedtangent/reports/page.js", "fedtangent/flower/app/pyproject.toml"} <= written
    assert held >= written


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_host_and_no_path(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert not re.search(r"https?:|file:|index|find-links|(?<!\w)/\w", text)


@pytest.mark.parametrize("lock", LOCKS)
def test_every_pin_of_a_lock_has_a_hash(lock: str) -> None:
    pins = re.split(r"\n(?=\w)", (ROOT / lock).read_text().split("make lock\n", 1)[1])
    assert all("==" in pin and "--hash=sha256:" in pin for pin in pins)


def pins(lock: str) -> dict[str, set[str]]:
    """The versions of every name; several where they hang on the Python."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w-]+)==(\S+)", (ROOT / lock).read_text(), re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


def test_every_dependency_is_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    needed, test = project["project"]["dependencies"], groups["test"]
    for lock, wanted in (
        ("requirements.txt", needed + test + [name for name in groups["dev"] if isinstance(name, str)]),
        ("requirements-lowest.txt", needed + test),
        ("requirements-docs.txt", groups["docs"]),
    ):
        assert {re.split(r"[\[<>=]", line)[0] for line in wanted} <= set(pins(lock))


def test_every_extra_is_locked_and_flower_apart() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (line,) = re.findall(r"^EXTRAS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert sorted([*line.split(), "flower"]) == sorted(extras)
    assert "flwr" in pins("requirements-flower.txt") and "flwr" not in pins("requirements.txt")


def test_the_lowest_versions_are_those_that_are_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lowest = pins("requirements-lowest.txt")
    for line in project["project"]["dependencies"] + project["dependency-groups"]["test"]:
        name, version = line.split(">=")
        for pin in lowest[name]:
            assert pin == version or pin.startswith(f"{version}."), (name, pin)


def test_the_tools_of_the_docs_change_no_other_pin() -> None:
    """And are not among those that every set-up installs."""
    all_, docs = pins("requirements.txt"), pins("requirements-docs.txt")
    assert {name for name in docs if name in all_ and not docs[name] <= all_[name]} == set()
    assert not {"sphinx", "furo", "myst-parser"} & set(all_)


def hook() -> ModuleType:
    """What gives the metadata its README."""
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_index_page_shows_the_pictures_of_a_repository_with_an_address() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    readme = hook().readme
    assert readme(text, None, "1.2") == text
    told = readme(text, "https://forge.example/us/fedtangent/", "1.2")
    assert "](https://forge.example/us/fedtangent/raw/v1.2/docs/results/glance.png)" in told
    assert "](https://forge.example/us/fedtangent/blob/v1.2/docs/sites.md)" in told
    assert re.findall(r"\]\((?!https://)[^)]*\)", told) == []
    parts = "[![a](b.png)](c.md) [d](#e) [f](https://g/h)"
    here = "https://r"
    assert readme(parts, here, "0") == f"[![a]({here}/raw/v0/b.png)]({here}/blob/v0/c.md) [d](#e) [f](https://g/h)"


def test_the_metadata_has_the_readme_and_the_version(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "metadata"]
    told = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    assert told["version"] == fedtangent.__version__
    assert told["readme"]["text"] == (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_citation_and_the_changes_are_of_this_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {fedtangent.__version__}\n" in citation
    assert re.findall(r"(?m)^  - (\w.*-.*|.*name.*): ?(.*)$", citation) == [("name", "The fedtangent contributors")]
    assert f"\n## [{fedtangent.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_note_on_moving_imports_what_there_is() -> None:
    (block,) = re.findall(r"```diff\n(.*?)```", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.DOTALL)
    lines = re.findall(r"^ *\+ (from .*)$", block, re.MULTILINE)
    assert len(lines) == 2
    exec("\n".join(lines), {})


def test_what_the_container_is_built_of_is_enough(tmp_path: Path) -> None:
    """A wheel comes of the files that .dockerignore lets in, and the Dockerfile names a Python that is supported."""
    if not (ROOT / "Dockerfile").is_file():
        pytest.skip("a source distribution has no Dockerfile")
    allowed = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE)
    for name in allowed:
        place = ROOT / name
        shutil.copytree(place, tmp_path / name) if place.is_dir() else shutil.copy(place, tmp_path / name)
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert len(list((tmp_path / "dist").glob("fedtangent-*.whl"))) == 1
    image = re.search(r"^FROM python:(3\.\d+)-slim$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert image is not None and f"Programming Language :: Python :: {image[1]}" in project["classifiers"]
