"""The wheel holds every file of the package, and the locks name hashes and versions only."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCKS = ["requirements.txt", "requirements-uv.txt", "requirements-docs.txt", "requirements-lowest.txt"]


def test_the_wheel_holds_the_whole_package(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("fedtangent-*-py3-none-any.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("fedtangent/")}
    source = ROOT / "src"
    written = {
        path.relative_to(source).as_posix()
        for path in (source / "fedtangent").rglob("*")
        if path.is_file() and path.suffix in {".py", ".typed", ".css", ".html", ".js"}
    }
    assert {"fedtangent/py.typed", "fedtangent/reports/page.js"} <= written
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
