import inspect
import sys
from pathlib import Path

import pytest

import fedtangent
from fedtangent import catalog

EVERY = [(folder, name) for folder in catalog.FOLDERS for name in catalog.names(folder)]


@pytest.mark.parametrize("folder", catalog.FOLDERS)
def test_the_folder_is_the_registry(folder: str) -> None:
    files = {path.stem for path in (Path(fedtangent.__file__).parent / folder).glob("*.py")}
    if folder == "recipes":
        files -= {"demo", "recipe"}  # experiments, and what a recipe is
    assert catalog.names(folder) == sorted(name for name in files if not name.startswith("_"))
    assert catalog.names(folder)


@pytest.mark.parametrize(("folder", "name"), EVERY)
def test_every_file_defines_a_function_of_its_own_name(folder: str, name: str) -> None:
    found = catalog.load(folder, name)
    assert inspect.isfunction(found)
    assert (found.__module__, found.__name__) == (f"fedtangent.{folder}.{name}", name)


@pytest.mark.parametrize(("folder", "name"), EVERY)
def test_every_file_opens_with_its_name_and_one_sentence(folder: str, name: str) -> None:
    catalog.load(folder, name)
    first = (sys.modules[f"fedtangent.{folder}.{name}"].__doc__ or "").splitlines()[0]
    summary = catalog.summary(folder, name)
    assert summary.endswith(".")
    assert first.endswith(f": {summary}")
    assert len(first) > len(summary) + 2


def users_file(folder: Path, text: str, name: str = "mine.py") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_users_own_file_works_the_same_way(tmp_path: Path) -> None:
    path = users_file(tmp_path, '"""Mine: a method that I made up."""\n\ndef mine(task):\n    return task + 1\n')
    assert catalog.load("methods", path)(4) == 5
    assert catalog.summary("methods", path) == "a method that I made up."
    users_file(tmp_path, "def mine(task):\n    return task + 2\n")
    assert catalog.load("methods", path)(4) == 6
    assert catalog.summary("methods", path) == ""


@pytest.mark.parametrize(
    ("folder", "name", "message"),
    [
        ("methods", "fedavgs", r"^`method` must be one of central, .*local.*; got 'fedavgs'. Did you mean 'fedavg'\?$"),
        (
            "topologies",
            "xyzzy",
            r"^`topology` must be one of .*; got 'xyzzy'. Or give the path of a file of your own.$",
        ),
        ("topologies", "_rows", r"^`topology` must be one of .*; got '_rows'. .*$"),
        ("topologies", "no/such.py", r"^`topology` must name a file that exists; got 'no/such.py'. Check the path.$"),
        ("recipes_", "x", r"^`folder` must be one of methods, .*, recipes; got 'recipes_'.$"),
    ],
)
def test_unknown_names_are_one_clear_sentence(folder: str, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        catalog.load(folder, name)


def test_a_users_file_that_is_broken_is_one_clear_sentence(tmp_path: Path) -> None:
    broken = users_file(tmp_path, "import nothing_of_this_name\n", "broken.py")
    with pytest.raises(ValueError, match=r"^`.*broken.py` must be a Python file that imports; got ModuleNotFound.*\.$"):
        catalog.load("methods", broken)
    other = users_file(tmp_path, "def another(task):\n    return task\n", "other.py")
    with pytest.raises(ValueError, match=r"^`.*other.py` must define a function named 'other'; got none. Name .*\.$"):
        catalog.load("methods", other)
